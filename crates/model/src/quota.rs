//! Quota: whether a tenant may have more. Only growth is checked; shrinking is always allowed.

use serde_json::json;

use crate::{
    book::Book,
    error::{Code, Refusal},
    tenant::Limits,
    unit::Resources,
};

/// Checks `delta` against `limits` (-1: none). A refusal names every amount that does not fit: limit, used, held, asked.
pub fn check(limits: &Limits, book: &Book, delta: &Resources) -> Result<(), Refusal> {
    let mut over = Vec::new();
    let mut words = Vec::new();
    for (((name, limit), (_, asked)), ((_, used), (_, held))) in limits
        .of_machines()
        .each()
        .into_iter()
        .zip(delta.each())
        .zip(book.used.each().into_iter().zip(book.held.each()))
    {
        if asked > 0 && limit >= 0 && used.saturating_add(held).saturating_add(asked) > limit {
            over.push(json!({"resource": name, "limit": limit, "used": used, "held": held, "asked": asked}));
            words.push(format!("{name}: limit {limit}, used {used}, held {held}, asked {asked}"));
        }
    }
    if over.is_empty() {
        return Ok(());
    }
    let detail =
        format!("the tenant's quota does not allow this ({}); ask for less, or delete something", words.join("; "));
    Err(Refusal::new(Code::QuotaExceeded, detail).with("over", over))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tenant::UNLIMITED;

    fn resources(range: std::ops::Range<i64>) -> impl Strategy<Value = Resources> {
        (range.clone(), range.clone(), range.clone(), range).prop_map(|(vcpus, memory_mib, disk_gib, vms)| Resources {
            vcpus,
            memory_mib,
            disk_gib,
            vms,
        })
    }

    proptest! {
        #[test]
        fn what_is_allowed_stays_within_the_limits(most in resources(-1..20), held in resources(0..10), used in resources(0..10), delta in resources(-10..20)) {
            let book = Book { held, used };
            let Resources { vcpus, memory_mib, disk_gib, vms } = most;
            let limits = Limits { vcpus, memory_mib, disk_gib, vms, ..UNLIMITED };
            let fits = most.each().iter().zip((book.total() + delta).each()).zip(delta.each())
                .all(|(((_, limit), (_, total)), (_, asked))| *limit < 0 || asked <= 0 || total <= *limit);
            prop_assert_eq!(check(&limits, &book, &delta).is_ok(), fits);
        }

        #[test]
        fn without_limits_everything_is_allowed(delta in resources(0..i64::MAX)) {
            prop_assert!(check(&UNLIMITED, &Book::default(), &delta).is_ok());
        }
    }

    #[test]
    fn a_refusal_says_limit_used_held_and_asked() {
        let limits = Limits { vcpus: 4, ..UNLIMITED };
        let book =
            Book { held: Resources { vcpus: 1, ..Resources::ZERO }, used: Resources { vcpus: 2, ..Resources::ZERO } };
        let refusal = check(&limits, &book, &Resources { vcpus: 2, ..Resources::ZERO }).unwrap_err();
        assert_eq!(refusal.code, Code::QuotaExceeded);
        assert_eq!(
            refusal.facts["over"][0],
            json!({"resource": "vcpus", "limit": 4, "used": 2, "held": 1, "asked": 2})
        );
    }
}
