//! Where imports may come from: which addresses of the network, which folders of this server.
//!
//! A caller's address makes this server call somebody. What only this server can reach (its own loopback, its network,
//! a cloud's metadata) must not be reached that way, so every address that a name stands for is looked at, and the call
//! goes to those addresses and no other. A path is resolved, links included, and what was opened is looked at again.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
};

use hostler_model::{
    Code, Refusal, caller::Access, catalogue::Catalogue, error::excerpt, import::Source, scope::Scope,
};
use ipnet::IpNet;
use reqwest::Url;
use tokio::fs::File;

use super::{Call, Error, Result};

/// Where imports may come from beside the open internet and the request itself.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// Networks that are not the open internet, and may be called all the same.
    pub allow: Vec<IpNet>,
    /// Folders whose files platform admins may import.
    pub roots: Vec<PathBuf>,
    /// Single files that the configuration names: whoever wrote it let them in.
    pub files: Vec<PathBuf>,
    /// What can be imported by name.
    pub catalogue: Catalogue,
}

impl Sources {
    /// Refuses at once what will not do, before anything is written down.
    pub(super) fn check(&self, call: &Call, source: &Source) -> Result<(), Refusal> {
        match source {
            Source::Upload | Source::Blob(_) => Ok(()),
            Source::Url(url) => read_url(url).map(drop),
            Source::File(path) => {
                call.require(Access::Admin { scope: Scope::ImageWrite })?;
                self.resolve(path).map(drop)
            }
        }
    }

    /// The addresses that a URL's host stands for, all of which may be called.
    pub(super) async fn addresses(&self, url: &Url) -> Result<Vec<SocketAddr>, Refusal> {
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let port = url.port_or_known_default().unwrap_or(443);
        let found = tokio::net::lookup_host((host.as_str(), port)).await;
        let found: Vec<SocketAddr> = found.map_err(|error| unresolved(&host, &error))?.collect();
        match found.iter().find(|address| !self.may_call(address.ip())) {
            None if found.is_empty() => Err(unresolved(&host, &io::Error::other("it has no address"))),
            None => Ok(found),
            Some(address) => Err(not_open(&host, address.ip())),
        }
    }

    fn may_call(&self, address: IpAddr) -> bool {
        let plain = address.to_canonical();
        is_open(plain) || self.allow.iter().any(|net| net.contains(&plain) || net.contains(&address))
    }

    /// A file under one of the folders, opened.
    pub(super) async fn open(&self, path: &str) -> Result<File> {
        let (sources, path) = (self.clone(), path.to_owned());
        let opened = tokio::task::spawn_blocking(move || sources.open_now(&path)).await;
        Ok(File::from_std(opened.map_err(|_| Error::Fault("the opening of a file broke down"))??))
    }

    fn open_now(&self, path: &str) -> Result<fs::File, Refusal> {
        let real = self.resolve(path)?;
        // Not blocking: a pipe would wait for its writer.
        let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOFOLLOW;
        let file = fs::File::options().read(true).custom_flags(flags.bits() as i32).open(real);
        let file = file.map_err(|error| unreadable(path, &error))?;
        // A folder on the way may have become a link since: where the open file lies is what counts.
        let link = format!("/proc/self/fd/{}", file.as_raw_fd());
        let real = fs::read_link(link).map_err(|error| unreadable(path, &error))?;
        if !self.is_let_in(&real) {
            return Err(outside(path));
        }
        match file.metadata() {
            Ok(metadata) if metadata.is_file() => Ok(file),
            Ok(_) => Err(unreadable(path, &io::Error::other("it is no regular file"))),
            Err(error) => Err(unreadable(path, &error)),
        }
    }

    fn resolve(&self, path: &str) -> Result<PathBuf, Refusal> {
        if self.roots.is_empty() && self.files.is_empty() {
            let detail = "this server imports no files of its own; it is started with --image-roots DIR to do so";
            return Err(Refusal::new(Code::SourceForbidden, detail));
        }
        // Whether a file outside is there is nobody's business.
        let real = fs::canonicalize(path).ok().filter(|real| self.is_let_in(real));
        real.ok_or_else(|| outside(path))
    }

    fn is_let_in(&self, real: &Path) -> bool {
        let named = |path: &PathBuf| fs::canonicalize(path).ok();
        self.roots.iter().filter_map(named).any(|root| real.starts_with(root))
            || self.files.iter().filter_map(named).any(|file| real == file)
    }
}

/// An address that may be called: `http` or `https`, a host, no user and no password.
///
/// # Errors
/// For any other.
pub(super) fn read_url(text: &str) -> Result<Url, Refusal> {
    let bad = |why: &str| Refusal::field("url", why).with("value", excerpt(text));
    let url = Url::parse(text).map_err(|error| bad(&error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(bad("an address begins with http:// or https:// and a host"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(bad("an address with a user or a password would be written down; leave them out"));
    }
    Ok(url)
}

/// Whether an address is one of the open internet: not of a host, a link, a site, a test, a group of hosts.
fn is_open(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_open_4(address),
        IpAddr::V6(address) => is_open_6(address),
    }
}

/// IANA's registry of special addresses, those that are not reachable from everywhere.
fn is_open_4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    !matches!(
        (a, b, c),
        (0 | 10 | 127, _, _)
            | (100, 64..=127, _)
            | (169, 254, _)
            | (172, 16..=31, _)
            | (192, 0, 0 | 2)
            | (192, 88, 99)
            | (192, 168, _)
            | (198, 18 | 19, _)
            | (198, 51, 100)
            | (203, 0, 113)
            | (224..=255, _, _)
    )
}

/// Only global unicast; and an address that carries one of IPv4 is as that one.
fn is_open_6(address: Ipv6Addr) -> bool {
    let [a, b, c, d, e, f, g, h] = address.segments();
    let carried = |high: u16, low: u16| is_open_4(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)));
    match (a, b) {
        (0x64, 0xff9b) if [c, d, e, f] == [0; 4] => carried(g, h),
        (0x2002, high) => carried(high, c),
        (0x2001, 0..=0x1ff | 0xdb8) | (0x3fff, 0..=0xfff) => false,
        (0x2000..=0x3fff, _) => true,
        _ => false,
    }
}

fn unresolved(host: &str, error: &io::Error) -> Refusal {
    let host = excerpt(host);
    Refusal::new(Code::ImportFailed, format!("the host {host} cannot be found: {error}")).with("host", host)
}

fn not_open(host: &str, address: IpAddr) -> Refusal {
    let host = excerpt(host);
    // What a name stands for inside is for the operator's eyes: a caller could ask for one name after the other.
    tracing::info!(host, %address, "an import from an address that is not of the open internet was refused");
    let detail = format!(
        "{host} is no host of the open internet; the server's log says where it is, and an operator may allow it with \
         --image-source-allow"
    );
    Refusal::new(Code::SourceForbidden, detail).with("host", host)
}

fn outside(path: &str) -> Refusal {
    let path = excerpt(path);
    let detail = format!("{path} is no file under a folder that this server imports from (--image-roots)");
    Refusal::new(Code::SourceForbidden, detail).with("file", path)
}

fn unreadable(path: &str, error: &io::Error) -> Refusal {
    let path = excerpt(path);
    Refusal::new(Code::ImportFailed, format!("{path} cannot be read: {error}")).with("file", path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_this_server_can_reach_is_not_open() {
        for closed in [
            "127.0.0.1",
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "169.254.169.254",
            "172.31.0.1",
            "192.168.1.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "fe80::1",
            "fd00::1",
            "ff02::1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2001:db8::1",
            "2001::1",
            "fec0::1",
            "::127.0.0.1",
        ] {
            let address: IpAddr = closed.parse().unwrap();
            assert!(!Sources::default().may_call(address), "{closed}");
        }
        for open in ["1.1.1.1", "151.101.0.1", "2606:4700::1111", "64:ff9b::101:101", "::ffff:1.1.1.1"] {
            assert!(Sources::default().may_call(open.parse().unwrap()), "{open}");
        }
        let sources = Sources { allow: vec!["127.0.0.0/8".parse().unwrap()], ..Sources::default() };
        assert!(
            sources.may_call("127.0.0.1".parse().unwrap()) && sources.may_call("::ffff:127.0.0.1".parse().unwrap())
        );
        assert!(!sources.may_call("10.0.0.1".parse().unwrap()));
    }

    #[test]
    fn an_address_is_http_without_a_user() {
        assert!(read_url("https://example.org/a.qcow2?x=1").is_ok());
        for bad in ["", "a", "file:///etc/passwd", "ftp://x/a", "http://u:p@x/a", "gopher://x", "http://", "data:,x"] {
            assert!(read_url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_files_under_a_root_are_opened() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        fs::create_dir(path("root")).unwrap();
        fs::write(path("root/in"), "in").unwrap();
        fs::write(path("out"), "out").unwrap();
        std::os::unix::fs::symlink("../out", path("root/link")).unwrap();
        std::os::unix::fs::symlink("in", path("root/fine")).unwrap();
        let sources = Sources { roots: vec![dir.path().join("root")], ..Sources::default() };
        for good in ["root/in", "root/fine", "root/../root/in"] {
            assert!(sources.open_now(&path(good)).is_ok(), "{good}");
        }
        for bad in ["out", "root/link", "root/../out", "root/none", "root"] {
            assert!(sources.open_now(&path(bad)).is_err(), "{bad}");
        }
        assert_eq!(Sources::default().open_now(&path("root/in")).unwrap_err().code, Code::SourceForbidden);
        let sources = Sources { files: vec![dir.path().join("root/link")], ..Sources::default() };
        assert!(sources.open_now(&path("root/link")).is_ok(), "a file that the configuration names may be a link");
        assert!(sources.open_now(&path("root/in")).is_err(), "and lets in nothing beside it");
    }
}
