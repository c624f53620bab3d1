//! HTTP requests as the sockets of watched processes show them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Cause, Pid, Tid};

/// The methods that everybody knows, and what all others are called.
pub(crate) const METHODS: [&str; 9] = [
    "GET", "POST", "PUT", "HEAD", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT",
];
pub(crate) const OTHER_METHOD: &str = "_OTHER";

/// Something that has become of a request, or of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpEvent {
    /// When the system call that tells was over.
    pub at_ns: u64,
    /// Who read the request. 0: it is about no process.
    pub pid: Pid,
    /// The thread that read, or that wrote.
    pub tid: Tid,
    pub what: HttpWhat,
}

/// What has become.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HttpWhat {
    /// The head of a request has been read whole.
    Began {
        /// A number that no other request of the watch has.
        id: u64,
        request: HttpRequest,
        /// Headers that were asked for, by name.
        ids: BTreeMap<String, String>,
        /// The port of the client; `None`: it has none.
        #[serde(default)]
        client_port: Option<u16>,
    },
    /// The head of its response has been written.
    Answered {
        id: u64,
        request: HttpRequest,
        status: u16,
        /// From when its head had been read, ns.
        duration_ns: u64,
    },
    /// Its connection was closed before a response.
    Abandoned { id: u64 },
    /// A connection on which nothing more is understood.
    Unparsed(NotParsed),
    /// Records never arrived: what was under way is not known any more.
    Lost { records: u64 },
    /// Which response is that of a request is not known: heads before it may have gone unseen on its connection. `None`: it
    /// was not taken for that reason.
    Unclear { id: Option<u64> },
    /// The thread has waited for the peer of a connection that its process, or another one, has made.
    Waited {
        peer: HttpPeer,
        /// The connection was seen to be made.
        made: bool,
        cause: Cause,
        from_ns: u64,
        wait_ns: u64,
    },
}

/// The other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HttpPeer {
    /// `None`: left out.
    pub address: Option<IpAddr>,
    pub port: u16,
}

/// What the head of a request says, as far as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpRequest {
    /// One of those that everybody knows, else `_OTHER`.
    pub method: Cow<'static, str>,
    /// Its path, with what looks like an identifier folded; `None`: left out.
    pub path: Option<Arc<str>>,
    /// From when its first byte could be read until it was read, ns; `None`: not seen.
    pub queue_ns: Option<u64>,
}

/// Why nothing is understood on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum NotParsed {
    Tls,
    Http2,
    /// It begins like a request and is none, or its headers contradict each other.
    Malformed,
    Other,
}

impl NotParsed {
    /// The name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            NotParsed::Tls => "tls",
            NotParsed::Http2 => "http2",
            NotParsed::Malformed => "malformed",
            NotParsed::Other => "other",
        }
    }
}
