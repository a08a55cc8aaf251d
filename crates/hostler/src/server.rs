//! `hostler server`: the control plane in a process of its own.
//!
//! ```text
//! settings ─► lock the folder ─► store · authority · keys ─► people's API on `listen`, agents over mTLS on `agents_listen`
//! told to end: requests are let end; machines and agents go on, and come back to the next server over the same folder
//! ```
//!
//! Who may read its folder may be its administrator: `client.json` there holds a token.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use hostler_broker::Broker;
use hostler_control::{Oidc, RateLimits, Sources};
use hostler_model::{
    Refusal,
    defaults::Defaults,
    node::{FreshnessPolicy, Overcommit},
    placement::{Policy, Weights},
};
use hostler_trust::tls::PublicCertificate;
use tokio_util::sync::CancellationToken;

use crate::{
    broker::{Said, broker},
    context::ClientFile,
    default_image::{self, DefaultImage},
    exit::{Exit, Failure},
    folder::{Folder, Stay},
    interrupt::Interrupt,
    oidc, output,
    service::{self, Opening, Shared, address, bind},
    settings::{FileArgs, Server, ServerFlags, in_file, layers},
};

/// What it calls itself in the tasks it signs.
const ISSUER: &str = "hostler";

const EXAMPLES: &str = "\
Examples:
  hostler server                                        as /etc/hostler/hostler.toml says
  hostler server --data ./server --listen 127.0.0.1:9090
  hostler server --agents-listen 0.0.0.0:9091 --names hostler.example.com
  hostler server --amqp-file /etc/hostler/amqp          nodes may get their tasks by RabbitMQ

Then, for each host:
  hostler --data /var/lib/hostler/server node token     a token; the host joins with `hostler agent`";

/// The flags of `server`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    file: FileArgs,

    #[command(flatten)]
    flags: ServerFlags,
}

/// Runs until it is told to end.
pub async fn run(args: Args) -> Result<Exit, Failure> {
    let settings: Server = layers::merged(&args.flags, &layers::File::read(&args.file)?)?;
    service::logging(&settings.log)?;
    #[cfg(feature = "crash-points")]
    crate::crash::arm();
    let Examined { default_image, sources, defaults, oidc, placement, certificate } = examine(&settings)?;
    let scheme = if certificate.is_some() { "https" } else { "http" };
    hostler_agent::host::process::raise_file_limit();
    let mut interrupt = Interrupt::listen()?;
    let folder = Folder::take(settings.data.clone(), Stay::Stays)?;
    let (api, agents) = (bind(settings.listen).await?, bind(settings.agents_listen).await?);
    let server = service::open(Opening {
        data: &folder.data,
        shared: shared(&settings),
        issuer: ISSUER,
        lease: Duration::from_secs(settings.lease_seconds),
        freshness: FreshnessPolicy::lost_after(Duration::from_secs(settings.node_lost_seconds)),
        placement,
        history: service::history(settings.history_days),
        sources,
        defaults,
        names: settings.names.0.clone(),
        node_validity: Duration::from_secs(settings.node_certificate_seconds),
        broker: by_broker(&settings)?,
        oidc,
        rates: rates(&settings),
    })
    .await?;
    let server = match certificate {
        Some(certificate) => server.with_certificate(certificate),
        None => server,
    };
    if settings.images.is_dir() {
        service::import(&settings.images, &server).await?;
    }
    if let Some(image) = &default_image {
        tokio::select! {
            taken = image.take_in(&folder.data, &server) => default_image::do_without(taken?, &settings.machines, &server),
            signal = interrupt.caught() => return Ok(Exit::Signalled(signal)),
        }
    }
    let url = format!("{scheme}://{}", reached(&settings, address(&api)?));
    greet(&url, &folder, address(&agents)?)?;
    let stop = CancellationToken::new();
    let mut serving = tokio::spawn({
        let (server, stop) = (server.clone(), stop.clone());
        async move { server.serve(api, agents, stop).await }
    });
    service::write_client_file(&folder.data, &server, &url).await?;
    let failed = |error: &dyn std::fmt::Display| Failure::new(Exit::Failed, format!("the server failed: {error}"));
    let ended = |ended: Result<Result<(), _>, _>| match ended {
        Ok(Ok(())) => Ok(Exit::Done),
        Ok(Err(error)) => Err(failed(&error)),
        Err(error) => Err(failed(&error)),
    };
    tokio::select! {
        served = &mut serving => return ended(served),
        _ = interrupt.caught() => output::note("ending; Ctrl-C again ends at once"),
    }
    ClientFile::remove(&folder.data);
    stop.cancel();
    tokio::select! {
        served = serving => ended(served),
        signal = interrupt.caught() => Ok(Exit::Signalled(signal)),
    }
}

/// The broker by which nodes may get their tasks.
fn by_broker(settings: &Server) -> Result<Option<Broker>, Failure> {
    let Server { amqp, amqp_file: file, amqp_authorities: authorities, .. } = settings;
    broker(&Said { section: "server", amqp, file, authorities }, "hostler server".to_owned())
}

/// Calls the broker that is named, if one is; what was seen there. A server does without it until it is there.
pub async fn reach_broker(settings: &Server) -> Result<Option<String>, Failure> {
    let Some(broker) = by_broker(settings)? else { return Ok(None) };
    hostler_control::reach_broker(&broker).await.map(Some).map_err(|error| {
        Failure::new(Exit::Unreachable, error).help(
            "see that it runs, and that the address names its virtual host and a user of it; a server starts without \
                   it, and tries until it is there",
        )
    })
}

fn shared(settings: &Server) -> Shared {
    let named = |path: &Path| Some(path.to_owned()).filter(|path| !path.as_os_str().is_empty());
    Shared {
        database: Some(settings.database.clone()).filter(|url| !url.is_empty()),
        ca: named(&settings.ca),
        master_key: named(&settings.master_key),
        master_key_command: settings.master_key_command.0.clone(),
        blobs: named(&settings.blobs),
    }
}

/// What the settings come to, with the files that they name.
#[derive(Debug)]
pub struct Examined {
    default_image: Option<DefaultImage>,
    sources: Sources,
    defaults: Defaults,
    oidc: Option<Oidc>,
    placement: Policy,
    certificate: Option<Arc<PublicCertificate>>,
}

/// Refuses settings with which no server would start, before anything is made. It looks at files, and changes none.
pub fn examine(settings: &Server) -> Result<Examined, Failure> {
    refuse_the_open(settings)?;
    let default_image = DefaultImage::of(&settings.machines, in_file)?;
    let catalogue = Some(settings.image_catalogue.as_path()).filter(|file| file.exists());
    let named = service::sources(&settings.image_source_allow.0, &settings.image_roots.0, catalogue)?;
    let files = default_image.as_ref().map(DefaultImage::files).unwrap_or_default();
    Ok(Examined {
        sources: Sources { files, ..named },
        oidc: oidc::provider(settings)?,
        placement: placement(settings)?,
        certificate: certificate(settings)?,
        defaults: Defaults {
            limits: settings.tenant_limits().map_err(|refusal| Failure::usage(in_file(&refusal.detail)))?,
            ..default_image::defaults(&settings.machines, default_image.as_ref(), in_file)?
        },
        default_image,
    })
}

/// How machines are spread.
fn placement(settings: &Server) -> Result<Policy, Failure> {
    let overcommit = Overcommit {
        vcpus_percent: settings.overcommit_vcpus_percent,
        memory_percent: settings.overcommit_memory_percent,
        disk_percent: settings.overcommit_disk_percent,
    };
    let weights = Weights {
        vcpus: settings.placement_weight_vcpus,
        memory: settings.placement_weight_memory,
        disk: settings.placement_weight_disk,
        image: settings.placement_weight_image,
    };
    let refused = |refusal: Refusal| Failure::usage(refusal.detail).help("name weights from 0 to 1, such as 0.5");
    overcommit.check().and(weights.check()).map_err(refused)?;
    Ok(Policy { overcommit, weights })
}

/// Tokens travel in every request: without TLS they must not leave the machine, unless somebody says that they may.
fn refuse_the_open(settings: &Server) -> Result<(), Failure> {
    if settings.listen.ip().is_loopback() || !settings.tls_certificate.as_os_str().is_empty() {
        return Ok(());
    }
    if settings.insecure_listen {
        tracing::warn!(listen = %settings.listen, "tokens travel unencrypted to this address");
        return Ok(());
    }
    Err(Failure::usage(format!("{} is not loopback, and the API speaks plain HTTP: tokens could be read on the way", settings.listen))
        .help("give it a certificate (tls_certificate and tls_key), or listen on 127.0.0.1 behind a proxy that does TLS, or through `ssh -L`; --insecure-listen where the network is trusted"))
}

/// The certificate of the API, where one is named.
fn certificate(settings: &Server) -> Result<Option<Arc<PublicCertificate>>, Failure> {
    let (certificate, key) = (&settings.tls_certificate, &settings.tls_key);
    match (certificate.as_os_str().is_empty(), key.as_os_str().is_empty()) {
        (true, true) => Ok(None),
        (false, false) => PublicCertificate::open(certificate, key).map(Some).map_err(|error| {
            Failure::usage(error).help(format!("see {} and {}", in_file("tls_certificate"), in_file("tls_key")))
        }),
        (true, false) | (false, true) => Err(Failure::usage("a certificate needs its key, and a key its certificate")
            .help(format!("name both {} and {}, or neither", in_file("tls_certificate"), in_file("tls_key")))),
    }
}

/// How often somebody may call.
fn rates(settings: &Server) -> RateLimits {
    RateLimits {
        token_per_second: settings.rate_per_token,
        address_per_second: settings.rate_per_address,
        burst_seconds: settings.rate_burst_seconds,
    }
}

/// By what a client reaches the API: with a certificate by the first name of the server, which stands in it.
fn reached(settings: &Server, address: SocketAddr) -> String {
    match settings.names.0.first().filter(|_| !settings.tls_certificate.as_os_str().is_empty()) {
        Some(name) => format!("{name}:{}", address.port()),
        None => address.to_string(),
    }
}

fn greet(url: &str, folder: &Folder, agents: SocketAddr) -> Result<(), Failure> {
    let data = folder.data.display();
    let fields = [
        ("server", url.to_owned()),
        ("agents", format!("https://{agents}")),
        ("data", data.to_string()),
        ("try", format!("hostler --data {data} node token")),
    ];
    Ok(output::text(&output::fields(fields))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_api_stays_on_loopback_unless_somebody_says_otherwise() {
        let at = |listen: &str, insecure_listen| Server {
            listen: listen.parse().unwrap(),
            insecure_listen,
            ..Server::default()
        };
        assert!(refuse_the_open(&at("127.0.0.1:9090", false)).is_ok());
        assert!(refuse_the_open(&at("[::1]:9090", false)).is_ok());
        let failure = refuse_the_open(&at("0.0.0.0:9090", false)).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.lines()[1].1.contains("--insecure-listen"));
        assert!(refuse_the_open(&at("0.0.0.0:9090", true)).is_ok());
    }
}
