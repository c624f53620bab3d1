//! Processes are read, and interpreters looked at, a few at a time before a window ends.

use std::time::Duration;

use tokio::time::Instant;

use super::Watch;
use crate::{procfs::clocks, session::schedule::Schedule, targets::TargetId};

/// After so long, readings before the first window end, ns.
const FIRST_READINGS_NS: u64 = 200_000_000;

impl Watch {
    /// How long before the end of a window of `period` its readings are to begin.
    pub(crate) fn lead(&self, period: Duration) -> Duration {
        self.schedule.lead(period)
    }

    /// The readings of the window that goes on have begun.
    pub(crate) fn has_begun_readings(&self) -> bool {
        self.schedule.has_begun()
    }

    /// When readings begin for a window of `period` that ends at `end`; `None`: they have begun.
    pub(crate) fn readings_at(&self, end: Instant, period: Duration) -> Option<Instant> {
        (!self.has_begun_readings()).then(|| end - self.lead(period))
    }

    /// Somebody is still to be read.
    pub(crate) fn is_reading(&self) -> bool {
        self.schedule.is_reading()
    }

    /// Finds out which processes are to be read for the window that goes on.
    pub(crate) fn begin_readings(&mut self) {
        let now_ns = clocks::monotonic_ns();
        // At the end of a watch they may begin once more in a window.
        let is_new = !self.schedule.has_begun();
        let due = self.targets.begin_window(now_ns, is_new, &mut self.live);
        if self.live.is_detached() {
            self.schedule.go_blind();
        }
        let targets = &self.targets;
        let stands = |pid, since_ns| targets.has_stood_since(pid, since_ns);
        if let Err(error) = self.schedule.sweep(now_ns, &due, stands) {
            log::warn!("/proc cannot be listed: {error}");
            self.reads_failed += 1;
        }
        self.sweep_newcomers(now_ns);
        self.schedule.begin(now_ns, due);
        self.schedule
            .took(clocks::monotonic_ns().saturating_sub(now_ns));
    }

    /// Reads some of them.
    pub(crate) fn read_some(&mut self) {
        let ends_ns = Schedule::turn_ends_ns();
        while let Some(id) = self.schedule.next() {
            let begin_ns = clocks::monotonic_ns();
            self.read(id, begin_ns);
            let end_ns = clocks::monotonic_ns();
            self.schedule.took(end_ns.saturating_sub(begin_ns));
            if end_ns >= ends_ns {
                break;
            }
        }
    }

    /// Reads some of them in a turn of the select loop, after which what has arrived has its own.
    pub(crate) async fn take_turn_reading(&mut self) {
        self.read_some();
        self.passes.end();
        // Timers and records are looked at only while this waits.
        tokio::task::yield_now().await;
    }

    /// The same before anybody is told anything: of very many processes, some are read with the first window.
    pub(super) fn read_first(&mut self) {
        self.begin_readings();
        let ends_ns = clocks::monotonic_ns().saturating_add(FIRST_READINGS_NS);
        while self.is_reading() && clocks::monotonic_ns() < ends_ns {
            self.read_some();
        }
        while self.targets.is_busy() {
            self.take(true);
        }
    }

    pub(super) fn read_all(&mut self) {
        if !self.has_begun_readings() {
            self.begin_readings();
        }
        while self.is_reading() {
            self.read_some();
        }
        while self.targets.is_busy() {
            self.take(true);
        }
    }

    /// Reads `/proc` and the interpreter of one process.
    pub(super) fn read(&mut self, id: TargetId, now_ns: u64) {
        let tree = self.schedule.tree();
        match self
            .targets
            .read_process(id, &self.clocks, tree, &mut self.live)
        {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                log::debug!("{error}");
                self.reads_failed += 1;
            }
        }
        let pause_ns = self.schedule.look_pause_ns;
        if self.targets.is_look_due(id, now_ns, pause_ns) {
            self.schedule.look_at(id);
            self.begin_look();
        }
    }

    /// Begins the next look, where none is under way.
    pub(super) fn begin_look(&mut self) {
        let pause_ns = self.schedule.look_pause_ns;
        while !self.targets.is_looking()
            && let Some((id, deadline)) = self.schedule.next_look()
        {
            if self
                .targets
                .is_look_due(id, clocks::monotonic_ns(), pause_ns)
            {
                self.targets.begin_look(id, deadline);
            }
        }
    }

    /// Takes over what searches and looks have come to, and begins the next look.
    pub(crate) fn take_done(&mut self) {
        self.take(false);
    }

    pub(super) fn take(&mut self, wait: bool) {
        let taken = self.targets.take_done(wait, &mut self.live);
        self.reads_failed += taken.reads_failed;
        self.schedule.allowance.took(taken.took_ns);
        self.schedule.took(taken.took_ns);
        self.take_met(taken.met);
        for id in taken.early {
            for mut fact in self.targets.facts_of(id, self.schedule.tree()) {
                self.judge_service(&mut fact);
                self.step(fact);
            }
        }
        self.begin_look();
    }
}
