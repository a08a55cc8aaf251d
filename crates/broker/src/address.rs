//! Where a broker is, and who we are to it. Shown and logged without the password.

use std::{fmt, str::FromStr};

use crate::BrokerError;

/// An address, read from `amqp://USER:PASSWORD@HOST:PORT/VHOST`.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    /// Whether the connection is encrypted: `amqps`.
    pub tls: bool,
    /// The host.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Who we are.
    pub user: String,
    pub(crate) password: String,
    /// The virtual host.
    pub vhost: String,
}

impl FromStr for Address {
    type Err = BrokerError;

    fn from_str(text: &str) -> Result<Address, BrokerError> {
        let bad = BrokerError::Address;
        let (scheme, rest) = text.trim().split_once("://").ok_or(bad("it has no scheme"))?;
        let tls = match scheme {
            "amqp" => false,
            "amqps" => true,
            _ => return Err(bad("its scheme is neither amqp nor amqps")),
        };
        let (authority, vhost) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, password, place) = match authority.rsplit_once('@') {
            Some((who, place)) => {
                let (user, password) = who.split_once(':').unwrap_or((who, ""));
                (decoded(user)?, decoded(password)?, place)
            }
            None => ("guest".to_owned(), "guest".to_owned(), authority),
        };
        let usual = if tls { 5671 } else { 5672 };
        let (host, port) = place_of(place, usual)?;
        // Without a path the virtual host is `/`; the path `/` alone names one without a name, which nobody means.
        let vhost = if vhost.is_empty() { "/".to_owned() } else { decoded(vhost)? };
        if [&user, &password, &vhost].iter().any(|part| part.len() > 255) {
            return Err(bad("a part of it is longer than 255 bytes"));
        }
        Ok(Address { tls, host, port, user, password, vhost })
    }
}

fn place_of(place: &str, usual: u16) -> Result<(String, u16), BrokerError> {
    let bad = BrokerError::Address;
    let (host, port) = match place.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']').ok_or(bad("a bracket is not closed"))?;
            (format!("[{host}]"), after.strip_prefix(':'))
        }
        None => match place.split_once(':') {
            Some((host, port)) => (host.to_owned(), Some(port)),
            None => (place.to_owned(), None),
        },
    };
    if host.is_empty() {
        return Err(bad("it names no host"));
    }
    let port = port.map_or(Ok(usual), str::parse).map_err(|_| bad("its port is no number up to 65535"))?;
    Ok((host, port))
}

/// A part of an address, `%2F` and the like undone.
fn decoded(text: &str) -> Result<String, BrokerError> {
    let bad = || BrokerError::Address("a % is not followed by two hexadecimal digits, or they are no UTF-8");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next().ok_or_else(bad)?, rest.next().ok_or_else(bad)?];
            let digits = std::str::from_utf8(&digits).map_err(|_| bad())?;
            bytes.push(u8::from_str_radix(digits, 16).map_err(|_| bad())?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).map_err(|_| bad())
}

/// Without the password.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "amqps" } else { "amqp" };
        let vhost = if self.vhost == "/" { "" } else { &self.vhost };
        write!(f, "{scheme}://{}@{}:{}/{vhost}", self.user, self.host, self.port)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Address {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_is_read_with_the_usual_parts_left_out() {
        let all = read("amqps://a%3Ab:s%2Fx@broker.example:5700/tasks");
        assert_eq!((all.tls, all.host.as_str(), all.port), (true, "broker.example", 5700));
        assert_eq!((all.user.as_str(), all.password.as_str(), all.vhost.as_str()), ("a:b", "s/x", "tasks"));
        let few = read("amqp://broker");
        assert_eq!((few.port, few.user.as_str(), few.vhost.as_str()), (5672, "guest", "/"));
        assert_eq!((read("amqps://b").port, read("amqp://b/%2F").vhost.as_str()), (5671, "/"));
        assert_eq!((read("amqp://[::1]:7/").host.as_str(), read("amqp://[::1]:7/").port), ("[::1]", 7));
        for bad in ["broker", "http://b", "amqp://", "amqp://b:x", "amqp://b:70000", "amqp://u:%zz@b", "amqp://[::1"] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_password_is_never_shown() {
        let address = read("amqp://agent:hunter2@b:1/v");
        for shown in [format!("{address}"), format!("{address:?}")] {
            assert_eq!(shown, "amqp://agent@b:1/v");
        }
        let error = "amqp://agent:hunter2@".parse::<Address>().unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }
}
