//! Hosts of their own on this machine: network namespaces, each with one link to a router in the middle, which loses what
//! it is told to lose without a word to anybody.
//!
//! ```text
//! this machine ──┐
//! host ──────────┼── router: `ip rule … blackhole` for each way that is cut
//! host ──────────┘
//! ```
//!
//! What is lost there is neither refused nor reset: whoever sent it hears nothing, as with a cable that was pulled far
//! away. Needs root and iproute2. Namespaces go when the net is dropped; those of a run that was killed, with the next.

use std::{net::Ipv4Addr, path::Path, process::Command};

use anyhow::{Context, Result, bail, ensure};

use crate::process;

/// Whose namespaces they are, before the process id of the run.
const OURS: &str = "hostler-e2e";
/// Networks to choose from, within those that are kept for tests of devices (RFC 2544).
const NETWORKS: u32 = 250;
/// The router's number in a network; the machine itself has 1, hosts from 2 on.
const ROUTER: u8 = 254;
/// What a host calls its one link, and the router the one to this machine.
const WIRE: &str = "wire";

/// One network. Clones of its hosts may outlive it, but lead nowhere then.
#[derive(Debug)]
pub struct Net {
    number: u8,
    router: String,
    hosts: Vec<Host>,
}

/// A host in it.
#[derive(Clone, Debug)]
pub struct Host {
    namespace: String,
    address: Ipv4Addr,
}

impl Host {
    /// Its address.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The words before a command that is to run there.
    pub fn enter(&self) -> [String; 2] {
        enter(&self.namespace)
    }
}

impl Net {
    /// A router that this machine has a link to, and no hosts yet.
    pub fn new() -> Result<Net> {
        ensure!(rustix::process::geteuid().is_root(), "network namespaces are root's to make: run this test as root");
        clear_what_dead_runs_left()?;
        let mine = std::process::id();
        let mut refused = None;
        for number in (0..NETWORKS).map(|step| (mine + step) % NETWORKS + 1) {
            match Net::of(u8::try_from(number)?) {
                Ok(net) => return Ok(net),
                // Somebody else has it.
                Err(error) => refused = Some(error),
            }
        }
        Err(refused.context("there are networks to choose from")?)
    }

    fn of(number: u8) -> Result<Net> {
        let router = format!("{OURS}-{}-{number}-router", std::process::id());
        ip(&["netns", "add", &router])?;
        let net = Net { number, router, hosts: Vec::new() };
        let (here, network) = (format!("hostler{number}"), format!("198.18.{number}.0/24"));
        // Two runs that choose the same number choose the same name, and only one can have it.
        ip(&["link", "add", &here, "type", "veth", "peer", "name", WIRE, "netns", &net.router])?;
        let (one, router) = (net.address(1).to_string(), net.address(ROUTER).to_string());
        ip(&["addr", "add", &one, "peer", &router, "dev", &here])?;
        ip(&["link", "set", &here, "up"])?;
        ip(&["route", "add", &network, "via", &router])?;
        ip_in(&net.router, &["addr", "add", &router, "peer", &one, "dev", WIRE])?;
        ip_in(&net.router, &["link", "set", WIRE, "up"])?;
        said(in_it(&net.router).args(["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]))?;
        Ok(net)
    }

    fn address(&self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, self.number, host)
    }

    /// Another address of this machine's own, for a server here from which hosts can be cut while they reach the rest.
    pub fn address_here(&mut self) -> Result<Ipv4Addr> {
        let address = self.next()?;
        ip(&["addr", "add", &format!("{address}/32"), "dev", &format!("hostler{}", self.number)])?;
        let via = self.address(1).to_string();
        ip_in(&self.router, &["route", "add", &address.to_string(), "via", &via])?;
        self.hosts.push(Host { namespace: String::new(), address });
        Ok(address)
    }

    /// One host more.
    pub fn host(&mut self) -> Result<Host> {
        let (address, place) = (self.next()?, self.hosts.len());
        let host = Host { namespace: format!("{OURS}-{}-{}-{place}", std::process::id(), self.number), address };
        let (name, port) = (&host.namespace, format!("host{place}"));
        let (address, router) = (address.to_string(), self.address(ROUTER).to_string());
        ip(&["netns", "add", name])?;
        self.hosts.push(host.clone());
        ip_in(name, &["link", "add", WIRE, "type", "veth", "peer", "name", &port, "netns", &self.router])?;
        ip_in(name, &["addr", "add", &address, "peer", &router, "dev", WIRE])?;
        for device in ["lo", WIRE] {
            ip_in(name, &["link", "set", device, "up"])?;
        }
        ip_in(name, &["route", "add", "default", "via", &router])?;
        ip_in(&self.router, &["addr", "add", &router, "peer", &address, "dev", &port])?;
        ip_in(&self.router, &["link", "set", &port, "up"])?;
        Ok(host)
    }

    fn next(&self) -> Result<Ipv4Addr> {
        let number = u8::try_from(self.hosts.len())? + 2;
        ensure!(number < ROUTER, "a network has no more addresses");
        Ok(self.address(number))
    }

    /// From now on what goes from the one to the other is lost; the other way is open.
    pub fn cut(&self, from: Ipv4Addr, to: Ipv4Addr) -> Result<()> {
        self.rule("add", from, to)
    }

    /// What was cut is open again.
    pub fn mend(&self, from: Ipv4Addr, to: Ipv4Addr) -> Result<()> {
        self.rule("del", from, to)
    }

    fn rule(&self, verb: &str, from: Ipv4Addr, to: Ipv4Addr) -> Result<()> {
        let (from, to) = (from.to_string(), to.to_string());
        ip_in(&self.router, &["rule", verb, "from", &from, "to", &to, "blackhole"])
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        // The links go with the namespaces that they lead to.
        for name in self.hosts.iter().map(|host| &host.namespace).chain([&self.router]).filter(|name| !name.is_empty())
        {
            if let Err(error) = remove(name) {
                eprintln!("{name} stays: {error:#}");
            }
        }
    }
}

/// Namespaces whose run has ended without its drops.
fn clear_what_dead_runs_left() -> Result<()> {
    for line in said(Command::new("ip").args(["netns", "list"]))?.lines() {
        let name = line.split(' ').next().unwrap_or_default();
        let run = name.strip_prefix(OURS).and_then(|rest| rest.strip_prefix('-')?.split('-').next());
        if run.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            // Another run may be clearing it, too.
            drop(remove(name));
        }
    }
    Ok(())
}

/// A namespace, with whatever still runs there.
fn remove(name: &str) -> Result<()> {
    said(Command::new("ip").args(["netns", "pids", name]))?
        .lines()
        .filter_map(|pid| pid.trim().parse().ok())
        .for_each(process::kill);
    ip(&["netns", "del", name])
}

fn ip(words: &[&str]) -> Result<()> {
    said(Command::new("ip").args(words)).map(drop)
}

/// The same in a namespace.
fn ip_in(name: &str, words: &[&str]) -> Result<()> {
    said(in_it(name).arg("ip").args(words)).map(drop)
}

/// The words before a command that is to run in a namespace. `ip -n` and `ip netns exec` would also mount, which is refused
/// where the root of the files is no mount of its own.
fn enter(name: &str) -> [String; 2] {
    ["nsenter".to_owned(), format!("--net=/var/run/netns/{name}")]
}

fn in_it(name: &str) -> Command {
    let [program, of] = enter(name);
    let mut command = Command::new(program);
    command.arg(of);
    command
}

fn said(command: &mut Command) -> Result<String> {
    let output = command.output().context("`ip` or `nsenter` cannot be run: install iproute2 and util-linux")?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8(output.stdout)?)
}
