//! The process of a RabbitMQ: the one of Debian's package, with its data, its cookie and its ports apart from any other on
//! this host.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use hostler_fixture::free_port;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

use super::Wire;
use crate::dev::PATIENCE;

/// Where the package has its programs; those on the PATH want to be root, and use the host's own data.
const PROGRAMS: &str = "/usr/lib/rabbitmq/bin";

/// Ends a group of processes and a process, and takes a folder away, when standard input ends: when whoever holds it does.
const UNTIL_THE_END: &str = r#"read -r _; kill -s KILL -- "-$1" "$2"; rm -rf "$3""#;

/// A broker's process.
pub(super) struct Node {
    home: TempDir,
    wire: Wire,
    port: u16,
    distribution: u16,
    mapping: u16,
    /// Knows which port the broker's own distribution has. Without one of ours the broker starts a daemon, and leaves it.
    mapper: Child,
    process: Option<Child>,
    /// Ends it with this process, where no value does.
    _watch: Option<Child>,
}

impl Node {
    /// Starts one, and waits until it takes connections: ten seconds on a quiet machine.
    pub(super) async fn start(wire: Wire) -> Result<Node> {
        let home = tempfile::Builder::new().prefix("hostler-rabbitmq").tempdir()?;
        let (port, distribution, mapping) = (free_port()?, free_port()?, free_port()?);
        let mapper = Command::new("epmd")
            .args(["-address", "127.0.0.1", "-port"])
            .arg(mapping.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("epmd cannot be started; scripts/install-deps.sh test installs it")?;
        let mut broker = Node { home, wire, port, distribution, mapping, mapper, process: None, _watch: None };
        fs::write(broker.file("enabled_plugins"), "[].")?;
        fs::write(broker.file("rabbitmq.conf"), broker.configuration()?)?;
        broker.again().await?;
        Ok(broker)
    }

    /// The same, until this process ends.
    pub(super) async fn start_for_all() -> Result<Node> {
        let mut node = Node::start(Wire::Plain).await?;
        let (server, mapper) = (node.process.as_ref().context("it runs")?.id(), node.mapper.id());
        let watch = Command::new("sh")
            .args(["-c", UNTIL_THE_END, "sh", &server.to_string(), &mapper.to_string()])
            .arg(node.home.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        node._watch = Some(watch);
        Ok(node)
    }

    fn configuration(&self) -> Result<String> {
        let port = self.port;
        if self.wire == Wire::Plain {
            return Ok(format!("listeners.tcp.1 = 127.0.0.1:{port}\nlog.console = false\n"));
        }
        let [authority, certificate, key] = certified()?;
        fs::write(self.authority(), authority)?;
        fs::write(self.file("certificate.pem"), certificate)?;
        fs::write(self.file("key.pem"), key)?;
        let home = self.home.path().display();
        Ok(format!(
            "listeners.tcp = none\nlisteners.ssl.1 = 127.0.0.1:{port}\nlog.console = false\n\
             ssl_options.cacertfile = {home}/authority.pem\nssl_options.certfile = {home}/certificate.pem\n\
             ssl_options.keyfile = {home}/key.pem\nssl_options.verify = verify_none\n\
             ssl_options.fail_if_no_peer_cert = false\n"
        ))
    }

    /// The port on which it takes connections.
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// How it takes them.
    pub(super) fn wire(&self) -> Wire {
        self.wire
    }

    /// The authority of its certificate, PEM.
    pub(super) fn authority(&self) -> PathBuf {
        self.file("authority.pem")
    }

    /// Starts it again over its data, and waits.
    pub(super) async fn again(&mut self) -> Result<()> {
        let log = fs::File::options().create(true).append(true).open(self.file("out.log"))?;
        let child = self
            .command("rabbitmq-server")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .context("RabbitMQ cannot be started; scripts/install-deps.sh test installs it")?;
        self.process = Some(child);
        self.until_it_answers().await
    }

    async fn until_it_answers(&self) -> Result<()> {
        let begun = Instant::now();
        while !self.takes_connections() {
            if begun.elapsed() > PATIENCE {
                bail!("RabbitMQ does not start:\n{}", fs::read_to_string(self.file("out.log")).unwrap_or_default());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    /// Lets it end in order, and starts it again.
    pub(super) async fn restart(&self) -> Result<()> {
        self.ctl(&["-q", "stop_app"])?;
        self.ctl(&["-q", "start_app"])?;
        self.until_it_answers().await
    }

    /// Lets it neither answer nor end.
    pub(super) fn hang(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// It goes on.
    pub(super) fn wake(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.process.as_ref().context("it runs")?;
        let group = Pid::from_raw(i32::try_from(child.id())?).context("a pid")?;
        Ok(kill_process_group(group, signal)?)
    }

    /// Ends it as a power cut would.
    pub(super) fn kill(&mut self) -> Result<()> {
        if self.process.is_some() {
            self.signal(Signal::KILL)?;
        }
        if let Some(mut child) = self.process.take() {
            child.wait()?;
        }
        Ok(())
    }

    /// Runs `rabbitmqctl`.
    pub(super) fn ctl(&self, words: &[&str]) -> Result<String> {
        let Output { status, stdout, stderr } = self.command("rabbitmqctl").args(words).output()?;
        if !status.success() {
            bail!("rabbitmqctl {words:?}: {}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        }
        Ok(String::from_utf8_lossy(&stdout).into_owned())
    }

    /// It answers a greeting that makes no sense with its own: then it listens, and is done with starting.
    fn takes_connections(&self) -> bool {
        let greet = || -> std::io::Result<[u8; 4]> {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
            if self.wire == Wire::Tls {
                // It listens last of all.
                return Ok(*b"AMQP");
            }
            stream.set_read_timeout(Some(Duration::from_secs(2)))?;
            stream.write_all(b"AMQP\x00\x00\x00\x00")?;
            let mut answer = [0; 4];
            stream.read_exact(&mut answer)?;
            Ok(answer)
        };
        greet().is_ok_and(|answer| &answer == b"AMQP")
    }

    fn command(&self, program: &str) -> Command {
        let home = self.home.path();
        let mut command = Command::new(format!("{PROGRAMS}/{program}"));
        command
            .env("HOME", home)
            .env("RABBITMQ_NODENAME", format!("hostler{}@localhost", self.port))
            .env("RABBITMQ_NODE_PORT", self.port.to_string())
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_DIST_PORT", self.distribution.to_string())
            .env("ERL_EPMD_PORT", self.mapping.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_MNESIA_BASE", home.join("data"))
            .env("RABBITMQ_LOG_BASE", home.join("log"))
            .env("RABBITMQ_PID_FILE", home.join("pid"))
            .env("RABBITMQ_CONFIG_FILE", home.join("rabbitmq"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", home.join("enabled_plugins"))
            .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
            // One scheduler that does not spin: tests share their processors.
            .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "+S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none");
        command
    }

    /// A file in its folder.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.kill();
        let _ = self.mapper.kill();
        let _ = self.mapper.wait();
        crate::process::naming(self.home.path()).into_iter().for_each(crate::process::kill);
    }
}

/// An authority, a certificate of its for this host, and that one's key: PEM.
fn certified() -> Result<[String; 3]> {
    let (root, key) = (KeyPair::generate()?, KeyPair::generate()?);
    let mut of_root = CertificateParams::new(Vec::new())?;
    of_root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = of_root.self_signed(&root)?.pem();
    let issuer = Issuer::new(of_root, root);
    let certificate = CertificateParams::new(vec!["127.0.0.1".to_owned()])?.signed_by(&key, &issuer)?;
    Ok([authority, certificate.pem(), key.serialize_pem()])
}
