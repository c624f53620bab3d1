//! On which local ports a process listens.

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};
use std::path::PathBuf;

use super::file::{CWD, bytes};

/// Bytes of a table of sockets that are read; listening ones of TCP come first.
const MAX_TABLE: u64 = 4 << 20;
/// Descriptors of a process that are looked at.
const MAX_DESCRIPTORS: usize = 65_536;
/// `TCP_LISTEN`, as the table has it; and `__SO_ACCEPTCON` of unix sockets (include/linux/net.h).
const LISTENS: &str = "0A";
const ACCEPTS: u64 = 0x0001_0000;

/// Ports, without an order. What cannot be read is left out.
#[derive(Debug, Default)]
pub struct Listening {
    /// On which the process listens itself; 0 stands for any unix socket.
    pub own: BTreeSet<u16>,
    /// Those of TCP on which anybody listens in its network namespace.
    pub all: BTreeSet<u16>,
}

/// The listening sockets of each network namespace, as they were when the first process of it was asked for: the kernel
/// goes through all of its sockets to tell them.
#[derive(Debug, Default)]
pub struct Listeners {
    /// By what `/proc/PID/ns/net` says.
    known: BTreeMap<PathBuf, Table>,
}

/// Those of one network namespace.
#[derive(Debug, Default)]
struct Table {
    /// Ports by the sockets' inodes.
    ports: BTreeMap<u64, u16>,
    tcp: BTreeSet<u16>,
}

impl Listeners {
    /// Who listens where a process is.
    pub fn of(&mut self, pid: u32) -> Listening {
        let Ok(namespace) = std::fs::read_link(format!("/proc/{pid}/ns/net")) else {
            return Listening::default();
        };
        let table = match self.known.entry(namespace) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => match Table::read(pid) {
                Some(table) => place.insert(table),
                None => return Listening::default(),
            },
        };
        Listening {
            own: own_ports(pid, &table.ports),
            all: table.tcp.clone(),
        }
    }
}

impl Table {
    /// `None`: the process that was to show them is gone. A host may have no IPv6.
    fn read(pid: u32) -> Option<Self> {
        let mut ports = BTreeMap::new();
        for rows in [Some(table_of(pid, "tcp")?), table_of(pid, "tcp6")] {
            ports.extend(
                rows.iter()
                    .flat_map(|rows| rows.lines())
                    .filter_map(tcp_row),
            );
        }
        let tcp = ports.values().copied().collect();
        let rows = table_of(pid, "unix")?;
        ports.extend(rows.lines().filter_map(unix_row));
        Some(Self { ports, tcp })
    }
}

/// The ports of its descriptors, of `ports` by their sockets.
fn own_ports(pid: u32, ports: &BTreeMap<u64, u16>) -> BTreeSet<u16> {
    if ports.is_empty() {
        return BTreeSet::new();
    }
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd"));
    let descriptors = descriptors.into_iter().flatten().flatten();
    let inode = |entry: std::fs::DirEntry| {
        let link = std::fs::read_link(entry.path()).ok()?;
        let number = link.to_str()?.strip_prefix("socket:[")?;
        number.strip_suffix(']')?.parse::<u64>().ok()
    };
    descriptors
        .take(MAX_DESCRIPTORS)
        .filter_map(inode)
        .filter_map(|inode| ports.get(&inode).copied())
        .collect()
}

fn table_of(pid: u32, name: &str) -> Option<String> {
    let bytes = bytes(CWD, format!("/proc/{pid}/net/{name}"), MAX_TABLE).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// `0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 4711 ...`: inode and port.
fn tcp_row(row: &str) -> Option<(u64, u16)> {
    let mut words = row.split_whitespace();
    let (_, port) = words.nth(1)?.rsplit_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    (words.nth(1)? == LISTENS).then_some(())?;
    Some((words.nth(5)?.parse().ok()?, port))
}

/// `0000000000000000: 00000002 00000000 00010000 0001 01 4711 /run/app.sock`
fn unix_row(row: &str) -> Option<(u64, u16)> {
    let mut words = row.split_whitespace();
    let flags = u64::from_str_radix(words.nth(3)?, 16).ok()?;
    (flags & ACCEPTS != 0).then_some(())?;
    Some((words.nth(2)?.parse().ok()?, 0))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn own_listeners_are_found() {
        let listeners = ["127.0.0.1:0", "[::1]:0"].map(|at| TcpListener::bind(at).ok());
        let folder = tempfile::tempdir().expect("a folder");
        let _unix = UnixListener::bind(folder.path().join("socket")).expect("a socket");
        let mut known = Listeners::default();
        let Listening { own: found, all } = known.of(std::process::id());
        assert!(found.contains(&0), "{found:?}");
        for listener in listeners.iter().flatten() {
            let port = listener.local_addr().expect("an address").port();
            assert!(found.contains(&port), "{port} of {found:?}");
            assert!(all.contains(&port), "{port} of {all:?}");
        }
        drop(listeners);
        assert!(known.of(u32::MAX).own.is_empty());
        assert_eq!(known.known.len(), 1);
    }
}
