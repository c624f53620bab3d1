//! What is in a loop's queue whenever something is: what it may go round for.

use crate::schema::{Descriptor, Loop, Ready};

use super::{last_part, sighted::Sighted};

/// What asyncio's transports call, and its servers: they read or write what there is, and stop.
const TRANSPORTS: &str = "Transport.";
const ACCEPTS: &str = "_accept_connection";
/// Callbacks of one loop that are remembered, and loops.
pub(super) const MAX_CALLS: usize = 64;

/// A callback that has been in a loop's queue whenever that was seen not to be empty.
#[derive(Clone, Debug)]
pub(super) struct Always {
    pub(super) function: Option<String>,
    pub(super) descriptor: Option<Descriptor>,
    pub(super) sighted: Sighted,
}

impl Always {
    /// What is known of it at first.
    pub(super) fn of(ready: &Ready, unix_ns: u64) -> Self {
        Always {
            function: ready.function.clone(),
            descriptor: ready.descriptor.clone(),
            sighted: Sighted::at(unix_ns),
        }
    }

    /// The function without its module and class.
    pub(super) fn short_name(&self) -> &str {
        self.function.as_deref().map_or("", last_part)
    }

    fn is(&self, ready: &Ready) -> bool {
        (&self.function, &self.descriptor) == (&ready.function, &ready.descriptor)
    }
}

/// What is in the queue of a thread's loop whenever something is.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    /// When it was read last.
    pub(super) read_unix_ns: u64,
    pub(super) calls: Vec<Always>,
}

impl Queue {
    /// After another reading.
    pub(super) fn of(one: &Loop, read_unix_ns: u64, was: Option<Queue>) -> Self {
        let mut was = was.map_or_else(Vec::new, |was| was.calls);
        if one.queue.is_empty() {
            // It was not met filled.
            for always in &mut was {
                always.sighted.last_unix_ns = read_unix_ns;
            }
            return Queue {
                read_unix_ns,
                calls: was,
            };
        }
        let mut calls: Vec<Always> = Vec::new();
        for ready in one.queue.iter().filter(|ready| may_keep_on(ready)) {
            if calls.len() >= MAX_CALLS || calls.iter().any(|known| known.is(ready)) {
                continue;
            }
            let known = was.iter().find(|always| always.is(ready));
            let sighted = Sighted::again(known.map(|known| known.sighted), read_unix_ns);
            calls.push(Always {
                sighted,
                ..Always::of(ready, read_unix_ns)
            });
        }
        Queue {
            read_unix_ns,
            calls,
        }
    }
}

/// Whether a callback may be what a loop goes round for: no task's step, nothing of asyncio's that takes what
/// there is and stops, and that others have caused.
fn may_keep_on(ready: &Ready) -> bool {
    let function = ready.function.as_deref().unwrap_or_default();
    let of_asyncio = function.starts_with("asyncio.") || function.starts_with("_asyncio.");
    let takes = function.contains(TRANSPORTS) || last_part(function) == ACCEPTS;
    ready.task.is_none() && !takes && (ready.descriptor.is_some() || !of_asyncio)
}
