//! A RabbitMQ of a test's own, which ends with its value, whatever became of the test; or a virtual host of the one that the
//! tests of a process share, for those that kill no broker.

mod node;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result, bail};
use tokio::sync::OnceCell;

use self::node::Node;

/// Its password is `guest`.
const USER: &str = "guest";

/// How it takes connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wire {
    /// As they come.
    Plain,
    /// Encrypted, with a certificate of an authority of its own.
    Tls,
}

/// A broker, as one virtual host of it is seen.
pub struct RabbitMq {
    server: Server,
    vhost: String,
}

/// Whose the process is.
enum Server {
    Own(Node),
    Shared(&'static Node),
}

impl RabbitMq {
    /// Starts one, and waits until it takes connections: ten seconds on a quiet machine.
    pub async fn start() -> Result<RabbitMq> {
        Self::start_with(Wire::Plain).await
    }

    /// The same, over this.
    pub async fn start_with(wire: Wire) -> Result<RabbitMq> {
        Ok(RabbitMq { server: Server::Own(Node::start(wire).await?), vhost: "/".to_owned() })
    }

    /// An empty virtual host of the one that the tests of a process share, which nobody kills.
    pub async fn shared() -> Result<RabbitMq> {
        static NODE: OnceCell<Node> = OnceCell::const_new();
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let node = NODE.get_or_try_init(Node::start_for_all).await?;
        let vhost = format!("test{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        node.ctl(&["-q", "add_vhost", &vhost])?;
        let broker = RabbitMq { server: Server::Shared(node), vhost };
        broker.permit(USER)?;
        Ok(broker)
    }

    fn node(&self) -> &Node {
        match &self.server {
            Server::Own(node) => node,
            Server::Shared(node) => node,
        }
    }

    /// The process, for what others would notice.
    fn own(&mut self) -> Result<&mut Node> {
        match &mut self.server {
            Server::Own(node) => Ok(node),
            Server::Shared(_) => bail!("others use this broker: a test that stops one starts one of its own"),
        }
    }

    /// The authority of its certificate, PEM.
    pub fn authority(&self) -> PathBuf {
        self.node().authority()
    }

    /// Its address.
    pub fn url(&self) -> String {
        let scheme = if self.node().wire() == Wire::Tls { "amqps" } else { "amqp" };
        let path = if self.vhost == "/" { String::new() } else { format!("/{}", self.vhost) };
        format!("{scheme}://{USER}:{USER}@127.0.0.1:{}{path}", self.port())
    }

    /// The port on which it takes connections.
    pub fn port(&self) -> u16 {
        self.node().port()
    }

    /// A file that holds its address, for whoever may read it.
    pub fn url_file(&self) -> Result<PathBuf> {
        let file = self.node().file(&format!("url{}", self.vhost.replace('/', "")));
        fs::write(&file, self.url())?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
        Ok(file)
    }

    /// Starts it again over its data, and waits.
    pub async fn again(&mut self) -> Result<()> {
        self.own()?.again().await
    }

    /// Lets it end in order, and starts it again.
    pub async fn restart(&mut self) -> Result<()> {
        self.own()?.restart().await
    }

    /// Lets it neither answer nor end.
    pub fn hang(&mut self) -> Result<()> {
        self.own()?.hang()
    }

    /// It goes on.
    pub fn wake(&mut self) -> Result<()> {
        self.own()?.wake()
    }

    /// Ends it as a power cut would.
    pub fn kill(&mut self) -> Result<()> {
        self.own()?.kill()
    }

    /// Gives this user of the broker all that there is in the virtual host.
    pub fn permit(&self, user: &str) -> Result<()> {
        self.ctl(&["-q", "set_permissions", "-p", &self.vhost, user, ".*", ".*", ".*"]).map(drop)
    }

    /// What is in each queue: messages that wait, and that somebody has without having acknowledged them.
    pub fn queues(&self) -> Result<BTreeMap<String, (u64, u64)>> {
        let columns = ["name", "messages_ready", "messages_unacknowledged"];
        let list = ["-q", "list_queues", "--no-table-headers", "-p", &self.vhost];
        let listed = self.ctl(&[&list[..], &columns].concat())?;
        let counts = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [name, ready, taken] = words[..] else { bail!("a line of a list of queues is {line:?}") };
            Ok((name.to_owned(), (ready.parse().context("a number")?, taken.parse().context("a number")?)))
        };
        listed.lines().map(counts).collect()
    }

    /// What is in this one, where it is there.
    pub fn queue(&self, name: &str) -> Result<Option<(u64, u64)>> {
        Ok(self.queues()?.remove(name))
    }

    /// Runs `rabbitmqctl`.
    pub fn ctl(&self, words: &[&str]) -> Result<String> {
        self.node().ctl(words)
    }
}
