//! The simulation is reproducible, keeps its promises, and survives its agent. Time stands still but for sleeps.

use std::collections::BTreeMap;

use hostler_model::{
    Ids, Timestamp,
    image::{ImageDefaults, Manifest},
    kind::{OUTPUT_LIMIT, VmExecParams},
    ready::Readiness,
    vm::VmSpec,
};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};

use super::*;
use crate::hypervisor::Exit;

const READY: Duration = Duration::from_secs(10);

fn plans(count: usize) -> Vec<MachinePlan> {
    let manifest = Manifest {
        name: "tiny".into(),
        arch: "x86_64".into(),
        files: BTreeMap::new(),
        cmdline: String::new(),
        firmware: None,
        defaults: ImageDefaults { vcpus: 1, memory_mib: 128, disk_gib: 1 },
        ready: Readiness::GuestAgent,
        ready_timeout_seconds: None,
        cloud_init: false,
    };
    let spec = VmSpec {
        image: "tiny".into(),
        image_digest: manifest.digest(),
        vcpus: 1,
        memory_mib: 128,
        disk_gib: 1,
        ready: Readiness::GuestAgent,
        ready_timeout_seconds: 60,
        first_boot: None,
        placement: Default::default(),
        labels: BTreeMap::new(),
        restart: Default::default(),
        autostart: false,
        port_forwards: Vec::new(),
    };
    let ids = Ids::seeded(1);
    let plan = |n| MachinePlan {
        id: ids.next(Timestamp::from_micros(1)),
        epoch: 1,
        name: format!("vm-{n}"),
        spec: spec.clone(),
        manifest: manifest.clone(),
        image_dir: "/nowhere".into(),
        seed: None,
    };
    (0..count).map(plan).collect()
}

async fn create(sim: &Sim, plan: &MachinePlan) -> Result<Box<dyn Machine>, DriverError> {
    sim.create(plan, &mpsc::unbounded_channel().0).await
}

fn params(argv: &[&str]) -> VmExecParams {
    VmExecParams { argv: argv.iter().map(|word| (*word).to_owned()).collect(), ..VmExecParams::default() }
}

/// One machine's life on a bad day, as text.
async fn life(sim: Sim, plan: MachinePlan) -> String {
    let begun = Instant::now();
    let mut story = Vec::new();
    match create(&sim, &plan).await {
        Err(error) => story.push(format!("{:?}", error.code)),
        Ok(machine) => {
            story.push(format!("{:?}", machine.ready(READY).await.map_err(|error| error.code)));
            story.push(format!("{:?}", machine.exec(&params(&["uname"])).await.map_err(|error| error.code)));
            let exit = timeout(Duration::from_secs(60), machine.exited()).await;
            story.push(format!("{exit:?} {}", machine.boot_ms()));
        }
    }
    while let Err(error) = sim.remove(plan.id).await {
        story.push(format!("{:?}", error.code));
    }
    story.push(format!("{:?}", begun.elapsed()));
    story.join(", ")
}

async fn lives(seed: u64, backwards: bool) -> Vec<String> {
    let host = SimHost::new();
    let sim = Sim::new(SimConfig::stormy(seed), host.clone());
    let mut plans = plans(50);
    if backwards {
        plans.reverse();
    }
    let running: Vec<_> = plans.iter().map(|plan| tokio::spawn(life(sim.clone(), plan.clone()))).collect();
    let mut stories = Vec::new();
    for (plan, life) in plans.iter().zip(running) {
        stories.push(format!("{} {}", plan.name, life.await.unwrap()));
        assert!(host.most_alive(plan.id) <= 1);
    }
    assert_eq!((host.alive_in_all(), host.orphans(), host.found()), (0, vec![], vec![]));
    stories.sort();
    stories
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_gives_the_same_lives_in_whatever_order() {
    let once = lives(7, false).await;
    assert_eq!(once, lives(7, true).await);
    assert_ne!(once, lives(8, false).await);
    for word in ["Injected", "GuestNotReady", "Crashed", "Err(Elapsed"] {
        assert!(once.iter().any(|story| story.contains(word)), "no {word} in {once:#?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_machine_lives_on_without_its_agent() {
    let host = SimHost::new();
    let plan = &plans(1)[0];
    let first = Sim::new(SimConfig::steady(1), host.clone());
    let machine = create(&first, plan).await.unwrap();
    assert!(!machine.answers().await);
    machine.ready(READY).await.unwrap();
    let boot_ms = machine.boot_ms();
    assert!(boot_ms > 0.0);
    drop((machine, first));

    let next = Sim::new(SimConfig::steady(1), host.clone());
    assert_eq!(
        next.find().await.unwrap().found,
        [crate::hypervisor::Found {
            id: plan.id,
            epoch: 1,
            image: Some(plan.spec.image_digest.clone()),
            alive: true,
            complete: true,
            answered: true,
            ended: None
        }]
    );
    let machine = next.attach(plan.id).await.unwrap().unwrap();
    assert!(machine.answers().await && machine.boot_ms() == boot_ms);
    assert_eq!((host.alive(plan.id), host.started_in_all()), (1, 1));

    let exited = tokio::spawn(async move { machine.exited().await });
    assert!(next.remove(plan.id).await.unwrap());
    assert_eq!(exited.await.unwrap(), Exit::Requested);
    assert!(!next.remove(plan.id).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn creating_twice_gives_one_process_and_an_older_epoch_none() {
    let host = SimHost::new();
    let sim = Sim::new(SimConfig::steady(1), host.clone());
    let plan = &plans(1)[0];
    let (one, two) = tokio::join!(create(&sim, plan), create(&sim, plan));
    assert!(one.is_ok() && two.is_ok());
    assert_eq!((host.most_alive(plan.id), host.started_in_all()), (1, 1));

    let newer = MachinePlan { epoch: 2, ..plan.clone() };
    assert!(create(&sim, &newer).await.is_ok());
    assert_eq!((host.most_alive(plan.id), host.started_in_all()), (1, 2));
    assert_eq!(create(&sim, plan).await.err().unwrap().code, Code::TaskRefused);
}

#[tokio::test(start_paused = true)]
async fn a_crash_is_seen_and_ends_what_was_waiting() {
    let host = SimHost::new();
    let sim = Sim::new(SimConfig::quick(1), host.clone());
    let plan = &plans(1)[0];
    let machine = create(&sim, plan).await.unwrap();
    machine.ready(READY).await.unwrap();
    let sleeping = params(&["sleep", "3000"]);
    let (slept, exit, crashed) =
        tokio::join!(biased; machine.exec(&sleeping), machine.exited(), async { host.crash(plan.id, "a test") });
    assert_eq!(slept.unwrap_err().code, Code::HypervisorFailed);
    assert_eq!((exit, crashed), (Exit::Crashed("a test".into()), true));
    assert!(sim.attach(plan.id).await.unwrap().is_none());
    assert!(!sim.find().await.unwrap().found[0].alive);

    // Made again, it is one process again, and the host's restart ends that too.
    assert!(create(&sim, plan).await.is_ok());
    host.reboot();
    assert_eq!((host.alive_in_all(), host.most_alive(plan.id)), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn programs_say_what_follows_from_their_arguments() {
    let sim = Sim::new(SimConfig::quick(1), SimHost::new());
    let machine = create(&sim, &plans(1)[0]).await.unwrap();
    machine.ready(READY).await.unwrap();
    let cat = VmExecParams { stdin: "in".into(), ..params(&["cat"]) };
    assert_eq!(machine.exec(&cat).await.unwrap().stdout, "in");
    assert!(machine.exec(&params(&["uname", "-a"])).await.unwrap().stdout.starts_with("Linux vm-0 "));
    assert_eq!(machine.exec(&params(&["false"])).await.unwrap().exit_code, Some(1));
    assert_eq!(machine.exec(&params(&["echo", "a", "b"])).await.unwrap().stdout, "echo a b\n");
    assert!(machine.exec(&params(&["x".repeat(OUTPUT_LIMIT).as_str()])).await.unwrap().stdout_truncated);
    let late = VmExecParams { timeout_seconds: Some(5), ..params(&["sleep", "6"]) };
    assert_eq!(machine.exec(&late).await.unwrap_err().code, Code::DeadlineExceeded);
}
