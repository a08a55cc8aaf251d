//! Machines are edited and renamed, and a node looks at what it has.

use hostler_agent::hypervisor::{
    Hypervisor,
    sim::{Sim, SimConfig, SimHost},
};
use hostler_model::{
    VmId,
    error::Code,
    kind::KindName,
    task::{Effects, End, Intent},
    vm::Observation,
};
use serde_json::{Value, json};

use crate::{
    server::{Server, again, folder, succeeded},
    world::World,
};

async fn done(server: &Server, kind: KindName, vm: Option<VmId>, params: Value) -> hostler_model::internal::Report {
    let n = server.results().len();
    server.give(&server.task(kind, vm, params));
    server.result(n + 1).await
}

async fn created(server: &Server) -> VmId {
    let (vm, n) = (server.vm(), server.results().len());
    server.give(&server.create(vm));
    succeeded(&server.result(n + 1).await);
    vm
}

/// An edit as the server files it.
fn filed(before: Value, after: Value) -> Value {
    json!({"filed": {"generation": 2, "before": before, "after": after}})
}

fn shape(vcpus: i64, disk_gib: i64, ports: Value) -> Value {
    json!({"vcpus": vcpus, "memory_mib": 128, "disk_gib": disk_gib, "port_forwards": ports})
}

async fn seen(server: &Server, vm: VmId) -> Observation {
    let before = server.with(|heard| heard.heartbeats.len());
    server
        .until(|heard| {
            let beat = heard.heartbeats.iter().skip(before).last()?;
            beat.inventory.vms.iter().find(|seen| seen.vm == vm).cloned()
        })
        .await
}

#[tokio::test(start_paused = true)]
async fn an_edit_says_of_each_field_when_it_takes_effect() {
    let (server, data) = (Server::new(), folder());
    let sim = Sim::new(SimConfig::quick(1), SimHost::new());
    let agent = server.agent(data.path(), sim.clone()).await;
    let vm = created(&server).await;
    let before = shape(1, 1, json!([]));
    let after = shape(2, 2, json!([{"guest_port": 80}]));
    let report = done(&server, KindName::VmEdit, Some(vm), filed(before.clone(), after)).await;
    let output = succeeded(&report);
    assert_eq!((&output["vcpus"], &output["disk_gib"]), (&json!("next_start"), &json!("live")), "{output}");
    assert_eq!((&output["port_forwards"], &output["memory_mib"]), (&json!("live"), &Value::Null));
    assert_eq!((&output["restart_pending"], &output["charge"]["vcpus"]), (&json!(true), &json!(2)));
    assert_eq!(output["forwards"][0]["host_port"], 40000);
    assert!(seen(&server, vm).await.restart_pending);

    // The agent after this one knows, too; the next start has it.
    agent.kill().await;
    let agent = server.agent(data.path(), sim.clone()).await;
    assert!(seen(&server, vm).await.restart_pending);
    succeeded(&done(&server, KindName::VmStop, Some(vm), json!({})).await);
    assert!(!seen(&server, vm).await.restart_pending);
    let output = done(&server, KindName::VmEdit, Some(vm), filed(before.clone(), shape(3, 2, json!([])))).await;
    assert_eq!(succeeded(&output)["vcpus"], "next_start");
    assert_eq!(succeeded(&output)["restart_pending"], false);
    succeeded(&done(&server, KindName::VmStart, Some(vm), json!({})).await);
    assert!(!seen(&server, vm).await.restart_pending);
    assert_eq!(sim.plan(vm).await.unwrap().unwrap().spec.vcpus, 3);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_edit_that_cannot_be_made_leaves_nothing() {
    let (server, data) = (Server::new(), folder());
    let sim = Sim::new(SimConfig::quick(1), SimHost::new());
    let agent = server.agent(data.path(), sim.clone()).await;
    let (web, db) = (created(&server).await, created(&server).await);
    let before = shape(1, 1, json!([]));
    let ports = shape(1, 1, json!([{"host_port": 8080, "guest_port": 80}]));
    succeeded(&done(&server, KindName::VmEdit, Some(web), filed(before.clone(), ports.clone())).await);
    let refused = done(&server, KindName::VmEdit, Some(db), filed(before.clone(), ports)).await;
    let End::Failed { code, detail, effects, retryable } = &refused.end else { panic!("{refused:?}") };
    assert_eq!((*code, *effects, *retryable), (Code::PortTaken, Effects::Undone, false), "{detail}");
    assert!(detail.contains(&web.to_string()), "{detail}");
    assert!(sim.plan(db).await.unwrap().unwrap().spec.port_forwards.is_empty());
    // One that is not here, and one that nobody filed.
    let absent = done(&server, KindName::VmEdit, Some(server.vm()), filed(before.clone(), before)).await;
    assert!(matches!(absent.end, End::Failed { code: Code::VmStateConflict, effects: Effects::Undone, .. }));
    let bare = done(&server, KindName::VmEdit, Some(web), json!({"vcpus": 2})).await;
    assert!(matches!(bare.end, End::Failed { code: Code::TaskRefused, .. }), "{bare:?}");
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_edit_that_was_begun_is_completed_when_it_is_to_be_stopped() {
    let (server, data) = (Server::new(), folder());
    let sim = Sim::new(SimConfig::quick(1), SimHost::new());
    let agent = server.agent(data.path(), sim.clone()).await;
    let vm = created(&server).await;
    let n = server.results().len();
    let edit = server.task(KindName::VmEdit, Some(vm), filed(shape(1, 1, json!([])), shape(2, 1, json!([]))));
    server.give(&edit);
    succeeded(&server.result(n + 1).await);
    // The server never heard of it, and asks for it to be undone: what it says is what is there.
    server.give(&again(&edit, 2, Intent::Abort));
    let end = server.result(n + 2).await.end;
    match end {
        End::Succeeded { output } => assert_eq!(output["restart_pending"], true),
        End::Cancelled { effects: Effects::Undone } => {
            panic!("it is not undone: {:?}", sim.plan(vm).await.unwrap().unwrap().spec.vcpus)
        }
        other => panic!("{other:?}"),
    }
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_renamed_machine_is_called_so_from_its_next_start_on() {
    let (server, data) = (Server::new(), folder());
    let sim = Sim::new(SimConfig::quick(1), SimHost::new());
    let agent = server.agent(data.path(), sim.clone()).await;
    let vm = created(&server).await;
    let told = done(&server, KindName::VmRename, Some(vm), json!({"name": "shop"})).await;
    assert_eq!(succeeded(&told), &json!({"told": true}));
    assert_eq!(sim.plan(vm).await.unwrap().unwrap().name, "shop");
    assert!(!seen(&server, vm).await.restart_pending, "a name is nothing that a machine waits for");
    let nobody = done(&server, KindName::VmRename, Some(server.vm()), json!({"name": "shop"})).await;
    assert_eq!(succeeded(&nobody), &json!({"told": false}));
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_node_looks_again_and_tells_at_once() {
    let (server, data, world) = (Server::new(), folder(), World::new());
    let agent = server.agent(data.path(), world.clone()).await;
    let vm = created(&server).await;
    // Something appears that no task of ours made.
    let stray = server.vm();
    world.running(stray);
    let beats = server.with(|heard| heard.heartbeats.len());
    let report = done(&server, KindName::InventoryRefresh, None, json!({})).await;
    let output = succeeded(&report);
    assert_eq!(
        (&output["full"], &output["machines"], &output["states"]),
        (&json!(true), &json!(2), &json!({"running": 2}))
    );
    assert_eq!(output["found"], json!([stray]));
    let told = server.with(|heard| {
        heard.heartbeats[beats..].iter().any(|beat| beat.inventory.full && beat.inventory.vms.len() == 2)
    });
    assert!(told, "a heartbeat with both was sent before the result");
    assert_eq!(succeeded(&done(&server, KindName::InventoryRefresh, None, json!({})).await)["found"], json!([]));
    succeeded(&done(&server, KindName::VmDelete, Some(vm), json!({})).await);
    assert_eq!(succeeded(&done(&server, KindName::InventoryRefresh, None, json!({})).await)["machines"], 1);
    agent.stop().await;
}
