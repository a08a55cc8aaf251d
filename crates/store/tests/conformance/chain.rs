//! The log's chain, as somebody verifies it who has an export and what was signed. Each of these tampers with the database.

use hostler_model::{
    chain::{BEGINNING, HexHash, Line, Shown, Stand, Walk},
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
        let hashes = link.entries.iter().map(|entry| match entry {
            Shown::Whole(entry) => hostler_model::chain::hash_of(entry),
            Shown::Hashed(entry) => entry.sha256.0,
        });
        let digest = hostler_model::chain::digest(hashes);
        hash = HexHash(hostler_model::chain::link(&hash.0, &digest));
        statements.push(format!(
            "UPDATE links SET digest = '{}', hash = '{hash}' WHERE last_seq = {}",
            HexHash(digest),
            link.last
        ));
    }
    statements.push(format!("UPDATE log_head SET hash = '{hash}'"));
    world.tamper(&statements.join("; "));
}

pub async fn an_entry_that_was_edited_is_named(world: &mut World) {
    some_history(world).await;
    world.tamper("UPDATE log SET data = '{}' WHERE seq = 2");
    let told = found(world, &[]).await;
    assert!(told.contains("is not what was written") && told.contains('2'), "{told}");
}

pub async fn an_entry_that_was_removed_is_named(world: &mut World) {
    some_history(world).await;
    world.tamper("DELETE FROM log WHERE seq = 5");
    assert_eq!(found(world, &[]).await, "the entry 5 is missing");
}

pub async fn entries_that_were_swapped_are_named(world: &mut World) {
    some_history(world).await;
    let last = world.head().await;
    // The last two, which were written together.
    let (a, b) = (last - 1, last);
    world.tamper(&format!(
        "UPDATE log SET seq = -1 WHERE seq = {a}; UPDATE log SET seq = {a} WHERE seq = {b}; UPDATE log SET seq = {b} WHERE seq = -1"
    ));
    let told = found(world, &[]).await;
    assert!(told.contains("is not what was written"), "{told}");
}

pub async fn an_entry_that_was_added_and_the_head_moved_for_it_is_named(world: &mut World) {
    some_history(world).await;
    let next = world.head().await + 1;
    world.tamper(&format!(
        "INSERT INTO log SELECT {next}, at, class, tenant, kind, noun, subject, data FROM log WHERE seq = 1; UPDATE log_head SET seq = {next}"
    ));
    let told = found(world, &[]).await;
    assert!(told.contains(&format!("no link covers the entries {next}")), "{told}");
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
