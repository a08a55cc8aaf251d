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
    let stand = walk.stand();
    assert_eq!(world.store.unsigned().await.unwrap(), Some(stand));
    world.store.put_checkpoint(stand.seq, "signed".into()).await.unwrap();
    assert_eq!(world.store.unsigned().await.unwrap(), None, "nothing went on since");
    let lines = world.store.chain(Eyes::Audit(None), 0, 500).await.unwrap();
    assert!(lines.contains(&Line::Checkpoint("signed".into())));
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
    // Whoever may write everything edits the last entry and makes the last link anew.
    let last = world.head().await;
    world.tamper(&format!("UPDATE log SET data = '{{}}' WHERE seq = {last}"));
    let lines = world.store.chain(Eyes::Doctor, 0, 500).await.unwrap();
    let links: Vec<_> =
        lines.iter().filter_map(|line| if let Line::Link(link) = line { Some(link) } else { None }).collect();
    let (before, link) = (links[links.len() - 2].hash, links[links.len() - 1]);
    let hashes = link.entries.iter().map(|entry| match entry {
        Shown::Whole(entry) => hostler_model::chain::hash_of(entry),
        Shown::Hashed(entry) => entry.sha256.0,
    });
    let anew = HexHash(hostler_model::chain::link(&before.0, &hostler_model::chain::digest(hashes)));
    world.tamper(&format!(
        "UPDATE links SET hash = '{anew}' WHERE last_seq = {last}; UPDATE log_head SET hash = '{anew}'"
    ));
    assert_eq!(found(world, &[]).await, "", "by itself it looks whole");
    let told = found(world, &[signed]).await;
    assert!(told.contains("written anew"), "{told}");
}
