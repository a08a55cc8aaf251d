//! How a task comes to be: the kind and the caller's role, what the target refers to, what the parameters leave out,
//! and the one call that writes it all down or refuses. Never here: quota and placement (the store's step decides
//! those under its locks).

use hostler_model::{
    Code, NodeId, Refusal, TaskId, TenantId,
    api::{Answered, NewTask, Problem, TargetRef},
    defaults::Defaults,
    edit,
    image::Image,
    kind::{Aim, FillContext, KindName, Spec, VmCreateParams},
    schedule::{self, Schedule},
    secret::refuse_references,
    task::Target,
    vm::Vm,
};
use hostler_store::{Accepted, Answer, Idempotency, NewMachine, Submission};
use serde::Deserialize;
use serde_json::Value;

use super::{App, Error, Result, caller::Call, only};

/// On what terms a task is asked for.
#[derive(Clone, Debug, Default)]
pub struct Terms {
    /// The caller's key, so that a repeat gets the first answer.
    pub idempotency: Option<Idempotency>,
    /// Answer as if, and write nothing.
    pub dry_run: bool,
    /// When it may begin, and how often it may be tried: before what the task says of that.
    pub when: schedule::Asked,
    /// The generations that the machine may have; `None`: any.
    pub if_match: Option<Vec<u32>>,
}

impl Terms {
    /// Whether there may have been a first answer.
    fn asks_again(&self) -> bool {
        self.idempotency.is_some() && !self.dry_run
    }
}

/// Where a task is written down.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// Whose image, name and quota it takes: that of the task it repeats, whoever asks for that.
    pub(super) tenant: TenantId,
    pub(super) retry_of: Option<TaskId>,
}

/// What a task is about, by id.
struct Aimed {
    tenant: TenantId,
    vm: Option<Vm>,
    node: Option<NodeId>,
}

/// A submission, and what to say when the store does not know its machine either.
struct Prepared {
    submission: Submission,
    gone: Option<Refusal>,
}

impl Prepared {
    /// What one of many is told.
    fn answer(self, answer: Answer<Accepted>) -> Answered {
        match (answer, self.gone) {
            (Ok(accepted), _) if self.submission.dry_run => {
                Answered::dry(accepted.task, accepted.vm, accepted.placement)
            }
            (Ok(accepted), _) => Answered::accepted(accepted.task, accepted.vm),
            (Err(refusal), Some(gone)) if refusal.code == Code::VmNotFound => Answered::refused(gone),
            (Err(refusal), _) => Answered::refused(refusal),
        }
    }
}

impl App {
    /// Writes a task of the caller's tenant down, or says why not.
    pub async fn submit(&self, call: &Call, new: NewTask, terms: Terms) -> Result<Accepted> {
        self.submit_in(call, Place { tenant: call.tenant()?, retry_of: None }, new, terms).await
    }

    /// Writes many tasks of the caller's tenant down together, each answered by itself.
    pub async fn submit_batch(&self, call: &Call, tasks: &[Value], terms: &Terms) -> Result<Vec<Answered>> {
        let place = Place { tenant: call.tenant()?, retry_of: None };
        let mut answers: Vec<Option<Answered>> = Vec::with_capacity(tasks.len());
        let mut asked = Vec::with_capacity(tasks.len());
        for (task, part) in tasks.iter().zip(0u32..) {
            let of_part = |sent: &Idempotency| Idempotency { part: Some(part), ..sent.clone() };
            let idempotency = terms.idempotency.as_ref().map(of_part);
            let terms = Terms { idempotency, ..terms.clone() };
            let prepared = match self.read::<NewTask>(Some(call), task).await {
                Ok(new) => self.prepare(call, place, new, terms).await,
                Err(error) => Err(error),
            };
            match prepared {
                Ok(prepared) => {
                    asked.push(prepared);
                    answers.push(None);
                }
                Err(Error::Refused(refusal)) => answers.push(Some(Answered::refused(refusal))),
                Err(fault) => return Err(fault),
            }
        }
        let batch: Vec<Submission> = asked.iter().map(|prepared| prepared.submission.clone()).collect();
        let done = if batch.is_empty() { Vec::new() } else { self.store.submit(batch).await? };
        let mut done = asked.into_iter().zip(done).map(|(prepared, answer)| prepared.answer(answer));
        let fault = Error::Fault("the store answered fewer items than it was asked");
        let answers: Option<Vec<Answered>> = answers.into_iter().map(|answer| answer.or_else(|| done.next())).collect();
        let answers = answers.ok_or(fault)?;
        // The key was used with another body: then it is the whole that is refused.
        let mismatch = |answer: &Answered| {
            answer.problem.clone().filter(|problem| problem.code == Code::IdempotencyMismatch).map(Problem::refusal)
        };
        match answers.iter().find_map(mismatch) {
            Some(refusal) => Err(refusal.into()),
            None => Ok(answers),
        }
    }

    /// Writes a task down where it belongs, which is not always where its caller does.
    pub(super) async fn submit_in(&self, call: &Call, place: Place, new: NewTask, terms: Terms) -> Result<Accepted> {
        let prepared = self.prepare(call, place, new, terms).await?;
        let answer = only(self.store.submit(vec![prepared.submission.clone()]).await?);
        match (answer, prepared.gone) {
            (Err(Error::Refused(refusal)), Some(gone)) if refusal.code == Code::VmNotFound => Err(gone.into()),
            (answer, _) => answer,
        }
    }

    /// A task that is fit to be written down, as far as that can be said before the store's step.
    async fn prepare(&self, call: &Call, place: Place, new: NewTask, terms: Terms) -> Result<Prepared> {
        let kind: KindName = new.kind.parse()?;
        let spec = kind.spec();
        call.require(spec.access())?;
        refuse_references(spec.sensitive, &new.params)?;
        let defaults = self.defaults();
        let image = self.image_for(place.tenant, spec, &new.params, &defaults).await?;
        let mut params = (spec.fill)(&new.params, &FillContext { image: image.as_ref(), defaults: &defaults })?;
        let now = self.clock.now();
        let (schedule, not_before) = Schedule::asked(spec, &params, &terms.when.over(new.asked()), now)?;
        let secrets = self.take_apart(spec, &mut params);
        let (aimed, gone) = match self.aim(call, place.tenant, spec, &new.target, &params).await {
            // There may be a first answer under the key, of when the machine had this name. A submission for a machine
            // that never was asks for the one and can write nothing.
            Err(Error::Refused(gone)) if gone.code == Code::VmNotFound && terms.asks_again() => {
                (Aimed { tenant: place.tenant, vm: None, node: None }, Some(gone))
            }
            aimed => (aimed?, None),
        };
        // What is only asked about is not written, and so not sealed.
        let secrets = if terms.dry_run { secrets } else { self.sealed(aimed.tenant, secrets).await? };
        let machine = match spec.aim {
            Aim::NewVm => Some(self.machine(&mut params)?),
            Aim::AnyNode | Aim::Node | Aim::Vm => None,
        };
        let snapshot = match &aimed.vm {
            Some(vm) => self.name_snapshot(spec.snapshot, vm, &mut params).await?,
            None => None,
        };
        let known = machine.as_ref().map(|machine| machine.id).or(aimed.vm.map(|vm| vm.id));
        let vm = known.or_else(|| gone.is_some().then(|| self.ids.next(now)));
        let submission = Submission {
            task: self.ids.next(now),
            tenant: aimed.tenant,
            actor: call.actor(),
            kind,
            params,
            schedule,
            not_before,
            secrets,
            target: Target { vm, node: aimed.node },
            vm: machine,
            snapshot,
            retry_of: place.retry_of,
            idempotency: terms.idempotency.filter(|_| !terms.dry_run),
            if_match: terms.if_match,
            dry_run: terms.dry_run,
        };
        Ok(Prepared { submission, gone })
    }

    /// The image that the parameters name. `fill` refuses when there is none, and says so better.
    async fn image_for(
        &self,
        tenant: TenantId,
        spec: &Spec,
        params: &Value,
        defaults: &Defaults,
    ) -> Result<Option<Image>> {
        let Some(text) = (spec.image)(params, defaults) else { return Ok(None) };
        match self.image(tenant, &text).await {
            Ok(image) => Ok(Some(image)),
            Err(Error::Refused(refusal)) if refusal.code == Code::ImageNotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn aim(
        &self,
        call: &Call,
        tenant: TenantId,
        spec: &Spec,
        target: &TargetRef,
        params: &Value,
    ) -> Result<Aimed> {
        match spec.aim {
            Aim::Node if target.node.is_none() => {
                let detail = format!("{} works on a node: name it, by id or name", spec.name);
                Err(Refusal::field("target.node", detail).into())
            }
            Aim::AnyNode | Aim::Node => {
                refuse_given(&target.vm, "target.vm", spec)?;
                let node = self.node_named(target.node.as_deref()).await?;
                Ok(Aimed { tenant, vm: None, node })
            }
            Aim::NewVm => {
                refuse_given(&target.vm, "target.vm", spec)?;
                let wanted = params.get("node").and_then(Value::as_str).or(target.node.as_deref());
                let node = self.node_named(wanted).await?;
                Ok(Aimed { tenant, vm: None, node })
            }
            Aim::Vm => {
                refuse_given(&target.node, "target.node", spec)?;
                let Some(text) = &target.vm else {
                    let detail = format!("{} works on a VM: name it, by id or name", spec.name);
                    return Err(Refusal::field("target.vm", detail).into());
                };
                let vm = self.vm_in(call, tenant, text).await?;
                Ok(Aimed { tenant: vm.tenant, vm: Some(vm), node: None })
            }
        }
    }

    async fn node_named(&self, text: Option<&str>) -> Result<Option<NodeId>> {
        match text {
            Some(text) => Ok(Some(self.node(text).await?.id)),
            None => Ok(None),
        }
    }

    /// The machine to be; its name goes into the parameters, so that the answer shows it.
    fn machine(&self, params: &mut Value) -> Result<NewMachine> {
        let unreadable = Error::Fault("filled parameters cannot be read");
        let Ok(mut filled) = VmCreateParams::deserialize(&*params) else { return Err(unreadable) };
        let Some(spec) = filled.spec() else { return Err(unreadable) };
        let id: hostler_model::VmId = self.ids.next(self.clock.now());
        let name = match filled.name.take() {
            Some(name) => name,
            None => format!("vm-{}", id.short()).parse()?,
        };
        params["name"] = Value::from(name.as_str());
        let ttl = filled.ttl_seconds.map(edit::ttl).transpose()?;
        let wait_for_capacity = filled.wait_for_capacity;
        Ok(NewMachine { id, name, spec, wait_for_capacity, protected: filled.protected, ttl })
    }
}

fn refuse_given(given: &Option<String>, field: &str, spec: &Spec) -> Result<()> {
    match given {
        Some(_) => Err(Refusal::field(field, format!("{} takes none; leave it out", spec.name)).into()),
        None => Ok(()),
    }
}
