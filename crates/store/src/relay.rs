//! Hints between the servers over one database: what a step of one changed, others may be waiting for.

use hostler_db::{Channel, Db, Heard, Result};
use tokio::sync::broadcast;

use crate::Wakes;

/// What a word may have, in bytes: PostgreSQL takes fewer than 8,000.
const MOST: usize = 7900;

/// The way to the other servers.
#[derive(Debug)]
pub(crate) struct Relay(Channel<Wakes>);

impl Relay {
    /// Begins to hear and to tell; `None` where a database has one server only.
    pub(crate) fn start(db: &Db, wakes: &broadcast::Sender<Wakes>) -> Result<Option<Relay>> {
        let wakes = wakes.clone();
        // Nobody may be listening.
        let hear = move |heard| drop(wakes.send(meant(heard)));
        Ok(db.channel(hear, fold)?.map(Relay))
    }

    /// Tells the others.
    pub(crate) fn say(&self, wakes: &Wakes) {
        self.0.say(wakes.clone());
    }
}

/// What was heard: of a gap, or from a program that says more than this one knows, that anything may be.
fn meant(heard: Heard) -> Wakes {
    let known = match heard {
        Heard::Word(text) => serde_json::from_str(&text).ok(),
        Heard::Gap => None,
    };
    known.unwrap_or(Wakes { all: true, ..Wakes::default() })
}

fn fold(gathered: Vec<Wakes>) -> String {
    let mut wakes = Wakes::default();
    for one in gathered {
        let Wakes { all, all_tasks, trust, nodes, ended, logged, aborting, credentials, seq } = one;
        wakes.all |= all;
        wakes.trust |= trust;
        wakes.all_tasks |= all_tasks;
        wakes.credentials |= credentials;
        wakes.seq = wakes.seq.max(seq);
        wakes.nodes.extend(nodes);
        wakes.ended.extend(ended);
        wakes.logged.extend(logged);
        wakes.aborting.extend(aborting);
    }
    wakes.nodes.sort();
    wakes.nodes.dedup();
    short(&wakes)
        .or_else(|| {
            let (ended, logged) = (Vec::new(), Vec::new());
            short(&Wakes { all_tasks: true, ended, logged, ..wakes.clone() })
        })
        .or_else(|| short(&Wakes { all: true, seq: wakes.seq, ..Wakes::default() }))
        .unwrap_or_default()
}

/// As a word, where it is not too long for one.
fn short(wakes: &Wakes) -> Option<String> {
    serde_json::to_string(wakes).ok().filter(|word| word.len() <= MOST)
}

#[cfg(test)]
mod tests {
    use hostler_model::{Ids, TaskId, Timestamp};

    use super::*;

    fn ended(count: usize) -> Wakes {
        let ids = Ids::seeded(1);
        let ended: Vec<TaskId> = (0..count).map(|_| ids.next(Timestamp::from_micros(0))).collect();
        Wakes { ended, seq: 7, ..Wakes::default() }
    }

    #[test]
    fn what_gathered_is_one_word_that_the_server_takes_and_others_understand() {
        let heard = meant(Heard::Word(fold(vec![ended(2), Wakes { seq: 9, ..Wakes::default() }])));
        assert_eq!((heard.ended, heard.seq, heard.all), (ended(2).ended, 9, false));
        let many = fold(vec![ended(1000)]);
        assert!(many.len() < 8000);
        assert_eq!(meant(Heard::Word(many)), Wakes { all_tasks: true, seq: 7, ..Wakes::default() });
        assert!(meant(Heard::Gap).all && meant(Heard::Word("?".into())).all);
    }
}
