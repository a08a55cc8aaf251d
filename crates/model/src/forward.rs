//! Port forwards: a port of the host that leads to one of a guest.

use std::{fmt, net::Ipv4Addr, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::error::{Code, Refusal, excerpt};

/// How many a machine may have.
pub const MOST: usize = 64;

/// What is forwarded.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// As JSON and QEMU spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        }
    }
}

/// A port of the host that leads to one of the guest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PortForward {
    /// What is forwarded; `tcp` where nothing is said.
    #[serde(default)]
    pub protocol: Protocol,
    /// The host's address on which it listens; 127.0.0.1 where nothing is said, 0.0.0.0 for all.
    #[serde(default = "loopback")]
    #[schema(value_type = String, format = "ipv4")]
    pub host_address: Ipv4Addr,
    /// The host's port; 0, or nothing, lets the node choose one.
    #[serde(default)]
    pub host_port: u16,
    /// The guest's port.
    #[schema(minimum = 1)]
    pub guest_port: u16,
}

fn loopback() -> Ipv4Addr {
    Ipv4Addr::LOCALHOST
}

impl PortForward {
    /// Whether both would listen in the same place. A port that is yet to be chosen is in nobody's way.
    pub fn collides(&self, other: &PortForward) -> bool {
        let everywhere = self.host_address.is_unspecified() || other.host_address.is_unspecified();
        self.protocol == other.protocol
            && self.host_port != 0
            && self.host_port == other.host_port
            && (everywhere || self.host_address == other.host_address)
    }

    /// Where it listens, such as `127.0.0.1:8080/tcp`.
    pub fn host(&self) -> String {
        format!("{}:{}/{}", self.host_address, self.host_port, self.protocol.as_str())
    }
}

impl fmt::Display for PortForward {
    /// `127.0.0.1:8080 -> 80/tcp`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PortForward { protocol, host_address, host_port, guest_port } = self;
        write!(f, "{host_address}:{host_port} -> {guest_port}/{}", protocol.as_str())
    }
}

impl FromStr for PortForward {
    type Err = Refusal;

    /// `[[ADDRESS:]PORT:]GUEST_PORT[/udp]`: `8080:80`, `80` (the host's port is chosen), `127.0.0.1:5353:53/udp`.
    fn from_str(text: &str) -> Result<Self, Refusal> {
        let refuse = || {
            let detail = format!(
                "{:?} is no port forward: write PORT:GUEST_PORT, such as 8080:80, 127.0.0.1:8080:80 or 5353:53/udp",
                excerpt(text)
            );
            Refusal::field("publish", detail)
        };
        let (ports, protocol) = match text.split_once('/') {
            None | Some((_, "tcp")) => (text.split('/').next().unwrap_or_default(), Protocol::Tcp),
            Some((ports, "udp")) => (ports, Protocol::Udp),
            Some(_) => return Err(refuse()),
        };
        let parts: Vec<&str> = ports.split(':').collect();
        let (address, host, guest) = match parts[..] {
            [guest] => (None, "0", guest),
            [host, guest] => (None, host, guest),
            [address, host, guest] => (Some(address), host, guest),
            _ => return Err(refuse()),
        };
        let port = |text: &str| text.parse::<u16>().map_err(|_| refuse());
        let host_address = address.map_or(Ok(loopback()), |text| text.parse().map_err(|_| refuse()))?;
        let forward = PortForward { protocol, host_address, host_port: port(host)?, guest_port: port(guest)? };
        check(&[forward]).map(|()| forward)
    }
}

/// Refuses forwards of one machine that cannot be, or that are in each other's way.
pub fn check(forwards: &[PortForward]) -> Result<(), Refusal> {
    if forwards.len() > MOST {
        return Err(Refusal::field(
            "port_forwards",
            format!("{} are more than the {MOST} there may be", forwards.len()),
        ));
    }
    for (at, forward) in forwards.iter().enumerate() {
        if forward.guest_port == 0 {
            return Err(Refusal::field("port_forwards", "guest_port: 0 is no port of a guest"));
        }
        if let Some(other) = forwards[..at].iter().find(|other| other.collides(forward)) {
            let detail =
                format!("{} is forwarded twice, to {} and to {}", forward.host(), other.guest_port, forward.guest_port);
            return Err(Refusal::field("port_forwards", detail));
        }
    }
    Ok(())
}

/// Takes over the ports that a node chose. A forward is found by what it is, not by its place: the list may have changed
/// since the node was told; whatever else the node says of them is none of its business.
pub fn choose(forwards: &mut [PortForward], mut said: Vec<PortForward>) {
    said.retain(|said| !forwards.contains(said));
    for wanted in forwards.iter_mut().filter(|forward| forward.host_port == 0) {
        if let Some(at) = said.iter().position(|said| PortForward { host_port: 0, ..*said } == *wanted) {
            *wanted = said.remove(at);
        }
    }
}

/// That somebody else has the port. `who`: in words, such as `the VM web-1`.
pub fn taken(forward: &PortForward, who: &str) -> Refusal {
    let detail = format!(
        "the port {} of the node is taken by {who}; choose another, or 0 to let the node choose",
        forward.host()
    );
    Refusal::new(Code::PortTaken, detail).with("port", forward.host())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forward_is_read_as_people_write_it() {
        for (text, told) in [
            ("8080:80", "127.0.0.1:8080 -> 80/tcp"),
            ("80", "127.0.0.1:0 -> 80/tcp"),
            ("0.0.0.0:5353:53/udp", "0.0.0.0:5353 -> 53/udp"),
            ("2222:22/tcp", "127.0.0.1:2222 -> 22/tcp"),
        ] {
            assert_eq!(text.parse::<PortForward>().unwrap().to_string(), told);
        }
        for bad in
            ["", "x", "8080:", "8080:0", "70000:80", "a:8080:80", "1:2:3:4", "80/sctp", "8080:80/udp/tcp", "::1:80:80"]
        {
            assert!(bad.parse::<PortForward>().is_err(), "{bad}");
        }
    }

    #[test]
    fn two_cannot_listen_in_the_same_place() {
        let of = |text: &str| text.parse::<PortForward>().unwrap();
        assert!(of("8080:80").collides(&of("0.0.0.0:8080:81")));
        for (a, b) in [
            ("8080:80", "8081:80"),
            ("8080:80", "8080:80/udp"),
            ("127.0.0.1:8080:80", "127.0.0.2:8080:80"),
            ("80", "80"),
        ] {
            assert!(!of(a).collides(&of(b)), "{a} {b}");
        }
        assert!(check(&[of("8080:80"), of("8080:81")]).is_err());
        assert!(check(&[of("80"), of("80"), of("8080:81")]).is_ok());
    }

    #[test]
    fn a_port_that_was_chosen_goes_to_the_forward_that_it_was_chosen_for() {
        let of = |text: &str| text.parse::<PortForward>().unwrap();
        let mut now = ["443", "80", "9000:80", "53/udp", "80"].map(of);
        choose(&mut now, ["40001:80", "40002:53", "9000:80", "40003:80", "40004:22"].map(of).to_vec());
        assert_eq!(now, ["443", "40001:80", "9000:80", "53/udp", "40003:80"].map(of));
    }
}
