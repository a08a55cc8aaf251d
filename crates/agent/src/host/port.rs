//! Ports of the host: whether one is free, which one may be had, and who has it.

use std::{
    fs, io,
    net::{SocketAddrV4, TcpListener, UdpSocket},
    path::Path,
};

use hostler_model::forward::{PortForward, Protocol};

/// A port that is free now: the one that is wanted, or another where that is 0. It is only looked at, not kept.
///
/// # Errors
/// With [`io::ErrorKind::AddrInUse`] when somebody has it.
pub fn free(forward: &PortForward) -> io::Result<u16> {
    let address = SocketAddrV4::new(forward.host_address, forward.host_port);
    let bound = match forward.protocol {
        Protocol::Tcp => TcpListener::bind(address)?.local_addr()?,
        Protocol::Udp => UdpSocket::bind(address)?.local_addr()?,
    };
    Ok(bound.port())
}

/// Who listens on a port, in words; `None` where that cannot be seen.
pub fn holder(forward: &PortForward) -> Option<String> {
    let table = fs::read_to_string(Path::new("/proc/net").join(forward.protocol.as_str())).ok()?;
    let inode = table.lines().skip(1).find_map(|line| listens(line, forward))?;
    let socket = format!("socket:[{inode}]");
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let pid = pids.find(|pid| has_open(*pid, &socket))?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(format!("the process {pid} ({})", hostler_model::error::excerpt(name.trim())))
}

/// The inode of a line's socket, if it listens on this port: `sl local_address rem_address st … inode`, in hex.
fn listens(line: &str, forward: &PortForward) -> Option<u64> {
    const TCP_LISTEN: &str = "0A";
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let (_, port) = fields.get(1)?.split_once(':')?;
    let listening = forward.protocol == Protocol::Udp || *fields.get(3)? == TCP_LISTEN;
    let same = u16::from_str_radix(port, 16).ok()? == forward.host_port;
    (listening && same).then(|| fields.get(9)?.parse().ok())?
}

fn has_open(pid: u32, socket: &str) -> bool {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    open.filter_map(|file| fs::read_link(file.path()).ok()).any(|target| target.as_os_str() == socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_somebody_has_is_not_free_and_is_said_to_be_whose() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let forward: PortForward = format!("{port}:80").parse().unwrap();
        assert_eq!(free(&forward).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let who = holder(&forward).unwrap();
        assert!(who.contains(&std::process::id().to_string()), "{who}");
        drop(listener);
        assert_eq!(free(&forward).unwrap(), port);
    }

    #[test]
    fn a_port_is_chosen_where_none_is_named() {
        for text in ["80", "53/udp"] {
            assert_ne!(free(&text.parse().unwrap()).unwrap(), 0);
        }
    }
}
