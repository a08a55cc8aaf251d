//! Quota: whether a tenant may have more. Only growth is checked; shrinking is always allowed.

use serde_json::json;

use crate::{
    amounts::Amounts,
    book::Book,
    error::{Code, Refusal},
    tenant::Limits,
};

/// Checks `delta` against `limits` (-1: none). A refusal names every amount that does not fit: limit, used, held, asked.
pub fn check(limits: &Limits, book: &Book, delta: &Amounts) -> Result<(), Refusal> {
    let mut over = Vec::new();
    let mut words = Vec::new();
    for (((name, limit), (_, asked)), ((_, used), (_, held))) in
        limits.amounts().each().into_iter().zip(delta.each()).zip(book.used.each().into_iter().zip(book.held.each()))
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

    fn amounts(range: std::ops::Range<i64>) -> impl Strategy<Value = Amounts> {
        let six = (range.clone(), range.clone(), range.clone(), range.clone(), range.clone(), range);
        six.prop_map(|(vcpus, memory_mib, disk_gib, vms, running_vms, snapshots)| Amounts {
            vcpus,
            memory_mib,
            disk_gib,
            vms,
            running_vms,
            snapshots,
        })
    }

    fn limits(most: Amounts) -> Limits {
        let Amounts { vcpus, memory_mib, disk_gib, vms, running_vms, snapshots } = most;
        Limits { vcpus, memory_mib, disk_gib, vms, running_vms, snapshots, ..UNLIMITED }
    }

    proptest! {
        #[test]
        fn what_is_allowed_stays_within_the_limits(most in amounts(-1..20), held in amounts(0..10), used in amounts(0..10), delta in amounts(-10..20)) {
            let book = Book { held, used };
            let fits = most.each().iter().zip((book.total() + delta).each()).zip(delta.each())
                .all(|(((_, limit), (_, total)), (_, asked))| *limit < 0 || asked <= 0 || total <= *limit);
            prop_assert_eq!(check(&limits(most), &book, &delta).is_ok(), fits);
        }

        #[test]
        fn without_limits_everything_is_allowed(delta in amounts(0..i64::MAX)) {
            prop_assert!(check(&UNLIMITED, &Book::default(), &delta).is_ok());
        }
    }

    #[test]
    fn a_refusal_says_limit_used_held_and_asked_of_all_that_does_not_fit() {
        let limits = Limits { vcpus: 4, running_vms: 0, ..UNLIMITED };
        let book = Book { held: Amounts { vcpus: 1, ..Amounts::ZERO }, used: Amounts { vcpus: 2, ..Amounts::ZERO } };
        let asked = Amounts { vcpus: 2, running_vms: 1, vms: 1, ..Amounts::ZERO };
        let refusal = check(&limits, &book, &asked).unwrap_err();
        assert_eq!(refusal.code, Code::QuotaExceeded);
        assert_eq!(
            refusal.facts["over"],
            json!([
                {"resource": "vcpus", "limit": 4, "used": 2, "held": 1, "asked": 2},
                {"resource": "running_vms", "limit": 0, "used": 0, "held": 0, "asked": 1},
            ])
        );
    }
}
