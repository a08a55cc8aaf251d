//! `hostler dev`: a server and an agent in one process, over one folder, on loopback only.
//!
//! ```text
//! lock the folder ─► store · authority · keys ─► server (API, mTLS listener, loops) ─► images ─► agents ─► client.json
//! told to end:  machines are stopped (not with --keep) ─► client.json goes ─► agents end ─► server ends ─► (--ephemeral: machines and folder go)
//! ```
//!
//! Nothing is simulated between the two: the agent joins with a token and a certificate request, and speaks mTLS.

mod ending;
mod nodes;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use hostler_agent::Slots;
use hostler_control::{RateLimits, Server, Sources};
use hostler_model::{node::FreshnessPolicy, placement::Policy};
use hostler_trust::ca::NODE_VALIDITY;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::nodes::{Nodes, Running};
use crate::{
    cli::Globals,
    context::{
        ClientFile,
        book::{Book, Place},
    },
    default_image::{self, DefaultImage, Taken},
    driver::{self, Acceleration, Driver},
    exit::{Exit, Failure},
    folder::{Folder, Sockets, Stay},
    interrupt::Interrupt,
    output,
    service::{self, Opening, Shared, address, bind},
    settings::{MachineDefaultFlags, MachineDefaults, as_flag, layers},
};

/// What this control plane calls itself in the tasks it signs.
const ISSUER: &str = "hostler-dev";

/// The name of its server among the contexts.
const CONTEXT: &str = "dev";

/// The flags of `dev`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  hostler dev                                 on http://127.0.0.1:9090, or a free port if that one is taken
  hostler dev --ephemeral                     its machines and its folder go when it ends
  hostler dev --driver sim --nodes 4          four nodes that only pretend, to try placement and load

  hostler dev --keep                          its machines go on when it ends; the next `hostler dev` takes them up

Ctrl-C ends it: its machines are asked to turn themselves off, and those that do not are ended after 30 s. A second
Ctrl-C leaves what still runs. After a crash machines go on, too.")]
pub struct Args {
    /// Where the API listens: loopback only [default: 127.0.0.1:9090, or a free port]
    #[arg(long, env = "HOSTLER_LISTEN", value_name = "ADDRESS")]
    listen: Option<SocketAddr>,

    /// End the machines and remove the folder when it ends
    #[arg(long)]
    ephemeral: bool,

    /// Leave the machines running when it ends
    #[arg(long, conflicts_with = "ephemeral")]
    keep: bool,

    /// What runs machines
    #[arg(long, env = "HOSTLER_DRIVER", value_enum, default_value_t = Driver::Qemu)]
    driver: Driver,

    /// How QEMU runs them; auto takes KVM only where it works
    #[arg(long, env = "HOSTLER_ACCELERATION", value_enum, default_value_t = Acceleration::Auto)]
    acceleration: Acceleration,

    /// How many nodes, with the simulated driver
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
    nodes: u16,

    #[command(flatten)]
    slots: SlotArgs,

    /// A folder with images to offer [default: target/images here, or /usr/share/hostler/images]
    #[arg(long, env = "HOSTLER_IMAGES", value_name = "DIR")]
    images: Option<PathBuf>,

    /// Networks whose addresses images may be imported from, although they are not the open internet, such as 10.0.0.0/8
    #[arg(long, env = "HOSTLER_IMAGE_SOURCE_ALLOW", value_name = "CIDR", value_delimiter = ',')]
    image_source_allow: Vec<String>,

    /// Folders whose files may be imported as images
    #[arg(long, env = "HOSTLER_IMAGE_ROOTS", value_name = "DIR", value_delimiter = ',')]
    image_roots: Vec<String>,

    /// A file with images that can be imported by name, beside the built-in ones and before them
    #[arg(long, env = "HOSTLER_IMAGE_CATALOGUE", value_name = "FILE")]
    image_catalogue: Option<PathBuf>,

    #[command(flatten)]
    machines: MachineDefaultFlags,

    /// How long an agent may be silent before its work is taken to be lost, in seconds
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    lease_seconds: u64,

    /// How long tasks and imports are kept after their end, and machines and snapshots after their deletion, in days; 0:
    /// for ever
    #[arg(long, value_name = "DAYS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(0..=36500))]
    history_days: u32,

    /// A PostgreSQL database in place of a file in the data folder, such as postgres://user@host/name
    #[arg(long, value_name = "URL", hide_env_values = true)]
    database: Option<String>,

    /// How much is logged: error, warn, info, debug or trace, also by part, as in info,hostler_store=debug
    #[arg(long, env = "HOSTLER_LOG", value_name = "FILTER", default_value = "info")]
    log: String,
}

/// How many tasks of each class an agent works on at once; what is left out follows from the host's processors.
#[derive(clap::Args, Clone, Copy, Debug)]
struct SlotArgs {
    /// How many machines start at once [default: two for each processor]
    #[arg(long, env = "HOSTLER_BOOT_SLOTS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    boot_slots: Option<u16>,

    /// How many tasks that move bytes are done at once [default: 2]
    #[arg(long, env = "HOSTLER_DISK_SLOTS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    disk_slots: Option<u16>,

    /// How many short tasks are done at once [default: 64]
    #[arg(long, env = "HOSTLER_QUICK_SLOTS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    quick_slots: Option<u16>,

    /// How many programs run in guests at once [default: 64]
    #[arg(long, env = "HOSTLER_GUEST_SLOTS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    guest_slots: Option<u16>,
}

impl SlotArgs {
    /// What was asked for, in place of what would be.
    fn over(self, slots: Slots) -> Slots {
        let SlotArgs { boot_slots, disk_slots, quick_slots, guest_slots } = self;
        driver::slots([boot_slots, disk_slots, quick_slots, guest_slots], slots)
    }
}

/// Runs until it is told to end.
pub async fn run(args: Args, globals: &Globals) -> Result<Exit, Failure> {
    service::logging(&args.log)?;
    #[cfg(feature = "crash-points")]
    crate::crash::arm();
    if args.nodes > 1 && args.driver == Driver::Qemu {
        return Err(
            Failure::usage("--nodes is for the simulated driver: one host is one node").help("add --driver sim")
        );
    }
    let mut interrupt = Interrupt::listen()?;
    let stay = if args.ephemeral { Stay::Ephemeral } else { Stay::Stays };
    let folder = Folder::take(globals.server.data()?, stay)?;
    let sockets = Sockets::of(&folder, None)?;
    let outcome = match Nodes::new(&args, &folder, &sockets).await {
        Ok(nodes) => {
            let outcome = work(&args, globals, &folder, &nodes, &mut interrupt).await;
            if args.ephemeral {
                // The folder is what a machine that could not be ended is found by: then it stays.
                nodes.remove_machines().await?;
            }
            outcome
        }
        Err(failure) => Err(failure),
    };
    if args.ephemeral {
        folder.remove();
        sockets.remove();
    }
    outcome
}

/// Everything between the folder's taking and its leaving.
async fn work(
    args: &Args,
    globals: &Globals,
    folder: &Folder,
    nodes: &Nodes,
    interrupt: &mut Interrupt,
) -> Result<Exit, Failure> {
    let api = listen(args.listen).await?;
    let internal = bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    let (url, internal_port) = (format!("http://{}", address(&api)?), address(&internal)?.port());
    let lease = Duration::from_secs(args.lease_seconds);
    let machines: MachineDefaults = layers::given(&args.machines)?;
    let default_image = DefaultImage::of(&machines, as_flag)?;
    let sources = service::sources(&args.image_source_allow, &args.image_roots, args.image_catalogue.as_deref())?;
    let files = default_image.as_ref().map(DefaultImage::files).unwrap_or_default();
    let server = service::open(Opening {
        data: &folder.data,
        shared: Shared { database: args.database.clone(), ..Shared::default() },
        issuer: ISSUER,
        lease,
        freshness: FreshnessPolicy::default(),
        placement: Policy::default(),
        history: service::history(args.history_days),
        sources: Sources { files, ..sources },
        defaults: default_image::defaults(&machines, default_image.as_ref(), as_flag)?,
        names: Vec::new(),
        node_validity: NODE_VALIDITY,
        broker: None,
        oidc: None,
        rates: RateLimits::default(),
    })
    .await?;
    let stop = CancellationToken::new();
    let serving = tokio::spawn({
        let (server, stop) = (server.clone(), stop.clone());
        async move { server.serve(api, internal, stop).await }
    });
    let mut running = Running::none(stop.child_token());
    let start = async {
        let mut images = match images_folder(args)? {
            Some(images) => service::import(&images, &server).await?,
            None => Vec::new(),
        };
        if let Some(image) = &default_image {
            let taken = image.take_in(&folder.data, &server).await?;
            default_image::do_without(taken, &machines, &server);
            images.extend(Some(default_image::NAME.to_owned()).filter(|_| taken == Taken::In));
        }
        nodes.start(&server, internal_port, &mut running).await?;
        service::write_client_file(&folder.data, &server, &url).await?;
        let context = if globals.server.data.is_none() { own_context(&folder.data) } else { None };
        greet(&url, folder, nodes, &images, context)
    };
    let started = tokio::select! {
        started = start => started.map(|()| true),
        _ = interrupt.caught() => Ok(false),
    };
    let ended = match started {
        Ok(true) => tokio::select! {
            _ = interrupt.caught() => Ok(Exit::Done),
            failed = running.failed() => Err(Failure::new(Exit::Failed, failed)),
        },
        Ok(false) => Ok(Exit::Done),
        Err(failure) => Err(failure),
    };
    if let (Ok(Exit::Done), false) = (&ended, args.keep || args.ephemeral) {
        stop_machines(folder, &server, &url, interrupt).await;
    }
    output::note("ending; Ctrl-C again ends at once");
    ClientFile::remove(&folder.data);
    let quietly = async {
        running.end().await;
        stop.cancel();
        serving.await
    };
    tokio::select! {
        served = quietly => match served {
            Ok(Ok(())) => ended,
            Ok(Err(error)) => Err(Failure::new(Exit::Failed, format!("the server failed: {error}"))),
            Err(error) => Err(Failure::new(Exit::Failed, format!("the server failed: {error}"))),
        },
        signal = interrupt.caught() => Ok(Exit::Signalled(signal)),
    }
}

/// What goes wrong with it is said, and no reason to stay.
async fn stop_machines(folder: &Folder, server: &Server, url: &str, interrupt: &mut Interrupt) {
    let stopped = match service::own_context(&folder.data, server, url).await.and_then(|context| context.client()) {
        Ok(client) => ending::stop_machines(&client, interrupt).await,
        Err(failure) => Err(failure),
    };
    if let Err(failure) = stopped {
        failure.tell();
    }
}

/// The address that was asked for; else the default one, else, if that is taken, a free one.
async fn listen(asked: Option<SocketAddr>) -> Result<TcpListener, Failure> {
    let default = SocketAddr::from(([127, 0, 0, 1], 9090));
    match asked {
        Some(asked) if !asked.ip().is_loopback() => {
            Err(Failure::usage(format!("{asked} is not a loopback address: `dev` serves this machine only"))
                .help("listen on 127.0.0.1, and reach it from elsewhere through a tunnel such as `ssh -L`"))
        }
        Some(asked) => bind(asked).await,
        None => match TcpListener::bind(default).await {
            Ok(listener) => Ok(listener),
            Err(_) => bind(SocketAddr::from(([127, 0, 0, 1], 0))).await,
        },
    }
}

fn images_folder(args: &Args) -> Result<Option<PathBuf>, Failure> {
    if let Some(named) = &args.images {
        return if named.is_dir() {
            Ok(Some(named.clone()))
        } else {
            Err(Failure::usage(format!("{} is not a folder", named.display())).help("`make image` fills target/images"))
        };
    }
    let known = ["target/images", "/usr/share/hostler/images"].map(PathBuf::from);
    Ok(known.into_iter().find(|path| path.is_dir()))
}

/// The usual folder's server is the context `dev`, from its first start on. One that cannot be written is no reason not
/// to start. What there is to say when another context is in use.
fn own_context(data: &Path) -> Option<String> {
    let place = Place::Local { data: data.to_owned() };
    let added = Book::change(&Book::path()?, |book| {
        if !book.contexts.contains_key(CONTEXT) {
            book.add(&CONTEXT.parse()?, place)?;
        }
        Ok(book.current.clone().filter(|current| current != CONTEXT))
    });
    match added {
        Ok(other) => other.map(|other| format!("{CONTEXT}; in use is {other}: `hostler context use {CONTEXT}`")),
        Err(failure) => {
            failure.tell();
            None
        }
    }
}

fn greet(url: &str, folder: &Folder, nodes: &Nodes, images: &[String], context: Option<String>) -> Result<(), Failure> {
    let images =
        if images.is_empty() { "none: `make image` makes the small one".to_owned() } else { images.join(", ") };
    let fields = [
        ("server", url.to_owned()),
        ("context", context.unwrap_or_default()),
        ("data", folder.data.display().to_string()),
        ("machines", nodes.describe()),
        ("images", images),
        ("try", "hostler run --rm -- uname -a".to_owned()),
    ];
    output::text(&output::fields(fields)).map_err(|error| Failure::new(Exit::Failed, error))
}
