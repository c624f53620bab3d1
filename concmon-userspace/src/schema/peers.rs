//! For whom threads waited on the network.

use schemars::JsonSchema;
use serde::Serialize;

use super::Histogram;
use super::words::words;

/// What threads waited at connections to one peer: in system calls on these (to connect, to read, to write), and in
/// `poll` or `select` between a write or connect and the next read. An event loop waits for all of its sockets at once,
/// which is no wait for one of them. Only a thread's last wait before it reads or writes counts: where it waited for the
/// GIL or a CPU behind `poll` (sockets with a timeout), that was not for the peer, and the one before is not told.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Peer {
    /// Of IPv4 or IPv6, `<redacted>` with `--redact`; `null`: all peers that have no row.
    pub address: Option<String>,
    /// `null`: all peers that have no row.
    pub port: Option<u16>,
    /// `null`: its connections were there before the watch, and nobody listens on their ports here, so that they are taken
    /// for outgoing ones.
    pub direction: Option<Direction>,
    /// In sum, ns.
    pub wait_ns: u64,
    /// What of it lies in requests that the waiting thread had read and not answered, ns; of threads that have one request
    /// at a time. Others may serve one that another thread has read: of these it is 0.
    pub in_requests_ns: u64,
    /// The waits.
    pub waits: Histogram,
}

impl Peer {
    /// `127.0.0.1:5432`, `[::1]:5432`.
    pub fn name(&self) -> String {
        match (&self.address, self.port) {
            (Some(address), Some(port)) if address.contains(':') => format!("[{address}]:{port}"),
            (Some(address), Some(port)) => format!("{address}:{port}"),
            _ => "_OTHER".to_owned(),
        }
    }
}

words! {
    /// Who has made a connection.
    pub enum Direction {
        /// The process, or another one that is watched.
        Out = "out",
    }
}
