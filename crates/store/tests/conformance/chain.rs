//! The log's chain, as somebody verifies it who has an export and what was signed. Each of these tampers with the database.

use hostler_model::{
    chain::{self, BEGINNING, Hashes, HexHash, Line, Shown, Stand, Walk},
    event::Class,
};
use hostler_store::Eyes;

use crate::world::{TENANT, World};

async fn some_history(world: &World) {
    let agent = world.node("a").await;
    world.running(agent, "web").await;
    world.submit(world.echo()).await.unwrap();
    world.store.submit(vec![world.echo(), world.echo(), world.echo()]).await.unwrap();
}

/// Walks an export piece by piece. What is "signed" here is the stand itself: signatures are their own claim.
async fn walked(world: &World, signed: &[Stand]) -> Walk {
    let mut walk = Walk::from(BEGINNING);
    loop {
        for line in world.store.chain(Eyes::Audit(None), walk.stand().seq, 3).await.unwrap() {
            match line {
                Line::From(stand) => assert_eq!(stand, walk.stand()),
                Line::Link(link) => walk.link(&link),
                Line::Checkpoint(_) => {}
                Line::Stray(entries) => walk.stray(&entries),
                Line::End(head) => {
                    walk.end(head);
                    signed.iter().for_each(|stand| walk.checkpoint(*stand));
                    return walk;
                }
            }
        }
    }
}

async fn found(world: &World, signed: &[Stand]) -> String {
    walked(world, signed).await.wrongs().join("; ")
}

pub async fn an_export_verifies_and_shows_no_more_than_the_audit(world: &mut World) {
    some_history(world).await;
    let walk = walked(world, &[]).await;
    assert_eq!((walk.wrongs(), walk.stand().seq), (&[][..], world.head().await));
    let mut shown = 0;
    for line in world.store.chain(Eyes::Audit(Some(TENANT)), 0, 500).await.unwrap() {
        let Line::Link(link) = line else { continue };
        for entry in link.entries {
            if let Shown::Whole(entry) = entry {
                assert!(entry.class != Class::Event && entry.tenant == Some(TENANT), "{entry:?}");
                shown += 1;
            }
        }
    }
    assert!(shown > 0);
}

pub async fn a_checkpoint_is_kept_where_the_chain_stands_there_and_nowhere_else(world: &mut World) {
    some_history(world).await;
    let stand = walked(world, &[]).await.stand();
    assert_eq!(world.store.signed_up_to().await.unwrap(), 0);
    let put = |stand: Stand| world.store.put_checkpoint(stand, format!("signed at {}", stand.seq));
    // What a promotion lost, or what was written anew, meanwhile.
    for other in [Stand { seq: stand.seq + 1, ..stand }, Stand { hash: BEGINNING.hash, ..stand }] {
        assert!(!put(other).await.unwrap());
    }
    assert!(put(stand).await.unwrap());
    assert!(!put(stand).await.unwrap(), "another server did it already");
    assert_eq!(world.store.signed_up_to().await.unwrap(), stand.seq);
    let lines = world.store.chain(Eyes::Audit(None), 0, 500).await.unwrap();
    let kept: Vec<_> = lines.iter().filter(|line| matches!(line, Line::Checkpoint(_))).collect();
    assert_eq!(kept, [&Line::Checkpoint(format!("signed at {}", stand.seq))]);
}

pub async fn of_old_checkpoints_the_last_of_each_day_stays(world: &mut World) {
    const DAY: u64 = 24 * 60 * 60;
    // From a midnight on, three a day over forty days.
    world.advance(DAY - u64::try_from(world.now().as_micros() / 1_000_000).unwrap() % DAY);
    let mut signed = Vec::new();
    for n in 0..120 {
        world.join_token(None, true).await;
        let stand = jointed(world, BEGINNING).await.stand();
        assert!(world.store.put_checkpoint(stand, n.to_string()).await.unwrap());
        signed.push((n, n.to_string()));
        world.advance(DAY / 3);
    }
    // What is older than thirty days: of ten days two each.
    assert_eq!(world.store.thin_checkpoints().await.unwrap(), 20);
    assert_eq!(world.store.thin_checkpoints().await.unwrap(), 0);
    let piece = world.store.chain_piece(0, 10_000).await.unwrap();
    let kept: Vec<_> = signed.into_iter().filter(|(n, _)| *n >= 30 || n % 3 == 2).map(|(_, text)| text).collect();
    assert_eq!(piece.checkpoints, kept);
}

/// Walks along the chain without its entries, from here.
async fn jointed(world: &World, from: Stand) -> Walk {
    let mut walk = Walk::from(from);
    loop {
        let piece = world.store.chain_piece(walk.stand().seq, 3).await.unwrap();
        if piece.from != walk.stand() {
            walk.wrong("it does not stand there");
            return walk;
        }
        piece.joints.iter().for_each(|joint| walk.joint(joint));
        if let Some(end) = piece.end {
            walk.end(end);
            return walk;
        }
    }
}

pub async fn a_chain_goes_on_from_where_it_stood_unless_it_was_written_anew(world: &mut World) {
    some_history(world).await;
    let before = walked(world, &[]).await.stand();
    for _ in 0..5 {
        world.submit(world.echo()).await.unwrap();
    }
    let whole = walked(world, &[]).await;
    for from in [BEGINNING, before, whole.stand()] {
        let walk = jointed(world, from).await;
        assert_eq!((walk.stand(), walk.wrongs()), (whole.stand(), &[][..]));
    }
    forge(world, 2).await;
    assert_eq!(walked(world, &[]).await.wrongs(), [""; 0], "by itself it looks whole");
    assert_eq!(jointed(world, before).await.wrongs(), ["it does not stand there"]);
    // The hash that was signed is put back: then what follows does not follow from it.
    world.tamper(&format!("UPDATE links SET hash = '{}' WHERE last_seq = {}", before.hash, before.seq));
    let told = jointed(world, before).await.wrongs().join("; ");
    assert!(told.contains("does not go on from the one before it"), "{told}");
}

/// What somebody does who has nothing but the database: edits an entry, and makes every link behind it anew, and the head.
async fn forge(world: &World, seq: i64) {
    world.tamper(&format!("UPDATE log SET data = '{{\"forged\": true}}' WHERE seq = {seq}"));
    let (mut hash, mut statements) = (BEGINNING.hash, Vec::new());
    for line in world.store.chain(Eyes::Doctor, 0, 1000).await.unwrap() {
        let Line::Link(link) = line else { continue };
        let hashes: Hashes = link.entries.iter().map(Shown::hash).collect();
        hash = HexHash(chain::link(&hash.0, &hashes.digest()));
        statements
            .push(format!("UPDATE links SET hashes = '{hashes}', hash = '{hash}' WHERE last_seq = {}", link.last));
    }
    statements.push(format!("UPDATE log_head SET hash = '{hash}'"));
    world.tamper(&statements.join("; "));
}

pub async fn each_entry_of_a_batch_that_was_edited_is_named_whatever_was_edited(world: &mut World) {
    world.node("a").await;
    world.store.submit((0..9).map(|_| world.echo()).collect()).await.unwrap();
    let (first, last) = last_link(world).await;
    assert_eq!(last - first, 8, "they were written together");
    let edits = [
        "at = at + 1",
        "class = 'event'",
        "tenant = NULL",
        "kind = 'task.forget'",
        "noun = 'vm'",
        "subject = '00000000-0000-7000-8000-000000000000'",
        "data = '{}'",
        "data = 'not JSON at all'",
    ];
    let mut told = Vec::new();
    // The one at the end of the batch stays as it is.
    for (edit, seq) in edits.iter().zip(first..) {
        world.tamper(&format!("UPDATE log SET {edit} WHERE seq = {seq}"));
        told.push(format!("the entry {seq} is not what was written"));
        assert_eq!(found(world, &[]).await, told.join("; "), "{edit}");
    }
    let diagnosis = world.store.doctor().await.unwrap();
    let ill = diagnosis.checks.iter().find(|check| !check.ok).unwrap();
    assert!(ill.detail.starts_with(&told.join("; ")), "{}", ill.detail);
}

pub async fn hashes_that_were_changed_are_told_from_entries_that_were(world: &mut World) {
    some_history(world).await;
    let (first, last) = last_link(world).await;
    let Some(Line::Link(link)) = links(world).await.pop() else { panic!("there is one") };
    let keep = |hashes: &Hashes| world.tamper(&format!("UPDATE links SET hashes = '{hashes}' WHERE last_seq = {last}"));
    let of = |seq: i64, hash: chain::Hash| -> Hashes {
        let hashes = link.entries.iter().zip(first..);
        hashes.map(|(entry, at)| if at == seq { hash } else { entry.hash() }).collect()
    };
    keep(&of(last, [7; 32]));
    let alone = format!(
        "the hashes that are kept of the entries {first} to {last} were changed, what they are of is as it was written"
    );
    assert_eq!(found(world, &[]).await, alone);
    world.tamper(&format!("UPDATE links SET hashes = 'no hashes' WHERE last_seq = {last}"));
    assert_eq!(found(world, &[]).await, alone);
    // An entry with its hash: which it is nothing tells any more, but that there is one.
    world.tamper(&format!("UPDATE log SET data = '{{}}' WHERE seq = {first}"));
    let Some(Line::Link(edited)) = links(world).await.pop() else { panic!("there is one") };
    keep(&of(first, edited.entries[0].hash()));
    let told = found(world, &[]).await;
    let together = format!("the link of the entries {first} to {last} does not go on from the one before it");
    assert!(told.starts_with(&together), "{told}");
    // What signs looks at no entry, and sees the hashes all the same.
    assert_eq!(jointed(world, BEGINNING).await.wrongs(), [together]);
    keep(&of(last, [7; 32]));
    let told = found(world, &[]).await;
    assert!(told.starts_with("of the entries") && told.ends_with(&format!("entries {first}, {last}")), "{told}");
}

async fn links(world: &World) -> Vec<Line> {
    let lines = world.store.chain(Eyes::Doctor, 0, 500).await.unwrap();
    lines.into_iter().filter(|line| matches!(line, Line::Link(_))).collect()
}

/// What the last link covers.
async fn last_link(world: &World) -> (i64, i64) {
    match links(world).await.pop() {
        Some(Line::Link(link)) => (link.first, link.last),
        other => panic!("no link: {other:?}"),
    }
}

pub async fn an_entry_that_was_removed_is_named(world: &mut World) {
    some_history(world).await;
    world.tamper("DELETE FROM log WHERE seq = 5");
    assert_eq!(found(world, &[]).await, "the entry 5 is missing");
    // Another, from the middle of a batch; and one that is left there is not what was written either.
    let (first, last) = last_link(world).await;
    world.tamper(&format!("DELETE FROM log WHERE seq = {first}; UPDATE log SET data = '{{}}' WHERE seq = {last}"));
    let told =
        format!("the entry 5 is missing; the entry {first} is missing; the entry {last} is not what was written");
    assert_eq!(found(world, &[]).await, told);
}

pub async fn entries_that_were_swapped_are_named(world: &mut World) {
    some_history(world).await;
    let swap = |a: i64, b: i64| {
        world.tamper(&format!(
            "UPDATE log SET seq = -1 WHERE seq = {a}; UPDATE log SET seq = {a} WHERE seq = {b}; UPDATE log SET seq = {b} WHERE seq = -1"
        ));
    };
    let named = |a: i64, b: i64| format!("the entry {a} is not what was written; the entries {a} and {b} were swapped");
    // Two that were written together, then two of different batches.
    let (_, last) = last_link(world).await;
    swap(last - 1, last);
    assert_eq!(found(world, &[]).await, named(last - 1, last));
    swap(last - 1, last);
    swap(1, last);
    let diagnosis = world.store.doctor().await.unwrap();
    let ill = diagnosis.checks.iter().find(|check| !check.ok).unwrap();
    assert!(ill.detail.starts_with(&named(1, last)), "{}", ill.detail);
}

pub async fn an_entry_that_was_added_and_the_head_moved_for_it_is_named(world: &mut World) {
    some_history(world).await;
    let next = world.head().await + 1;
    world.tamper(&format!(
        "INSERT INTO log SELECT {next}, at, class, tenant, kind, noun, subject, data FROM log WHERE seq = 1; UPDATE log_head SET seq = {next}"
    ));
    let told = found(world, &[]).await;
    assert!(told.contains(&format!("no link covers the entry {next}")), "{told}");
}

pub async fn a_chain_that_was_cut_off_behind_what_was_signed_is_named(world: &mut World) {
    some_history(world).await;
    let signed = walked(world, &[]).await.stand();
    let before = world.store.chain(Eyes::Doctor, 0, 500).await.unwrap();
    let links: Vec<_> =
        before.iter().filter_map(|line| if let Line::Link(link) = line { Some(link) } else { None }).collect();
    let kept = links[links.len() - 2];
    let (last, hash) = (kept.last, kept.hash);
    world.tamper(&format!(
        "DELETE FROM log WHERE seq > {last}; DELETE FROM links WHERE last_seq > {last}; UPDATE log_head SET seq = {last}, hash = '{hash}'"
    ));
    assert_eq!(found(world, &[]).await, "", "by itself it looks whole");
    let told = found(world, &[signed]).await;
    assert!(told.contains("the chain ends before it"), "{told}");
}

pub async fn a_chain_that_was_written_anew_is_named_by_what_was_signed(world: &mut World) {
    some_history(world).await;
    let signed = walked(world, &[]).await.stand();
    forge(world, 2).await;
    assert_eq!(found(world, &[]).await, "", "by itself it looks whole");
    let told = found(world, &[signed]).await;
    assert!(told.contains("written anew"), "{told}");
}
