//! `hostler image import`: sends a file, or tells the server where to get one, and waits until it is an image.

mod send;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use hostler_client::{DryUpload, Submit, Upload};
use hostler_model::{
    disk::SourceFormat,
    image::{Firmware, Part, Sha256Hex},
    import::{Import, ImportPhase, ImportProgress, ImportState, NewImport, NewShape, PartSource},
    ready::Readiness,
};
use serde::de::DeserializeOwned;

use self::send::Local;
use crate::{
    cli::{Answer, Session, WaitArgs, ask, read},
    exit::{Exit, Failure},
    interrupt::{INTERRUPT, Interrupt},
    line::Line,
    output::{self, note},
};

/// How it is used.
pub const EXAMPLES: &str = "\
Examples:
  hostler image import debian-12                                from the catalogue, checked against the vendor's digests
  hostler image import web ./disk.qcow2                         a file of yours: qcow2, vmdk, vhdx, raw; also in gzip, xz, zstd
  hostler image import web ./disk.qcow2                         again, after it broke off: it goes on where it was
  hostler image import web ./disk.img --format raw --ready tcp:22
  hostler image import web https://example.org/disk.qcow2 --sha256 9f86d0…
  hostler image import web server:/srv/images/disk.vmdk         a file on the server, under its --image-root
  hostler image import set ./rootfs.img --kernel ./vmlinuz --initrd ./initrd --cmdline 'root=/dev/vda' --format raw";

/// How often the server is asked how far it is.
const PULSE: Duration = Duration::from_millis(500);

/// What to import.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The image's name
    name: String,

    /// A file here, an address (https://…), or a file on the server (server:/path); without it, NAME is looked up in the
    /// catalogue
    source: Option<String>,

    /// What the bytes must be; the import is refused if they are not
    #[arg(long, value_name = "HEX", value_parser = read::model::<Sha256Hex>)]
    sha256: Option<Sha256Hex>,

    /// The format: qcow2, raw, vmdk or vhdx, of a packed file (gzip, xz, zstd) what is in it; told from the first bytes, but for raw
    #[arg(long, value_name = "FORMAT", value_parser = word::<SourceFormat>)]
    format: Option<SourceFormat>,

    /// A name in the catalogue, if it is not the image's own
    #[arg(long, value_name = "NAME", conflicts_with = "source")]
    catalogue: Option<String>,

    /// A kernel here, or an address: SOURCE is then its root disk
    #[arg(long, value_name = "FILE", requires = "source")]
    kernel: Option<String>,

    /// The kernel's initial RAM file system
    #[arg(long, value_name = "FILE", requires = "kernel")]
    initrd: Option<String>,

    /// The kernel's command line
    #[arg(long, value_name = "TEXT", requires = "kernel")]
    cmdline: Option<String>,

    /// What starts a whole disk: bios or uefi
    #[arg(long, value_name = "FIRMWARE", value_parser = word::<Firmware>)]
    firmware: Option<Firmware>,

    /// Virtual processors of machines that do not say
    #[arg(long, value_name = "N")]
    vcpus: Option<i64>,

    /// Memory of machines that do not say, such as 1G
    #[arg(long, value_name = "SIZE", value_parser = read::memory)]
    memory: Option<i64>,

    /// Disk of machines that do not say, such as 10G
    #[arg(long, value_name = "SIZE", value_parser = read::disk)]
    disk: Option<i64>,

    /// When machines are ready that do not say: auto, guest-agent, cloud-init, tcp:PORT, marker:/PATH or none [default:
    /// auto; from the catalogue, what it says]
    #[arg(long, value_name = "WHAT", value_parser = read::model::<Readiness>)]
    ready: Option<Readiness>,

    /// Say whether it would be taken, and take nothing in
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    wait: WaitArgs,
}

/// One of an enum's words, as the API spells it.
fn word<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_value(serde_json::Value::from(text)).map_err(|error| error.to_string())
}

/// Where something is.
enum Place {
    Here(PathBuf),
    Address(String),
    Server(String),
}

impl Place {
    fn of(text: &str) -> Place {
        if text.starts_with("http://") || text.starts_with("https://") {
            return Place::Address(text.to_owned());
        }
        match text.strip_prefix("server:") {
            Some(path) => Place::Server(path.to_owned()),
            None => Place::Here(PathBuf::from(text)),
        }
    }
}

/// Runs it.
pub async fn run(args: Args, session: &Session) -> Result<Exit, Failure> {
    let import = begin(&args, session).await?;
    if args.dry_run {
        session.print(&import, || format!("{} could be imported (dry run): {}", import.name, import.source))?;
        return Ok(Exit::Done);
    }
    let import = if args.wait.no_wait() { import } else { ended(import, args.wait.timeout, session).await? };
    session.print(&import, || match import.state {
        ImportState::Succeeded => format!("{} is {}", import.name, output::or_dash(import.image.clone())),
        ImportState::Running | ImportState::Failed | ImportState::Cancelled => {
            format!("{}: {} (import {})", import.name, state(&import), import.id)
        }
    })?;
    match import.state {
        ImportState::Running | ImportState::Succeeded => Ok(Exit::Done),
        ImportState::Failed | ImportState::Cancelled => Err(failed(&import)),
    }
}

fn failed(import: &Import) -> Failure {
    let why = import.error.as_ref().map_or_else(String::new, |error| format!(": {}: {}", error.code, error.detail));
    Failure::new(Exit::Failed, format!("the import of {} {}{why}", import.name, import.state.as_str()))
}

async fn begin(args: &Args, session: &Session) -> Result<Import, Failure> {
    let image = NewShape {
        cmdline: args.cmdline.clone(),
        firmware: args.firmware,
        vcpus: args.vcpus,
        memory_mib: args.memory,
        disk_gib: args.disk,
        ready: args.ready.clone(),
        ..NewShape::default()
    };
    let new = NewImport { image: image.clone(), ..NewImport::default() };
    let new = match (&args.source, &args.kernel) {
        (None, _) => {
            let known = args.catalogue.clone().unwrap_or_else(|| args.name.clone());
            NewImport { catalogue: Some(known), sha256: args.sha256.clone(), format: args.format, ..new }
        }
        (Some(_), Some(_)) if args.dry_run => {
            return Err(Failure::usage("kernel and root disk are sent before the server says anything of them")
                .help("leave --dry-run out"));
        }
        (Some(source), Some(_)) => NewImport { parts: parts(args, source, session).await?, ..new },
        (Some(source), None) => match Place::of(source) {
            Place::Here(path) if args.dry_run => return planned(args, &path, image, session).await,
            Place::Here(path) => {
                let file = Local::read(&path, session).await?;
                file.must_be(args.sha256.as_ref())?;
                let upload = Upload { sha256: file.sha256.clone(), format: args.format, image };
                return file.send_image(&args.name, &upload, session).await;
            }
            Place::Address(url) => {
                NewImport { url: Some(url), sha256: args.sha256.clone(), format: args.format, ..new }
            }
            Place::Server(file) => {
                NewImport { file: Some(file), sha256: args.sha256.clone(), format: args.format, ..new }
            }
        },
    };
    let how = if args.dry_run { Submit::dry() } else { Submit::default() };
    Ok(session.client.import_image(&args.name, &new, &how).await?)
}

/// What would come of sending a file: the server is told its length, not its bytes.
async fn planned(args: &Args, path: &Path, image: NewShape, session: &Session) -> Result<Import, Failure> {
    let (_, length) = send::open(path).await?;
    let upload = DryUpload { sha256: args.sha256.clone(), format: args.format, image, length };
    Ok(session.client.upload_dry(&args.name, &upload).await?)
}

/// Kernel, initrd and root disk; what is here is sent beforehand, as blobs.
async fn parts(
    args: &Args,
    rootfs: &str,
    session: &Session,
) -> Result<std::collections::BTreeMap<Part, PartSource>, Failure> {
    let mut parts = std::collections::BTreeMap::new();
    let rootfs = Some(rootfs.to_owned());
    for (part, text) in [(Part::Kernel, &args.kernel), (Part::Initrd, &args.initrd), (Part::Rootfs, &rootfs)] {
        let Some(text) = text else { continue };
        let mut source = match Place::of(text) {
            Place::Address(url) => PartSource { url: Some(url), ..PartSource::default() },
            Place::Server(file) => PartSource { file: Some(file), ..PartSource::default() },
            Place::Here(path) => {
                let file = Local::read(&path, session).await?;
                file.send_blob(session).await?;
                PartSource { blob: Some(file.sha256), ..PartSource::default() }
            }
        };
        if part == Part::Rootfs {
            (source.format, source.sha256) = (args.format, args.sha256.clone());
        }
        parts.insert(part, source);
    }
    Ok(parts)
}

/// The import once it is over. The end of our time leaves it; Ctrl-C asks what is to become of it.
async fn ended(mut import: Import, limit: Duration, session: &Session) -> Result<Import, Failure> {
    let mut interrupt = Interrupt::listen()?;
    let until = tokio::time::Instant::now() + limit;
    let mut line = Line::new(!session.is_data());
    let mut told = None;
    let id = import.id.to_string();
    while !import.state.is_terminal() {
        line.say(&doing(&import.progress), import.progress.percent);
        if !line.is_drawn() && told != Some(import.progress.phase) {
            told = Some(import.progress.phase);
            note(import.progress.phase.as_str());
        }
        let goes_on = |exit, why: &str| {
            Failure::new(exit, format!("{why}; the import goes on: {id}"))
                .help(format!("`hostler image imports` shows it, `hostler image cancel {id}` stops it"))
        };
        tokio::select! {
            () = tokio::time::sleep(PULSE) => {}
            () = tokio::time::sleep_until(until) => return Err(goes_on(Exit::TimedOut, "time is over")),
            signal = interrupt.caught() => {
                line.clear();
                let asked = signal == INTERRUPT;
                if !asked || ask(&format!("the import of {}", import.name), &mut interrupt).await == Answer::Leave {
                    return Err(goes_on(Exit::Signalled(signal), "interrupted"));
                }
                session.client.cancel_import(import.id).await?;
            }
        }
        import = session.client.import(&id).await?;
    }
    line.clear();
    Ok(import)
}

/// What it is doing, and how many bytes have come while they do.
fn doing(progress: &ImportProgress) -> String {
    match progress.phase {
        ImportPhase::Fetching => format!("{} ({})", progress.phase.as_str(), output::bytes(progress.bytes)),
        ImportPhase::Waiting | ImportPhase::Checking | ImportPhase::Converting | ImportPhase::Storing => {
            progress.phase.as_str().to_owned()
        }
    }
}

/// How an import stands, in words.
pub(super) fn state(import: &Import) -> String {
    match import.state {
        ImportState::Running => {
            let progress = &import.progress;
            let percent = progress.percent.map(|percent| format!(" {percent} %")).unwrap_or_default();
            format!("running: {}{percent}", doing(progress))
        }
        ImportState::Succeeded | ImportState::Failed | ImportState::Cancelled => import.state.as_str().to_owned(),
    }
}
