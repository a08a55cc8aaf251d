//! `hostler dev`: a server and an agent in one process, over one folder, on loopback only.
//!
//! ```text
//! lock the folder ─► store · authority · keys ─► server (API, mTLS listener, loops) ─► images ─► agents ─► client.json
//! told to end:  client.json goes ─► agents end ─► server ends ─► (--ephemeral: machines and folder go)
//! ```
//!
//! Nothing is simulated between the two: the agent joins with a token and a certificate request, and speaks mTLS.

mod folder;
mod nodes;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use hostler_control::{Limits, Pace, Server, ServerConfig};
use hostler_model::{Clock, Ids, PrincipalId, TenantId, event::Actor, kind::Role};
use hostler_sqlite::Mode;
use hostler_store::{Caller, NewApiToken, Store, Timing};
use hostler_trust::{
    ApiToken, Authority, TaskSigner,
    file::{read_private, write_private},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::{
    folder::Folder,
    nodes::{Nodes, Running},
};
use crate::{
    cli::Globals,
    context::ClientFile,
    exit::{Exit, Failure},
    interrupt::Interrupt,
    output,
};

/// What this control plane calls itself in the tasks it signs.
const ISSUER: &str = "hostler-dev";

/// The flags of `dev`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  hostler dev                                 on http://127.0.0.1:9090, or a free port if that one is taken
  hostler dev --ephemeral                     its machines and its folder go when it ends
  hostler dev --driver sim --nodes 4          four nodes that only pretend, to try placement and load

Ctrl-C ends it and leaves its machines running; the next `hostler dev` takes them up again.")]
pub struct Args {
    /// Where the API listens: loopback only [default: 127.0.0.1:9090, or a free port]
    #[arg(long, env = "HOSTLER_LISTEN", value_name = "ADDRESS")]
    listen: Option<SocketAddr>,

    /// End the machines and remove the folder when it ends
    #[arg(long)]
    ephemeral: bool,

    /// What runs machines
    #[arg(long, env = "HOSTLER_DRIVER", value_enum, default_value_t = Driver::Qemu)]
    driver: Driver,

    /// How QEMU runs them; auto takes KVM only where it works
    #[arg(long, env = "HOSTLER_ACCELERATION", value_enum, default_value_t = Acceleration::Auto)]
    acceleration: Acceleration,

    /// How many nodes, with the simulated driver
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
    nodes: u16,

    /// A folder with images to offer [default: target/images here, or /usr/share/hostler/images]
    #[arg(long, env = "HOSTLER_IMAGES", value_name = "DIR")]
    images: Option<PathBuf>,

    /// How long an agent may be silent before its work is taken to be lost, in seconds
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    lease_seconds: u64,
}

/// What runs machines.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum Driver {
    /// QEMU: real machines
    Qemu,
    /// A simulation, for trying and testing
    Sim,
}

/// How QEMU runs machines.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum Acceleration {
    /// KVM where the processor and /dev/kvm allow it, else TCG
    Auto,
    /// The processor's own virtualisation
    Kvm,
    /// Software emulation
    Tcg,
}

/// Runs until it is told to end.
pub async fn run(args: Args, globals: &Globals) -> Result<Exit, Failure> {
    logging();
    #[cfg(feature = "crash-points")]
    crate::crash::arm();
    if args.nodes > 1 && args.driver == Driver::Qemu {
        return Err(
            Failure::usage("--nodes is for the simulated driver: one host is one node").help("add --driver sim")
        );
    }
    let mut interrupt = Interrupt::listen()?;
    let folder = Folder::take(globals.server.data()?, args.ephemeral)?;
    let outcome = match Nodes::new(&args, &folder).await {
        Ok(nodes) => {
            let outcome = work(&args, &folder, &nodes, &mut interrupt).await;
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
    }
    outcome
}

/// Everything between the folder's taking and its leaving.
async fn work(args: &Args, folder: &Folder, nodes: &Nodes, interrupt: &mut Interrupt) -> Result<Exit, Failure> {
    let api = listen(args.listen).await?;
    let internal = bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    let (url, internal_port) = (format!("http://{}", address(&api)?), address(&internal)?.port());
    let server = server(args, folder)?;
    let stop = CancellationToken::new();
    let serving = tokio::spawn({
        let (server, stop) = (server.clone(), stop.clone());
        async move { server.serve(api, internal, stop).await }
    });
    let mut running = Running::none(stop.child_token());
    let start = async {
        let images = import(args, &server).await?;
        nodes.start(&server, internal_port, &mut running).await?;
        write_client_file(folder, &server, &url).await?;
        greet(&url, folder, nodes, &images)
    };
    let started = tokio::select! {
        started = start => started.map(|()| true),
        _ = interrupt.caught() => Ok(false),
    };
    let ended = match started {
        Ok(true) => tokio::select! {
            _ = interrupt.caught() => {
                output::note("ending; Ctrl-C again ends at once");
                Ok(Exit::Done)
            }
            failed = running.failed() => Err(Failure::new(Exit::Failed, failed)),
        },
        Ok(false) => Ok(Exit::Done),
        Err(failure) => Err(failure),
    };
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

/// Logs go to stderr; `HOSTLER_LOG` says how much, as `RUST_LOG` does elsewhere.
fn logging() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("HOSTLER_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    // A second subscriber in the same process can only be a test's: then that one stays.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_writer(std::io::stderr)
        .try_init();
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

async fn bind(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| {
        Failure::new(Exit::Failed, format!("{address} cannot be listened on: {error}"))
            .help("name another with --listen, such as 127.0.0.1:0 for a free port")
    })
}

fn address(listener: &TcpListener) -> Result<SocketAddr, Failure> {
    listener.local_addr().map_err(|error| Failure::new(Exit::Failed, error))
}

fn server(args: &Args, folder: &Folder) -> Result<Server, Failure> {
    let (clock, ids) = (Clock::system(), Ids::system());
    let broken = |what: &str, error: &dyn std::fmt::Display| {
        Failure::new(Exit::Failed, format!("{what} in {} cannot be used: {error}", folder.data.display()))
            .help("see that the folder can be written and its disk has room")
    };
    let timing = Timing { lease: Duration::from_secs(args.lease_seconds), ..Timing::default() };
    let config = hostler_store::Config { mode: Mode::Threads, clock: clock.clone(), ids: ids.clone(), timing };
    let store = Store::open(&folder.data.join("hostler.db"), config).map_err(|e| broken("the database", &e))?;
    let ca = folder.data.join("ca");
    let authority = Authority::load_or_create(&ca, clock.now()).map_err(|e| broken("the certificate authority", &e))?;
    let signer = TaskSigner::load_or_create(&ca).map_err(|e| broken("the key that signs tasks", &e))?;
    Ok(Server::new(ServerConfig {
        store,
        clock,
        ids,
        authority,
        signer,
        issuer: ISSUER.to_owned(),
        blobs: folder.data.join("blobs"),
        names: Vec::new(),
        pace: Pace::default(),
        limits: Limits::default(),
    }))
}

/// Takes in every image of the images folder; hands back their names.
async fn import(args: &Args, server: &Server) -> Result<Vec<String>, Failure> {
    let Some(folder) = images_folder(args)? else { return Ok(Vec::new()) };
    let mut found: Vec<PathBuf> = std::fs::read_dir(&folder)
        .map_err(|error| Failure::new(Exit::Failed, format!("{} cannot be read: {error}", folder.display())))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.join("image.json").is_file())
        .collect();
    found.sort();
    let mut names = Vec::new();
    for path in found {
        let image = server.app().import_dir(TenantId::DEFAULT, &path, Actor::system()).await.map_err(|error| {
            let source = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
            Failure::new(Exit::Failed, format!("the image in {} cannot be taken in: {error}{source}", path.display()))
                .help("make it anew, or name another folder with --images")
        })?;
        names.push(image.manifest.name);
    }
    Ok(names)
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

/// The file is written last: who finds it finds a server.
async fn write_client_file(folder: &Folder, server: &Server, url: &str) -> Result<(), Failure> {
    let token = token(folder, server).await?;
    let file = ClientFile { url: url.to_owned(), token: token.reveal() };
    file.save(&folder.data).map_err(|error| Failure::new(Exit::Failed, format!("{error:#}")))
}

/// One token for the life of the folder, in a file that only its owner can read: a new one with each start would leave the
/// old ones good for ever.
async fn token(folder: &Folder, server: &Server) -> Result<ApiToken, Failure> {
    let app = server.app();
    let failed =
        |error: &dyn std::fmt::Display| Failure::new(Exit::Failed, format!("there is no token to be had: {error}"));
    let path = folder.data.join("token");
    if let Some(token) =
        read_private(&path).map_err(|e| failed(&e))?.and_then(|text| text.trim().parse::<ApiToken>().ok())
    {
        let known = app.store.authenticate(token.hash().to_string()).await.map_err(|e| failed(&e))?;
        if known.is_some() {
            return Ok(token);
        }
    }
    let token = ApiToken::generate(&app.ids);
    write_private(&path, token.reveal().as_bytes()).map_err(|e| failed(&e))?;
    let caller = Caller {
        principal: app.ids.next::<PrincipalId>(app.clock.now()),
        tenant: TenantId::DEFAULT,
        role: Role::PlatformAdmin,
    };
    let new = NewApiToken { token_hash: token.hash().to_string(), caller, label: "hostler dev".to_owned() };
    app.store.create_api_token(new).await.map_err(|e| failed(&e))?;
    Ok(token)
}

fn greet(url: &str, folder: &Folder, nodes: &Nodes, images: &[String]) -> Result<(), Failure> {
    let images =
        if images.is_empty() { "none: `make image` makes the small one".to_owned() } else { images.join(", ") };
    let fields = [
        ("server", url.to_owned()),
        ("data", folder.data.display().to_string()),
        ("machines", nodes.describe()),
        ("images", images),
        ("try", "hostler run --rm -- uname -a".to_owned()),
    ];
    output::text(&output::fields(fields)).map_err(|error| Failure::new(Exit::Failed, error))
}
