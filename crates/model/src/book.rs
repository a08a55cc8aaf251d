//! Books: a tenant's and a node's are both sums of the allocations, kept as counters that a batch touches once.

use std::{collections::BTreeMap, hash::Hash};

use serde::{Deserialize, Serialize};

use crate::{
    alloc::{Allocation, Hold},
    amounts::Amounts,
    id::{NodeId, TenantId},
};

/// What is promised and what is in use.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct Book {
    /// Promised.
    pub held: Amounts,
    /// In use.
    pub used: Amounts,
}

impl Book {
    /// Both together: what a check counts.
    pub fn total(&self) -> Amounts {
        self.held + self.used
    }

    fn side(&mut self, hold: Hold) -> &mut Amounts {
        match hold {
            Hold::Held => &mut self.held,
            Hold::Used => &mut self.used,
        }
    }
}

impl std::ops::Sub for Book {
    type Output = Book;
    fn sub(self, other: Book) -> Book {
        Book { held: self.held - other.held, used: self.used - other.used }
    }
}

impl std::ops::AddAssign for Book {
    fn add_assign(&mut self, other: Book) {
        self.held += other.held;
        self.used += other.used;
    }
}

/// Changes of books gathered over a batch, so that each row is written once.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Changes {
    /// By tenant.
    pub tenants: BTreeMap<TenantId, Book>,
    /// By node.
    pub nodes: BTreeMap<NodeId, Book>,
}

impl Changes {
    /// Notes that an allocation was `before` and is `after`.
    pub fn note(&mut self, before: Option<&Allocation>, after: Option<&Allocation>) {
        if let Some(allocation) = before {
            self.add(allocation, |side, amount| *side -= amount);
        }
        if let Some(allocation) = after {
            self.add(allocation, |side, amount| *side += amount);
        }
    }

    fn add(&mut self, allocation: &Allocation, f: impl Fn(&mut Amounts, Amounts)) {
        f(entry(&mut self.tenants, allocation.tenant).side(allocation.hold), allocation.amount);
        if let Some(node) = allocation.node {
            f(entry(&mut self.nodes, node).side(allocation.hold), allocation.amount);
        }
    }
}

fn entry<K: Ord + Hash>(map: &mut BTreeMap<K, Book>, key: K) -> &mut Book {
    map.entry(key).or_default()
}

/// The books as they must be, from the allocations: what `doctor` compares with the counters.
pub fn recompute<'a>(allocations: impl IntoIterator<Item = &'a Allocation>) -> Changes {
    let mut sums = Changes::default();
    for allocation in allocations {
        sums.note(None, Some(allocation));
    }
    sums
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::{
        alloc::{Owner, Settlement},
        id::TaskId,
        unit::Resources,
    };

    fn amounts() -> impl Strategy<Value = Resources> {
        (0i64..8, 0i64..4096, 0i64..50, 0i64..2).prop_map(|(vcpus, memory_mib, disk_gib, vms)| Resources {
            vcpus,
            memory_mib,
            disk_gib,
            vms,
        })
    }

    fn settlements() -> impl Strategy<Value = Settlement> {
        prop_oneof![
            Just(Settlement::Keep),
            amounts().prop_map(Settlement::Use),
            Just(Settlement::UseHeld),
            Just(Settlement::Release)
        ]
    }

    #[derive(Clone, Debug)]
    enum Op {
        Take(u8, u8, Option<u8>, Resources),
        Settle(u8, Settlement),
    }

    fn ops() -> impl Strategy<Value = Op> {
        prop_oneof![
            (0u8..20, 0u8..3, prop::option::of(0u8..3), amounts()).prop_map(|(o, t, n, a)| Op::Take(o, t, n, a)),
            (0u8..20, settlements()).prop_map(|(o, s)| Op::Settle(o, s)),
        ]
    }

    fn uuid(n: u8) -> Uuid {
        Uuid::from_u128(u128::from(n))
    }

    proptest! {
        #[test]
        fn counters_kept_by_changes_equal_the_sum_of_what_exists(history in prop::collection::vec(ops(), 0..200)) {
            let mut rows: HashMap<u8, Allocation> = HashMap::new();
            let mut books = Changes::default();
            for op in history {
                match op {
                    Op::Take(owner, tenant, node, amount) => {
                        if rows.contains_key(&owner) { continue; }
                        let row = Allocation {
                            owner: Owner::Task(TaskId(uuid(owner))), tenant: TenantId(uuid(tenant)),
                            node: node.map(|n| NodeId(uuid(n))), amount: amount.into(), hold: Hold::Held,
                        };
                        books.note(None, Some(&row));
                        rows.insert(owner, row);
                    }
                    Op::Settle(owner, settlement) => {
                        let Some(before) = rows.remove(&owner) else { continue };
                        let after = settlement.apply(before);
                        books.note(Some(&before), after.as_ref());
                        rows.extend(after.map(|row| (owner, row)));
                    }
                }
            }
            let mut expected = recompute(rows.values());
            // A book that came back to nothing may still have its row.
            for (tenant, book) in &books.tenants { expected.tenants.entry(*tenant).or_insert_with(|| { assert_eq!(*book, Book::default()); Book::default() }); }
            for (node, book) in &books.nodes { expected.nodes.entry(*node).or_insert_with(|| { assert_eq!(*book, Book::default()); Book::default() }); }
            prop_assert_eq!(books, expected);
        }
    }
}
