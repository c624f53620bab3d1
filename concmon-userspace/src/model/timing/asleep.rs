//! Loops that sleep although callbacks are ready: another thread, or a signal handler, has made work for
//! them and has not woken them.
//!
//! A look shows what is ready, slices and ledgers show whether the loop's thread was blocked in its
//! selector from before the look until long after it. Whoever has made the work is given time to wake the
//! loop, and as long as a thread is about to, nothing is concluded.

use std::collections::BTreeMap;

use crate::event::{
    Cause, LedgerFact, LoopKind, PyFrame, PyLoop, PythonFact, Slice, ThreadState, Tid,
};
use crate::model::rows;
use crate::model::window::{Clock, Scope};
use crate::schema::{MissedWakeup, Ready};

/// Whoever wakes a loop does it sooner, ns.
const MISSED_NS: u64 = 50_000_000;
/// Threads that are followed.
const MAX_THREADS: usize = 1_024;
/// What makes work and wakes the loop, in this order.
const WAKES: &str = "call_soon_threadsafe";

/// Callbacks that were ready when they were read, while the thread seemed to be in its selector.
#[derive(Clone, Debug)]
struct Suspect {
    loop_id: u64,
    /// When the look began, which read the stack, and when the queue was read.
    look_ns: u64,
    read_ns: u64,
    ready: Vec<Ready>,
    /// It is in the window, and in the whole.
    counted: [bool; 2],
}

#[derive(Clone, Debug)]
struct Missed {
    loop_id: u64,
    since_ns: u64,
    asleep_ns: u64,
    count: u64,
    ready: Vec<Ready>,
}

/// One thread.
#[derive(Clone, Debug, Default)]
struct Sleeper {
    /// Blocked in a selector: the latest reading, and since when.
    blocked: Option<(u64, u64)>,
    /// When the queue was read that was taken over last.
    seen_ns: u64,
    suspect: Option<Suspect>,
    /// The longest in the window, and in the whole.
    missed: [Option<Missed>; 2],
}

impl Sleeper {
    /// The thread is blocked still.
    fn judge(&mut self) {
        if let (Some(suspect), Some((read_ns, since_ns))) = (&self.suspect, self.blocked)
            && since_ns <= suspect.look_ns
        {
            self.slept(read_ns.saturating_sub(suspect.read_ns));
        }
    }

    /// It has slept for so long since callbacks were seen to be ready.
    fn slept(&mut self, asleep_ns: u64) {
        let Some(suspect) = self.suspect.as_mut().filter(|_| asleep_ns >= MISSED_NS) else {
            return;
        };
        for (missed, counted) in self.missed.iter_mut().zip(&mut suspect.counted) {
            let known = missed.take();
            let known = known.filter(|known| known.loop_id == suspect.loop_id);
            let count = known.as_ref().map_or(0, |known| known.count) + u64::from(!*counted);
            *counted = true;
            let longer = known.filter(|known| known.asleep_ns > asleep_ns);
            *missed = Some(Missed {
                count,
                ..longer.unwrap_or_else(|| Missed {
                    loop_id: suspect.loop_id,
                    since_ns: suspect.read_ns,
                    asleep_ns,
                    count,
                    ready: suspect.ready.clone(),
                })
            });
        }
    }
}

/// The threads of one process that run loops.
#[derive(Clone, Debug, Default)]
pub(super) struct Sleepers {
    threads: BTreeMap<Tid, Sleeper>,
}

impl Sleepers {
    pub(super) fn slice(&mut self, slice: &Slice) {
        let Some(sleeper) = self.threads.get_mut(&slice.tid) else {
            return;
        };
        let Some(suspect) = &sleeper.suspect else {
            return;
        };
        let (look_ns, read_ns) = (suspect.look_ns, suspect.read_ns);
        if slice.in_ns <= read_ns {
            return;
        }
        if let Some(wait) = slice.wait
            && wait.cause == Some(Cause::Poll)
            && wait.queue
            && wait.off_ns <= look_ns
        {
            let woke_ns = wait.wake_ns.unwrap_or(slice.in_ns);
            sleeper.slept(woke_ns.saturating_sub(read_ns));
        }
        sleeper.suspect = None;
    }

    pub(super) fn ledger(&mut self, fact: &LedgerFact) {
        let blocked = fact.state == ThreadState::Blocked(Cause::Poll);
        // What a look says comes behind the ledger that it belongs to.
        if blocked && self.threads.len() < MAX_THREADS {
            self.threads.entry(fact.tid).or_default();
        }
        let Some(sleeper) = self.threads.get_mut(&fact.tid) else {
            return;
        };
        sleeper.blocked = blocked.then_some((fact.read_ns, fact.since_ns));
        sleeper.judge();
        if fact.state == ThreadState::Dead {
            sleeper.suspect = None;
            if sleeper.missed[1].is_none() {
                self.threads.remove(&fact.tid);
            }
        }
    }

    /// Whoever was blocked still is.
    pub(super) fn stands(&mut self, at_ns: u64) {
        for sleeper in self.threads.values_mut() {
            if let Some((read_ns, _)) = &mut sleeper.blocked {
                *read_ns = (*read_ns).max(at_ns);
                sleeper.judge();
            }
        }
    }

    pub(super) fn look(&mut self, look: &PythonFact) {
        let mut stacks = look.threads.iter().map(|thread| &thread.stack);
        let is_woken = stacks.any(|stack| stack.iter().any(|frame| is_named(frame, WAKES)));
        for seen in &look.loops {
            let Some(queue) = &seen.queue else {
                continue;
            };
            let Some(sleeper) = self.threads.get_mut(&seen.tid) else {
                continue;
            };
            if queue.read_ns <= sleeper.seen_ns {
                continue;
            }
            sleeper.seen_ns = queue.read_ns;
            let is_suspect = !queue.ready.is_empty() && !is_woken && is_in_selector(seen, look);
            sleeper.suspect = is_suspect.then(|| Suspect {
                loop_id: seen.id,
                look_ns: look.read_ns,
                read_ns: queue.read_ns,
                ready: rows::ready(seen, look),
                counted: [false; 2],
            });
            sleeper.judge();
        }
    }

    /// Begins a window.
    pub(super) fn roll(&mut self) {
        for sleeper in self.threads.values_mut() {
            sleeper.missed[0] = None;
            if let Some(suspect) = &mut sleeper.suspect {
                suspect.counted[0] = false;
            }
        }
    }

    /// All loops end with the program that ran them.
    pub(super) fn replaced(&mut self) {
        self.threads.clear();
    }

    pub(super) fn row(
        &self,
        tid: Tid,
        loop_id: u64,
        scope: Scope,
        clock: &Clock,
    ) -> Option<MissedWakeup> {
        let [window, whole] = &self.threads.get(&tid)?.missed;
        let missed = match scope {
            Scope::Window => window,
            Scope::Whole => whole,
        };
        let missed = missed.as_ref().filter(|missed| missed.loop_id == loop_id)?;
        Some(MissedWakeup {
            since_unix_ns: clock.unix_of(missed.since_ns),
            asleep_ns: missed.asleep_ns,
            count: missed.count,
            ready: missed.ready.clone(),
        })
    }
}

/// Whether the innermost Python code of a loop's thread is the loop's own wait. A step that waits in a
/// selector of its own has another frame there.
fn is_in_selector(seen: &PyLoop, look: &PythonFact) -> bool {
    let mut threads = look.threads.iter();
    let Some(thread) = threads.find(|thread| thread.tid == seen.tid) else {
        return false;
    };
    match (seen.kind, thread.stack.as_slice()) {
        (LoopKind::Asyncio, [select, turn, ..]) => {
            select.file.ends_with("/selectors.py") && is_named(turn, "_run_once")
        }
        // Its own wait has no frame: whoever runs it is the innermost.
        (LoopKind::Uvloop, [runner, ..]) => ["/asyncio/runners.py", "/uvloop/__init__.py"]
            .iter()
            .any(|file| runner.file.ends_with(file)),
        _ => false,
    }
}

fn is_named(frame: &PyFrame, name: &str) -> bool {
    frame.function.rsplit('.').next() == Some(name)
}
