//! What the doctor finds. Each of these breaks something behind the store's back.

use crate::world::World;

async fn some_history(world: &World) {
    let agent = world.node("a").await;
    world.running(agent, "web").await;
    world.ok(world.echo()).await;
    assert!(world.store.doctor().await.unwrap().is_well());
}

/// The names of the checks that found something.
async fn found(world: &World) -> Vec<String> {
    let checks = world.store.doctor().await.unwrap().checks;
    checks.into_iter().filter(|check| !check.ok).map(|check| check.name).collect()
}

pub async fn an_entry_that_was_edited_is_found(world: &mut World) {
    some_history(world).await;
    world.tamper("UPDATE log SET kind = 'task.failed' WHERE seq = 4");
    assert_eq!(found(world).await, ["the log's chain"]);
}

pub async fn an_entry_that_was_removed_is_found(world: &mut World) {
    some_history(world).await;
    world.tamper("DELETE FROM log WHERE seq = 5");
    assert_eq!(found(world).await, ["the log's chain"]);
}

pub async fn an_entry_that_was_added_is_found(world: &mut World) {
    some_history(world).await;
    world.tamper(
        "INSERT INTO log SELECT 100 + seq, at, class, tenant, kind, noun, subject, data FROM log WHERE seq = 1",
    );
    assert_eq!(found(world).await, ["the log's chain"]);
}

pub async fn a_link_that_was_removed_is_found(world: &mut World) {
    some_history(world).await;
    world.tamper("DELETE FROM links WHERE last_seq = (SELECT MAX(last_seq) FROM links)");
    assert_eq!(found(world).await, ["the log's chain"]);
}

pub async fn a_head_that_was_moved_is_found(world: &mut World) {
    some_history(world).await;
    world.tamper("UPDATE log_head SET seq = seq + 1");
    assert_eq!(found(world).await, ["the log's chain"]);
}

pub async fn a_book_that_was_edited_is_found(world: &mut World) {
    some_history(world).await;
    world.tamper("UPDATE tenant_books SET used_vcpus = used_vcpus + 1; DELETE FROM node_books");
    assert_eq!(found(world).await, ["the tenants' books", "the nodes' books"]);
}

pub async fn an_allocation_without_an_owner_is_found(world: &mut World) {
    some_history(world).await;
    world.tamper("UPDATE vms SET state = 'deleted'");
    assert_eq!(found(world).await, ["allocations have owners"]);
}

pub async fn a_running_task_without_a_lease_is_found(world: &mut World) {
    some_history(world).await;
    world.tamper("UPDATE tasks SET state = 'running' WHERE state = 'queued'");
    assert_eq!(found(world).await, ["running tasks have leases"]);
}
