//! `hostler vm edit`: changes of a machine that is there.

use std::collections::BTreeMap;

use hostler_model::{
    Timestamp,
    api::{Edited, Submitted},
    edit::VmPatch,
    forward::{PortForward, Protocol},
    kind::{Effect, VmEditOutput},
    patch::Patch,
    restart::RestartPolicy,
    vm::Vm,
};
use serde::Deserialize;

use super::super::{ScheduleArgs, Session, WaitArgs, read, succeeded};
use crate::{
    exit::{Exit, Failure},
    output,
};

/// For its help.
pub const EXAMPLES: &str = "\
Examples:
  hostler vm edit web-1 --vcpus 2 --memory 1G      from the next start on
  hostler vm edit web-1 --disk 20G                 at once; it only grows
  hostler vm edit web-1 --publish 8080:80 --unpublish 2222
  hostler vm edit web-1 --label tier=web --unlabel old
  hostler vm edit web-1 --protect          it cannot be deleted
  hostler vm edit web-1 --unprotect
  hostler vm edit web-1 --ttl 8h           delete it by itself in eight hours
  hostler vm edit web-1 --ttl never
  hostler vm edit web-1 --restart on-failure --autostart true";

/// What is to differ.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Its name or id
    vm: String,

    /// A label to put on; may be given more than once
    #[arg(long, value_name = "KEY=VALUE", value_parser = read::pair)]
    label: Vec<(String, String)>,

    /// A label to take off; may be given more than once
    #[arg(long, value_name = "KEY")]
    unlabel: Vec<String>,

    /// Protect it from deletion
    #[arg(long, conflicts_with = "unprotect")]
    protect: bool,

    /// Allow its deletion again
    #[arg(long)]
    unprotect: bool,

    /// Delete it by itself after this time from now, such as 8h; `never` takes that back
    #[arg(long, value_name = "TIME", value_parser = read::ttl)]
    ttl: Option<Patch<u64>>,

    /// Start it again when its process ended by itself: never, on-failure, always
    #[arg(long, value_name = "POLICY", value_parser = read::model::<RestartPolicy>)]
    restart: Option<RestartPolicy>,

    /// Start it again when its host was restarted while it ran
    #[arg(long, value_name = "BOOL")]
    autostart: Option<bool>,
    /// Virtual processors
    #[arg(long, value_name = "N")]
    vcpus: Option<i64>,

    /// Memory, such as 256M or 2GiB
    #[arg(long, value_name = "SIZE", value_parser = read::memory)]
    memory: Option<i64>,

    /// The root disk, such as 10G; it only grows
    #[arg(long, value_name = "SIZE", value_parser = read::disk)]
    disk: Option<i64>,

    /// Forward a port of the host to one of the guest, such as 8080:80, or only 80 to let the node choose; may be given
    /// more than once
    #[arg(long, value_name = "[[ADDRESS:]PORT:]GUEST_PORT[/udp]", value_parser = read::model::<PortForward>)]
    publish: Vec<PortForward>,

    /// No longer forward this port of the host; may be given more than once
    #[arg(long, value_name = "PORT[/udp]", value_parser = read::port)]
    unpublish: Vec<(u16, Protocol)>,

    #[command(flatten)]
    wait: WaitArgs,

    /// Only say what would happen
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    schedule: ScheduleArgs,
}

impl Args {
    fn moves_ports(&self) -> bool {
        !self.publish.is_empty() || !self.unpublish.is_empty()
    }

    fn says_nothing(&self) -> bool {
        self.patch() == VmPatch::default() && !self.moves_ports()
    }

    fn patch(&self) -> VmPatch {
        let off = self.unlabel.iter().map(|key| (key.clone(), None));
        let on = self.label.iter().map(|(key, value)| (key.clone(), Some(value.clone())));
        let labels: BTreeMap<String, Option<String>> = off.chain(on).collect();
        VmPatch {
            labels: if labels.is_empty() { Patch::Keep } else { Patch::Set(labels) },
            protected: match (self.protect, self.unprotect) {
                (false, false) => Patch::Keep,
                (protect, _) => Patch::Set(protect),
            },
            ttl_seconds: self.ttl.unwrap_or_default(),
            restart: self.restart.map_or(Patch::Keep, Patch::Set),
            autostart: self.autostart.map_or(Patch::Keep, Patch::Set),
            vcpus: self.vcpus.into(),
            memory_mib: self.memory.into(),
            disk_gib: self.disk.into(),
            ..VmPatch::default()
        }
    }
}

/// The forwards with some put on and some taken off. What listens on a port that is published anew makes way.
fn forwards(vm: &Vm, publish: &[PortForward], unpublish: &[(u16, Protocol)]) -> Result<Vec<PortForward>, Failure> {
    let mut forwards = vm.spec.port_forwards.clone();
    for (port, protocol) in unpublish {
        let before = forwards.len();
        forwards.retain(|forward| (forward.host_port, forward.protocol) != (*port, *protocol));
        if forwards.len() == before {
            let words = format!("the VM {} publishes no port {port}/{}", vm.name, protocol.as_str());
            return Err(
                Failure::new(Exit::Usage, words).help(format!("`hostler vm show {}` shows those it does", vm.name))
            );
        }
    }
    forwards.retain(|forward| !publish.iter().any(|new| new.collides(forward)));
    forwards.extend_from_slice(publish);
    Ok(forwards)
}

/// Edits a machine.
pub async fn run(args: Args, session: &Session) -> Result<Exit, Failure> {
    let (mut patch, mut generation) = (args.patch(), None);
    if args.says_nothing() {
        return Err(Failure::usage("nothing is said that should change")
            .help("say what, such as --memory 2G or --label tier=web; `hostler vm edit --help` shows all there is"));
    }
    if args.moves_ports() {
        // Forwards are replaced as a whole: nobody else's change in between is to be lost.
        let vm = session.client.vm(&args.vm).await?;
        patch.port_forwards = Patch::Set(forwards(&vm, &args.publish, &args.unpublish)?);
        generation = Some(vm.generation);
    }
    let how = args.schedule.submit_or_try(args.dry_run);
    match session.client.edit_vm(&args.vm, &patch, generation, &how).await? {
        Edited::Vm(vm) => session.print(&vm, || told(&vm, &VmEditOutput::default(), args.dry_run, session.now()))?,
        Edited::Submitted(submitted) => return host(args, *submitted, session).await,
    }
    Ok(Exit::Done)
}

/// The part of an edit that a host has to do.
async fn host(args: Args, mut submitted: Submitted, session: &Session) -> Result<Exit, Failure> {
    if args.dry_run || args.wait.no_wait() {
        session.print(&submitted, || planned(&submitted, args.dry_run, session.now()))?;
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
    if let (false, Some(vm)) = (session.is_data(), &submitted.vm) {
        let output = task.output.as_ref().and_then(|output| VmEditOutput::deserialize(output).ok());
        session.text(&told(vm, &output.unwrap_or_default(), false, session.now()))?;
    }
    Ok(Exit::Done)
}

fn planned(submitted: &Submitted, dry_run: bool, now: Timestamp) -> String {
    let vm = submitted.vm.as_ref().map(|vm| told(vm, &VmEditOutput::default(), dry_run, now)).unwrap_or_default();
    let task = if dry_run { String::new() } else { format!("{} {}", submitted.task.id, submitted.task.state) };
    vm + &output::fields([("task", task)])
}

/// The machine with what was edited, and when that takes effect.
fn told(vm: &Vm, output: &VmEditOutput, dry_run: bool, now: Timestamp) -> String {
    let how = if dry_run { " (not changed: dry run)" } else { "" };
    let when = |effect: Option<Effect>| match effect {
        None => "",
        Some(Effect::Live) => " (now)",
        Some(Effect::NextStart) => " (from the next start on)",
    };
    output::fields([
        ("name", format!("{}{how}", vm.name)),
        ("vcpus", format!("{}{}", vm.spec.vcpus, when(output.vcpus))),
        ("memory", format!("{}{}", output::mib(vm.spec.memory_mib), when(output.memory_mib))),
        ("disk", format!("{} GiB{}", vm.spec.disk_gib, when(output.disk_gib))),
        ("ports", ports(vm) + when(output.port_forwards)),
        ("labels", super::labels(vm)),
        ("restarts", super::power::restarts(vm)),
        ("protected", protected(vm)),
        ("expires", expires(vm, now)),
        ("generation", generation(vm)),
    ])
}

/// Its port forwards, in one line.
pub fn ports(vm: &Vm) -> String {
    let forwards: Vec<String> = vm.spec.port_forwards.iter().map(ToString::to_string).collect();
    forwards.join(", ")
}

/// That something waits for its host, where it does.
pub fn pending(vm: &Vm) -> String {
    if vm.observed_generation >= vm.generation { String::new() } else { format!("generation {}", generation(vm)) }
}

/// Its generation, and whether its host is as far.
pub fn generation(vm: &Vm) -> String {
    if vm.observed_generation >= vm.generation {
        return vm.generation.to_string();
    }
    format!(
        "{} ({} is in effect; the rest waits for the host, or for the next start)",
        vm.generation, vm.observed_generation
    )
}

/// That it is protected, where it is.
pub fn protected(vm: &Vm) -> String {
    if vm.protected { "from deletion".to_owned() } else { String::new() }
}

/// When it goes by itself, where it does.
pub fn expires(vm: &Vm, now: Timestamp) -> String {
    match vm.expires_at {
        None => String::new(),
        Some(at) if at > now => format!("in {} ({at})", output::took(at.since(now))),
        Some(at) if vm.protected => format!("was {} ({at}); kept, for it is protected", output::ago(at, now)),
        Some(at) => format!("was {} ({at})", output::ago(at, now)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cli::fixture;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn patch(flags: &[&str]) -> serde_json::Value {
        let line = <Line as clap::Parser>::try_parse_from(["edit", "web"].iter().chain(flags)).unwrap();
        serde_json::to_value(line.args.patch()).unwrap()
    }

    #[test]
    fn only_what_is_named_is_sent() {
        assert_eq!(patch(&["--protect"]), json!({"protected": true}));
        assert_eq!(patch(&["--unprotect", "--ttl", "never"]), json!({"protected": false, "ttl_seconds": null}));
        assert_eq!(patch(&["--ttl", "8h"]), json!({"ttl_seconds": 28_800}));
        let policy = patch(&["--restart", "on-failure", "--autostart", "true"]);
        assert_eq!(policy, json!({"restart": "on_failure", "autostart": true}));
        let labels = patch(&["--label", "a=b", "--unlabel", "c", "--label", "d="]);
        assert_eq!(labels, json!({"labels": {"a": "b", "c": null, "d": ""}}));
        for bad in [&["--protect", "--unprotect"][..], &["--ttl", "soon"]] {
            assert!(<Line as clap::Parser>::try_parse_from(["edit", "web"].iter().chain(bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_edit_that_changes_nothing_is_not_sent() {
        let says_nothing = |flags: &[&str]| {
            let line = <Line as clap::Parser>::try_parse_from(["edit", "web"].iter().chain(flags)).unwrap();
            line.args.says_nothing()
        };
        assert!(says_nothing(&[]) && says_nothing(&["--dry-run"]));
        assert!(!says_nothing(&["--publish", "80"]) && !says_nothing(&["--vcpus", "2"]));
    }

    #[test]
    fn ports_are_put_on_and_taken_off() {
        let of = |text: &str| text.parse::<PortForward>().unwrap();
        let mut vm = fixture::vm("web", "running");
        vm.spec.port_forwards = vec![of("8080:80"), of("2222:22"), of("5353:53/udp")];
        let after = forwards(&vm, &[of("8080:81"), of("443")], &[(2222, Protocol::Tcp)]).unwrap();
        assert_eq!(after, [of("5353:53/udp"), of("8080:81"), of("443")]);
        assert_eq!(forwards(&vm, &[], &[(5353, Protocol::Tcp)]).unwrap_err().exit, Exit::Usage);
    }

    #[test]
    fn an_edit_says_when_it_takes_effect() {
        let mut vm = fixture::vm("web", "running");
        (vm.generation, vm.observed_generation) = (3, 2);
        vm.spec.port_forwards = vec!["8080:80".parse().unwrap()];
        let output =
            VmEditOutput { vcpus: Some(Effect::NextStart), disk_gib: Some(Effect::Live), ..VmEditOutput::default() };
        insta::assert_snapshot!(told(&vm, &output, false, fixture::NOW), @"
        name        web
        vcpus       1 (from the next start on)
        memory      256 MiB
        disk        1 GiB (now)
        ports       127.0.0.1:8080 -> 80/tcp
        labels      app=shop, tier=web
        generation  3 (2 is in effect; the rest waits for the host, or for the next start)
        ");
    }

    #[test]
    fn when_a_machine_goes_is_told() {
        let vm = fixture::vm("web", "running");
        assert_eq!(expires(&vm, fixture::NOW), "");
        let at = |seconds: i64| hostler_model::Timestamp::from_micros(fixture::NOW.as_micros() + seconds * 1_000_000);
        let soon = Vm { expires_at: Some(at(90)), ..vm.clone() };
        assert_eq!(expires(&soon, fixture::NOW), "in 1 min 30 s (2026-01-01T00:02:30.000000Z)");
        let kept = Vm { expires_at: Some(at(-90)), protected: true, ..vm };
        assert!(
            expires(&kept, fixture::NOW).starts_with("was 90s ago") && expires(&kept, fixture::NOW).contains("kept")
        );
    }
}
