//! The message broker that a verb is told of: by an address, or by a file that holds one. Its password is shown nowhere.

use std::{fs, path::Path};

use hostler_broker::{Address, BUILT_IN, Broker};
use hostler_trust::file::read_private;
use serde::{Deserialize, Serialize};

use crate::exit::Failure;

/// By which road an agent's tasks come and its results go.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Road {
    /// Over mutual TLS: it asks the server
    Poll,
    /// By RabbitMQ: the server offers
    Amqp,
}

/// What a section says of a broker.
#[derive(Clone, Copy, Debug)]
pub struct Said<'a> {
    /// Which section.
    pub section: &'static str,
    /// Its address.
    pub amqp: &'a str,
    /// A file with its address.
    pub file: &'a Path,
    /// A file with the authorities that its certificate may be of.
    pub authorities: &'a Path,
}

/// The broker, if one is named; what the connection is called there.
pub fn broker(said: &Said<'_>, name: String) -> Result<Option<Broker>, Failure> {
    let Said { section, amqp, file, authorities } = *said;
    let text = match (amqp, file.as_os_str().is_empty()) {
        ("", true) => return Ok(None),
        (address, true) => address.to_owned(),
        ("", false) => in_file(section, file)?,
        (_, false) => {
            return Err(Failure::usage(format!("[{section}] says both amqp and amqp_file"))
                .help("leave amqp out: the file holds the whole address"));
        }
    };
    if !BUILT_IN {
        return Err(Failure::usage(format!("[{section}] names a broker, and this build has no RabbitMQ client"))
            .help("build it with `--features rabbitmq`, as releases are"));
    }
    let address: Address = text.parse().map_err(|error| Failure::usage(format!("{section}.amqp: {error}")))?;
    let authorities = if address.tls { read_authorities(section, authorities)? } else { Vec::new() };
    Ok(Some(Broker { address, authorities, name }))
}

fn in_file(section: &str, file: &Path) -> Result<String, Failure> {
    let wrong = |why: String| Failure::usage(format!("{section}.amqp_file: {why}"));
    let text = read_private(file).map_err(|error| wrong(error.to_string()))?;
    text.ok_or_else(|| wrong(format!("there is no {}", file.display())).help("write the address into it, mode 0600"))
}

fn read_authorities(section: &str, file: &Path) -> Result<Vec<u8>, Failure> {
    fs::read(file).map_err(|error| {
        Failure::usage(format!("{section}.amqp_authorities: {} cannot be read: {error}", file.display()))
            .help("name a PEM file with the authority of the broker's certificate")
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn said<'a>(amqp: &'a str, file: &'a Path) -> Said<'a> {
        Said { section: "server", amqp, file, authorities: Path::new("/nowhere") }
    }

    fn told(said: Said<'_>) -> String {
        let failure = broker(&said, "n".to_owned()).unwrap_err();
        failure.lines().into_iter().map(|(_, line)| line).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn nothing_said_is_no_broker() {
        assert!(broker(&said("", Path::new("")), "n".to_owned()).unwrap().is_none());
    }

    #[cfg(feature = "rabbitmq")]
    #[test]
    fn an_address_comes_from_a_file_that_nobody_else_reads() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("amqp");
        fs::write(&file, "amqp://h:hunter2@b:1/v\n").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(told(said("", &file)).contains("amqp_file"));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let found = broker(&said("", &file), "n".to_owned()).unwrap().unwrap();
        assert_eq!((found.address.host.as_str(), found.address.port), ("b", 1));
        assert!(told(said("amqp://b", &file)).contains("both"));
        assert!(told(said("amqps://b", Path::new(""))).contains("amqp_authorities"));
        let wrong = told(said("amq://h:hunter2@b", Path::new("")));
        assert!(wrong.contains("server.amqp") && !wrong.contains("hunter2"), "{wrong}");
    }
}
