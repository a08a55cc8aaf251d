//! What callers were refused who are known: counted for a moment, and then in the audit, one entry for all of a kind. Strangers
//! are counted in the metrics only, for anybody can make any number of those.
//!
//! Nobody pushes anybody else out: each principal has so many kinds, and what is more of its own is one kind together.

use std::collections::BTreeMap;

use hostler_model::{Code, PrincipalId, TenantId, event::Actor};
use hostler_store::Denied;

use super::{App, Result, untold::Gather};

/// How many kinds of one principal are told one by one.
const KINDS: usize = 16;
/// Those beyond are told as this.
const OTHER_ROUTES: &str = "other routes";
/// How many principals are told one by one: far more than are refused something within a second, or while the store is away.
const PRINCIPALS: usize = 4096;
/// Those beyond are told as this.
const OTHER_CALLERS: &str = "other callers";

/// What was refused and is not yet told.
#[derive(Debug, Default)]
pub(crate) struct Denials {
    kinds: BTreeMap<PrincipalId, BTreeMap<String, Denied>>,
    /// How often the principals were refused something for whom there was no room.
    others: u64,
}

impl Denials {
    /// One more.
    pub(crate) fn add(&mut self, actor: Actor, tenant: Option<TenantId>, route: String, code: Code) {
        self.put(Denied { actor, tenant, route, code, count: 1 });
    }

    fn put(&mut self, denied: Denied) {
        let principal = denied.actor.principal;
        if self.kinds.len() >= PRINCIPALS && !self.kinds.contains_key(&principal) {
            self.others += denied.count;
            return;
        }
        let kinds = self.kinds.entry(principal).or_default();
        let kind = format!("{:?} {} {}", denied.actor.credential, denied.code.as_str(), denied.route);
        let (kind, denied) = if kinds.len() < KINDS || kinds.contains_key(&kind) {
            (kind, denied)
        } else {
            (OTHER_ROUTES.to_owned(), Denied { route: OTHER_ROUTES.to_owned(), ..denied })
        };
        match kinds.get_mut(&kind) {
            Some(known) => known.count += denied.count,
            None => {
                kinds.insert(kind, denied);
            }
        }
    }
}

impl Gather for Denials {
    type Told = Denied;

    fn take(&mut self) -> Vec<Denied> {
        let Denials { kinds, others } = std::mem::take(self);
        let mut all: Vec<Denied> = kinds.into_values().flat_map(BTreeMap::into_values).collect();
        if others > 0 {
            let (actor, route, code) = (Actor::system(), OTHER_CALLERS.to_owned(), Code::Forbidden);
            all.push(Denied { actor, tenant: None, route, code, count: others });
        }
        all
    }

    fn put_back(&mut self, earlier: Vec<Denied>) {
        earlier.into_iter().for_each(|denied| self.put(denied));
    }
}

impl App {
    /// Writes down what was refused since this was last done.
    pub async fn tell_denied(&self) -> Result<()> {
        Ok(self.denials.tell(|denied| self.store.denied(denied)).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denied(principal: u128, route: &str) -> Denied {
        let actor = Actor { principal: PrincipalId(uuid::Uuid::from_u128(principal)), ..Actor::system() };
        Denied { actor, tenant: None, route: route.to_owned(), code: Code::Forbidden, count: 1 }
    }

    fn count(all: &[Denied], route: &str) -> u64 {
        all.iter().filter(|denied| denied.route == route).map(|denied| denied.count).sum()
    }

    #[test]
    fn whoever_is_refused_everywhere_takes_nobody_elses_place_and_what_is_not_told_is_counted() {
        let mut untold = Denials::default();
        for number in 0..1000 {
            untold.put(denied(1, &format!("GET /{number}")));
            untold.put(denied(1, "GET /0"));
        }
        untold.put(denied(2, "GET /vms"));
        let all = untold.take();
        assert_eq!(all.len(), KINDS + 2);
        assert_eq!((count(&all, "GET /0"), count(&all, OTHER_ROUTES), count(&all, "GET /vms")), (1001, 984, 1));
    }

    #[test]
    fn there_are_so_many_principals_and_the_others_are_counted() {
        let mut untold = Denials::default();
        for principal in 0..PRINCIPALS as u128 + 5 {
            untold.put(denied(principal, "GET /vms"));
        }
        untold.put(denied(0, "GET /vms"));
        let all = untold.take();
        assert_eq!(all.len(), PRINCIPALS + 1);
        assert_eq!((count(&all, "GET /vms"), count(&all, OTHER_CALLERS)), (PRINCIPALS as u64 + 1, 5));
    }

    #[test]
    fn what_was_put_back_is_told_with_what_came_since() {
        let mut denials = Denials::default();
        denials.put(denied(1, "GET /vms"));
        let taken = denials.take();
        assert!(denials.take().is_empty());
        denials.put(denied(1, "GET /vms"));
        denials.put_back(taken);
        let all = denials.take();
        assert_eq!((all.len(), all[0].count), (1, 2));
    }
}
