//! Without waiting for a guest: processes, crashes, refusals.

use super::*;

#[tokio::test]
async fn a_killed_qemu_is_seen_and_ends_the_wait_for_the_guest() {
    let node = Node::new().await;
    let plan = node.plan();
    let machine = create(&node.qemu, &plan).await.unwrap();
    let (ready, exit, ()) = tokio::join!(machine.ready(READY), machine.exited(), async {
        let process = node.processes()[0];
        process.open().unwrap().unwrap().signal(Signal::KILL).unwrap();
    });
    let error = ready.unwrap_err();
    assert!(error.code == Code::HypervisorFailed && error.detail.contains("signal 9"), "{error}");
    assert!(matches!(exit, Exit::Crashed(reason) if reason.contains("signal 9")));
    assert!(!node.qemu.find().await.unwrap().found[0].alive);
    assert!(node.qemu.remove(plan.id).await.unwrap());
}

#[tokio::test]
async fn a_signal_from_elsewhere_is_not_our_doing() {
    let node = Node::new().await;
    let plan = node.plan();
    let machine = create(&node.qemu, &plan).await.unwrap();
    node.processes()[0].open().unwrap().unwrap().signal(Signal::TERM).unwrap();
    assert!(matches!(machine.exited().await, Exit::Crashed(reason) if reason.contains("did not come from hostler")));
    assert!(node.qemu.remove(plan.id).await.unwrap());
}

#[tokio::test]
async fn creating_twice_gives_one_process() {
    let node = Node::new().await;
    let plan = node.plan();
    let (first, second) = tokio::join!(create(&node.qemu, &plan), create(&node.qemu, &plan));
    assert!(first.is_ok() && second.is_ok());
    assert_eq!(node.count(plan.id), 1);
    // So does creating it from an agent that died before it wrote down the process, with or without QEMU's pidfile.
    let folder = node.folder(plan.id);
    for lost in [vec!["process.json"], vec!["process.json", "qemu.pid"]] {
        drop((node.qemu.attach(plan.id).await.unwrap(), ()));
        for file in lost {
            fs::remove_file(folder.pidfile().with_file_name(file)).unwrap();
        }
        let next = node.restarted();
        assert!(next.find().await.unwrap().found[0].alive);
        assert!(create(&next, &plan).await.is_ok());
        assert_eq!(node.count(plan.id), 1);
    }
    drop((first, second));
    assert!(node.restarted().remove(plan.id).await.unwrap());
    assert_eq!(node.count(plan.id), 0);
}

#[tokio::test]
async fn a_process_without_a_folder_is_found_and_removed() {
    let node = Node::new().await;
    let plan = node.plan();
    drop(create(&node.qemu, &plan).await.unwrap());
    fs::remove_dir_all(node.folder(plan.id).pidfile().parent().unwrap()).unwrap();
    let next = node.restarted();
    let found = next.find().await.unwrap().found;
    assert!(found.len() == 1 && found[0].id == plan.id && found[0].alive && !found[0].complete);
    assert!(next.remove(plan.id).await.unwrap());
    assert_eq!(node.count(plan.id), 0);
}

#[tokio::test]
async fn a_pid_that_is_another_process_by_now_is_left_alone() {
    let node = Node::new().await;
    let plan = node.plan();
    drop(create(&node.qemu, &plan).await.unwrap());
    let process = node.processes()[0];
    let handle = process.open().unwrap().unwrap();
    handle.signal(Signal::KILL).unwrap();
    handle.ended().await;
    // The kernel gave its pid to a stranger: our record, and QEMU's pidfile, name a living process that is not it.
    let mut stranger = tokio::process::Command::new("sleep").arg("1000").spawn().unwrap();
    let pid = stranger.id().unwrap() as i32;
    let folder = node.folder(plan.id);
    super::super::launch::record(&folder, Process { pid, start_time: process.start_time }).unwrap();
    fs::write(folder.pidfile(), format!("{pid}\n")).unwrap();
    assert!(!node.qemu.find().await.unwrap().found[0].alive);
    assert!(node.qemu.attach(plan.id).await.unwrap().is_none());
    assert!(node.qemu.remove(plan.id).await.unwrap());
    assert!(stranger.try_wait().unwrap().is_none(), "the stranger lives");
    stranger.kill().await.unwrap();
}

#[tokio::test]
async fn an_older_epoch_is_refused_and_a_newer_one_begins_anew() {
    let node = Node::new().await;
    let plan = MachinePlan { epoch: 5, ..node.plan() };
    drop(create(&node.qemu, &plan).await.unwrap());
    let old = node.processes();
    let error = refusal(create(&node.qemu, &MachinePlan { epoch: 4, ..plan.clone() }).await);
    assert!(error.code == Code::TaskRefused && !error.retryable, "{error}");
    drop(create(&node.qemu, &MachinePlan { epoch: 6, ..plan.clone() }).await.unwrap());
    assert!(!old[0].alive().unwrap() && node.count(plan.id) == 1);
    assert_eq!(node.qemu.find().await.unwrap().found[0].epoch, 6);
    assert!(node.qemu.remove(plan.id).await.unwrap());
}

#[tokio::test]
async fn removal_is_safe_at_any_time_and_any_number_of_times() {
    let node = Node::new().await;
    let plan = node.plan();
    let (made, first, second) =
        tokio::join!(create(&node.qemu, &plan), node.qemu.remove(plan.id), node.qemu.remove(plan.id));
    drop(made);
    assert!(first.is_ok() && second.is_ok());
    node.qemu.remove(plan.id).await.unwrap();
    assert_eq!((node.count(plan.id), node.vms()), (0, vec![]));

    // A caller that goes away leaves nothing half done behind the next call.
    let abandoned = tokio::time::timeout(Duration::ZERO, create(&node.qemu, &plan)).await;
    assert!(abandoned.is_err(), "it has begun and not ended");
    node.qemu.remove(plan.id).await.unwrap();
    assert_eq!((node.count(plan.id), node.vms()), (0, vec![]));

    // Half removed before a crash: found, and removed.
    fs::create_dir_all(node.dir.path().join(format!("data/vms/{}.removing", plan.id))).unwrap();
    assert_eq!(node.qemu.find().await.unwrap().found[0].id, plan.id);
    assert!(node.qemu.remove(plan.id).await.unwrap());
    assert_eq!(node.vms(), Vec::<String>::new());
}

#[tokio::test]
async fn an_unreadable_folder_hides_no_other_machine_and_can_be_removed() {
    let node = Node::new().await;
    let [damaged, whole]: [VmId; 2] = std::array::from_fn(|_| Ids::system().next(Timestamp::from_micros(1)));
    for id in [damaged, whole] {
        assert!(node.folder(id).make().unwrap());
    }
    for file in ["spec.json", "process.json"] {
        fs::write(node.folder(damaged).pidfile().with_file_name(file), "{").unwrap();
    }
    let finds = node.qemu.find().await.unwrap();
    assert_eq!((finds.found.len(), finds.found[0].id), (1, whole));
    assert_eq!(finds.unread, [damaged]);
    assert!(node.qemu.attach(damaged).await.unwrap().is_none(), "no process names its pidfile");
    assert!(node.qemu.remove(damaged).await.unwrap());
    assert_eq!(node.vms(), [whole.to_string()]);
}

#[tokio::test]
async fn a_machine_whose_process_cannot_be_looked_for_is_neither_attached_nor_removed() {
    let node = Node::new().await;
    let id: VmId = Ids::system().next(Timestamp::from_micros(1));
    let folder = node.folder(id);
    folder.make().unwrap();
    // Reading it fails, and not because it is not there.
    fs::create_dir(folder.pidfile()).unwrap();
    assert!(node.qemu.attach(id).await.is_err());
    assert!(node.qemu.remove(id).await.is_err());
    assert_eq!(node.vms(), [id.to_string()]);
    assert_eq!(node.qemu.find().await.unwrap().unread, [id]);
    fs::remove_dir(folder.pidfile()).unwrap();
    assert!(node.qemu.remove(id).await.unwrap());
}

#[tokio::test]
async fn what_is_written_down_already_is_not_written_again() {
    use std::os::unix::fs::MetadataExt;
    let node = Node::new().await;
    let folder = node.folder(Ids::system().next(Timestamp::from_micros(1)));
    folder.make().unwrap();
    let process = Process::of(std::process::id() as i32).unwrap().unwrap();
    let inode = || fs::metadata(folder.pidfile().with_file_name("process.json")).unwrap().ino();
    super::super::launch::record(&folder, process).unwrap();
    let first = inode();
    super::super::launch::record(&folder, process).unwrap();
    assert_eq!(inode(), first);
    super::super::launch::record(&folder, Process { start_time: 1, ..process }).unwrap();
    assert_eq!(folder.process().unwrap().unwrap().process.start_time, 1);
    // Nothing of it lives, for the record names no process that does.
    assert!(node.qemu.remove(folder.id()).await.unwrap());
}

#[tokio::test]
async fn a_stopped_qemu_that_answers_nobody_is_removed_all_the_same() {
    let node = Node::new().await;
    let plan = node.plan();
    let machine = create(&node.qemu, &plan).await.unwrap();
    node.processes()[0].open().unwrap().unwrap().signal(Signal::STOP).unwrap();
    assert!(!machine.answers().await);
    assert!(node.qemu.remove(plan.id).await.unwrap());
    assert_eq!(node.count(plan.id), 0);
}

#[tokio::test]
async fn a_process_has_a_session_of_its_own_and_nothing_of_ours() {
    let node = Node::new().await;
    let plan = node.plan();
    drop(create(&node.qemu, &plan).await.unwrap());
    let pid = node.processes()[0].pid;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    assert_eq!((fields[2], fields[3]), (pid.to_string().as_str(), pid.to_string().as_str()), "group and session");
    let own = [node.dir.path().canonicalize().unwrap(), node.image.canonicalize().unwrap()];
    for fd in fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
        let target = fs::read_link(fd.unwrap().path()).unwrap();
        let fine = own.iter().any(|own| target.starts_with(own))
            || target.starts_with("/dev")
            || target.to_str().unwrap().contains(":[");
        assert!(fine || target.to_str().unwrap().starts_with("/memfd"), "{} is open in QEMU", target.display());
    }
    assert!(node.qemu.remove(plan.id).await.unwrap());
}

#[tokio::test]
async fn what_cannot_be_made_is_refused_with_a_reason_and_leaves_no_process() {
    let node = Node::new().await;
    let plan = node.plan();
    let with = |change: fn(&mut MachinePlan)| {
        let mut plan = plan.clone();
        change(&mut plan);
        plan
    };
    let cases: [(MachinePlan, Code, &str); 5] = [
        (with(|plan| plan.name = "a,b".into()), Code::HypervisorFailed, "letters, digits and hyphens"),
        (with(|plan| plan.spec.vcpus = 0), Code::HypervisorFailed, "at least 1"),
        (with(|plan| plan.spec.vcpus = 100_000), Code::HypervisorFailed, "it said"),
        (with(|plan| plan.image_dir = "/no/such".into()), Code::ImageFetchFailed, "/no/such"),
        (with(|plan| plan.manifest.files.clear()), Code::ImageFetchFailed, "kernel"),
    ];
    for (plan, code, part) in cases {
        let error = refusal(create(&node.qemu, &plan).await);
        assert!(error.code == code && error.detail.contains(part), "{error:?}");
        assert_eq!(node.count(plan.id), 0);
        node.qemu.remove(plan.id).await.unwrap();
    }
    assert_eq!(node.vms(), Vec::<String>::new());
}

#[tokio::test]
async fn a_disk_smaller_than_the_image_is_refused() {
    let node = Node::new().await;
    let mut plan = node.plan();
    let image = node.dir.path().join("image");
    fs::create_dir(&image).unwrap();
    for part in ["kernel", "initrd", "rootfs"] {
        fs::write(image.join(part), "").unwrap();
    }
    fs::File::options().write(true).open(image.join("rootfs")).unwrap().set_len(3 << 30).unwrap();
    plan.image_dir = image;
    let error = refusal(create(&node.qemu, &plan).await);
    assert!(error.detail.contains("needs 3 GiB") && !error.retryable, "{error}");
    node.qemu.remove(plan.id).await.unwrap();
}

#[tokio::test]
async fn a_run_folder_that_is_too_long_for_a_socket_is_refused() {
    let node = Node::new().await;
    let run = node.dir.path().join("x".repeat(100));
    let qemu = Qemu::new(QemuConfig { run, ..config(&node.dir) }).unwrap();
    let error = refusal(create(&qemu, &node.plan()).await);
    assert!(error.detail.contains("107 bytes") && !error.retryable, "{error}");
}

#[tokio::test]
async fn the_driver_says_what_it_is_and_what_is_missing() {
    let node = Node::new().await;
    assert!(node.qemu.version().starts_with("qemu "), "{}", node.qemu.version());
    assert!(["kvm", "tcg"].contains(&node.qemu.acceleration()) && !node.qemu.acceleration_reason().is_empty());
    let forced = Qemu::new(QemuConfig { acceleration: Accel::Tcg, ..config(&node.dir) }).unwrap();
    assert_eq!(forced.acceleration(), "tcg");
    let error = Qemu::new(QemuConfig { binary: "no-such-qemu".into(), ..config(&node.dir) }).unwrap_err();
    assert!(error.detail.contains("install the package qemu-system-x86"), "{error}");
}

#[tokio::test]
async fn a_machine_is_removed_although_somebody_is_at_it_for_ever() {
    let node = Node::new().await;
    let plan = node.plan();
    let machine = create(&node.qemu, &plan).await.unwrap();
    let turn = node.qemu.0.turns.wait(plan.id).await;
    let qemu = node.qemu.clone();
    let removing = tokio::spawn(async move { qemu.remove(plan.id).await });
    assert_eq!(machine.exited().await, Exit::Requested);
    assert!(!removing.is_finished(), "its files wait for the turn");
    drop(turn);
    assert!(removing.await.unwrap().unwrap());
    assert!(node.vms().is_empty());
}
