//! HTTP requests of a process.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Address, Frame, Histogram, Limit};

/// HTTP requests that a process has read from its sockets, and its responses.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Http {
    /// Requests that have a response, by what they were; those that took longest in sum first.
    pub requests: Vec<HttpRequests>,
    /// Requests that were read and have no response yet, the oldest first; not all, where there are many.
    pub active: Vec<HttpActive>,
    /// How many there are.
    pub active_count: u64,
    /// The same by method.
    pub active_by_method: BTreeMap<String, u64>,
    /// Requests whose connection was closed before a response.
    pub abandoned: u64,
    /// Connections on which nothing is understood, by why: `tls`, `http2`, `malformed`, `other`.
    pub unparsed: BTreeMap<String, u64>,
    pub limits: Vec<Limit>,
}

/// Requests of one method and path that had one status.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct HttpRequests {
    /// One of those that everybody knows, else `_OTHER`.
    pub method: String,
    /// As the framework names it; `null`: it is not read.
    pub route: Option<String>,
    /// What their paths have in common: parts that look like identifiers are folded (`/items/{number}`), which is a guess
    /// (see `estimated`). `null`: left out, or there are too many.
    pub learned_path: Option<String>,
    /// Of the response.
    pub status: u16,
    /// How many.
    pub count: u64,
    /// From when the head of the request had been read until the head of its response was written.
    pub duration: Histogram,
    /// From when its first byte could be read until it was read: how long it lay unread, the time before its connection
    /// was accepted included. Of those of which it was seen.
    pub queue: Histogram,
    /// Fields of this object that are guessed.
    pub estimated: Vec<&'static str>,
    pub limits: Vec<Limit>,
}

/// HTTP requests of a service.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct GroupHttp {
    /// Requests that have a response, by what they were; those that took longest in sum first.
    pub requests: Vec<GroupRequests>,
    /// Requests that were read and have no response yet, by method; of living processes.
    pub active: BTreeMap<String, u64>,
    /// Requests whose connection was closed before a response.
    pub abandoned: u64,
    /// Connections on which nothing is understood, by why: `tls`, `http2`, `malformed`, `other`.
    pub unparsed: BTreeMap<String, u64>,
    pub limits: Vec<Limit>,
}

/// Requests of one method and route that had one status.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct GroupRequests {
    /// As [`HttpRequests::method`].
    pub method: String,
    /// As the framework names it; `null`: it is not known, or there is none. Never a path.
    pub route: Option<String>,
    /// Of the response.
    pub status: u16,
    /// How many.
    pub count: u64,
    /// As [`HttpRequests::duration`].
    pub duration: Histogram,
    /// As [`HttpRequests::queue`].
    pub queue: Histogram,
}

/// Requests of a loop's process that waited while one step kept the loop.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema, PartialEq, Eq)]
pub struct Delayed {
    /// How many, as far as they had been read when this was known. One that was under way for nearly all of the step may
    /// be the step's own, and is left out.
    pub requests: u64,
    /// What lies of them in the step, ns in sum: the time that they lay unread, and that they were under way, which may
    /// have been for something else, too.
    pub delay_ns: u64,
    /// The part of it that they lay unread, ns in sum.
    pub unread_ns: u64,
}

impl Delayed {
    /// Itself, unless it is of none.
    pub fn of_any(self) -> Option<Self> {
        (self.requests > 0).then_some(self)
    }
}

/// A request without a response.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct HttpActive {
    /// As [`HttpRequests::method`].
    pub method: String,
    /// As the framework names it; `null`: it is not read.
    pub route: Option<String>,
    /// As [`HttpRequests::learned_path`].
    pub learned_path: Option<String>,
    /// Since its head had been read, ns.
    pub age_ns: u64,
    /// How long it lay unread before, ns; `null`: not seen.
    pub queue_ns: Option<u64>,
    /// The thread that read it: of a server of threads mostly the one that serves it, of an event loop the loop's.
    pub tid: u32,
    /// The task that serves it; `null`: a thread does, or it is not known which task (see `limits`).
    pub task: Option<HttpTask>,
    /// Where that task, or else that thread, is, as of the latest look; `null`: not known.
    #[serde(rename = "where")]
    pub place: Option<Frame>,
    /// What the task is suspended on, as a task's `waits_for` has it; `null`: it runs or is ready, a thread serves the
    /// request, or that is not known.
    pub waits_for: Option<String>,
    /// Headers that were asked for (`--request-id-header`), by name.
    pub ids: BTreeMap<String, String>,
    pub limits: Vec<Limit>,
}

/// The task that serves a request.
#[derive(Clone, Debug, Serialize, JsonSchema, PartialEq, Eq)]
pub struct HttpTask {
    /// As the rows of tasks have it, `0x...`.
    pub id: Address,
    /// As the program named it.
    pub name: String,
}
