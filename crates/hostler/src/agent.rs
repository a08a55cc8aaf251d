//! `hostler agent`: this host's machines, for a server elsewhere. It joins once with a token; then its certificate is who
//! it is. Its end, however it comes, leaves the machines running: the next agent over the same folder takes them up. Only when
//! the host itself goes down they are asked to turn themselves off.

mod host;
mod join;

use std::{fs, path::Path, sync::Arc};

use hostler_agent::{
    Agent as Node, AgentConfig, Connect, enrol,
    hypervisor::{
        Hypervisor,
        sim::{Sim, SimConfig, SimHost},
    },
};
use hostler_broker::Broker;
use hostler_link::Link;
use hostler_model::{Clock, name::Name};
use hostler_trust::{
    Credentials, JoinToken,
    tls::{self, ServerTrust},
};
use tokio_util::sync::CancellationToken;

use crate::{
    broker::{Road, Said, broker},
    driver::{self, Driver, host_name},
    exit::{Exit, Failure},
    folder::{Folder, Sockets, Stay},
    interrupt::Interrupt,
    output, service,
    settings::{Agent, AgentFlags, FileArgs, layers},
};

const EXAMPLES: &str = "\
Examples:
  hostler agent join TOKEN --server https://hostler.example.com:9091
                                             joins, and works until it is told to end
  hostler agent --server https://hostler.example.com:9091 --join-token-file token
  hostler agent --transport amqp --amqp-file /etc/hostler/amqp
                                             its tasks come by RabbitMQ
  hostler agent                              as /etc/hostler/hostler.toml says, once it has joined

The token is from `hostler node token` on the server's side; it works once, within 15 minutes.";

/// The flags of `agent`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,

    #[command(flatten)]
    file: FileArgs,

    #[command(flatten)]
    flags: AgentFlags,
}

#[derive(clap::Subcommand, Debug)]
enum Verb {
    /// Make this host a node, with a token that `hostler node token` made, and work
    Join(join::Args),
}

/// Until when it runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Until {
    /// Until it is told to end.
    Told,
    /// Until it has joined.
    Joined,
}

/// Runs until it is told to end.
pub async fn run(args: Args) -> Result<Exit, Failure> {
    match args.verb {
        Some(Verb::Join(join)) => join::run(join).await,
        None => {
            let settings: Agent = layers::merged(&args.flags, &layers::File::read(&args.file)?)?;
            let token = token(&settings.join_token_file)?;
            work(settings, token, Until::Told).await
        }
    }
}

async fn work(mut settings: Agent, token: Option<JoinToken>, until: Until) -> Result<Exit, Failure> {
    service::logging(&settings.log)?;
    #[cfg(feature = "crash-points")]
    crate::crash::arm();
    let mut interrupt = Interrupt::listen()?;
    let name = name(&settings)?;
    let folder = Folder::take(settings.data.clone(), Stay::Stays)?;
    if settings.server.is_empty() {
        settings.server = join::server(&folder.data)?;
    }
    let hypervisor = hypervisor(&settings, &folder).await?;
    greet(&settings, &folder, &name, hypervisor.as_ref())?;
    let config = config(&settings, &folder, &name, token, hypervisor)?;
    let agent = Node::start(config).await.map_err(failed)?;
    let (stop, machines, mut joined) = (CancellationToken::new(), agent.machines(), agent.node());
    let running = agent.run(stop.clone());
    tokio::pin!(running);
    tokio::select! {
        ended = &mut running => return ended.map(|()| Exit::Done).map_err(failed),
        _ = interrupt.caught() => {}
        _ = joined.wait_for(Option::is_some), if until == Until::Joined => {
            stop.cancel();
            return running.await.map(|()| Exit::Done).map_err(failed);
        }
    }
    let ending = async {
        if host::goes_down().await {
            output::note("the host goes down; its machines are asked to turn themselves off");
            machines.host_goes_down(host::GRACE).await;
        } else {
            output::note("ending; the machines go on. Ctrl-C again ends at once");
        }
        stop.cancel();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        ended = running => ended.map(|()| Exit::Done).map_err(failed),
        () = ending => Ok(Exit::Done),
        signal = interrupt.caught() => Ok(Exit::Signalled(signal)),
    }
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Failed, format!("the agent failed: {error}"))
}

fn name(settings: &Agent) -> Result<Name, Failure> {
    if settings.name.is_empty() {
        return Ok(host_name());
    }
    let name = settings.name.parse();
    name.map_err(|refusal: hostler_model::Refusal| Failure::usage(format!("agent.name: {}", refusal.detail)))
}

async fn hypervisor(settings: &Agent, folder: &Folder) -> Result<Arc<dyn Hypervisor>, Failure> {
    match settings.driver {
        Driver::Qemu => {
            let run = Some(settings.run.as_path()).filter(|run| !run.as_os_str().is_empty());
            let sockets = Sockets::of(folder, run)?;
            Ok(Arc::new(driver::qemu(&folder.data, &sockets.run, settings.acceleration).await?))
        }
        Driver::Sim => Ok(Arc::new(Sim::new(SimConfig::steady(1), SimHost::new()))),
    }
}

fn config(
    settings: &Agent,
    folder: &Folder,
    name: &Name,
    token: Option<JoinToken>,
    hypervisor: Arc<dyn Hypervisor>,
) -> Result<AgentConfig, Failure> {
    // Looked at now, so that an address that makes no sense is no endless wait for a server.
    let http = tls::plain_http_client().map_err(failed)?;
    Link::http(http, &settings.server)
        .map_err(|error| Failure::usage(format!("agent.server: {error}")).help("write https://HOST:9091"))?;
    let join = match Credentials::load(&enrol::folder(&folder.data)).map_err(failed)? {
        // A node that has joined needs no token: what became of its file is nobody's concern.
        Some(_) => None,
        None => token,
    };
    let connect = connect(settings.server.clone(), join.clone());
    let usual = AgentConfig::new(&folder.data, name.as_str(), connect, hypervisor);
    let asked = [settings.boot_slots, settings.disk_slots, settings.quick_slots, settings.guest_slots];
    let asked = asked.map(|slots| Some(slots).filter(|slots| *slots > 0));
    let broker = by_broker(settings, name)?;
    Ok(AgentConfig { join, broker, slots: driver::slots(asked, usual.slots), ..usual })
}

/// The broker, where tasks come by it.
fn by_broker(settings: &Agent, name: &Name) -> Result<Option<Broker>, Failure> {
    let Agent { amqp, amqp_file: file, amqp_authorities: authorities, .. } = settings;
    match settings.transport {
        Road::Poll => Ok(None),
        Road::Amqp => {
            match broker(&Said { section: "agent", amqp, file, authorities }, format!("hostler agent {name}"))? {
                Some(broker) => Ok(Some(broker)),
                None => Err(Failure::usage("agent.transport is amqp, and no broker is named")
                    .help("say where it is with amqp_file or amqp")),
            }
        }
    }
}

/// The token of the first start. A file that is not there is no error: a node that has joined needs it no more.
fn token(file: &Path) -> Result<Option<JoinToken>, Failure> {
    if file.as_os_str().is_empty() {
        return Ok(None);
    }
    match fs::read_to_string(file) {
        Ok(text) => text.trim().parse().map(Some).map_err(|error| {
            Failure::usage(format!("{}: {error}", file.display())).help("`hostler node token` makes another")
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::usage(format!("the join token cannot be read from {}: {error}", file.display()))),
    }
}

/// The way to the server, known by its authority: the one in the join token before the join, the one in the node's own
/// credentials after it.
fn connect(server: String, join: Option<JoinToken>) -> Connect {
    let clock = Clock::system();
    Arc::new(move |credentials: Option<&Credentials>| {
        let known = credentials.map(Credentials::authority_fingerprint).or(join.as_ref().map(JoinToken::authority));
        let authority = known.ok_or("there is no join token")?;
        let config = tls::client_config(ServerTrust::Fingerprint(authority), credentials, &clock)?;
        Ok(Link::http(tls::http_client(config)?, &server)?)
    })
}

fn greet(settings: &Agent, folder: &Folder, name: &Name, hypervisor: &dyn Hypervisor) -> Result<(), Failure> {
    let machines =
        format!("{}, {} ({})", hypervisor.version(), hypervisor.acceleration(), hypervisor.acceleration_reason());
    let fields = [
        ("node", name.to_string()),
        ("server", settings.server.clone()),
        ("data", folder.data.display().to_string()),
        ("machines", machines),
    ];
    Ok(output::text(&output::fields(fields))?)
}
