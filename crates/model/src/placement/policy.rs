//! How an operator wants machines to be spread: what counts how much, and how much may be promised.

use crate::{error::Refusal, node::Overcommit};

/// The operator's word, the same on all servers over one database.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Policy {
    /// How much may be promised on a node that says nothing else.
    pub overcommit: Overcommit,
    /// What speaks for a node.
    pub weights: Weights,
}

/// What speaks for a node, each from 0 on: the share of it that is left once the machine is there, and its image.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Weights {
    /// Processors; 0.5 by default.
    pub vcpus: f64,
    /// Memory; 0.3 by default.
    pub memory: f64,
    /// Disk; 0.2 by default.
    pub disk: f64,
    /// That the image is there already; 0.05 by default: it decides between nodes that are about as empty.
    pub image: f64,
}

impl Default for Weights {
    fn default() -> Self {
        Weights { vcpus: 0.5, memory: 0.3, disk: 0.2, image: 0.05 }
    }
}

impl Weights {
    /// The most that a weight may be: less than what speaks against a paused queue.
    pub const MOST: f64 = 1.0;

    /// Refuses what does not compare nodes.
    ///
    /// # Errors
    /// With the name of the weight that is none.
    pub fn check(&self) -> Result<(), Refusal> {
        let each = [("vcpus", self.vcpus), ("memory", self.memory), ("disk", self.disk), ("image", self.image)];
        match each.into_iter().find(|(_, weight)| !(0.0..=Weights::MOST).contains(weight)) {
            Some((name, weight)) => {
                Err(Refusal::field(&format!("placement_weight_{name}"), format!("{weight} is not between 0 and 1")))
            }
            None => Ok(()),
        }
    }
}
