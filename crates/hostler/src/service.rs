//! What `dev`, `server` and `agent` are made of: logs, listeners, a server over its folder, and the file that lets the
//! owner of that folder in.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use hostler_broker::Broker;
use hostler_control::{Keyring, Limits, Master, Oidc, Pace, RateLimits, Sealer, Server, ServerConfig, Sources};
use hostler_db::Mode;
use hostler_model::{
    Clock, Ids, PrincipalId, TenantId,
    api::strict,
    caller::Caller,
    catalogue::{Catalogue, KnownImage},
    defaults::Defaults,
    event::Actor,
    node::FreshnessPolicy,
    placement::Policy,
    role::Role,
};
use hostler_store::{NewApiToken, Now, ShippedImage, Store, Timing};
use hostler_trust::{
    AccessIssuer, ApiToken, Authority,
    file::{read_private, write_private},
};
use tokio::net::TcpListener;

use crate::{
    context::{ClientFile, Context, Way},
    exit::{Exit, Failure},
};

/// Logs go to stderr; the filter says how much, as `RUST_LOG` does elsewhere. One that makes no sense is refused.
pub fn logging(filter: &str) -> Result<(), Failure> {
    let filter = tracing_subscriber::EnvFilter::try_new(filter).map_err(|error| {
        Failure::usage(format!("the log filter {filter:?}: {error}")).help("write info, or info,hostler_store=debug")
    })?;
    // A second subscriber in the same process can only be a test's: then that one stays.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_writer(std::io::stderr)
        .try_init();
    Ok(())
}

/// Listens.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| {
        Failure::new(Exit::Failed, format!("{address} cannot be listened on: {error}"))
            .help("name another with --listen, such as 127.0.0.1:0 for a free port")
    })
}

/// Where it listens.
pub fn address(listener: &TcpListener) -> Result<SocketAddr, Failure> {
    listener.local_addr().map_err(|error| Failure::new(Exit::Failed, error))
}

/// What a server is opened with.
pub struct Opening<'a> {
    /// Its data folder.
    pub data: &'a Path,
    /// Where the rest is, which several servers may share.
    pub shared: Shared,
    /// What it calls itself in the tasks it signs.
    pub issuer: &'a str,
    /// How long an agent may be silent before its work is taken to be lost.
    pub lease: Duration,
    /// And before its node is.
    pub freshness: FreshnessPolicy,
    /// How machines are spread, and how much may be promised on a node.
    pub placement: Policy,
    /// How long what has ended is kept; `None`: for ever.
    pub history: Option<Duration>,
    /// Where imports of images may come from.
    pub sources: Sources,
    /// What machines get that do not say it.
    pub defaults: Defaults,
    /// Names for its certificate, beside loopback.
    pub names: Vec<String>,
    /// How long a node's certificate lives.
    pub node_validity: Duration,
    /// The message broker by which some nodes get their tasks.
    pub broker: Option<Broker>,
    /// An identity provider whose tokens are believed.
    pub oidc: Option<Oidc>,
    /// How often somebody may call.
    pub rates: RateLimits,
}

/// What several servers share.
#[derive(Clone, Debug, Default)]
pub struct Shared {
    /// A database of a server's, in place of a file in the data folder.
    pub database: Option<String>,
    /// The authority's folder, where it is not in the data folder.
    pub ca: Option<PathBuf>,
    /// The file of the master keys, where it is not in the data folder.
    pub master_key: Option<PathBuf>,
    /// A command in its place.
    pub master_key_command: Vec<String>,
    /// The images' bytes, where they are not in the data folder.
    pub blobs: Option<PathBuf>,
}

/// Opens the store, the authority and the keys in a data folder. Imports that the process before this one did are over
/// where whoever has the folder is alone with the database.
pub async fn open(opening: Opening<'_>) -> Result<Server, Failure> {
    let Opening {
        data,
        shared,
        issuer,
        lease,
        freshness,
        history,
        placement,
        sources,
        defaults,
        names,
        node_validity,
        broker,
        oidc,
        rates,
    } = opening;
    let (clock, ids) = (Clock::system(), Ids::system());
    let broken = |what: &str, error: &dyn std::fmt::Display| {
        Failure::new(Exit::Failed, format!("{what} in {} cannot be used: {error}", data.display()))
            .help("see that the folder can be written and its disk has room")
    };
    let config = hostler_store::Config {
        mode: Mode::Threads,
        clock: clock.clone(),
        ids: ids.clone(),
        timing: Timing { freshness, ..timing(lease, history) },
        placement,
    };
    let store = match &shared.database {
        Some(url) => connect(url, config).await?,
        None => {
            let store = Store::open(&data.join("hostler.db"), config).map_err(|e| broken("the database", &e))?;
            while store.end_earlier_imports().await.map_err(|e| broken("the database", &e))?.more {}
            store
        }
    };
    // The same time for all: that of the database, where it is a server's.
    let clock = Clock::from_fn({
        let store = store.clone();
        move || store.now()
    });
    let ca = shared.ca.unwrap_or_else(|| data.join("ca"));
    let authority = Authority::load_or_create(&ca, clock.now()).map_err(|e| broken("the certificate authority", &e))?;
    let access =
        AccessIssuer::open(issuer, &ca, clock.now()).map_err(|e| broken("the keys that sign access tokens", &e))?;
    if !store.claim(authority.mark()).await.map_err(|e| broken("the database", &e))? {
        let detail = "the database belongs to servers with another certificate authority";
        return Err(Failure::new(Exit::Failed, detail).help(format!(
            "put the folder of its certificate authority in the place of {}, or name it with --ca",
            ca.display()
        )));
    }
    let master = match shared.master_key_command {
        words if words.is_empty() => {
            let path = shared.master_key.unwrap_or_else(|| data.join("master.key"));
            Master::file(&path).map_err(|e| broken("the master key", &e))?
        }
        words => Master::Command(words),
    };
    let sealer = Sealer::new(store.clone(), master);
    let keys =
        Keyring::open(store.clone(), sealer.clone()).await.map_err(|e| broken("the keys that sign tasks", &e))?;
    Ok(Server::new(ServerConfig {
        store,
        clock,
        ids,
        authority,
        keys,
        sealer,
        node_validity,
        access,
        oidc,
        issuer: issuer.to_owned(),
        blobs: shared.blobs.unwrap_or_else(|| data.join("blobs")),
        sources,
        defaults,
        names,
        pace: Pace::default(),
        limits: Limits { rates, ..Limits::default() },
        broker,
    }))
}

async fn connect(url: &str, config: hostler_store::Config) -> Result<Store, Failure> {
    if !["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)) {
        return Err(Failure::usage("the database is no address of a PostgreSQL database")
            .help("write it as postgres://user@host/name"));
    }
    let away = |error: &dyn std::fmt::Display| {
        Failure::new(Exit::Unreachable, error)
            .help("see that PostgreSQL 15 or later runs there, that the database exists, and that this user may use it")
    };
    if hostler_db::backup::is_being_restored(url).map_err(|error| away(&error))? {
        return Err(Failure::new(
            Exit::Failed,
            "a restore into the database was broken off, and nothing says how far it came",
        )
        .help("run `hostler restore FOLDER` again, or `hostler restore --already` to go on with what is there"));
    }
    let store = Store::connect(url, Now::Database, config).map_err(|error| away(&error))?;
    store.follow_timeline().await.map_err(|error| away(&error))?;
    Ok(store)
}

/// With leases that long. What renews them is to come often enough that one or two that are late lose nothing: work that
/// nobody has given up would use its attempts up.
fn timing(lease: Duration, history: Option<Duration>) -> Timing {
    let usual = Timing::default();
    Timing { lease, heartbeat: usual.heartbeat.min(lease / 3), history, ..usual }
}

/// How long what has ended is kept: so many days, or for ever where none are said.
pub fn history(days: u32) -> Option<Duration> {
    (days > 0).then(|| Duration::from_secs(u64::from(days) * 24 * 60 * 60))
}

/// Where imports of images may come from: networks that are not the open internet, folders of this host, a file with
/// images to be known by name.
pub fn sources(allow: &[String], roots: &[String], catalogue: Option<&Path>) -> Result<Sources, Failure> {
    let network = |text: &String| {
        text.parse().map_err(|error| {
            Failure::usage(format!("{text:?} is no network: {error}")).help("write it as 10.0.0.0/8 or fd00::/8")
        })
    };
    let allow = allow.iter().map(network).collect::<Result<_, Failure>>()?;
    let known = catalogue.map(read_catalogue).transpose()?.unwrap_or_default();
    Ok(Sources { allow, roots: roots.iter().map(PathBuf::from).collect(), files: Vec::new(), catalogue: known })
}

/// The built-in catalogue, with the images of a file in front.
fn read_catalogue(path: &Path) -> Result<Catalogue, Failure> {
    let bad = |why: &dyn std::fmt::Display| {
        Failure::usage(format!("the catalogue {} cannot be read: {why}", path.display())).help(
            "it is a JSON list of {\"name\", \"title\", \"url\", \"sha256\" or \"checksums\", \"aliases\"}; `hostler image \
             catalogue -o json` prints one",
        )
    };
    let text = std::fs::read(path).map_err(|error| bad(&error))?;
    let value: serde_json::Value = serde_json::from_slice(&text).map_err(|error| bad(&error))?;
    let known: Vec<KnownImage> = strict(&value).map_err(|refusal| bad(&refusal.detail))?;
    Catalogue::default().with(known).map_err(|refusal| bad(&refusal.detail))
}

/// Takes in every image of a folder; hands back what to ask for them by. A name that somebody gave to another image stays
/// that one's.
pub async fn import(folder: &Path, server: &Server) -> Result<Vec<String>, Failure> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
        .map_err(|error| Failure::new(Exit::Failed, format!("{} cannot be read: {error}", folder.display())))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.join("image.json").is_file())
        .collect();
    found.sort();
    let mut names = Vec::new();
    for path in found {
        let shipped = server.app().import_dir(TenantId::DEFAULT, &path, Actor::system()).await.map_err(|error| {
            let source = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
            Failure::new(Exit::Failed, format!("the image in {} cannot be taken in: {error}{source}", path.display()))
                .help("make it anew, or name another folder with --images")
        })?;
        let ShippedImage { image, named } = shipped;
        let name = image.manifest.name;
        if named {
            names.push(name);
            continue;
        }
        let digest: String = image.digest.0.chars().take(12).collect();
        tracing::warn!(
            name,
            digest = image.digest.0,
            "the name of a shipped image stands for another one, and is left to it"
        );
        names.push(format!("{digest} ({name} stands for another image)"));
    }
    Ok(names)
}

/// The file is written last: who finds it finds a server.
pub async fn write_client_file(data: &Path, server: &Server, url: &str) -> Result<(), Failure> {
    let token = token(data, server).await?;
    let file = ClientFile { url: url.to_owned(), token: token.reveal() };
    file.save(data).map_err(|error| Failure::new(Exit::Failed, format!("{error:#}")))
}

/// What reaches this server, whatever the environment says of others.
pub async fn own_context(data: &Path, server: &Server, url: &str) -> Result<Context, Failure> {
    let token = token(data, server).await?.reveal().into();
    let way = Way { allow_plain_http: true, ..Way::default() };
    Ok(Context { name: None, url: url.to_owned(), token, token_file: None, way })
}

/// One token for the life of the folder, in a file that only its owner can read: a new one with each start would leave the
/// old ones good for ever.
async fn token(data: &Path, server: &Server) -> Result<ApiToken, Failure> {
    let app = server.app();
    let failed =
        |error: &dyn std::fmt::Display| Failure::new(Exit::Failed, format!("there is no token to be had: {error}"));
    let path = data.join("token");
    if let Some(token) =
        read_private(&path).map_err(|e| failed(&e))?.and_then(|text| text.trim().parse::<ApiToken>().ok())
    {
        let known = app.store.authenticate(token.hash().to_string()).await.map_err(|e| failed(&e))?;
        if known.is_some_and(|(_, revoked_at)| revoked_at.is_none()) {
            return Ok(token);
        }
    }
    let token = ApiToken::generate(&app.ids);
    write_private(&path, token.reveal().as_bytes()).map_err(|e| failed(&e))?;
    let now = app.clock.now();
    let caller = Caller::new(app.ids.next::<PrincipalId>(now), TenantId::DEFAULT, Role::PlatformAdmin);
    let new = NewApiToken::of_system(app.ids.next(now), token.hash().to_string(), caller, "the token file");
    let made = app.store.create_api_token(new).await.map_err(|e| failed(&e))?;
    made.map_err(|e| failed(&e))?;
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_outlives_two_heartbeats_that_are_late() {
        for seconds in [1, 3, 15, 30, 3600] {
            let Timing { lease, heartbeat, .. } = timing(Duration::from_secs(seconds), None);
            assert_eq!(lease, Duration::from_secs(seconds));
            assert!(heartbeat * 3 <= lease && heartbeat <= Duration::from_secs(5), "{seconds}: {heartbeat:?}");
        }
        assert_eq!(timing(Duration::from_secs(30), history(30)), Timing::default());
        assert_eq!(history(0), None);
    }
}
