//! Every text of the store, sorted into those that run all the time and those that may read a whole table.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use crate::{
    allocation, api_token, doctor, history, idempotency, image, import, key, log, node, proof, reservation, secret,
    service_account, snapshot, task, task_log, tenant, timeline, token, vm,
};

/// Texts that may read a whole table, by the file and the name, and why.
const RARE: &[(&str, &str, &str)] = &[
    ("allocation.rs", "ALL", "the doctor adds all of them up"),
    ("allocation.rs", "ON_NODE", "for a node that is removed, or whose book is counted anew"),
    ("allocation.rs", "ORPHANED", "the doctor looks at each"),
    ("allocation.rs", "OF_TENANT", "when somebody counts a book anew"),
    ("api_token.rs", "REVOKE", "it reads again what it found: tokens that were made with each other"),
    ("doctor.rs", "LEASELESS", "the doctor looks at each task"),
    ("doctor.rs", "UNCHARGED", "the doctor looks at each machine"),
    ("doctor.rs", "MISNAMED", "the doctor looks at each machine"),
    ("gauges.rs", "VMS", "machines are counted for /metrics: as many as there are, without the deleted"),
    ("gauges.rs", "NODES", "as many as there are hosts"),
    ("gauges.rs", "BOOKS", "as many as there are tenants"),
    ("image.rs", "MANIFESTS", "blobs that no image has are found once an hour"),
    ("log.rs", "CHECKPOINT", "the last row of a table, by its key"),
    ("log.rs", "THIN", "once an hour, one row for each minute of a month"),
    ("key.rs", "MASTER", "the first row of a table, by its key"),
    ("key.rs", "DATA_KEYS", "when an operator rotates the master key"),
    ("key.rs", "ALL", "as many as were ever made: one in months"),
    ("node.rs", "ALL", "placement looks at every host"),
    ("node.rs", "BOOKS", "the doctor compares every host's"),
    ("node.rs", "FORGET_REMOVED", "once for a node that is removed, among those that were"),
    ("node.rs", "SILENT", "as many as there are hosts, while something waits for one since before a restore"),
    ("tenant.rs", "BOOKS", "the doctor compares every tenant's"),
    ("tenant.rs", "REMAINS", "when somebody deletes a tenant"),
    ("task.rs", "BEGIN_AGAIN", "once after a restore"),
    ("task.rs", "ON_NODE", "what has not ended, while a node is drained"),
    ("task/outbox.rs", "ANEW", "once after a restore"),
    ("task/outbox.rs", "FILL", "once after a restore"),
    ("task/outbox.rs", "LENGTH", "offers that nobody has begun are counted for /metrics"),
    ("task/stats.rs", "TOTALS", "counters: an hour's and no more"),
    ("token.rs", "DROP", "as many as were made in two days or so"),
    ("token.rs", "USE_UP_JOINS", "once after a restore"),
    ("token.rs", "USE_UP_OF", "when an operator revokes or removes a node"),
];

/// Those that run all the time: none may read a whole table.
pub(super) fn hot() -> impl Iterator<Item = &'static str> {
    let texts = [
        allocation::HOT,
        api_token::HOT,
        doctor::HOT,
        history::HOT,
        idempotency::HOT,
        image::HOT,
        import::HOT,
        key::HOT,
        log::HOT,
        node::HOT,
        proof::HOT,
        reservation::HOT,
        secret::HOT,
        service_account::HOT,
        snapshot::HOT,
        task::HOT,
        task::bound::HOT,
        task::later::HOT,
        task::list::HOT,
        task::outbox::HOT,
        task::stats::HOT,
        task::wanted::HOT,
        task_log::HOT,
        tenant::HOT,
        timeline::HOT,
        token::HOT,
        vm::HOT,
    ];
    texts.into_iter().flatten().copied()
}

/// Lists, and the index that each is to walk in its order.
pub(super) fn lists() -> impl Iterator<Item = (&'static str, &'static str)> {
    let lists = [vm::INDEXED, snapshot::INDEXED, log::INDEXED, task::list::INDEXED, task::later::INDEXED];
    lists.into_iter().flatten().copied()
}

/// The same text for a server.
pub(super) fn on_a_server(text: &'static str) -> &'static str {
    let mut both = [allocation::BOTH, log::BOTH, task::BOTH, task::list::BOTH].into_iter().flatten();
    both.find(|texts| texts.sqlite == text).map_or(text, |texts| texts.postgres)
}

/// The names of the texts in a file, and what its list `HOT` says.
fn sorted(source: &str) -> (BTreeSet<&str>, BTreeSet<&str>) {
    let constants = source.split("const ").skip(1).filter_map(|after| after.split_once(':'));
    let (mut texts, mut hot) = (BTreeSet::new(), BTreeSet::new());
    for (name, rest) in constants {
        let Some((kind, value)) = rest.split_once('=') else { continue };
        match kind.trim() {
            "&str" | "Texts" if is_text(value) => drop(texts.insert(name)),
            "&[&str]" if name == "HOT" => {
                let list = value.split_once(']').map_or(value, |(list, _)| list);
                let word = |c: char| !(c.is_ascii_uppercase() || c == '_');
                hot = list.split(word).filter(|name| !name.is_empty()).collect();
            }
            _ => {}
        }
    }
    (texts, hot)
}

/// Whether a constant is a statement: by its first word, or because a macro puts it together.
fn is_text(value: &str) -> bool {
    let word = value.trim_start_matches([' ', '\n', '"']);
    ["SELECT", "WITH", "INSERT", "UPDATE", "DELETE", "concat!", "list!", "look!", "Texts"]
        .iter()
        .any(|first| word.starts_with(first))
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        match entry.file_type().unwrap().is_dir() {
            true => files(&entry.path(), found),
            false => found.push(entry.path()),
        }
    }
}

#[test]
fn every_text_is_looked_at_or_may_read_a_whole_table() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    files(&root, &mut found);
    let (mut all, mut used) = (0, 0);
    for file in found.iter().filter(|file| file.extension().is_some_and(|word| word == "rs")) {
        let (source, file) = (fs::read_to_string(file).unwrap(), file.strip_prefix(&root).unwrap().to_str().unwrap());
        let (texts, hot) = sorted(&source);
        all += texts.len();
        for text in texts {
            let rare = RARE.iter().any(|(of, name, _)| (*of, *name) == (file, text));
            used += usize::from(rare);
            assert!(rare != hot.contains(text), "{file}: {text} stands in `HOT`, or in the list of those that may");
        }
    }
    assert!(all > 100, "{all} texts");
    assert_eq!(used, RARE.len(), "a text that may is not there any more");
}
