//! Machines are made something else than they were: at once where QEMU can, else with the next start.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
};

use hostler_model::forward::PortForward;

use super::*;
use crate::hypervisor::Runs;

/// The disk as the guest sees it, in GiB.
async fn disk(machine: &dyn Machine) -> u64 {
    let sectors: u64 = run(machine, &["cat", "/sys/block/vda/size"]).await.stdout.trim().parse().unwrap();
    sectors * 512 / GIB
}

const GIB: u64 = 1 << 30;

async fn vcpus(machine: &dyn Machine) -> i64 {
    run(machine, &["nproc"]).await.stdout.trim().parse().unwrap()
}

async fn memory_mib(machine: &dyn Machine) -> i64 {
    let output = run(machine, &["grep", "MemTotal", "/proc/meminfo"]).await.stdout;
    output.split_whitespace().nth(1).unwrap().parse::<i64>().unwrap() / 1024
}

/// What a guest answers on a port of the host; its network may still be coming up.
async fn fetched(port: u16) -> String {
    let ask = move || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], port)), Duration::from_secs(2))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n")?;
        let mut said = String::new();
        stream.read_to_string(&mut said)?;
        Ok(said)
    };
    for _ in 0..600 {
        let said = tokio::task::spawn_blocking(ask).await.unwrap();
        if let Ok(said) = said
            && said.contains("the guest")
        {
            return said;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the guest does not answer on port {port}");
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

async fn serves(machine: &dyn Machine) {
    let serve = "mkdir -p /tmp/w && echo the guest >/tmp/w/index.html && httpd -p 80 -h /tmp/w";
    assert_eq!(run(machine, &["sh", "-c", serve]).await.exit_code, Some(0));
}

#[tokio::test]
async fn a_machine_grows_while_it_runs_and_with_its_next_start() {
    let node = Node::new().await;
    let mut plan = node.plan();
    plan.spec.port_forwards = vec!["80".parse().unwrap()];
    let machine = create(&node.qemu, &plan).await.unwrap();
    machine.ready(READY).await.unwrap();
    let made = node.qemu.plan(plan.id).await.unwrap().unwrap();
    let chosen = made.spec.port_forwards[0].host_port;
    assert_ne!(chosen, 0, "a port was chosen, and written down");
    serves(machine.as_ref()).await;
    fetched(chosen).await;

    // Live: the disk and the forwards. The rest waits, and an agent that comes anew knows that.
    let another: PortForward = format!("{}:80", free_port()).parse().unwrap();
    let mut wanted = made.clone();
    (wanted.spec.vcpus, wanted.spec.memory_mib, wanted.spec.disk_gib) = (2, 192, 2);
    wanted.spec.port_forwards.push(another);
    let applied = node.qemu.edit(&wanted).await.unwrap();
    assert_eq!((applied.runs, applied.is_behind()), (Some(Runs { vcpus: 1, memory_mib: 128 }), true));
    assert_eq!(disk(machine.as_ref()).await, 2);
    for forward in &applied.plan.spec.port_forwards {
        fetched(forward.host_port).await;
    }
    drop(machine);
    let next = node.restarted();
    let machine = next.attach(plan.id).await.unwrap().expect("it runs on");
    assert!(next.behind(plan.id).await.unwrap());
    // The same once more changes nothing, and what is taken away is gone.
    assert_eq!(next.edit(&wanted).await.unwrap(), applied);
    wanted.spec.port_forwards = vec![another];
    next.edit(&wanted).await.unwrap();
    assert!(TcpStream::connect(("127.0.0.1", chosen)).is_err());

    // The next start has all of it.
    wanted.name = "renamed".into();
    next.edit(&wanted).await.unwrap();
    machine.end().await.unwrap();
    drop(machine);
    let wanted = next.plan(plan.id).await.unwrap().unwrap();
    let machine = next.start(&wanted, &mpsc::unbounded_channel().0).await.unwrap();
    machine.ready(READY).await.unwrap();
    assert!(!next.behind(plan.id).await.unwrap());
    assert_eq!((vcpus(machine.as_ref()).await, disk(machine.as_ref()).await), (2, 2));
    let memory = memory_mib(machine.as_ref()).await;
    assert!((140..=192).contains(&memory), "{memory}");
    assert_eq!(run(machine.as_ref(), &["hostname"]).await.stdout, "renamed\n");
    serves(machine.as_ref()).await;
    fetched(another.host_port).await;
    assert!(next.remove(plan.id).await.unwrap());
}

#[tokio::test]
async fn a_disk_that_has_layers_grows_while_it_runs_and_keeps_its_size() {
    let node = Node::new().await;
    let plan = node.plan();
    let machine = create(&node.qemu, &plan).await.unwrap();
    machine.ready(READY).await.unwrap();
    let mut wanted = plan.clone();
    // Each snapshot puts another node on top; the one that was there before is not the one to grow.
    for gib in [2, 3] {
        let snapshot = Ids::system().next(Timestamp::from_micros(gib));
        node.qemu.take_snapshot(plan.id, snapshot, false, &mpsc::unbounded_channel().0).await.unwrap();
        wanted.spec.disk_gib = gib;
        node.qemu.edit(&wanted).await.unwrap();
        assert_eq!(disk(machine.as_ref()).await, u64::try_from(gib).unwrap());
    }
    let written = "dd if=/dev/zero of=/dev/vda bs=1M seek=3000 count=1 conv=fsync";
    assert_eq!(run(machine.as_ref(), &["sh", "-c", written]).await.exit_code, Some(0));
    machine.end().await.unwrap();
    drop(machine);
    let machine = node.qemu.start(&wanted, &mpsc::unbounded_channel().0).await.unwrap();
    machine.ready(READY).await.unwrap();
    assert_eq!(disk(machine.as_ref()).await, 3);
    assert!(node.qemu.remove(plan.id).await.unwrap());
}

#[tokio::test]
async fn a_stopped_machine_is_edited_in_its_folder_and_a_taken_port_is_said_to_be_whose() {
    let node = Node::new().await;
    let plan = node.plan();
    let machine = create(&node.qemu, &plan).await.unwrap();
    machine.ready(READY).await.unwrap();
    machine.end().await.unwrap();
    drop(machine);
    let mut wanted = plan.clone();
    wanted.spec.disk_gib = 3;
    let applied = node.qemu.edit(&wanted).await.unwrap();
    assert_eq!((applied.runs, applied.is_behind()), (None, false));

    // Somebody else has the port: nothing of the edit is left, and the start says who.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut crowded = wanted.clone();
    crowded.spec.port_forwards = vec![format!("{port}:80").parse().unwrap()];
    let refused = node.qemu.edit(&crowded).await.unwrap_err();
    assert!(refused.error.code == Code::PortTaken && !refused.left, "{refused}");
    assert!(refused.error.detail.contains(&format!("the process {}", std::process::id())), "{refused}");
    assert_eq!(node.qemu.plan(plan.id).await.unwrap().unwrap(), wanted);

    let machine = node.qemu.start(&wanted, &mpsc::unbounded_channel().0).await.unwrap();
    machine.ready(READY).await.unwrap();
    assert_eq!(disk(machine.as_ref()).await, 3);
    let refused = node.qemu.edit(&crowded).await.unwrap_err();
    assert!(refused.error.code == Code::PortTaken && !refused.left, "{refused}");
    drop(listener);
    let live = node.qemu.edit(&crowded).await.unwrap();
    assert_eq!(live.plan.spec.port_forwards[0].host_port, port);
    machine.end().await.unwrap();
    drop(machine);
    let _listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let refused = refusal(node.qemu.start(&crowded, &mpsc::unbounded_channel().0).await);
    assert_eq!(refused.code, Code::PortTaken);
    assert!(node.qemu.remove(plan.id).await.unwrap());
}
