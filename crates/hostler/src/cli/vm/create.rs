//! `hostler vm create`: a machine that is to be, and the wait for its guest.

use hostler_model::{
    api::Submitted,
    kind::VmCreateOutput,
    name::Name,
    placement::Choice,
    task::{Task, WaitingFor},
    vm::Vm,
};
use serde::Deserialize;

use super::{Shape, edit, first_boot};
use crate::{
    cli::{ScheduleArgs, Session, WaitArgs, read, succeeded},
    exit::{Exit, Failure},
    output,
};

/// For its help.
pub const EXAMPLES: &str = "\
Examples:
  hostler vm create
  hostler vm create web-1 --vcpus 2 --memory 1G --label tier=web
  hostler vm create web-1 --publish 8080:80 --ttl 8h
  hostler vm create web-1 --image debian --user ada --ssh-key ~/.ssh/id_ed25519.pub
  hostler vm create web-1 --image debian --user-data web.yaml --ready tcp:80 --ready-timeout 10m
  hostler vm create web-1 --wait-for-capacity --queue-timeout 2h
  hostler vm create web-1 --dry-run     what would happen, quota and room included
  hostler vm create web-1 --no-wait     come back at once";

/// Which, and when.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Its name; made from its id where there is none
    #[arg(value_parser = read::model::<Name>)]
    name: Option<Name>,

    #[command(flatten)]
    shape: Shape,

    #[command(flatten)]
    wait: WaitArgs,

    /// Only say what would happen
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    schedule: ScheduleArgs,
}

/// Makes it, and waits until its guest answers.
pub async fn run(args: Args, session: &Session) -> Result<Exit, Failure> {
    let how = args.schedule.submit_or_try(args.dry_run);
    let mut submitted = session.client.create_vm(&args.shape.vm(args.name)?, &how).await?;
    if args.dry_run || args.wait.no_wait() {
        session.print(&submitted, || planned(&submitted, args.dry_run))?;
        return Ok(Exit::Done);
    }
    submitted.task = session.ended(submitted.task, Some(args.wait.timeout), session.tell()).await?;
    if let Some(vm) = &mut submitted.vm
        && let Ok(now) = session.client.vm(&vm.id.to_string()).await
    {
        *vm = now;
    }
    if session.is_data() {
        session.data(&submitted)?;
    }
    let task = succeeded(submitted.task)?;
    if !session.is_data() {
        session.text(&created(submitted.vm.as_ref(), &task))?;
    }
    first_boot::is_ready(submitted.vm.as_ref(), &task).map(|()| Exit::Done)
}

/// A machine that is to be made, or would be.
fn planned(submitted: &Submitted, dry_run: bool) -> String {
    let task = &submitted.task;
    let Some(vm) = &submitted.vm else { return output::fields([("task", task.id.to_string())]) };
    let wanted = format!(
        "{}, {} vcpus, {}, {} GiB",
        vm.spec.image,
        vm.spec.vcpus,
        output::mib(vm.spec.memory_mib),
        vm.spec.disk_gib
    );
    output::fields([
        ("name", if dry_run { format!("{} (not made: dry run)", vm.name) } else { vm.name.to_string() }),
        ("id", if dry_run { String::new() } else { vm.id.to_string() }),
        ("wanted", wanted),
        ("task", if dry_run { String::new() } else { format!("{} {}", task.id, task.state) }),
        ("waits", if waits(task) { "for a node with room".to_owned() } else { String::new() }),
        ("placement", submitted.placement.as_ref().map(chosen).unwrap_or_default()),
    ])
}

fn waits(task: &Task) -> bool {
    task.waiting_for == Some(WaitingFor::Capacity)
}

/// Which node it would be, and what speaks for and against each.
fn chosen(choice: &Choice) -> String {
    let node = choice.node.as_ref().map_or("none", Name::as_str);
    let each = choice.nodes.iter().map(|node| match (&node.why, node.score) {
        (Some(why), _) => format!("{}: {why}", node.node),
        (None, score) => format!("{}: {:.3}", node.node, score.unwrap_or_default()),
    });
    let more = (choice.left_out > 0).then(|| format!("and {} more", choice.left_out));
    format!("{node} ({})", each.chain(more).collect::<Vec<_>>().join(" | "))
}

fn created(vm: Option<&Vm>, task: &Task) -> String {
    let boot = task.output.as_ref().and_then(|output| VmCreateOutput::deserialize(output).ok());
    let Some(vm) = vm else { return output::fields([("task", task.id.to_string())]) };
    output::fields([
        ("name", vm.name.to_string()),
        ("id", vm.id.to_string()),
        ("state", vm.state.to_string()),
        ("ports", edit::ports(vm)),
        (
            "boot",
            boot.map(|boot| format!("{} ({})", output::took(output::millis(boot.boot_ms)), boot.acceleration))
                .unwrap_or_default(),
        ),
    ])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cli::fixture;

    #[test]
    fn a_machine_that_was_made() {
        let mut task = fixture::task("succeeded");
        task.output = Some(json!({"charge": {"vms": 1}, "boot_ms": 3012.4, "acceleration": "tcg"}));
        insta::assert_snapshot!(created(Some(&fixture::vm("web-1", "running")), &task), @"
        name   web-1
        id     0190f1f0-0000-7000-8000-00000000000b
        state  running
        boot   3.0 s (tcg)
        ");
    }

    #[test]
    fn a_machine_that_would_be_made() {
        let submitted = Submitted {
            task: fixture::task("queued"),
            vm: Some(fixture::vm("web-1", "provisioning")),
            snapshot: None,
            placement: None,
        };
        insta::assert_snapshot!(planned(&submitted, true), @"
        name    web-1 (not made: dry run)
        wanted  tiny, 1 vcpus, 256 MiB, 1 GiB
        ");
        let placement = serde_json::from_value(json!({"node": "b", "nodes": [
            {"node": "b", "score": 0.95}, {"node": "a", "why": "it is cordoned", "reasons": ["state"]}]}));
        let submitted = Submitted { placement: Some(placement.unwrap()), ..submitted };
        insta::assert_snapshot!(planned(&submitted, true), @"
        name       web-1 (not made: dry run)
        wanted     tiny, 1 vcpus, 256 MiB, 1 GiB
        placement  b (b: 0.950 | a: it is cordoned)
        ");
    }

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn a_machine_that_is_to_wait_for_room() {
        let asked = |words: &[&str]| {
            let line = <Line as clap::Parser>::try_parse_from([&["create", "web-1"], words].concat()).unwrap();
            line.args.shape.vm(line.args.name).unwrap().wait_for_capacity
        };
        assert!(asked(&["--wait-for-capacity", "--queue-timeout", "2h"]) && !asked(&[]));
        let mut task = fixture::task("queued");
        task.waiting_for = Some(WaitingFor::Capacity);
        let vm = Some(Vm { node: None, ..fixture::vm("web-1", "provisioning") });
        let submitted = Submitted { task, vm, snapshot: None, placement: None };
        insta::assert_snapshot!(planned(&submitted, true), @"
        name    web-1 (not made: dry run)
        wanted  tiny, 1 vcpus, 256 MiB, 1 GiB
        waits   for a node with room
        ");
    }
}
