//! Machines that no record knows: told by their nodes, claimed for tenants.

use hostler_model::{
    Code, VmId,
    event::{Actor, Class},
    kind::KindName,
    tenant::{Limits, UNLIMITED},
    unassigned::Stranger,
    vm::{Observation, VmSpec, VmState},
};
use hostler_store::{Claimed, EditTenant, LogFilter};

use crate::world::{Agent, TENANT, World, seen, spec};

/// A node tells of everything it has, and more about what nobody knows.
async fn tell(world: &World, agent: Agent, vms: &[Observation], strangers: &[Stranger]) -> Vec<VmId> {
    let mut beat = world.heartbeat(agent, &[], true, vms.to_vec());
    beat.heartbeat.inventory.strangers = strangers.to_vec();
    world.store.heartbeat(vec![beat]).await.unwrap().pop().unwrap().unwrap().answer.orphans
}

fn stranger(vm: VmId) -> Stranger {
    Stranger { vm, name: "web".into(), spec: VmSpec { vcpus: 2, ..spec() } }
}

fn claimed(agent: Agent, vm: VmId) -> Claimed {
    Claimed { node: agent.node, vm, tenant: TENANT, name: None, actor: Actor::system() }
}

async fn refused(world: &World, claim: Claimed) -> Code {
    world.store.claim_unassigned(claim).await.unwrap().unwrap_err().code
}

pub async fn what_no_record_knows_is_listed_and_becomes_a_tenants(world: &mut World) {
    let agent = world.node("a").await;
    let vm: VmId = world.id();
    let there = [Observation { epoch: 4, ..seen(vm, VmState::Running) }];
    assert_eq!(tell(world, agent, &there, &[]).await, [vm]);
    let listed = world.store.unassigned().await.unwrap();
    assert_eq!((listed[0].id, listed[0].node, listed[0].spec.as_ref()), (vm, agent.node, None));
    assert_eq!(refused(world, claimed(agent, vm)).await, Code::VmStateConflict, "nobody knows what it is");
    tell(world, agent, &there, &[stranger(vm)]).await;
    tell(world, agent, &there, &[]).await;
    let listed = world.store.unassigned().await.unwrap();
    assert_eq!((listed[0].name.as_deref(), listed[0].spec.as_ref().unwrap().vcpus), (Some("web"), 2));
    let made = world.store.claim_unassigned(claimed(agent, vm)).await.unwrap().unwrap();
    assert_eq!((made.state, made.node, made.epoch, made.name.as_str()), (VmState::Running, Some(agent.node), 4, "web"));
    assert_eq!(world.vm(vm).await, made);
    assert_eq!(world.store.unassigned().await.unwrap(), []);
    let book = world.book().await;
    assert_eq!((book.used.vcpus, book.used.vms, book.used.running_vms), (2, 1, 1));
    assert_eq!(world.store.nodes().await.unwrap()[0].book, book);
    let log = LogFilter { subject: Some(vm.0), ..LogFilter::default() };
    let entries = world.store.log(log, 0, 10).await.unwrap();
    let kinds = [Class::Event, Class::Audit].map(|class| entries[0].clone().seen_as(class).kind);
    assert_eq!((entries.len(), kinds), (1, ["vm.claimed".to_owned(), "vm.claim".to_owned()]));
    // From here on it is like any other.
    let head = world.head().await;
    assert_eq!(world.store.claim_unassigned(claimed(agent, vm)).await.unwrap().unwrap(), made, "asked once more");
    assert_eq!(tell(world, agent, &there, &[]).await, []);
    assert_eq!((world.vm(vm).await, world.head().await), (made, head));
    world.ok(world.on_vm(KindName::VmStop, vm)).await;
    let leased = world.lease_one(agent).await;
    assert_eq!(leased.epoch, Some(4));
    world.succeed(agent, &leased).await;
    assert_eq!(world.vm(vm).await.state, VmState::Stopped);
}

pub async fn a_claim_that_may_not_be_is_refused(world: &mut World) {
    let (a, b) = (world.node("a").await, world.node("b").await);
    let ours = world.running(a, "web").await;
    let vm: VmId = world.id();
    tell(world, b, &[seen(vm, VmState::Stopped), seen(ours, VmState::Running)], &[stranger(vm), stranger(ours)]).await;
    assert_eq!(world.store.unassigned().await.unwrap().len(), 2, "what is somewhere else too");
    assert_eq!(refused(world, claimed(b, ours)).await, Code::VmStateConflict);
    assert_eq!(refused(world, claimed(b, vm)).await, Code::NameTaken);
    let renamed = Claimed { name: Some("db".parse().unwrap()), ..claimed(b, vm) };
    assert_eq!(refused(world, Claimed { node: a.node, ..renamed.clone() }).await, Code::VmNotFound);
    assert_eq!(refused(world, Claimed { node: world.id(), ..renamed.clone() }).await, Code::NodeNotFound);
    assert_eq!(refused(world, Claimed { tenant: world.id(), ..renamed.clone() }).await, Code::NotFound);
    let limits = |vms| EditTenant::of_system(TENANT, Limits { vms, running_vms: 1, ..UNLIMITED }.into());
    world.store.edit_tenant(limits(1)).await.unwrap().unwrap();
    assert_eq!(refused(world, renamed.clone()).await, Code::QuotaExceeded);
    world.store.edit_tenant(limits(2)).await.unwrap().unwrap();
    let made = world.store.claim_unassigned(renamed).await.unwrap().unwrap();
    assert_eq!((made.name.as_str(), world.book().await.used.running_vms), ("db", 1), "it does not run");
}
