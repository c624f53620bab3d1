//! Recording a watch: the file, and on a terminal how far it is.

use std::{
    io::{self, IsTerminal as _},
    path::Path,
};

use super::{
    outcome::{Failure, code, why},
    output, say,
    stream::put,
};
use crate::{
    capture::{FileStore, Store},
    cli::Options,
    model::snapshot::Snapshot,
    views::{
        escape::escape,
        recording::{Recorded, line},
    },
};

/// The capture file of `-o`.
pub(super) fn store(options: &Options) -> Result<Box<dyn Store>, Failure> {
    let Some(path) = &options.output else {
        return Err(Failure::new(code::USAGE, "record needs a file: -o FILE"));
    };
    Ok(Box::new(FileStore::new(output::create(path)?)))
}

/// What is said of a recording while it goes on, and at its end.
#[derive(Debug)]
pub(super) struct Progress {
    quiet: bool,
    terminal: bool,
    recorded: Recorded,
}

impl Progress {
    pub(super) fn new(quiet: bool) -> Self {
        Self {
            quiet,
            terminal: !quiet && io::stderr().is_terminal(),
            recorded: Recorded::default(),
        }
    }

    /// After each window.
    pub(super) fn show(&mut self, window: &Snapshot, bytes: u64) {
        let recorded = &mut self.recorded;
        recorded.elapsed_ns += window.window.duration_ns;
        recorded.events += window.monitor.events;
        recorded.lost += window.monitor.events_lost;
        recorded.bytes = bytes;
        if self.terminal {
            put(&format!("\r\x1b[Krecording: {}", line(self.recorded)));
        }
    }

    /// `false`: the recording is not whole.
    pub(super) fn end(
        &mut self,
        recorded: io::Result<u64>,
        summary: &Snapshot,
        path: Option<&Path>,
    ) -> bool {
        if self.terminal {
            put("\r\x1b[K");
        }
        let path = path.map_or_else(String::new, |path| {
            escape(&path.to_string_lossy()).into_owned()
        });
        match recorded {
            Ok(_) if self.quiet => true,
            Ok(bytes) => {
                let recorded = Recorded {
                    elapsed_ns: summary.window.duration_ns,
                    events: summary.monitor.events,
                    lost: summary.monitor.events_lost,
                    bytes,
                };
                say(&format!(
                    "concmon-bpf: recorded in {path}: {}\n",
                    line(recorded)
                ));
                true
            }
            Err(error) => {
                say(&format!(
                    "concmon-bpf: cannot write {path}: {}; what was written before is whole\n",
                    why(&error)
                ));
                false
            }
        }
    }
}
