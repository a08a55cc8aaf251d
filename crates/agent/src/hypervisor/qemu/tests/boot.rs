//! With a guest that boots.

use super::*;

#[tokio::test]
async fn a_machine_boots_runs_programs_and_leaves_nothing() {
    let node = Node::new().await;
    let plan = node.plan();
    let (phases, mut begun) = mpsc::unbounded_channel();
    let machine = node.qemu.create(&plan, &phases).await.unwrap();
    assert_eq!((begun.recv().await, begun.recv().await), (Some("disk"), Some("start")));
    assert!(!node.qemu.find().await.unwrap().found[0].complete);

    machine.ready(READY).await.unwrap();
    assert!(machine.answers().await && machine.boot_ms() > 0.0);
    let found = node.qemu.find().await.unwrap().found;
    assert_eq!(found.len(), 1);
    assert!(found[0].complete && found[0].alive && found[0].epoch == 1 && found[0].id == plan.id);
    programs(machine.as_ref()).await;
    long_programs(machine.as_ref()).await;

    let exited = tokio::spawn(async move { machine.exited().await });
    assert!(node.qemu.remove(plan.id).await.unwrap());
    assert_eq!(exited.await.unwrap(), Exit::Requested);
    assert!(!node.qemu.remove(plan.id).await.unwrap(), "there is nothing left to remove");
    assert_eq!((node.processes(), node.vms()), (vec![], vec![]));
    assert_eq!(fs::read_dir(node.dir.path().join("run")).unwrap().count(), 0);
}

async fn programs(machine: &dyn Machine) {
    let uname = run(machine, &["uname", "-a"]).await;
    assert!(uname.stdout.starts_with("Linux ") && uname.exit_code == Some(0), "{uname:?}");

    let name = run(machine, &["cat", "/proc/sys/kernel/hostname"]).await;
    assert_eq!(name.stdout, "web-1\n", "the machine's own, not the image's");

    let cat = VmExecParams { stdin: "one\ntwo \u{e4}\n".into(), ..params(&["cat"]) };
    assert_eq!(machine.exec(&cat).await.unwrap().stdout, cat.stdin.text().unwrap());

    let failed = run(machine, &["sh", "-c", "echo no >&2; exit 7"]).await;
    assert_eq!((failed.exit_code, failed.signal, failed.stderr.as_str()), (Some(7), None, "no\n"));

    let killed = run(machine, &["sh", "-c", "kill -TERM $$"]).await;
    assert_eq!((killed.exit_code, killed.signal), (None, Some(15)));

    let binary = run(machine, &["printf", "a\\377b"]).await;
    assert_eq!(binary.stdout, "a\u{fffd}b");

    let long = run(machine, &["sh", "-c", "yes | head -c 200000; yes no | head -c 65536 >&2"]).await;
    assert_eq!((long.stdout.len(), long.stdout_truncated), (OUTPUT_LIMIT, true));
    assert_eq!((long.stderr.len(), long.stderr_truncated), (OUTPUT_LIMIT, false));

    let unknown = machine.exec(&params(&["no-such-program"])).await.unwrap_err();
    assert_eq!((unknown.code, unknown.retryable), (Code::GuestFailed, false));
    assert!(unknown.detail.contains("no-such-program"), "{unknown}");
}

async fn long_programs(machine: &dyn Machine) {
    // Two at once: the short one does not wait for the long one.
    let gate = run(machine, &["mkfifo", "/tmp/gate"]).await;
    assert_eq!(gate.exit_code, Some(0));
    let waits = params(&["sh", "-c", "read word </tmp/gate; echo $word"]);
    let opens = params(&["sh", "-c", "echo open >/tmp/gate"]);
    let (long, short) = tokio::join!(machine.exec(&waits), machine.exec(&opens));
    assert_eq!((long.unwrap().stdout.as_str(), short.unwrap().exit_code), ("open\n", Some(0)));

    // One whose time is up is ended, and so is what it started.
    let endless = VmExecParams { timeout_seconds: Some(1), ..params(&["sh", "-c", "sleep 4321; true"]) };
    let late = machine.exec(&endless).await.unwrap_err();
    assert_eq!((late.code, late.retryable), (Code::DeadlineExceeded, false), "{late}");
    let left = run(machine, &["sh", "-c", "grep -sl '432[1]' /proc/[0-9]*/cmdline"]).await;
    // grep ends with 1 when it found nothing, with 2 when moreover a process went while it looked.
    assert!(left.stdout.is_empty() && left.exit_code != Some(0), "{left:?}");

    // One whose caller goes away is ended too; the guest says when.
    let marker = params(&["sh", "-c", "echo $$ >/tmp/marker; sleep 8765; true"]);
    let seen = params(&["sh", "-c", "until [ -s /tmp/marker ]; do usleep 10000; done"]);
    tokio::select! {
        _ = machine.exec(&marker) => panic!("it sleeps"),
        seen = machine.exec(&seen) => assert_eq!(seen.unwrap().exit_code, Some(0)),
    }
    let gone = params(&[
        "sh",
        "-c",
        "while [ -n \"$(grep -sl '876[5]' /proc/[0-9]*/cmdline)\" ]; do usleep 10000; done; echo gone",
    ]);
    assert!(machine.exec(&gone).await.unwrap().stdout.ends_with("gone\n"));
}

#[tokio::test]
async fn a_machine_outlives_its_agent_and_tells_the_next_one_how_it_ends() {
    let node = Node::new().await;
    let plan = node.plan();
    let machine = create(&node.qemu, &plan).await.unwrap();
    machine.ready(READY).await.unwrap();
    let booted = machine.boot_ms();
    run(machine.as_ref(), &["touch", "/tmp/mark"]).await;
    drop(machine);

    let next = node.restarted();
    let machine = next.attach(plan.id).await.unwrap().expect("it runs on");
    assert_eq!(machine.boot_ms(), booted, "it is remembered");
    assert_eq!(run(machine.as_ref(), &["ls", "/tmp/mark"]).await.exit_code, Some(0));

    run(machine.as_ref(), &["sh", "-c", "(sleep 1; poweroff -f) >/dev/null 2>&1 &"]).await;
    assert_eq!(machine.exited().await, Exit::GuestShutdown);
    assert!(next.attach(plan.id).await.unwrap().is_none());
    let found = next.find().await.unwrap().found;
    assert!(found[0].complete && !found[0].alive);

    // Made again, it has the disk it had.
    let again = create(&next, &plan).await.unwrap();
    again.ready(READY).await.unwrap();
    drop(again);
    assert!(next.remove(plan.id).await.unwrap());
}

#[tokio::test]
async fn a_guest_that_does_not_answer_is_reported_with_its_console() {
    let node = Node::new().await;
    let mut plan = node.plan();
    plan.manifest.cmdline = "console=ttyS0 rdinit=/no/such panic=0".into();
    let machine = create(&node.qemu, &plan).await.unwrap();
    let error = machine.ready(Duration::from_secs(8)).await.unwrap_err();
    assert_eq!((error.code, error.retryable), (Code::GuestNotReady, true));
    assert!(error.detail.contains("within 8 s") && error.detail.contains("console's last lines"), "{error}");
    assert!(node.qemu.remove(plan.id).await.unwrap());
}
