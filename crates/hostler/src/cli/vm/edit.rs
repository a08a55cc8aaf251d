//! `hostler vm edit`: changes of a machine that is there.

use std::collections::BTreeMap;

use hostler_client::Mode;
use hostler_model::{edit::VmPatch, patch::Patch, restart::RestartPolicy, vm::Vm};

use super::super::{Session, read};
use crate::{
    exit::{Exit, Failure},
    output,
};

/// For its help.
pub const EXAMPLES: &str = "\
Examples:
  hostler vm edit web-1 --label tier=web --unlabel old
  hostler vm edit web-1 --protect          it cannot be deleted
  hostler vm edit web-1 --unprotect
  hostler vm edit web-1 --ttl 8h           delete it by itself in eight hours
  hostler vm edit web-1 --ttl never
  hostler vm edit web-1 --restart on-failure --autostart true";

/// What is to differ.
#[derive(clap::Args, Debug)]
#[command(group(clap::ArgGroup::new("change").required(true).multiple(true)))]
pub struct Args {
    /// Its name or id
    vm: String,

    /// A label to put on; may be given more than once
    #[arg(long, group = "change", value_name = "KEY=VALUE", value_parser = read::pair)]
    label: Vec<(String, String)>,

    /// A label to take off; may be given more than once
    #[arg(long, group = "change", value_name = "KEY")]
    unlabel: Vec<String>,

    /// Protect it from deletion
    #[arg(long, group = "change", conflicts_with = "unprotect")]
    protect: bool,

    /// Allow its deletion again
    #[arg(long, group = "change")]
    unprotect: bool,

    /// Delete it by itself after this time from now, such as 8h; `never` takes that back
    #[arg(long, group = "change", value_name = "TIME", value_parser = read::ttl)]
    ttl: Option<Patch<u64>>,

    /// Start it again when its process ended by itself: never, on-failure, always
    #[arg(long, group = "change", value_name = "POLICY", value_parser = read::model::<RestartPolicy>)]
    restart: Option<RestartPolicy>,

    /// Start it again when its host was restarted while it ran
    #[arg(long, group = "change", value_name = "BOOL")]
    autostart: Option<bool>,

    /// Only say what would happen
    #[arg(long)]
    dry_run: bool,
}

impl Args {
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
            ..VmPatch::default()
        }
    }
}

/// Edits a machine.
pub async fn run(args: Args, session: &Session) -> Result<Exit, Failure> {
    let mode = if args.dry_run { Mode::DryRun } else { Mode::Real };
    let vm = session.client.edit_vm(&args.vm, &args.patch(), None, mode).await?;
    session.print(&vm, || edited(&vm, args.dry_run, session))?;
    Ok(Exit::Done)
}

fn edited(vm: &Vm, dry_run: bool, session: &Session) -> String {
    let how = if dry_run { " (not changed: dry run)" } else { "" };
    output::fields([
        ("name", format!("{}{how}", vm.name)),
        ("labels", super::labels(vm)),
        ("restarts", super::power::restarts(vm)),
        ("protected", protected(vm)),
        ("expires", expires(vm, session.now())),
        ("generation", vm.generation.to_string()),
    ])
}

/// That it is protected, where it is.
pub fn protected(vm: &Vm) -> String {
    if vm.protected { "from deletion".to_owned() } else { String::new() }
}

/// When it goes by itself, where it does.
pub fn expires(vm: &Vm, now: hostler_model::Timestamp) -> String {
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
        for bad in [&["--protect", "--unprotect"][..], &["--ttl", "soon"], &[], &["--dry-run"]] {
            assert!(<Line as clap::Parser>::try_parse_from(["edit", "web"].iter().chain(bad)).is_err(), "{bad:?}");
        }
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
