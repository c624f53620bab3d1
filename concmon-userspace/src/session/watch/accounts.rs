//! The accounts of threads, read for the end of a window, and collected of those that have ended.

use std::collections::{BTreeMap, BTreeSet};

use super::Watch;
use crate::{
    decode::{self, ledger::LedgerError},
    event::{Event, LedgerFact, Pid, ThreadState},
    procfs::{clocks, now},
    source::live::{Collected, Reading},
};

/// How long `/proc` must be without a thread before it counts as gone: a thread leaves `/proc` a
/// little before it leaves its CPU for the last time.
const MISSING_NS: u64 = 2_000_000_000;
/// Accounts that are so late are read once more, and at most so often, ns.
const LATE_NS: u64 = 5_000_000;
const MOST_READINGS: usize = 3;

impl Watch {
    /// Collects the accounts of ended threads.
    pub(super) fn collect_ended(&mut self) {
        // Not the end of the account: a reading of the living thread may say it was made later.
        let now_ns = clocks::monotonic_ns();
        let (intake, reads_failed) = (&mut self.intake, &mut self.reads_failed);
        self.live
            .read_ledgers(Reading::Ended, &BTreeSet::new(), |ledger, hists| {
                match decode::ledger::fact(ledger, hists, now_ns) {
                    Ok(fact) => {
                        let folded = fact.folded;
                        intake.now(Event::Ledger(Box::new(fact)));
                        if folded {
                            Collected::Keep
                        } else {
                            Collected::Free
                        }
                    }
                    Err(_) => {
                        *reads_failed += 1;
                        Collected::Keep
                    }
                }
            });
    }

    /// Has the kernel side tell single slices only of whom they are needed, where sums are enough otherwise.
    pub(super) fn suit_slices(&mut self) {
        if !self.sums_only {
            return;
        }
        let tapped = self.intake.taps.processes();
        let pipeline = self.intake.pipeline();
        self.live
            .suit_slices(|pid, tid| !tapped.contains(&pid) && !pipeline.needs_slices(tid));
    }

    /// The processes in which nothing has run since all of it was read and told last.
    pub(super) fn still(&self) -> BTreeSet<Pid> {
        // A capture may begin with any of its windows, and time by stack is told apart: both are given all. A thread
        // that `/proc` does not have is looked after one by one.
        if self.intake.keeps() || self.intake.intervals().is_some() || !self.missing.is_empty() {
            return BTreeSet::new();
        }
        let tapped = self.intake.taps.processes();
        let mut still = self.live.still();
        still.retain(|pid| !tapped.contains(pid));
        still.retain(|pid| self.targets.stands(*pid, self.schedule.tree()));
        still
    }

    /// Reads every account as [`Self::read_ledgers`] does. Reading may take long, as where the tool itself waits for a
    /// CPU: accounts that were read late would have more time than the window has, so all are read once more then, as
    /// of a later instant. Gives the instant.
    pub(super) fn read_in_time(
        &mut self,
        mut at_ns: u64,
        still: &BTreeSet<Pid>,
    ) -> (Vec<Event>, u64) {
        let mut facts = self.read_ledgers(at_ns, still);
        for _ in 0..MOST_READINGS {
            if lateness_ns(&facts, at_ns) < LATE_NS {
                break;
            }
            at_ns = clocks::monotonic_ns();
            // Those of threads that have ended are in the first facts alone.
            facts.extend(self.read_ledgers(at_ns, still));
        }
        (facts, at_ns)
    }

    /// Reads every account, but for those of the processes in `still`, as of `now_ns`, or of its latest switch since, and
    /// gives back the slots of threads that have ended. One instant for all: otherwise the walls of threads in a window
    /// would differ from it by as much as reading takes longer in one window than in another.
    fn read_ledgers(&mut self, now_ns: u64, still: &BTreeSet<Pid>) -> Vec<Event> {
        let mut facts = Vec::new();
        let mut missing = BTreeMap::new();
        let (reads_failed, missing_before) = (&mut self.reads_failed, &self.missing);
        let targets = &self.targets;
        let known = self.live.known();
        // A capture may begin with any of its windows, so it is given all.
        let reading = if self.intake.keeps() || !self.intake.taps.is_empty() {
            Reading::Whole
        } else {
            Reading::Moved
        };
        self.live.read_ledgers(reading, still, |ledger, hists| {
            let mut fact = match decode::ledger::fact(ledger, hists, now_ns) {
                Ok(fact) => fact,
                Err(LedgerError::Free) => return Collected::Keep,
                Err(error) => {
                    log::debug!("tid {}: {error}", ledger.tid);
                    *reads_failed += 1;
                    return Collected::Keep;
                }
            };
            if let Some(until_ns) = known.until_ns(fact.since_ns) {
                close_unseen(&mut fact, until_ns);
            }
            let mut verdict = Collected::Keep;
            if fact.state == ThreadState::Dead {
                // A sum goes on until its process is gone.
                if !fact.folded || targets.is_gone(fact.pid) {
                    verdict = Collected::Free;
                }
            } else if matches!(fact.state, ThreadState::Woken | ThreadState::Preempted)
                && let Some(exec_ns) = now::cpu_clock_ns(fact.pid, fact.tid)
            {
                correct_unseen_run(&mut fact, exec_ns);
            } else {
                let key = (fact.tid, fact.start_boottime_ns);
                let since_ns = missing_before.get(&key).copied();
                match targets.has_thread(fact.pid, fact.tid) {
                    Some(true) => {}
                    None => missing.extend(since_ns.map(|since_ns| (key, since_ns))),
                    // It ended, and the kernel did not tell. What it did after its last switch that was
                    // seen is not known.
                    Some(false) => {
                        let since_ns = since_ns.unwrap_or(fact.read_ns);
                        if fact.read_ns.saturating_sub(since_ns) >= MISSING_NS {
                            fact.state = ThreadState::Dead;
                            verdict = Collected::Abandon;
                        } else {
                            missing.insert(key, since_ns);
                        }
                    }
                }
            }
            facts.push(Event::Ledger(Box::new(fact)));
            verdict
        });
        self.missing = missing;
        facts
    }
}

/// How much later than their instant accounts are at most, by the switches of their threads meanwhile, ns.
fn lateness_ns(facts: &[Event], at_ns: u64) -> u64 {
    let read = facts.iter().map(|fact| match fact {
        Event::Ledger(fact) => fact.read_ns.saturating_sub(at_ns),
        _ => 0,
    });
    read.max().unwrap_or(0)
}

/// What a thread did since `until_ns` nobody saw: its open stretch ends there, and the rest is unobserved. The kernel
/// side does the same when it meets the thread.
fn close_unseen(fact: &mut LedgerFact, until_ns: u64) {
    let (open_ns, unseen_ns) = (
        until_ns.saturating_sub(fact.since_ns),
        fact.read_ns.saturating_sub(until_ns),
    );
    if unseen_ns == 0 {
        return;
    }
    match fact.state {
        ThreadState::Dead => return,
        ThreadState::Running => fact.on_cpu_ns += open_ns,
        ThreadState::Woken => fact.woken_ns += open_ns,
        ThreadState::Preempted => fact.preempted_ns += open_ns,
        ThreadState::Blocked(cause) => fact.blocked_ns[cause as usize] += open_ns,
    }
    fact.unobserved_ns += unseen_ns;
    fact.since_ns = fact.read_ns;
}

/// A thread that waits for a CPU by our account, while its own clock goes on, was given one without
/// a tracepoint telling. When it leaves it again the kernel side finds out; until then the open
/// stretch is split here.
fn correct_unseen_run(fact: &mut LedgerFact, exec_ns: u64) {
    let open = fact.read_ns.saturating_sub(fact.since_ns);
    let run = exec_ns.saturating_sub(fact.sum_exec_ns).min(open);
    if run == 0 {
        return;
    }
    fact.on_cpu_ns += run;
    match fact.state {
        ThreadState::Woken => fact.woken_ns += open - run,
        _ => fact.preempted_ns += open - run,
    }
    fact.since_ns = fact.read_ns;
    fact.sum_exec_ns = exec_ns;
    fact.state = ThreadState::Running;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Cause;
    use crate::model::testing::{START, ledger};

    /// A thread begins a stretch at 100 ns and is read at 1,000.
    fn closed(state: ThreadState, until_ns: u64) -> LedgerFact {
        let mut fact = ledger(1, 1);
        (fact.state, fact.on_cpu_ns) = (state, 100);
        (fact.since_ns, fact.read_ns) = (START + 100, START + 1_000);
        close_unseen(&mut fact, START + until_ns);
        fact
    }

    #[test]
    fn an_account_that_moved_after_the_instant_is_late() {
        let read = |read_ns| {
            let mut fact = ledger(1, 1);
            fact.read_ns = read_ns;
            Event::Ledger(Box::new(fact))
        };
        let facts = [read(1_000), read(1_300), read(1_000)];
        assert_eq!(lateness_ns(&facts, 1_000), 300);
        assert_eq!(lateness_ns(&[], 1_000), 0);
    }

    #[test]
    fn an_open_stretch_ends_where_nobody_looked_any_more() {
        let fact = closed(ThreadState::Running, 300);
        assert_eq!((fact.on_cpu_ns, fact.unobserved_ns), (300, 700));
        assert_eq!(
            (fact.since_ns, fact.read_ns),
            (START + 1_000, START + 1_000)
        );
        let cause = Cause::Lock;
        let fact = closed(ThreadState::Blocked(cause), 100);
        assert_eq!((fact.on_cpu_ns, fact.unobserved_ns), (100, 900));
        assert_eq!(fact.blocked_ns, [0; concmon_ebpf::cause::COUNT]);
        // All of it was seen, or it is over.
        for fact in [
            closed(ThreadState::Running, 1_000),
            closed(ThreadState::Dead, 300),
        ] {
            assert_eq!((fact.on_cpu_ns, fact.unobserved_ns), (100, 0));
            assert_eq!(fact.since_ns, START + 100);
        }
    }
}
