//! Editing a machine: what a merge patch makes of it. Pure: the store calls it under its locks, with the machine as it is.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    clock::Timestamp,
    error::{Code, Refusal},
    forward::{self, PortForward},
    kind::{Filed, within},
    patch::Patch,
    restart::RestartPolicy,
    unit::Resources,
    vm::{Vm, VmSpec},
};

/// The longest time to live: ten years, in seconds. What is to stay longer has none.
pub const TTL_LIMIT: u64 = 10 * 365 * 86_400;

/// What of a machine concerns its host.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Shape {
    /// Virtual processors.
    pub vcpus: i64,
    /// Memory, in MiB.
    pub memory_mib: i64,
    /// The root disk, in GiB.
    pub disk_gib: i64,
    /// Ports of the host that lead to the guest.
    #[serde(default)]
    pub port_forwards: Vec<PortForward>,
}

impl Shape {
    /// That of a spec.
    pub fn of(spec: &VmSpec) -> Shape {
        let VmSpec { vcpus, memory_mib, disk_gib, ref port_forwards, .. } = *spec;
        Shape { vcpus, memory_mib, disk_gib, port_forwards: port_forwards.clone() }
    }

    /// Makes a spec this shape.
    pub fn put(self, spec: &mut VmSpec) {
        let Shape { vcpus, memory_mib, disk_gib, port_forwards } = self;
        (spec.vcpus, spec.memory_mib, spec.disk_gib, spec.port_forwards) = (vcpus, memory_mib, disk_gib, port_forwards);
    }

    /// What a machine of this shape takes.
    pub fn charge(&self) -> Resources {
        Resources { vcpus: self.vcpus, memory_mib: self.memory_mib, disk_gib: self.disk_gib, vms: 1 }
    }
}

/// A merge patch of a machine: what is not named stays, null removes. `vcpus`, `memory_mib`, `disk_gib` and
/// `port_forwards` are brought to its host by a task, the rest is changed at once.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct VmPatch {
    /// Labels by key; a null takes one away, and null instead of the object all of them.
    #[serde(skip_serializing_if = "Patch::is_keep")]
    #[schema(value_type = Option<BTreeMap<String, Option<String>>>)]
    pub labels: Patch<BTreeMap<String, Option<String>>>,
    /// Whether it is protected from deletion.
    #[serde(skip_serializing_if = "Patch::is_keep")]
    #[schema(value_type = Option<bool>)]
    pub protected: Patch<bool>,
    /// When it is deleted by itself.
    #[serde(skip_serializing_if = "Patch::is_keep")]
    #[schema(value_type = Option<Timestamp>)]
    pub expires_at: Patch<Timestamp>,
    /// The same, in seconds from now: 1 to 315,360,000.
    #[serde(skip_serializing_if = "Patch::is_keep")]
    #[schema(value_type = Option<u64>, minimum = 1, maximum = 315_360_000)]
    pub ttl_seconds: Patch<u64>,
    /// When it is started again after its process ended by itself.
    #[serde(skip_serializing_if = "Patch::is_keep")]
    #[schema(value_type = Option<RestartPolicy>)]
    pub restart: Patch<RestartPolicy>,
    /// Whether it is started again when its host was restarted while it ran.
    #[serde(skip_serializing_if = "Patch::is_keep")]
    #[schema(value_type = Option<bool>)]
    pub autostart: Patch<bool>,
    /// Virtual processors, 1 to 256.
    #[serde(skip_serializing_if = "Patch::is_keep")]
    #[schema(value_type = Option<i64>, minimum = 1, maximum = 256)]
    pub vcpus: Patch<i64>,
    /// Memory in MiB, 64 to 16,777,216.
    #[serde(skip_serializing_if = "Patch::is_keep")]
    #[schema(value_type = Option<i64>, minimum = 64, maximum = 16_777_216)]
    pub memory_mib: Patch<i64>,
    /// The root disk in GiB, up to 65,536; it only grows.
    #[serde(skip_serializing_if = "Patch::is_keep")]
    #[schema(value_type = Option<i64>, minimum = 1, maximum = 65_536)]
    pub disk_gib: Patch<i64>,
    /// The port forwards, all of them; null takes all away.
    #[serde(skip_serializing_if = "Patch::is_keep")]
    #[schema(value_type = Option<Vec<PortForward>>)]
    pub port_forwards: Patch<Vec<PortForward>>,
    /// Filled in with the submission of `vm.edit`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(read_only)]
    pub filed: Option<Filed>,
}

impl VmPatch {
    /// Refuses what cannot be, whatever the machine is.
    pub fn check(&self) -> Result<(), Refusal> {
        amount("vcpus", &self.vcpus, 1, 256)?;
        amount("memory_mib", &self.memory_mib, 64, 16 << 20)?;
        amount("disk_gib", &self.disk_gib, 1, 65_536)?;
        match &self.port_forwards {
            Patch::Keep | Patch::Remove => Ok(()),
            Patch::Set(forwards) => forward::check(forwards),
        }
    }

    /// What of the machine concerns its host, afterwards.
    fn shape(&self, vm: &Vm) -> Result<Shape, Refusal> {
        self.check()?;
        let mut shape = Shape::of(&vm.spec);
        let set = |field: &mut i64, patch: &Patch<i64>| *field = patch.as_set().copied().unwrap_or(*field);
        set(&mut shape.vcpus, &self.vcpus);
        set(&mut shape.memory_mib, &self.memory_mib);
        set(&mut shape.disk_gib, &self.disk_gib);
        match &self.port_forwards {
            Patch::Keep => {}
            Patch::Remove => shape.port_forwards = Vec::new(),
            Patch::Set(forwards) => shape.port_forwards = forwards.clone(),
        }
        if shape.disk_gib < vm.spec.disk_gib {
            let detail = format!(
                "the disk of {} has {} GiB and only grows; {} GiB would cut off what the guest wrote",
                vm.name, vm.spec.disk_gib, shape.disk_gib
            );
            return Err(Refusal::new(Code::DiskShrink, detail).with("disk_gib", vm.spec.disk_gib));
        }
        Ok(shape)
    }

    /// The machine afterwards. Where nothing differs it is the same, its generation included.
    ///
    /// # Errors
    /// For what cannot be, with the field.
    pub fn apply(&self, vm: &Vm, now: Timestamp) -> Result<Vm, Refusal> {
        let mut after = vm.clone();
        after.spec.labels = labels_over(&vm.spec.labels, &self.labels)?;
        match self.protected {
            Patch::Keep => {}
            Patch::Remove => after.protected = false,
            Patch::Set(protected) => after.protected = protected,
        }
        match self.restart {
            Patch::Keep => {}
            Patch::Remove => after.spec.restart = RestartPolicy::default(),
            Patch::Set(restart) => after.spec.restart = restart,
        }
        match self.autostart {
            Patch::Keep => {}
            Patch::Remove => after.spec.autostart = false,
            Patch::Set(autostart) => after.spec.autostart = autostart,
        }
        after.expires_at = self.expiry(vm.expires_at, now)?;
        let record = after != *vm;
        let shape = self.shape(vm)?;
        if shape != Shape::of(&vm.spec) {
            shape.put(&mut after.spec);
            after.generation = after.generation.saturating_add(1);
            after.updated_at = now;
        } else if record {
            after.changed_in_record();
            after.updated_at = now;
        }
        Ok(after)
    }

    fn expiry(&self, expires_at: Option<Timestamp>, now: Timestamp) -> Result<Option<Timestamp>, Refusal> {
        match (&self.expires_at, &self.ttl_seconds) {
            (Patch::Keep, Patch::Keep) => Ok(expires_at),
            (Patch::Keep, Patch::Set(seconds)) => Ok(Some(now.plus(ttl(*seconds)?))),
            (Patch::Set(at), Patch::Keep) if *at <= now => {
                Err(Refusal::field("expires_at", format!("{at} is over; name a time to come, or delete the VM")))
            }
            (Patch::Set(at), Patch::Keep) => Ok(Some(*at)),
            (Patch::Remove, Patch::Keep | Patch::Remove) | (Patch::Keep, Patch::Remove) => Ok(None),
            (Patch::Set(_), Patch::Set(_) | Patch::Remove) | (Patch::Remove, Patch::Set(_)) => {
                Err(Refusal::field("ttl_seconds", "expires_at says the same in another way; send one of the two"))
            }
        }
    }
}

/// An amount that is within bounds and is not to be taken away.
fn amount(field: &str, patch: &Patch<i64>, least: i64, most: i64) -> Result<(), Refusal> {
    match patch {
        Patch::Keep => Ok(()),
        Patch::Remove => Err(Refusal::field(field, "a machine cannot be without; leave it out to keep it as it is")),
        Patch::Set(value) => within(field, *value, least, most).map(drop),
    }
}

/// A time to live.
///
/// # Errors
/// For one that is nothing, or endless.
pub fn ttl(seconds: u64) -> Result<std::time::Duration, Refusal> {
    if seconds == 0 || seconds > TTL_LIMIT {
        return Err(Refusal::field("ttl_seconds", format!("{seconds} is not between 1 and {TTL_LIMIT}")));
    }
    Ok(std::time::Duration::from_secs(seconds))
}

/// Labels after a merge patch of them.
///
/// # Errors
/// For labels that are too many or too long.
pub(crate) fn labels_over(
    labels: &BTreeMap<String, String>,
    patch: &Patch<BTreeMap<String, Option<String>>>,
) -> Result<BTreeMap<String, String>, Refusal> {
    let changes = match patch {
        Patch::Keep => return Ok(labels.clone()),
        Patch::Remove => return Ok(BTreeMap::new()),
        Patch::Set(changes) => changes,
    };
    let mut labels = labels.clone();
    for (key, value) in changes {
        match value {
            Some(value) => labels.insert(key.clone(), value.clone()),
            None => labels.remove(key),
        };
    }
    check_labels("labels", &labels)?;
    Ok(labels)
}

/// Refuses labels that are too many or too long.
pub(crate) fn check_labels(field: &str, labels: &BTreeMap<String, String>) -> Result<(), Refusal> {
    let within = |field: &str, value: usize, least: usize, most: usize| {
        if (least..=most).contains(&value) {
            return Ok(());
        }
        Err(Refusal::field(field, format!("{value} is not between {least} and {most}")))
    };
    within(field, labels.len(), 0, 64)?;
    for (key, value) in labels {
        within(&format!("{field} (bytes in a key)"), key.len(), 1, 63)?;
        within(&format!("{field} (bytes in a value)"), value.len(), 0, 255)?;
    }
    Ok(())
}

/// Which fields an edit changed, for the log.
pub fn changed(before: &Vm, after: &Vm) -> Vec<&'static str> {
    let differs = [
        ("labels", before.spec.labels != after.spec.labels),
        ("protected", before.protected != after.protected),
        ("expires_at", before.expires_at != after.expires_at),
        ("restart", before.spec.restart != after.spec.restart),
        ("autostart", before.spec.autostart != after.spec.autostart),
        ("vcpus", before.spec.vcpus != after.spec.vcpus),
        ("memory_mib", before.spec.memory_mib != after.spec.memory_mib),
        ("disk_gib", before.spec.disk_gib != after.spec.disk_gib),
        ("port_forwards", before.spec.port_forwards != after.spec.port_forwards),
    ];
    differs.into_iter().filter(|(_, differs)| *differs).map(|(field, _)| field).collect()
}

/// What an edit came to.
#[derive(Clone, PartialEq, Debug)]
pub enum Outcome {
    /// The host has it; `pending`: something waits for the next start.
    Done {
        /// The port forwards, with the ports that the node chose.
        forwards: Vec<PortForward>,
        /// Whether something waits for the next start.
        pending: bool,
    },
    /// Nothing of it is left.
    Undone,
}

/// The machine after an edit's end. What was undone is taken out of what it is to be, which is one more change.
pub fn settle(vm: &Vm, filed: &Filed, outcome: Outcome) -> Vm {
    let mut after = vm.clone();
    // Nothing before this edit waited for the host.
    let first = vm.observed_generation.saturating_add(1) == filed.generation;
    match outcome {
        Outcome::Done { forwards, pending } => {
            after.spec.port_forwards = forwards;
            if !pending {
                after.observed_generation = after.generation;
            }
        }
        Outcome::Undone => {
            filed.before.clone().put(&mut after.spec);
            after.generation = after.generation.saturating_add(1);
            if first {
                after.observed_generation = after.generation;
            }
        }
    }
    after
}

/// The generation that has taken effect on the host, by what its node saw of a machine that nobody is changing.
pub fn observed_generation(vm: &Vm, restart_pending: bool) -> u32 {
    match restart_pending {
        false => vm.generation,
        true => vm.observed_generation.min(vm.generation.saturating_sub(1)),
    }
}

/// What is held while an edit runs: of what is charged and what is asked for the larger, each by itself.
pub fn larger(charged: Resources, asked: Resources) -> Resources {
    Resources {
        vcpus: charged.vcpus.max(asked.vcpus),
        memory_mib: charged.memory_mib.max(asked.memory_mib),
        disk_gib: charged.disk_gib.max(asked.disk_gib),
        vms: charged.vms.max(asked.vms),
    }
}

/// Refuses an edit of a machine that is not as whoever edits it believes. `expected`: the generations it may have;
/// `None` where nothing was said.
pub fn check_generation(vm: &Vm, expected: Option<&[u32]>) -> Result<(), Refusal> {
    if expected.is_none_or(|expected| expected.contains(&vm.generation)) {
        return Ok(());
    }
    let detail = format!(
        "the VM {} was changed since it was read: its generation is {}; read it again, and decide anew",
        vm.name, vm.generation
    );
    Err(Refusal::new(Code::PreconditionFailed, detail).with("vm", vm.id.to_string()).with("generation", vm.generation))
}

/// Refuses the deletion of a protected machine.
pub fn check_deletable(vm: &Vm) -> Result<(), Refusal> {
    if !vm.protected {
        return Ok(());
    }
    let name = &vm.name;
    let detail = format!(
        "the VM {name} is protected from deletion; `hostler vm edit {name} --unprotect` lifts that (PATCH with protected: false)"
    );
    Err(Refusal::new(Code::VmProtected, detail).with("vm", json!(vm.id)))
}

/// How long after a deletion for its time's end was filed another is, should the machine still be there: long enough
/// for a person to see why the first one failed.
pub const FILE_AGAIN: std::time::Duration = std::time::Duration::from_secs(300);

/// Whether a machine's time is over and its deletion is to be filed. `filed_at`: when it was filed last.
pub fn is_over(vm: &Vm, filed_at: Option<Timestamp>, now: Timestamp) -> bool {
    let over = vm.expires_at.is_some_and(|at| at <= now);
    let lately = filed_at.is_some_and(|at| now.since(at) < FILE_AGAIN);
    over && !vm.protected && !lately
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::api::strict;

    const NOW: Timestamp = Timestamp::from_micros(1_767_225_600_000_000);

    fn vm() -> Vm {
        let id = "0190f1f0-0000-7000-8000-00000000000b";
        serde_json::from_value(json!({
            "id": id, "tenant": id, "name": "web", "state": "running", "ready": true, "epoch": 1,
            "generation": 3, "observed_generation": 3, "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z",
            "spec": {"image": "tiny", "image_digest": "ab", "vcpus": 1, "memory_mib": 256, "disk_gib": 1,
                "ready_timeout_seconds": 60, "labels": {"tier": "web"}},
        }))
        .unwrap()
    }

    fn patch(value: Value) -> VmPatch {
        strict(&value).unwrap()
    }

    #[test]
    fn what_is_not_named_stays_and_null_removes() {
        let before = vm();
        assert_eq!(patch(json!({})).apply(&before, NOW).unwrap(), before);
        let after = patch(json!({"labels": {"tier": null, "app": "shop"}, "protected": true, "ttl_seconds": 60}));
        let after = after.apply(&before, NOW).unwrap();
        assert_eq!(json!(after.spec.labels), json!({"app": "shop"}));
        assert_eq!((after.protected, after.expires_at), (true, Some(NOW.plus(Duration::from_secs(60)))));
        assert_eq!((after.generation, after.observed_generation), (4, 4));
        assert_eq!(changed(&before, &after), ["labels", "protected", "expires_at"]);
        let bare = patch(json!({"labels": null, "protected": null, "expires_at": null})).apply(&after, NOW).unwrap();
        assert!(bare.spec.labels.is_empty() && !bare.protected && bare.expires_at.is_none());
    }

    #[test]
    fn what_says_what_is_there_changes_nothing() {
        let same = patch(json!({"labels": {"tier": "web", "gone": null}, "protected": false, "expires_at": null}));
        assert_eq!(same.apply(&vm(), NOW).unwrap(), vm());
    }

    #[test]
    fn a_change_of_the_record_does_not_say_that_the_host_is_up_to_date() {
        let behind = Vm { observed_generation: 2, ..vm() };
        let after = patch(json!({"protected": true})).apply(&behind, NOW).unwrap();
        assert_eq!((after.generation, after.observed_generation), (4, 2));
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_field() {
        let many: BTreeMap<String, String> = (0..65).map(|n| (n.to_string(), String::new())).collect();
        for (body, field) in [
            (json!({"ttl_seconds": 0}), "ttl_seconds"),
            (json!({"ttl_seconds": TTL_LIMIT + 1}), "ttl_seconds"),
            (json!({"ttl_seconds": 5, "expires_at": "2030-01-01T00:00:00Z"}), "ttl_seconds"),
            (json!({"expires_at": "2020-01-01T00:00:00Z"}), "expires_at"),
            (json!({"labels": {"": "x"}}), "labels (bytes in a key)"),
            (json!({"labels": many}), "labels"),
        ] {
            let refusal = patch(body).apply(&vm(), NOW).unwrap_err();
            assert_eq!((refusal.code, &refusal.facts["field"]), (Code::ValidationError, &json!(field)));
        }
        assert!(strict::<VmPatch>(&json!({"vpus": 2})).is_err());
        assert!(strict::<VmPatch>(&json!({"protected": "yes"})).is_err());
    }

    #[test]
    fn only_who_knows_the_machine_as_it_is_may_edit_it() {
        assert!(check_generation(&vm(), None).is_ok() && check_generation(&vm(), Some(&[1, 3])).is_ok());
        assert_eq!(check_generation(&vm(), Some(&[2])).unwrap_err().code, Code::PreconditionFailed);
        assert_eq!(check_generation(&vm(), Some(&[])).unwrap_err().code, Code::PreconditionFailed);
    }

    fn filed(before: &Vm, after: &Vm) -> Filed {
        let charged = Some(before.spec.charge());
        Filed { generation: after.generation, before: Shape::of(&before.spec), after: Shape::of(&after.spec), charged }
    }

    #[test]
    fn what_concerns_the_host_is_asked_for_and_not_yet_observed() {
        let after = patch(json!({"vcpus": 2, "labels": {"tier": null}})).apply(&vm(), NOW).unwrap();
        assert_eq!((after.spec.vcpus, after.generation, after.observed_generation), (2, 4, 3));
        assert_eq!(changed(&vm(), &after), ["labels", "vcpus"]);
        let done = |pending| Outcome::Done { forwards: Vec::new(), pending };
        assert_eq!(settle(&after, &filed(&vm(), &after), done(false)).observed_generation, 4);
        let pending = settle(&after, &filed(&vm(), &after), done(true));
        assert_eq!(pending.observed_generation, 3);
        assert_eq!((observed_generation(&pending, true), observed_generation(&pending, false)), (3, 4));
    }

    #[test]
    fn what_was_undone_is_no_longer_asked_for_and_what_was_changed_beside_it_stays() {
        let after = patch(json!({"vcpus": 2})).apply(&vm(), NOW).unwrap();
        let labelled = patch(json!({"protected": true})).apply(&after, NOW).unwrap();
        let undone = settle(&labelled, &filed(&vm(), &after), Outcome::Undone);
        assert_eq!((undone.spec.vcpus, undone.protected), (1, true));
        assert_eq!((undone.generation, undone.observed_generation), (6, 6));
        let behind = Vm { observed_generation: 2, ..vm() };
        let undone = settle(&labelled, &filed(&behind, &after), Outcome::Undone);
        assert_eq!(undone.observed_generation, 6);
        let labelled = Vm { observed_generation: 2, ..labelled };
        assert_eq!(settle(&labelled, &filed(&behind, &after), Outcome::Undone).observed_generation, 2);
    }

    #[test]
    fn a_disk_only_grows_and_an_amount_cannot_be_taken_away() {
        let large = Vm { spec: VmSpec { disk_gib: 10, ..vm().spec }, ..vm() };
        assert_eq!(patch(json!({"disk_gib": 9})).apply(&large, NOW).unwrap_err().code, Code::DiskShrink);
        assert_eq!(patch(json!({"disk_gib": 10})).apply(&large, NOW).unwrap(), large);
        for body in [
            json!({"vcpus": null}),
            json!({"vcpus": 0}),
            json!({"memory_mib": 1}),
            json!({"disk_gib": 70_000}),
            json!({"port_forwards": [{"guest_port": 0}]}),
        ] {
            assert_eq!(patch(body.clone()).apply(&vm(), NOW).unwrap_err().code, Code::ValidationError, "{body}");
        }
        assert!(strict::<VmPatch>(&json!({"port_forwards": [{"guest_port": 80, "host_prt": 1}]})).is_err());
    }

    proptest! {
        #[test]
        fn a_protected_machine_is_never_over(protected: bool, left in -1_000i64..1_000, filed in proptest::option::of(0u64..1_000)) {
            let at = Timestamp::from_micros(NOW.as_micros() + left * 1_000_000);
            let vm = Vm { protected, expires_at: Some(at), ..vm() };
            let filed_at = filed.map(|ago| Timestamp::from_micros(NOW.as_micros() - ago as i64 * 1_000_000));
            let over = is_over(&vm, filed_at, NOW);
            prop_assert_eq!(over, !protected && left <= 0 && filed.is_none_or(|ago| ago >= FILE_AGAIN.as_secs()));
            prop_assert_eq!(check_deletable(&vm).is_err(), protected);
        }
    }
}
