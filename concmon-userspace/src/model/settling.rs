//! The end of a window for a process: what depends on several inputs is brought up to date.

use super::loops::thread_at;
use super::process::{PATIENCE, Process};
use super::thread::{PROC_TICK_NS, ThreadKey};
use super::window::{Clock, Scope};

impl Process {
    /// At the end of the window `epoch`, which began at `start_ns`: brings everything that
    /// depends on several inputs up to date.
    pub(crate) fn settle(&mut self, clock: &Clock, start_ns: u64, epoch: u64) {
        self.settle_stats(clock, start_ns);
        self.settle_python();
        self.folded.settle(&mut self.threads, epoch);
        let ended = self.ended();
        for thread in self.threads.iter_mut() {
            thread.settle(epoch, ended, &self.futexes);
        }
        let folded = &mut self.folded;
        self.threads.retain(|thread| {
            let hopeless = thread.hopeless(epoch);
            if hopeless && thread.exited() {
                folded.count_thread();
            }
            !hopeless
        });
        let look = self
            .look
            .as_deref()
            .filter(|look| self.look_is_new && look.info.supported);
        self.loops
            .settle(&self.threads, look, epoch, &mut self.loop_times);
        self.fact_is_new = false;
        self.look_is_new = false;

        for thread in self.threads.iter().filter(|thread| thread.accounted()) {
            let start_ns = self.seen_from.unwrap_or(thread.start_ns);
            self.seen_from = Some(start_ns.min(thread.start_ns));
            self.seen_until.now = self.seen_until.now.max(thread.accounted_until());
        }
        let threads_live = self
            .threads
            .iter()
            .any(|thread| thread.accounted() && !thread.ended());
        let in_proc = self.fact.is_some() && !self.zombie && self.fact_epoch + PATIENCE > epoch;
        if !threads_live && !in_proc && self.born_epoch + PATIENCE <= epoch {
            self.end(epoch);
        }
    }

    /// At the end of the window `epoch`: books what threads waited for the GIL. `ending`: no more
    /// records will come.
    pub(crate) fn settle_gil(&mut self, at_ns: u64, epoch: u64, ending: bool) {
        let last = ending || self.retired || self.finished(epoch);
        let blocked = self.threads.iter().map(|thread| {
            let grown = thread.totals(Scope::Window);
            (thread.key.tid, grown.columns.gil_ns())
        });
        self.gil.settle(at_ns, blocked, last);
    }

    /// Finds the threads of a new reading of `/proc`.
    fn settle_stats(&mut self, clock: &Clock, start_ns: u64) {
        let Some(fact) = self.fact.as_ref().filter(|_| self.fact_is_new) else {
            return;
        };
        self.unaccounted = 0;
        for stat in &fact.thread_stats {
            let key = |start_boottime_ns| ThreadKey {
                tid: stat.tid,
                start_boottime_ns,
            };
            let tick = stat.start_boottime_ns / PROC_TICK_NS * PROC_TICK_NS;
            let of_tick = key(tick)..=key(tick.saturating_add(PROC_TICK_NS - 1));
            let key = self
                .threads
                .range(of_tick)
                .map(|thread| thread.key)
                .next_back();
            match key.and_then(|key| self.threads.get_mut(key)) {
                Some(thread) if thread.accounted() => thread.stat(stat),
                // The ledgers were read a moment before: what is new may be missing there.
                _ if clock.of_boottime(stat.start_boottime_ns) < start_ns => self.unaccounted += 1,
                _ => {}
            }
        }
    }

    /// Finds the threads of a new look into the interpreter.
    fn settle_python(&mut self) {
        let look = self
            .look
            .as_ref()
            .filter(|look| self.look_is_new && look.info.supported);
        let Some(look) = look else {
            return;
        };
        for thread in self.threads.iter_mut() {
            if thread.lived_at(look.read_ns) {
                thread.looked_at();
            }
        }
        for seen in &look.threads {
            let key = thread_at(&self.threads, seen.tid, look.read_ns).map(|thread| thread.key);
            if let Some(thread) = key.and_then(|key| self.threads.get_mut(key)) {
                thread.python(seen, look);
            }
            if let Some(wait) = &seen.waiting_for {
                self.futexes.met(wait.futex, wait.purpose);
            }
        }
    }
}
