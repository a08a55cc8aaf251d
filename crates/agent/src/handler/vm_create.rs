//! `vm.create`: phases `image`, `disk`, `start`, `boot`. What fails or is stopped is removed; only when the driver says
//! that nothing is left does the attempt say so.

use hostler_model::{
    error::Code,
    kind::{VmCreate, VmCreateOutput},
    vm::VmSpec,
};

use super::{Begun, Failure, Handler, Job, Undo};
use crate::{
    hypervisor::{MachinePlan, seed::Seed},
    image::CachedImage,
    vm::{Made, admit::Stage},
};

impl Handler for VmCreate {
    async fn run(job: &Job<VmCreate>) -> Result<VmCreateOutput, Failure> {
        // Held until the machine is there: an image that is being used is not removed.
        let (plan, _image) = plan(job).await?;
        let hide = |text: String| plan.seed.as_ref().map_or_else(|| text.clone(), |seed| seed.hide(&text));
        let made = make(job, &plan).await;
        let Made { boot_ms, pid, not_ready } =
            made.map_err(|failure| Failure { detail: hide(failure.detail), ..failure })?;
        let not_ready = not_ready.map(hide);
        let acceleration = job.tools.hypervisor.acceleration().to_owned();
        let process = pid.map(|pid| format!(", process {pid}")).unwrap_or_default();
        job.log(format!("the guest answered {boot_ms:.0} ms after its start ({acceleration}{process})"));
        if let Some(why) = &not_ready {
            job.log(format!("it runs and is not ready: {}", why.lines().next().unwrap_or_default()));
        }
        let port_forwards = job.tools.vms.forwards(&plan).await?;
        Ok(VmCreateOutput { charge: plan.spec.charge(), boot_ms, acceleration, port_forwards, not_ready })
    }

    /// A machine that lives is completed; what is half made is removed and made again.
    async fn inspect(job: &Job<VmCreate>) -> Result<VmCreateOutput, Failure> {
        let (vm, epoch) = job.vm()?;
        if let Some(glance) = job.tools.vms.glance(vm) {
            match glance.stage {
                Stage::Running | Stage::Paused | Stage::Changing => {}
                Stage::Absent | Stage::Making | Stage::Partial | Stage::Removing if glance.alive => {}
                Stage::Absent | Stage::Making | Stage::Partial | Stage::Removing | Stage::Ended => {
                    job.tools.vms.remove(vm, epoch).await?;
                }
            }
        }
        Self::run(job).await
    }

    async fn undo(job: &Job<VmCreate>, _: Begun) -> Undo<VmCreateOutput> {
        match super::remove(job).await {
            Ok(_) => Undo::Undone,
            Err(failure) => Undo::Remains(Some(failure.detail)),
        }
    }
}

async fn plan(job: &Job<VmCreate>) -> Result<(MachinePlan, CachedImage), Failure> {
    let (id, epoch) = job.vm()?;
    let spec: VmSpec = job.params.spec().ok_or_else(|| Failure {
        code: Code::TaskRefused,
        detail: "the VM's size or image is not filled in".to_owned(),
        retryable: false,
    })?;
    job.phase("image");
    let image = job.tools.images.get(&spec.image_digest, |percent| job.percent(percent)).await?;
    let bytes: u64 = image.manifest.files.values().map(|file| file.size).sum();
    let came = if image.fetched { "was fetched" } else { "is in the cache" };
    job.log(format!("image {} ({:.1} MiB) {came}", image.manifest.name, bytes as f64 / f64::from(1 << 20)));
    let name = job.params.name.as_ref().map_or_else(|| format!("vm-{}", id.short()), |name| name.to_string());
    let (manifest, image_dir) = (image.manifest.clone(), image.dir.clone());
    let seed = seed(job, &name, &spec).await?;
    Ok((MachinePlan { id, epoch, name, spec, manifest, image_dir, seed }, image))
}

/// What cloud-init reads where nobody sent user-data: NoCloud wants the file.
const NOTHING: &str = "#cloud-config\n{}\n";

/// What the guest is told at its first boot.
async fn seed(job: &Job<VmCreate>, name: &str, spec: &VmSpec) -> Result<Option<Seed>, Failure> {
    let Some(first_boot) = &spec.first_boot else { return Ok(None) };
    let user_data = match &first_boot.user_data {
        Some(text) => job.open(text).await?,
        None => NOTHING.to_owned(),
    };
    let vendor_data = match &first_boot.vendor_data {
        Some(text) => Some(job.open(text).await?.into_bytes()),
        None => None,
    };
    Ok(Some(Seed {
        hostname: first_boot.hostname.clone().unwrap_or_else(|| name.to_owned()),
        user_data: user_data.into_bytes(),
        vendor_data,
        network: first_boot.network.clone(),
    }))
}

/// Makes the machine, with the driver's phases as ours.
async fn make(job: &Job<VmCreate>, plan: &MachinePlan) -> Result<Made, Failure> {
    let vms = &job.tools.vms;
    super::with_phases(job, |phases| async move { vms.create(plan, plan.ready_timeout(), &phases).await }).await
}
