//! How a server is spoken with: which authorities its certificate may be of, and whether a token may travel unencrypted.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use hostler_link::Link;
use reqwest::{Certificate, ClientBuilder, Url};
use serde::{Deserialize, Serialize};

use crate::exit::{Exit, Failure};

/// How long a server may take to be reached, before another of them is asked.
const CONNECT: Duration = Duration::from_secs(5);

/// How a server is spoken with.
#[derive(Clone, PartialEq, Eq, Debug, Default, clap::Args, Serialize, Deserialize)]
#[command(next_help_heading = "Server")]
#[serde(default)]
pub struct Way {
    /// A PEM file with the authorities that the server's certificate may be of [default: those of the system]
    #[arg(long, global = true, env = "HOSTLER_CA_FILE", value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,

    /// Let the token travel unencrypted to another machine, where the network between is yours alone
    #[arg(long, global = true, env = "HOSTLER_ALLOW_PLAIN_HTTP")]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub allow_plain_http: bool,
}

impl Way {
    /// What is said here, and what is not as it was said before.
    #[must_use]
    pub fn over(&self, before: &Way) -> Way {
        Way {
            ca_file: self.ca_file.clone().or_else(|| before.ca_file.clone()),
            allow_plain_http: self.allow_plain_http || before.allow_plain_http,
        }
    }

    /// As it is written down: from whichever folder it is used, it names the same file.
    #[must_use]
    pub fn kept(self) -> Way {
        let absolute = |file: PathBuf| std::path::absolute(&file).unwrap_or(file);
        Way { ca_file: self.ca_file.map(absolute), ..self }
    }

    /// The way to the server at this address, or at these, with commas between.
    pub fn link(&self, url: &str) -> Result<Link, Failure> {
        if let Some(open) = url.split(',').find(|one| is_plain(one) && !is_loopback(one))
            && !self.allow_plain_http
        {
            return Err(Failure::usage(format!("{open} is plain HTTP to another machine: everybody on the way could read the token"))
                .help("give an https:// address (the server has one with tls_certificate); or --allow-plain-http, where the network between is yours alone"));
        }
        // A proxy of the environment is for what is outside.
        let builder = ClientBuilder::new().connect_timeout(CONNECT);
        let builder = if is_loopback(url) { builder.no_proxy() } else { builder };
        let builder = match &self.ca_file {
            Some(file) => builder.tls_certs_only(authorities(file)?),
            None => builder,
        };
        let http = builder.build().map_err(|error| {
            Failure::new(Exit::Failed, format!("HTTP does not work here: {error}"))
                .help("see that the system's certificates (ca-certificates) are installed")
        })?;
        Link::http(http, url).map_err(|error| {
            Failure::usage(error).help("an address looks like http://127.0.0.1:9090; see --url and HOSTLER_URL")
        })
    }
}

fn authorities(file: &Path) -> Result<Vec<Certificate>, Failure> {
    let bad = |why: String| {
        Failure::usage(format!("the authorities in {} cannot be used: {why}", file.display()))
            .help("--ca-file and HOSTLER_CA_FILE name a file of certificates in PEM")
    };
    let pem = fs::read(file).map_err(|error| bad(error.to_string()))?;
    let found = Certificate::from_pem_bundle(&pem).map_err(|error| bad(error.to_string()))?;
    if found.is_empty() { Err(bad("there is no certificate in it".into())) } else { Ok(found) }
}

fn is_plain(url: &str) -> bool {
    Url::parse(url.trim()).is_ok_and(|url| url.scheme() == "http")
}

/// Whether an address is of this machine.
pub fn is_loopback(url: &str) -> bool {
    let Ok(url) = Url::parse(url.trim()) else { return false };
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_does_not_travel_unencrypted_unless_somebody_says_that_it_may() {
        hostler_trust::install_crypto();
        let closed = Way::default();
        for url in
            ["http://127.0.0.1:9090", "http://localhost:9090", "http://[::1]:9090", "https://hostler.example.com"]
        {
            closed.link(url).unwrap();
        }
        for url in ["http://hostler.example.com", "http://127.example.com", "https://a.example, http://b.example"] {
            let failure = closed.link(url).unwrap_err();
            assert!(failure.said().contains("plain HTTP to another machine"), "{failure:?}");
            Way { allow_plain_http: true, ..Way::default() }.link(url).unwrap();
        }
    }

    #[test]
    fn a_file_without_authorities_is_refused_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ca.pem");
        let way = Way { ca_file: Some(file.clone()), ..Way::default() };
        for text in [None, Some(""), Some("no certificate")] {
            if let Some(text) = text {
                fs::write(&file, text).unwrap();
            }
            assert!(way.link("https://a.example").unwrap_err().said().contains("ca.pem"));
        }
    }

    #[test]
    fn what_is_said_now_wins_over_what_was_said_before() {
        let before = Way { ca_file: Some("a".into()), allow_plain_http: true };
        assert_eq!(Way::default().over(&before), before);
        let now = Way { ca_file: Some("b".into()), ..Way::default() };
        assert_eq!(now.over(&before).ca_file, Some("b".into()));
    }
}
