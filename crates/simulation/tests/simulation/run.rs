//! One simulation: everything is set up while all is well, users and chaos live for a while, and then everything comes
//! to rest and must be as it was promised.

use std::{fs, path::Path, sync::Arc, time::Duration};

use anyhow::Context;
use hostler_model::{
    Ids, PrincipalId, TenantId,
    api::Quota,
    caller::Caller,
    event::Actor,
    image::{Manifest, Sha256Hex},
    planted::Bug,
    role::Role,
    tenant::{Limits, UNLIMITED},
};
use hostler_store::{NewApiToken, NewTenantRow};
use hostler_trust::ApiToken;
use serde_json::json;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::{
    chaos::World,
    check,
    dice::Dice,
    history::History,
    net::Net,
    node::Host,
    server::{Live, Site},
    trace::{Counts, Trace, Voice},
    user::{Ledger, User},
    wall::Wall,
};

/// How long everything may take to come to rest: a task whose time in the queue is over ends after half an hour.
const REST: Duration = Duration::from_secs(3 * 3600);
/// How long it is waited for minute by minute. What has not come to rest by then waits for a deadline, in a queue that nobody
/// asks any more or under a clock that was hours ahead: from then on hours pass at once.
const PATIENCE: Duration = Duration::from_secs(300);
/// After each of these pauses, in which everybody is heard again, so much time passes at once.
const PAUSE: u32 = 12;
const SKIP: Duration = Duration::from_secs(900);
/// How often it is looked at.
const LOOK: Duration = Duration::from_secs(5);
/// How long what is at rest may take to be seen everywhere: some heartbeats.
const SEEN: usize = 24;

/// What a simulation is to be.
#[derive(Clone, Copy)]
pub struct Wanted {
    pub seed: u64,
    pub bug: Option<Bug>,
    pub voice: Voice,
}

impl Wanted {
    pub fn seed(seed: u64) -> Wanted {
        Wanted { seed, bug: None, voice: Voice::Quiet }
    }
}

/// What it came to.
pub struct Came {
    /// The digest of its history.
    pub digest: String,
    /// How many lines that has.
    pub lines: u64,
    /// How long it took, of its own time.
    pub took: Duration,
    /// How often what happened.
    pub counts: Counts,
    /// Which promises were broken.
    pub wrongs: Vec<String>,
}

/// Runs one.
pub fn simulate(wanted: Wanted) -> anyhow::Result<Came> {
    hostler_trust::install_crypto();
    plant(wanted.bug);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    let came = runtime.block_on(one(wanted));
    drop(runtime);
    plant(None);
    came
}

#[cfg(feature = "planted-bugs")]
fn plant(bug: Option<Bug>) {
    hostler_model::planted::plant(bug);
    hostler_db::planted::sync(bug != Some(Bug::SyncOmitted));
}

#[cfg(not(feature = "planted-bugs"))]
fn plant(_: Option<Bug>) {}

/// In memory where there is such a folder: what a simulation writes is worth nothing.
fn folder() -> std::io::Result<tempfile::TempDir> {
    let memory = Path::new("/dev/shm");
    let builder = tempfile::Builder::new();
    if memory.is_dir() { tempfile::Builder::new().prefix("hostler-").tempdir_in(memory) } else { builder.tempdir() }
}

async fn one(wanted: Wanted) -> anyhow::Result<Came> {
    let (began, dir) = (Instant::now(), folder()?);
    let trace = Trace::new(began, wanted.voice);
    let stage = Stage::set(&wanted, dir.path(), began, &trace).await?;
    stage.storm().await;
    stage.rest().await;
    let (digest, lines) = trace.digest();
    Ok(Came { digest, lines, took: began.elapsed(), counts: trace.counts(), wrongs: trace.wrongs() })
}

/// Everything that takes part.
struct Stage {
    world: World,
    dice: Dice,
    trace: Trace,
    tenants: Vec<TenantId>,
    tokens: Vec<String>,
    ledger: Ledger,
}

impl Stage {
    async fn set(wanted: &Wanted, dir: &Path, began: Instant, trace: &Trace) -> anyhow::Result<Stage> {
        let dice = Dice::new(wanted.seed);
        let net = Net::new(dice.apart(), trace.clone());
        let history = History::new(trace.clone());
        let site = Site::new(dir, Wall::new(began), dice.apart(), net.clone(), history);
        let live = site.open().await?;
        let ids = Ids::seeded(dice.number());
        let (mut tenants, mut tokens) = (Vec::new(), Vec::new());
        for number in 0..dice.within(1..3) {
            let tenant = tenant(&live, &ids, &site.wall, number).await?;
            tokens.push(token(&live, &ids, &site.wall, tenant).await?);
            tenants.push(tenant);
        }
        let manifest = image(&live, dir, &tenants).await?;
        let mut hosts = Vec::new();
        for number in 0..usize::try_from(dice.within(1..4))? {
            let token = live.join_token(&ids, &site.wall, &format!("node{number}")).await?;
            let data = dir.join(format!("node{number}"));
            cache(&data, &manifest)?;
            hosts.push(Arc::new(Host::new(number, data, Wall::new(began), token, dice.apart(), net.clone())));
        }
        site.serve(live).await;
        let world = World { dice: dice.apart(), net, site: Arc::new(site), hosts, users: tokens.len() * 2 };
        let stage = Stage { world, dice, trace: trace.clone(), tenants, tokens, ledger: Ledger::default() };
        stage.join().await?;
        Ok(stage)
    }

    /// Every node joins while all is well: its token is good for one time.
    async fn join(&self) -> anyhow::Result<()> {
        let live = self.world.net.server().context("a server was started")?;
        for host in &self.world.hosts {
            host.start().await;
        }
        let joined = async {
            while live.store.nodes().await.is_ok_and(|nodes| {
                nodes.iter().filter(|node| node.last_seen.is_some()).count() < self.world.hosts.len()
            }) {
                sleep(Duration::from_millis(100)).await;
            }
        };
        timeout(Duration::from_secs(60), joined).await.context("the nodes did not join")
    }

    /// Users and chaos, for a while.
    async fn storm(&self) {
        let until = Instant::now() + self.dice.ms(20_000..90_000);
        let mut users = JoinSet::new();
        for number in 0..self.world.users {
            let token = &self.tokens[number / 2];
            let user = User::new(number, token, &self.world.net, self.dice.apart(), self.ledger.clone());
            users.spawn(user.live(until));
        }
        let looks = async {
            while Instant::now() < until && self.trace.is_well() {
                sleep(LOOK).await;
                self.look().await;
            }
        };
        tokio::join!(self.world.rage(until), looks);
        if !self.trace.is_well() {
            users.abort_all();
        }
        while users.join_next().await.is_some() {}
    }

    /// Looks at what may never be, while things are under way.
    async fn look(&self) {
        self.world.site.write_back();
        self.world.hosts.iter().for_each(|host| host.write_back());
        check::at_any_time(&self.world).into_iter().for_each(|wrong| self.trace.wrong(wrong));
        if let Some(live) = self.world.net.server() {
            self.world.site.history.read(&live.store).await;
            for (tenant, quota) in self.quotas(&live).await {
                if !check::within(quota.book.total(), quota.limits.amounts()) {
                    self.trace.wrong(format!("tenant {tenant} has {:?} of {:?}", quota.book, quota.limits));
                }
            }
        }
    }

    async fn quotas(&self, live: &Live) -> Vec<(TenantId, Quota)> {
        let mut quotas = Vec::new();
        for tenant in &self.tenants {
            quotas.extend(live.store.quota(*tenant).await.ok().map(|quota| (*tenant, quota)));
        }
        quotas
    }

    /// Everything comes to rest, and is as it was promised.
    async fn rest(&self) {
        let (mut waited, mut looks) = (Duration::ZERO, 0);
        // What was filed since the last look has not come to rest either.
        self.look().await;
        while self.trace.is_well() && !self.is_idle().await {
            if waited >= REST {
                let open = self.world.site.history.open().await;
                self.trace.wrong(format!("not ended after {} s: {}", REST.as_secs(), open.join(", ")));
            }
            sleep(LOOK).await;
            (waited, looks) = (waited + LOOK, looks + 1);
            self.look().await;
            if waited >= PATIENCE && looks % PAUSE == 0 {
                self.world.pass(SKIP);
                waited += SKIP;
            }
        }
        for look in 0..SEEN {
            if !self.trace.is_well() {
                return;
            }
            sleep(LOOK).await;
            self.look().await;
            let wrongs = self.judge().await;
            if wrongs.is_empty() && self.is_idle().await {
                return;
            }
            if look + 1 == SEEN {
                wrongs.into_iter().for_each(|wrong| self.trace.wrong(wrong));
            }
        }
    }

    async fn is_idle(&self) -> bool {
        self.world.site.history.open().await.is_empty()
    }

    async fn judge(&self) -> Vec<String> {
        let Some(Live { store, .. }) = self.world.net.server() else { return vec!["no server lives".to_owned()] };
        let judged = check::at_rest(&self.world, &store, &self.ledger).await;
        self.trace.unless("the store cannot be judged", judged).unwrap_or_default()
    }
}

async fn tenant(live: &Live, ids: &Ids, wall: &Wall, number: u64) -> anyhow::Result<TenantId> {
    let id: TenantId = ids.next(wall.clock().now());
    let limits = Limits { vcpus: 12, memory_mib: 8192, disk_gib: 60, vms: 7, ..UNLIMITED };
    live.store.create_tenant(NewTenantRow::of_system(id, format!("tenant-{number}").parse()?, limits)).await??;
    Ok(id)
}

async fn token(live: &Live, ids: &Ids, wall: &Wall, tenant: TenantId) -> anyhow::Result<String> {
    let token = ApiToken::generate(ids);
    let now = wall.clock().now();
    let caller = Caller::new(ids.next::<PrincipalId>(now), tenant, Role::Operator);
    let new = NewApiToken::of_system(ids.next(now), token.hash().to_string(), caller, "user");
    live.store.create_api_token(new).await??;
    Ok(token.reveal())
}

const FILES: [(&str, &[u8]); 2] = [("kernel", b"a kernel"), ("rootfs", b"a root disk")];

/// The image that every machine is made of, for each tenant.
async fn image(live: &Live, dir: &Path, tenants: &[TenantId]) -> anyhow::Result<Manifest> {
    let dir = dir.join("tiny");
    fs::create_dir_all(&dir)?;
    let mut files = serde_json::Map::new();
    for (part, bytes) in FILES {
        fs::write(dir.join(part), bytes)?;
        files.insert(part.into(), json!({"sha256": Sha256Hex::of(bytes), "size": bytes.len()}));
    }
    let manifest = json!({
        "name": "tiny", "arch": "x86_64", "files": files, "cmdline": "console=ttyS0",
        "defaults": {"vcpus": 1, "memory_mib": 128, "disk_gib": 1}, "ready": "guest_agent",
    });
    fs::write(dir.join("image.json"), manifest.to_string())?;
    let mut made = None;
    for tenant in tenants {
        made = Some(live.server().app().import_dir(*tenant, &dir, Actor::system()).await?.image.manifest);
    }
    made.context("there is a tenant")
}

/// Puts the image into a node's cache: a download is made of threads, whose order no seed decides.
fn cache(data: &Path, manifest: &Manifest) -> anyhow::Result<()> {
    let folder = data.join("images").join(manifest.digest().0);
    fs::create_dir_all(&folder)?;
    for (part, bytes) in FILES {
        fs::write(folder.join(part), bytes)?;
    }
    Ok(fs::write(folder.join("manifest.json"), serde_json::to_vec(manifest)?)?)
}
