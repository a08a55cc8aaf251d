//! The settings of the long-running verbs, `server` and `agent`: each key is said once, here, and is a flag, a variable
//! and a key of the configuration file by that. Some are flags of `dev` too, which reads no file.
//!
//! ```text
//! --listen  >  HOSTLER_SERVER_LISTEN  >  [server] listen in the file  >  the default
//! ```
//!
//! The file is `--config FILE`, `HOSTLER_CONFIG`, or `/etc/hostler/hostler.toml` where that is there. A key that it does
//! not know is refused. [`layers`] puts them on each other; [`example`] writes the file that is shipped.

pub mod example;
pub mod layers;

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use clap::builder::{BoolishValueParser, StringValueParser, TypedValueParser};
use hostler_model::{Refusal, tenant::Limits};
use serde::{Deserialize, Serialize};

use crate::{
    broker::Road,
    driver::{Acceleration, Driver},
};

/// The configuration file, where none is named.
pub const FILE: &str = "/etc/hostler/hostler.toml";

/// Keys that go together: what they are when nothing says otherwise, and the flags that are the same keys.
pub trait Keys: Serialize + for<'de> Deserialize<'de> + Default {
    /// The keys as flags.
    type Flags: clap::Args + Serialize + Default;
    /// The keys in their order.
    fn keys() -> Vec<Key>;
}

/// A section of the file.
pub trait Section: Keys {
    /// Its name in the file, which is the verb's.
    const NAME: &'static str;
}

/// A key, as the file's example tells it.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its name in the file.
    pub name: &'static str,
    /// What it is for, line by line.
    pub doc: &'static [&'static str],
}

macro_rules! keys {
    (
        $(#[doc = $about:literal])* $keys:ident, $flags:ident {
            $( $(#[doc = $doc:literal])* $(#[arg($($arg:tt)*)])? $key:ident: $type:ty = $default:expr; )*
            $( ..$others:ident: $other:ident, $other_flags:ident; )?
        }
    ) => {
        $(#[doc = $about])*
        #[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
        pub struct $keys {
            $( $(#[doc = $doc])* pub $key: $type, )*
            $(
                /// Keys that another verb has too.
                #[serde(flatten)]
                pub $others: $other,
            )?
        }

        /// The same keys as flags: what is given, and nothing else.
        #[derive(Clone, Debug, Default, clap::Args, Serialize)]
        pub struct $flags {
            $(
                $(#[doc = $doc])*
                #[arg(long $(, $($arg)*)?)]
                #[serde(skip_serializing_if = "Option::is_none")]
                pub $key: Option<$type>,
            )*
            $(
                #[command(flatten)]
                #[serde(flatten)]
                pub $others: $other_flags,
            )?
        }

        impl Default for $keys {
            fn default() -> Self {
                $keys { $( $key: $default, )* $( $others: $other::default(), )? }
            }
        }

        impl Keys for $keys {
            type Flags = $flags;

            fn keys() -> Vec<Key> {
                let own = [$( Key { name: stringify!($key), doc: &[$($doc),*] }, )*];
                own.into_iter()$( .chain($other::keys()) )?.collect()
            }
        }
    };
}

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

keys! {
    /// The server.
    Server, ServerFlags {
        /// Where the API of people listens. Where it speaks plain HTTP another address than
        /// loopback is refused, unless insecure_listen says that this is meant
        #[arg(value_name = "ADDRESS")]
        listen: SocketAddr = loopback(9090);

        /// Listen on other addresses than loopback although tokens then travel unencrypted
        #[arg(value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", value_parser = BoolishValueParser::new())]
        insecure_listen: bool = false;

        /// The certificate that the API shows, its chain with it, in PEM: then it speaks HTTPS. The
        /// file is read again when it changes; plain HTTP where it is empty
        #[arg(value_name = "FILE", value_parser = path())]
        tls_certificate: PathBuf = PathBuf::new();

        /// The certificate's private key in PEM, which not everybody on this host may read
        #[arg(value_name = "FILE", value_parser = path())]
        tls_key: PathBuf = PathBuf::new();

        /// How many calls a second may come with one token; 0 is without a limit
        #[arg(value_name = "N")]
        rate_per_token: u32 = 1000;

        /// How many calls a second may come from one address (of IPv6, from one network of 64
        /// bits) that is not this host's own; 0 is without a limit
        #[arg(value_name = "N")]
        rate_per_address: u32 = 2000;

        /// How many seconds' calls may come at once, after a while without any
        #[arg(value_name = "N", value_parser = clap::value_parser!(u32).range(1..=60))]
        rate_burst_seconds: u32 = 5;

        /// Where agents connect, over mutual TLS
        #[arg(value_name = "ADDRESS")]
        agents_listen: SocketAddr = loopback(9091);

        /// Host names and addresses, beside loopback, under which agents reach this server:
        /// they stand in its certificate
        #[arg(value_name = "NAME", value_parser = crate::settings::layers::names)]
        names: Names = Names::default();

        /// The data folder: database, certificate authority, images
        #[arg(value_name = "DIR")]
        data: PathBuf = PathBuf::from("/var/lib/hostler/server");

        /// A PostgreSQL database in place of a file in the data folder, such as
        /// postgres://hostler:PASSWORD@db.example.com/hostler: then several servers may run over
        /// it. Where it has a password only its owner should be able to read this file
        #[arg(value_name = "URL", hide_env_values = true)]
        database: String = String::new();

        /// The folder of the certificate authority; `ca` in the data folder where it is empty. All
        /// servers over one database have the same
        #[arg(value_name = "DIR", value_parser = path())]
        ca: PathBuf = PathBuf::new();

        /// The file of the master keys, under which secrets rest in the database; `master.key` in
        /// the data folder where it is empty. It is in no backup: keep a copy elsewhere. All servers
        /// over one database have the same
        #[arg(value_name = "FILE", value_parser = path())]
        master_key: PathBuf = PathBuf::new();

        /// A command that wraps keys in place of that file, word by word: it is run with the words
        /// wrap or unwrap and whose key it is behind its own, gets a line on its standard input and
        /// answers one, so that a key management service can be asked
        #[arg(value_name = "WORD", value_parser = crate::settings::layers::names)]
        master_key_command: Names = Names::default();

        /// The folder of the images' bytes; `blobs` in the data folder where it is empty. All
        /// servers over one database share it, such as over NFS
        #[arg(value_name = "DIR", value_parser = path())]
        blobs: PathBuf = PathBuf::new();

        /// A folder with images that are taken in at each start; none where it is empty or
        /// not there
        #[arg(value_name = "DIR")]
        images: PathBuf = PathBuf::from("/usr/share/hostler/images");

        /// Networks whose addresses images may be imported from, although they are not the open
        /// internet, such as 10.0.0.0/8
        #[arg(value_name = "CIDR", value_parser = crate::settings::layers::names)]
        image_source_allow: Names = Names::default();

        /// Folders on the server whose files platform admins may import
        #[arg(value_name = "DIR", value_parser = crate::settings::layers::names)]
        image_roots: Names = Names::default();

        /// A file with images that can be imported by name, beside the built-in ones and before
        /// them; none where it is not there
        #[arg(value_name = "FILE")]
        image_catalogue: PathBuf = PathBuf::from("/etc/hostler/catalogue.json");

        /// The issuer of an identity provider (OpenID Connect) whose tokens are believed, such as
        /// https://login.example.com/realms/staff; none where it is empty
        #[arg(value_name = "URL")]
        oidc_issuer: String = String::new();

        /// For whom its tokens may be: ids of clients or APIs there that stand for this server
        #[arg(value_name = "ID", value_parser = crate::settings::layers::names)]
        oidc_audiences: Names = Names::default();

        /// The client that `hostler login` is there, which may use the device flow without a
        /// secret; its id tokens are believed. Nobody logs in that way where it is empty
        #[arg(value_name = "ID")]
        oidc_client: String = String::new();

        /// The claim that names somebody's tenant, by id or name. A claim within another is
        /// written with dots
        #[arg(value_name = "CLAIM")]
        oidc_tenant_claim: String = "tenant".to_owned();

        /// The claim with somebody's roles, such as groups or realm_access.roles
        #[arg(value_name = "CLAIM")]
        oidc_roles_claim: String = "roles".to_owned();

        /// Which word in that claim is which role, such as staff=viewer,ops=operator; where none is
        /// said, roles are called there what they are called here
        #[arg(value_name = "WORD=ROLE", value_parser = crate::settings::layers::names)]
        oidc_roles: Names = Names::default();

        /// A claim with scopes by which a token is narrowed, such as scope; none where it is empty
        #[arg(value_name = "CLAIM")]
        oidc_scopes_claim: String = String::new();

        /// How far the provider's clock and this one may disagree, in seconds
        #[arg(value_name = "N", value_parser = clap::value_parser!(u64).range(0..=300))]
        oidc_skew_seconds: u64 = 60;

        /// A RabbitMQ by which nodes may get their tasks, as amqp://USER@HOST:5672/VHOST or amqps://…;
        /// none where it is empty. A password is better kept in amqp_file
        #[arg(value_name = "URL", hide_env_values = true)]
        amqp: String = String::new();

        /// A file, read by nobody else, that holds such an address with its password
        #[arg(value_name = "FILE", value_parser = path())]
        amqp_file: PathBuf = PathBuf::new();

        /// The authorities that an amqps broker's certificate may be of: a PEM file
        #[arg(value_name = "FILE")]
        amqp_authorities: PathBuf = PathBuf::from("/etc/ssl/certs/ca-certificates.crt");

        /// How long an agent may be silent before its work is taken to be lost, in seconds
        #[arg(value_name = "N", value_parser = clap::value_parser!(u64).range(1..=3600))]
        lease_seconds: u64 = 30;

        /// How long a node may be silent before it is lost and its machines are unknown, in seconds; after half of that it
        /// is stale, and gets no new ones
        #[arg(value_name = "N", value_parser = clap::value_parser!(u64).range(20..=86400))]
        node_lost_seconds: u64 = 120;

        /// How many virtual processors a new tenant may have where nothing is said; -1: any number
        #[arg(value_name = "N", allow_negative_numbers = true, value_parser = limit())]
        tenant_vcpus: i64 = -1;

        /// How much memory, in MiB; -1: any amount
        #[arg(value_name = "MIB", allow_negative_numbers = true, value_parser = limit())]
        tenant_memory_mib: i64 = -1;

        /// How much disk for its machines and their snapshots, in GiB; -1: any amount
        #[arg(value_name = "GIB", allow_negative_numbers = true, value_parser = limit())]
        tenant_disk_gib: i64 = -1;

        /// How many machines; -1: any number
        #[arg(value_name = "N", allow_negative_numbers = true, value_parser = limit())]
        tenant_vms: i64 = -1;

        /// How many machines that run; -1: any number
        #[arg(value_name = "N", allow_negative_numbers = true, value_parser = limit())]
        tenant_running_vms: i64 = -1;

        /// How many snapshots; -1: any number
        #[arg(value_name = "N", allow_negative_numbers = true, value_parser = limit())]
        tenant_snapshots: i64 = -1;

        /// How much for its images, in GiB; -1: any amount
        #[arg(value_name = "GIB", allow_negative_numbers = true, value_parser = limit())]
        tenant_images_gib: i64 = -1;

        /// How long a node's certificate lives, in seconds: a day. Agents renew it at two thirds
        #[arg(value_name = "N", value_parser = clap::value_parser!(u64).range(10..=2_592_000))]
        node_certificate_seconds: u64 = 86_400;

        /// How long tasks and imports are kept after their end, and machines and snapshots after
        /// their deletion, in days; 0: for ever. Dead letters stay until somebody decides, and so do
        /// events and the audit
        #[arg(value_name = "DAYS", value_parser = clap::value_parser!(u32).range(0..=36500))]
        history_days: u32 = 30;

        /// How many virtual processors may be promised on a node, in percent of its processors; the
        /// same on all servers over one database, as the next six are. `hostler node edit` says
        /// otherwise for one node
        #[arg(value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(1..=10_000))]
        overcommit_vcpus_percent: u32 = 400;

        /// How much memory, in percent of what is there
        #[arg(value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(1..=10_000))]
        overcommit_memory_percent: u32 = 100;

        /// How much disk, in percent of what is there
        #[arg(value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(1..=10_000))]
        overcommit_disk_percent: u32 = 100;

        /// What it counts, where a machine is placed, which share of a node's processors is left
        /// then: 0 to 1
        #[arg(value_name = "WEIGHT")]
        placement_weight_vcpus: f64 = 0.5;

        /// What the share of its memory counts
        #[arg(value_name = "WEIGHT")]
        placement_weight_memory: f64 = 0.3;

        /// What the share of its disk counts
        #[arg(value_name = "WEIGHT")]
        placement_weight_disk: f64 = 0.2;

        /// What it counts that the machine's image is there already
        #[arg(value_name = "WEIGHT")]
        placement_weight_image: f64 = 0.05;

        /// How much is logged: error, warn, info, debug or trace, also by part, as in
        /// info,hostler_store=debug
        #[arg(value_name = "FILTER")]
        log: String = "info".to_owned();

        ..machines: MachineDefaults, MachineDefaultFlags;
    }
}

impl Section for Server {
    const NAME: &'static str = "server";
}

impl Server {
    /// How much a new tenant may have where nothing is said.
    ///
    /// # Errors
    /// `VALIDATION_ERROR` for a number below -1, which a file may have.
    pub fn tenant_limits(&self) -> Result<Limits, Refusal> {
        let limits = Limits {
            vcpus: self.tenant_vcpus,
            memory_mib: self.tenant_memory_mib,
            disk_gib: self.tenant_disk_gib,
            vms: self.tenant_vms,
            running_vms: self.tenant_running_vms,
            snapshots: self.tenant_snapshots,
            images_gib: self.tenant_images_gib,
        };
        let said = |refusal: Refusal| Refusal { detail: refusal.detail.replace("limits.", "tenant_"), ..refusal };
        limits.check().map_err(said).map(|()| limits)
    }
}

keys! {
    /// What machines get that do not say it, as `server` and `dev` know it.
    MachineDefaults, MachineDefaultFlags {
        /// The image of machines that name none. Where it is empty it is `default`, which is made
        /// of the files below where they are there, and tiny else
        #[arg(value_name = "IMAGE")]
        default_image: String = String::new();

        /// The kernel of the image `default`: a file of this server, taken in at its start. The one
        /// that is built in may be missing, one that is configured may not; none where it is empty
        #[arg(value_name = "FILE", value_parser = path())]
        default_kernel: PathBuf = PathBuf::from("/opt/arrakis/vmlinux.bin");

        /// Its root disk, likewise: raw, such as an ext4 file system, unless its name ends in
        /// .qcow2, .vmdk, .vhdx or .gz
        #[arg(value_name = "FILE", value_parser = path())]
        default_rootfs: PathBuf = PathBuf::from("/opt/arrakis/rootfs.ext4");

        /// Its initial RAM file system, likewise; an image needs none
        #[arg(value_name = "FILE", value_parser = path())]
        default_initramfs: PathBuf = PathBuf::from("/opt/arrakis/initramfs.cpio.gz");

        /// Its kernel's command line
        #[arg(value_name = "TEXT")]
        default_cmdline: String = "console=ttyS0 root=/dev/vda rw".to_owned();

        /// When its machines are ready: guest-agent, tcp:PORT, cloud-init, marker:PATH or none
        #[arg(value_name = "WHEN")]
        default_ready: String = "guest-agent".to_owned();

        /// Virtual processors of machines that do not say, whatever their image; 0: as it says
        #[arg(value_name = "N")]
        default_vcpus: u32 = 0;

        /// Memory of machines that do not say, in MiB; 0: as their image says
        #[arg(value_name = "MIB")]
        default_memory_mib: u32 = 0;

        /// Disk of machines that do not say, in GiB, where their image needs no more; 0: as it says
        #[arg(value_name = "GIB")]
        default_disk_gib: u32 = 0;
    }
}

keys! {
    /// The agent.
    Agent, AgentFlags {
        /// Where the server takes agents, as https://HOST:9091: its agents_listen, by a name that
        /// stands in its names. Of several servers over one database, all of them with commas
        /// between. Where it is empty: where `hostler agent join` found it, or this host
        #[arg(value_name = "URL")]
        server: String = String::new();

        /// By which road tasks come and results go: poll, over mutual TLS to the server; or amqp, by
        /// the server's RabbitMQ, to which amqp or amqp_file is the way
        #[arg(value_name = "ROAD", value_enum)]
        transport: Road = Road::Poll;

        /// The RabbitMQ, as for the server
        #[arg(value_name = "URL", hide_env_values = true)]
        amqp: String = String::new();

        /// A file with its address, as for the server
        #[arg(value_name = "FILE", value_parser = path())]
        amqp_file: PathBuf = PathBuf::new();

        /// Its authorities, as for the server
        #[arg(value_name = "FILE")]
        amqp_authorities: PathBuf = PathBuf::from("/etc/ssl/certs/ca-certificates.crt");

        /// A file with a join token, which `hostler node token` makes. It is read at the first
        /// start only: then the node has a certificate
        #[arg(value_name = "FILE")]
        join_token_file: PathBuf = PathBuf::new();

        /// The node's name; this host's name where it is empty
        #[arg(value_name = "NAME")]
        name: String = String::new();

        /// The data folder: journal, machines and their disks, images
        #[arg(value_name = "DIR")]
        data: PathBuf = PathBuf::from("/var/lib/hostler/agent");

        /// The folder of machines' sockets: short, and the same at each start, for machines outlive
        /// the agent. Where it is empty one is chosen at the first start and remembered
        #[arg(value_name = "DIR")]
        run: PathBuf = PathBuf::from("/run/hostler-agent");

        /// What runs machines: qemu, or sim, which only pretends
        #[arg(value_name = "DRIVER", value_enum)]
        driver: Driver = Driver::Qemu;

        /// How QEMU runs them: auto takes KVM only where it works; kvm; tcg
        #[arg(value_name = "HOW", value_enum)]
        acceleration: Acceleration = Acceleration::Auto;

        /// How many machines start at once here; 0: two for each processor
        #[arg(value_name = "N")]
        boot_slots: u16 = 0;

        /// How many tasks that move bytes are done at once; 0: two
        #[arg(value_name = "N")]
        disk_slots: u16 = 0;

        /// How many short tasks are done at once; 0: 64
        #[arg(value_name = "N")]
        quick_slots: u16 = 0;

        /// How many programs run in guests at once; 0: 64
        #[arg(value_name = "N")]
        guest_slots: u16 = 0;

        /// How much is logged, as for the server
        #[arg(value_name = "FILTER")]
        log: String = "info".to_owned();
    }
}

impl Section for Agent {
    const NAME: &'static str = "agent";
}

/// The variables without a prefix by which other systems name the same things: they count where a key's own variable
/// does not say.
pub const PLAIN: [(&str, &str); 3] = [
    ("default_kernel", "DEFAULT_KERNEL"),
    ("default_rootfs", "DEFAULT_ROOTFS"),
    ("default_initramfs", "DEFAULT_INITRAMFS"),
];

/// How a key of the server is called where something is said of it.
pub fn in_file(key: &str) -> String {
    format!("{}.{key}", Server::NAME)
}

/// How a key is called by a verb that has it as a flag only.
pub fn as_flag(key: &str) -> String {
    format!("--{}", key.replace('_', "-"))
}

/// A limit: -1 is none.
fn limit() -> impl TypedValueParser<Value = i64> {
    clap::value_parser!(i64).range(-1..)
}

/// A path that may be empty.
fn path() -> impl TypedValueParser<Value = PathBuf> {
    StringValueParser::new().map(PathBuf::from)
}

/// A list of names; in a flag or a variable with commas between them.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Names(pub Vec<String>);

/// Which file.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct FileArgs {
    /// The configuration file [default: /etc/hostler/hostler.toml, where that is there]
    #[arg(long, env = "HOSTLER_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
}
