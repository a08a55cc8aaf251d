//! A lease as its node gets it: signed, for that node only, not to be begun late.

use std::time::Duration;

use hostler_model::{NodeId, Timestamp, internal::Assignment};
use hostler_store::Leased;

use crate::app::{App, Error, Result};

/// How much later than its lease a task may be begun, by the node's clock.
///
/// A task's signature expires with its lease, not with its deadline: whoever begins later works under a fence that the
/// store may have passed, and could only find out when the work is done. The margin is for a node's clock that is ahead
/// of ours; it is far shorter than a lease, and the fence still decides what counts.
const CLOCK_MARGIN: Duration = Duration::from_secs(5);

/// How many tasks go under one signature: enough that it costs little for each, few enough that a text stays small.
const TOGETHER: usize = 32;

impl App {
    /// Signs what was leased to a node: a compact JWS for one task, or for several together.
    pub fn assignments(&self, node: NodeId, leased: Vec<Leased>) -> Result<Vec<String>> {
        let now = self.clock.now();
        let tasks: Vec<Assignment> =
            leased.into_iter().map(|leased| assignment(&self.issuer, node, leased, now)).collect();
        let ring = self.keys.now();
        let signed = tasks.chunks(TOGETHER).map(|tasks| match tasks {
            [task] => ring.signer.sign(task),
            several => ring.signer.sign_several(several),
        });
        signed
            .collect::<std::result::Result<_, _>>()
            .map_err(|error| Error::Trust { doing: "sign tasks", cause: error.to_string() })
    }
}

fn assignment(issuer: &str, node: NodeId, leased: Leased, now: Timestamp) -> Assignment {
    Assignment {
        iss: issuer.to_owned(),
        aud: node,
        sub: leased.task,
        jti: format!("{}.{}", leased.task, leased.fence.attempt),
        iat: seconds(now),
        exp: seconds(leased.lease_expires_at.plus(CLOCK_MARGIN)),
        fence: leased.fence,
        epoch: leased.epoch,
        intent: leased.intent,
        kind: leased.kind,
        target: leased.target,
        params: leased.params,
        lease_expires_at: leased.lease_expires_at,
        deadline: leased.deadline,
    }
}

fn seconds(moment: Timestamp) -> i64 {
    moment.as_micros().div_euclid(1_000_000)
}
