//! Recording a watch: the file, and on a terminal how far it is.

use std::{
    io::{self, IsTerminal as _},
    rc::Rc,
};

use super::{files::Written, say, stream::put};
use crate::{
    schema::Snapshot,
    views::recording::{Recorded, line},
};

/// What is said of a recording while it goes on, and at its end.
#[derive(Debug)]
pub(crate) struct Progress {
    written: Rc<Written>,
    quiet: bool,
    terminal: bool,
    recorded: Recorded,
}

impl Progress {
    pub(crate) fn new(written: Rc<Written>, quiet: bool) -> Self {
        Self {
            written,
            quiet,
            terminal: !quiet && io::stderr().is_terminal(),
            recorded: Recorded::default(),
        }
    }

    /// After each window.
    pub(crate) fn show(&mut self, window: &Snapshot, bytes: u64) {
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
    pub(crate) fn end(&mut self, recorded: io::Result<u64>, summary: &Snapshot) -> bool {
        if self.terminal {
            put("\r\x1b[K");
        }
        match recorded {
            Ok(_) if self.quiet => true,
            Ok(bytes) => {
                let recorded = Recorded {
                    elapsed_ns: summary.window.duration_ns,
                    events: summary.monitor.events,
                    lost: summary.monitor.events_lost,
                    bytes,
                };
                let place = match self.written.is_passing {
                    true => String::new(),
                    false => format!(" in {}", self.written.name.borrow()),
                };
                say(&format!(
                    "concmon-bpf: recorded{place}: {}\n",
                    line(recorded)
                ));
                true
            }
            Err(error) => {
                // It names the file, and says what is left.
                say(&format!("concmon-bpf: {error}\n"));
                false
            }
        }
    }
}
