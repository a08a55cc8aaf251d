//! The server as an agent sees it: one method for each call under `/internal/v1`, over a [`Link`] that can be swapped
//! while calls are under way.
//!
//! Never here: retries, and what to make of an answer.

use std::{
    fmt::Write as _,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use hostler_link::{Link, LinkError, NO_BODY, with_timeout};
use hostler_model::{
    Fence, ImageDigest, NodeId, TaskId,
    id::SecretId,
    image::{Image, Manifest, Sha256Hex},
    internal::{
        Assignments, Heartbeat, HeartbeatAnswer, HeldLease, Join, Joined, ProgressAnswer, ProgressReport, Receipts,
        Renew, Reports, StartReport, TaskSecret,
    },
    node::Slots,
};
use http::{HeaderMap, Method, Response, header};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// How long the server may hold a poll.
pub const POLL: Duration = Duration::from_secs(30);
/// How much longer than that an answer may take before the connection counts as dead.
const GRACE: Duration = Duration::from_secs(15);
/// At most this many leases in a poll's address, which servers and proxies keep short (8 to 16 KiB). What is left out
/// is sent again, and ignored or answered.
const MOST_HELD: usize = 150;
/// How long any other call may take: longer than a commit on a slow disk, shorter than a lease.
const CALL: Duration = Duration::from_secs(15);

/// What a poll tells of the leases that the agent holds.
#[derive(Clone, PartialEq, Debug)]
pub enum Held {
    /// Nothing: the last poll was answered.
    AsBefore,
    /// All of them: whatever else is leased to us is to be sent again.
    Resync(Vec<HeldLease>),
}

/// The server. Clones share the link.
#[derive(Clone, Debug)]
pub struct Server {
    link: Arc<RwLock<Link>>,
    node: NodeId,
}

/// Sends a join over a link without a certificate.
pub async fn join(link: &Link, join: &Join) -> Result<Joined, LinkError> {
    call(link, Method::POST, "/internal/v1/nodes/join", Some(join)).await
}

async fn call<T: DeserializeOwned>(
    link: &Link,
    method: Method,
    path: &str,
    body: Option<&impl Serialize>,
) -> Result<T, LinkError> {
    Ok(with_timeout(CALL, link.call_json(method, path, body, HeaderMap::new())).await?.body)
}

/// A manifest by itself, or within the image it describes.
#[derive(Deserialize)]
#[serde(untagged)]
enum Described {
    Image(Box<Image>),
    Manifest(Manifest),
}

impl Server {
    /// Over a link with this node's certificate.
    pub fn new(node: NodeId, link: Link) -> Server {
        Server { link: Arc::new(RwLock::new(link)), node }
    }

    /// Which node this is.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Calls that begin from now on go over this link.
    pub fn swap(&self, link: Link) {
        *self.link.write().unwrap_or_else(PoisonError::into_inner) = link;
    }

    fn link(&self) -> Link {
        self.link.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn path(&self, rest: &str) -> String {
        format!("/internal/v1/nodes/{}/{rest}", self.node)
    }

    /// Waits for tasks: up to as many of each class as there are free slots, or none after [`POLL`]. What is to be stopped
    /// comes with no slot free, too.
    pub async fn wait(&self, free: &Slots, held: &Held) -> Result<Assignments, LinkError> {
        let Slots { boot, disk, quick, guest } = free;
        let slots = format!("boot={boot}&disk={disk}&quick={quick}&guest={guest}");
        let mut path = self.path(&format!("tasks/wait?{slots}&wait_ms={}", POLL.as_millis()));
        if let Held::Resync(leases) = held {
            path.push_str("&resync=true&held=");
            for (n, lease) in leases.iter().take(MOST_HELD).enumerate() {
                let comma = if n == 0 { "" } else { "," };
                // Writing to a String cannot fail.
                let _ = write!(path, "{comma}{}:{}", lease.task, lease.fence);
            }
        }
        let link = self.link();
        let call = link.call_json(Method::GET, &path, NO_BODY, HeaderMap::new());
        Ok(with_timeout(POLL + GRACE, call).await?.body)
    }

    /// Ends a poll that waits at the server: it is answered at once, with what it brings or with nothing.
    pub async fn end_wait(&self) -> Result<(), LinkError> {
        call(&self.link(), Method::DELETE, &self.path("tasks/wait"), NO_BODY).await
    }

    /// Asks for the lease of what was offered.
    pub async fn started(&self, task: TaskId, fence: Fence) -> Result<Assignments, LinkError> {
        let report = StartReport { fence };
        call(&self.link(), Method::POST, &self.path(&format!("tasks/{task}/started")), Some(&report)).await
    }

    /// Says what is here, and renews leases.
    pub async fn heartbeat(&self, heartbeat: &Heartbeat) -> Result<HeartbeatAnswer, LinkError> {
        call(&self.link(), Method::POST, &self.path("heartbeat"), Some(heartbeat)).await
    }

    /// Says how far a task is.
    pub async fn progress(&self, task: TaskId, report: &ProgressReport) -> Result<ProgressAnswer, LinkError> {
        call(&self.link(), Method::POST, &self.path(&format!("tasks/{task}/progress")), Some(report)).await
    }

    /// Says how attempts ended.
    pub async fn results(&self, reports: &Reports) -> Result<Receipts, LinkError> {
        call(&self.link(), Method::POST, &self.path("results"), Some(reports)).await
    }

    /// Asks for the next certificate.
    pub async fn renew(&self, renew: &Renew) -> Result<Joined, LinkError> {
        call(&self.link(), Method::POST, &self.path("renew"), Some(renew)).await
    }

    /// What an image is.
    pub async fn manifest(&self, digest: &ImageDigest) -> Result<Manifest, LinkError> {
        match call(&self.link(), Method::GET, &self.path(&format!("images/{digest}")), NO_BODY).await? {
            Described::Image(image) => Ok(image.manifest),
            Described::Manifest(manifest) => Ok(manifest),
        }
    }

    /// A text that is kept apart from the task of this lease.
    pub async fn secret(&self, lease: HeldLease, secret: SecretId) -> Result<TaskSecret, LinkError> {
        let path = self.path(&format!("tasks/{}/secrets/{secret}?fence={}", lease.task, lease.fence));
        call(&self.link(), Method::GET, &path, NO_BODY).await
    }

    /// The bytes of a file, as they come, from a place on: a server that cannot do that sends all, and says so by its
    /// status.
    pub async fn blob(&self, sha256: &Sha256Hex, from: u64) -> Result<Response<hostler_link::Body>, LinkError> {
        let path = self.path(&format!("blobs/{sha256}"));
        let (link, mut headers) = (self.link(), HeaderMap::new());
        if from > 0
            && let Ok(range) = format!("bytes={from}-").parse()
        {
            headers.insert(header::RANGE, range);
        }
        with_timeout(CALL, link.open(Method::GET, &path, headers)).await
    }
}
