//! When a machine is ready: what has to be seen of its guest, and how that is decided.
//!
//! ```text
//! auto           the guest agent answers, or cloud-init's end or a login prompt is seen on the serial console: whatever its
//!                image has. A guest of which nothing is seen in the time runs on, and is not ready.
//! none           its process runs
//! guest_agent    the guest agent answers
//! tcp            the guest takes a connection on a port: through a port of the node's loopback that the agent opens for
//!                this and closes again; needs no guest agent. The guest must have the address that QEMU's DHCP gives.
//! cloud_init     cloud-init's first boot has ended: asked of `cloud-init status` through the guest agent, or its last message
//!                is seen on the serial console, where there is no guest agent or one that runs no programs
//! marker         a file is there: looked for through the guest agent
//! ```

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::error::{Refusal, excerpt};

/// The longest path of a marker, in bytes.
const PATH_LIMIT: usize = 1024;

/// When a machine is ready.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Readiness {
    /// When the guest agent answers.
    #[default]
    GuestAgent,
    /// When anything shows that its guest has booted: the guest agent's answer, cloud-init's last message or a login prompt
    /// on its console.
    Auto,
    /// When the guest takes a connection.
    Tcp {
        /// On this port, 1 to 65,535.
        #[schema(minimum = 1, maximum = 65535)]
        port: u16,
    },
    /// When cloud-init has ended.
    CloudInit,
    /// When a file is there.
    Marker {
        /// Its absolute path in the guest.
        path: String,
    },
    /// As soon as its process runs.
    None,
}

impl Readiness {
    /// How long it may take where nobody says, in seconds: cloud-init installs packages, too.
    pub const fn default_timeout_seconds(&self) -> u32 {
        match self {
            Readiness::CloudInit | Readiness::Marker { .. } => 600,
            Readiness::Auto => 180,
            Readiness::GuestAgent | Readiness::Tcp { .. } | Readiness::None => 120,
        }
    }

    /// Whether there is more to wait for once the guest answers.
    pub const fn goes_on(&self) -> bool {
        match self {
            Readiness::CloudInit | Readiness::Marker { .. } => true,
            Readiness::GuestAgent | Readiness::Auto | Readiness::Tcp { .. } | Readiness::None => false,
        }
    }

    /// Refuses what could never be seen.
    ///
    /// # Errors
    /// With the field, and why.
    pub fn check(&self) -> Result<(), Refusal> {
        match self {
            Readiness::Tcp { port: 0 } => Err(Refusal::field("ready.tcp.port", "a port is 1 to 65535")),
            Readiness::Marker { path } if !is_path(path) => {
                let why =
                    format!("a marker is an absolute path of at most {PATH_LIMIT} bytes, with no control characters");
                Err(Refusal::field("ready.marker.path", why).with("value", excerpt(path)))
            }
            Readiness::GuestAgent
            | Readiness::Auto
            | Readiness::Tcp { .. }
            | Readiness::CloudInit
            | Readiness::Marker { .. }
            | Readiness::None => Ok(()),
        }
    }
}

fn is_path(path: &str) -> bool {
    path.starts_with('/') && path.len() > 1 && path.len() <= PATH_LIMIT && !path.chars().any(char::is_control)
}

/// As the command line spells it: `auto`, `guest-agent`, `tcp:22`, `cloud-init`, `marker:/path`, `none`.
impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Readiness::GuestAgent => f.write_str("guest-agent"),
            Readiness::Auto => f.write_str("auto"),
            Readiness::Tcp { port } => write!(f, "tcp:{port}"),
            Readiness::CloudInit => f.write_str("cloud-init"),
            Readiness::Marker { path } => write!(f, "marker:{path}"),
            Readiness::None => f.write_str("none"),
        }
    }
}

impl std::str::FromStr for Readiness {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        let ready = match text.split_once(':') {
            None => match text {
                "guest-agent" => Some(Readiness::GuestAgent),
                "auto" => Some(Readiness::Auto),
                "cloud-init" => Some(Readiness::CloudInit),
                "none" => Some(Readiness::None),
                _ => None,
            },
            Some(("tcp", port)) => port.parse().ok().map(|port| Readiness::Tcp { port }),
            Some(("marker", path)) => Some(Readiness::Marker { path: path.to_owned() }),
            Some(_) => None,
        };
        let ready = ready.ok_or_else(|| {
            let forms = ["auto", "guest-agent", "tcp:PORT", "cloud-init", "marker:/PATH", "none"];
            Refusal::field("ready", format!("this is none of {}", forms.join(", "))).with("forms", json!(forms))
        })?;
        ready.check().map(|()| ready)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_read_as_it_is_written() {
        for text in ["auto", "guest-agent", "tcp:22", "cloud-init", "marker:/run/ready", "none"] {
            assert_eq!(text.parse::<Readiness>().unwrap().to_string(), text);
        }
        for bad in ["", "tcp", "tcp:0", "tcp:65536", "tcp:x", "marker:", "marker:run", "marker:/a\u{7}", "soon", "a:b"]
        {
            assert!(bad.parse::<Readiness>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn as_json_a_manifest_of_old_is_still_read() {
        assert_eq!(serde_json::from_value::<Readiness>(json!("guest_agent")).unwrap(), Readiness::GuestAgent);
        assert_eq!(json!(Readiness::Auto), json!("auto"));
        assert_eq!(json!(Readiness::Tcp { port: 22 }), json!({"tcp": {"port": 22}}));
        assert_eq!(json!(Readiness::Marker { path: "/r".into() }), json!({"marker": {"path": "/r"}}));
    }
}
