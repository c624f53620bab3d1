//! The GIL of a process: who waited for it, because of whom, and how much of the time it was held.
//!
//! Waits come from slices. A thread's *GIL wait* is its time blocked on the GIL and the runnable
//! time directly after it. While a thread waits it wakes up every 5 ms to ask for the GIL (the
//! switch interval), so stretches with less than 200 µs on a CPU between two blocks are part of one
//! wait. Waits are kept in *pieces*, one per block. A piece is booked, and charged to whoever held
//! the GIL meanwhile, as soon as the hand-overs up to its end are known, 2 s later at the latest. For how long
//! threads were blocked in a window their accounts say at its end, before that (`pairs`): that is `wait_ns`, and
//! always the sum of all pairs. The histogram counts a wait when it has ended, with its runnable time.
//!
//! How much the GIL is held is estimated from samples, see `usage`.

mod crowd;
mod pairs;
mod timeline;
mod usage;
mod waits;

use super::add::Add;
use super::delta::GilDelta;
use super::histogram::Tally;
use super::window::{Cumulative, Scope, limit};
use crate::event::{Cause, LedgerFact, PyGil, PythonFact, Slice, ThreadState, Tid};
use crate::kernel::features::Feature;
use crate::schema::{self, Limit};
use crowd::Crowd;
use pairs::Pairs;
use timeline::{Timeline, Waited, Wakeup};
use usage::Usage;
use waits::{Step, Threads, Waits};

/// It is waited for more than a little from this part of a window on, all threads together.
const CONTENDED: u64 = 50;
/// How long a piece waits for the slice that tells what its holder did, ns.
const PATIENCE_NS: u64 = 2_000_000_000;
/// The same where charges are kept, which are asked for afterwards: a call in native code may keep the GIL for seconds,
/// and only the hand-over after that tells.
pub(crate) const CHARGE_PATIENCE_NS: u64 = 15_000_000_000;
/// A thread without slices for this long has its past forgotten, ns.
const FORGET_NS: u64 = 60_000_000_000;
/// Pieces after which books are made before the end of the window.
const MANY_PIECES: usize = 16_384;
/// Charges that are kept for who asks for them.
const MAX_CHARGES: usize = 1 << 20;
/// Pieces that are kept at most: beyond, they are booked with what is known.
const MAX_PIECES: usize = 65_536;
/// Where things are in a GIL, in bytes from its condition variable: the futexes of that on which
/// threads wait (glibc 2.28 to 2.43; the others in it are its own locks), the condition on which who
/// was made to drop the GIL waits until another thread has it, and its mutex.
const SIGNALS: u64 = 32;
const COND_END: u64 = 48;
const SWITCH_COND: u64 = 88;
const SWITCH_MUTEX: u64 = 136;
const GIL_END: u64 = 176;

/// Where in a GIL a thread is blocked.
enum Futex {
    /// It waits for the GIL: whoever wakes it has dropped it.
    Cond,
    /// It has dropped the GIL itself.
    Dropped,
    /// A lock inside.
    Other,
}

/// Why `gil` is null, or what its event-derived part is worth.
pub(crate) struct GilContext<'a> {
    pub(crate) scope: Scope,
    pub(crate) look: Option<&'a PythonFact>,
    /// Records that never arrived in `scope`.
    pub(crate) lost: u64,
    pub(crate) knows_causes: bool,
    /// What the ledgers have as blocked on the GIL in `scope`, ns.
    pub(crate) ledgers_ns: u64,
}

/// A part of a wait, and who held the GIL in it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Charge {
    pub(crate) holder: Tid,
    pub(crate) victim: Tid,
    pub(crate) from_ns: u64,
    pub(crate) to_ns: u64,
    /// As long in it the victim was blocked; the rest it waited for a CPU.
    pub(crate) blocked_ns: u64,
}

/// Everything about the GIL of one process.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gil {
    /// GILs of the process, the main interpreter's first.
    gils: Vec<PyGil>,
    threads: Threads,
    waits: Waits,
    timeline: Timeline,
    crowd: Crowd,
    usage: Usage,
    pairs: Pairs,
    wait_ns: Cumulative<u64>,
    tally: Cumulative<Tally>,
    /// Blocked on the GIL according to slices, ns.
    blocked_ns: Cumulative<u64>,
    /// Pieces at which books are made next.
    settle_at: usize,
    /// What was charged to somebody, for who asks for it.
    charges: Option<Vec<Charge>>,
}

impl Gil {
    /// One that keeps what it charges.
    pub(crate) fn with_charges() -> Self {
        Self {
            charges: Some(Vec::new()),
            ..Self::default()
        }
    }

    /// What was charged since this was asked last.
    pub(crate) fn take_charges(&mut self) -> Vec<Charge> {
        self.charges
            .as_mut()
            .map(std::mem::take)
            .unwrap_or_default()
    }

    /// Takes a slice of one of the process's threads.
    pub(crate) fn slice(&mut self, slice: &Slice) {
        let told = self.threads.slice(slice, &mut self.waits);
        self.timeline
            .arrived(slice.tid, slice.out_ns, &self.threads, &mut self.waits);
        if let Some(run) = told.ran {
            self.timeline.ran(slice.tid, run);
        }
        let Some(block) = told.block else {
            return;
        };
        self.blocked_ns.now = self.blocked_ns.now.saturating_add(block.blocked_ns);
        self.crowd.add(block.joined_ns, block.to_ns);
        match self.futex(block.futex) {
            Futex::Dropped => {
                if let Some(from_ns) = block.run_ns {
                    self.timeline.dropped(slice.tid, from_ns, block.from_ns);
                }
            }
            Futex::Cond => {
                if let (Some(waker), Some(wake_ns)) = (block.waker, block.wake_ns)
                    && waker != slice.tid
                {
                    let wakeup = Wakeup {
                        waker,
                        wake_ns,
                        wait: block.wait,
                        to_ns: block.to_ns,
                    };
                    self.timeline.wakeup(wakeup, &self.threads, &mut self.waits);
                }
            }
            Futex::Other => {}
        }
        if self.waits.pieces() >= self.settle_at.max(MANY_PIECES) {
            self.book(slice.out_ns, false);
            if self.waits.pieces() >= MAX_PIECES {
                self.book(slice.out_ns, true);
            }
            self.settle_at = self.waits.pieces().saturating_mul(2);
        }
    }

    /// What a thread that is blocked on the GIL does there.
    fn futex(&self, futex: u64) -> Futex {
        let offsets = self.gils.iter().map(|gil| futex.wrapping_sub(gil.cond));
        match offsets.min() {
            Some(SIGNALS..COND_END) => Futex::Cond,
            Some(SWITCH_COND..SWITCH_MUTEX) => Futex::Dropped,
            Some(0..GIL_END) => Futex::Other,
            // The address of the GIL is not known here yet.
            _ => Futex::Cond,
        }
    }

    /// Takes over what a look into the interpreter says of its GILs.
    pub(crate) fn look(&mut self, gils: &[PyGil]) {
        if gils.is_empty() {
            return;
        }
        if let Some(hold) = self.usage.look(gils) {
            self.timeline.seen_holding(hold);
        }
        self.gils.clear();
        self.gils.extend_from_slice(gils);
    }

    /// Takes the reading of a thread's ledger: blocked on something else, it does not wait for the
    /// GIL any more, which otherwise only its next slice would tell.
    pub(crate) fn ledger(&mut self, fact: &LedgerFact) {
        let (tid, waits) = (fact.tid, &mut self.waits);
        match fact.state {
            ThreadState::Dead => self.threads.ended(tid, waits),
            ThreadState::Blocked(cause) if cause != Cause::Gil => {
                self.threads.left(tid, fact.since_ns, waits);
            }
            _ => return,
        }
        self.timeline
            .arrived(tid, fact.since_ns, &self.threads, waits);
    }

    /// The program was replaced: threads and GIL of the old one are gone.
    pub(crate) fn exec(&mut self, at_ns: u64) {
        self.book(at_ns, true);
        self.waits.close_all();
        self.book(at_ns, true);
        self.threads = Threads::default();
        self.timeline = Timeline::default();
        self.gils.clear();
        self.usage.restart();
    }

    /// At the end of a window. `blocked`: for how long threads were blocked on the GIL in it, by their
    /// accounts. `last`: nothing more will come.
    pub(crate) fn settle(
        &mut self,
        at_ns: u64,
        blocked: impl Iterator<Item = (Tid, u64)>,
        last: bool,
    ) {
        if last {
            self.waits.close_all();
        }
        self.book(at_ns, last);
        let forgotten_ns = at_ns.saturating_sub(FORGET_NS);
        self.threads.forget(forgotten_ns, &mut self.waits);
        self.usage.settle();
        self.settle_at = 0;
        for (tid, ns) in blocked {
            self.pairs.blocked(tid, ns);
        }
        let holder = self.usage.holder(at_ns.saturating_sub(PATIENCE_NS));
        let told_ns = self.pairs.tell(holder);
        self.wait_ns.now = self.wait_ns.now.saturating_add(told_ns);
    }

    /// Books the pieces whose holders are known. `all`: the others, too.
    fn book(&mut self, now_ns: u64, all: bool) {
        let before = |patience_ns| match all {
            true => u64::MAX,
            false => now_ns.saturating_sub(patience_ns),
        };
        let known = self.timeline.settle(before(PATIENCE_NS));
        let expired_ns = before(match self.charges {
            Some(_) => CHARGE_PATIENCE_NS,
            None => PATIENCE_NS,
        });
        let (timeline, pairs) = (&self.timeline, &mut self.pairs);
        let tally = &mut self.tally.now;
        let charges = &mut self.charges;
        self.waits.book(known, expired_ns, |step| match step {
            Step::Piece {
                victim,
                wait_from_ns,
                piece,
                blocked_ns,
                expired,
                parts,
            } => {
                let waited = Waited {
                    victim,
                    from_ns: wait_from_ns,
                    piece,
                    expired,
                };
                let whole_ns = u128::from(piece.ns().max(1));
                timeline.charge(waited, |holder, part| {
                    let ns = part.ns();
                    let blocked = u128::from(ns) * u128::from(blocked_ns) / whole_ns;
                    let blocked_ns = u64::try_from(blocked).unwrap_or(ns);
                    pairs.charge(holder, victim, blocked_ns);
                    parts.add(holder, ns);
                    if let (Some(charges), Some(holder)) = (charges.as_mut(), holder)
                        && charges.len() < MAX_CHARGES
                    {
                        charges.push(Charge {
                            holder,
                            victim,
                            from_ns: part.from_ns,
                            to_ns: part.to_ns,
                            blocked_ns,
                        });
                    }
                });
            }
            Step::End {
                victim,
                wait_ns,
                holder,
            } => {
                tally.record(wait_ns);
                pairs.count(holder, victim);
            }
        });
        self.timeline.forget(self.waits.oldest_ns());
        self.crowd.settle(before(PATIENCE_NS));
    }

    /// Whether threads waited for it more than a little in the window, which was so long.
    pub(crate) fn is_contended(&self, window_ns: u64) -> bool {
        self.wait_ns.over(Scope::Window) > window_ns / CONTENDED
    }

    /// Begins a window.
    pub(crate) fn roll(&mut self) {
        self.wait_ns.roll();
        self.tally.roll();
        self.blocked_ns.roll();
        self.pairs.roll();
        self.crowd.roll();
        self.usage.roll();
    }

    /// The object of the process's row, or why there is none.
    pub(crate) fn row(&self, context: &GilContext<'_>) -> Result<schema::Gil, String> {
        let scope = context.scope;
        if !self.told(scope) {
            self.known(context.look)?;
        }
        let mut limits = Vec::new();
        let usage = self.usage.report(scope, &mut limits);
        let waits_known = context.knows_causes;
        let (pairs, left_out) = self.pairs.report(scope);
        if waits_known {
            self.wait_limits(context, left_out, &mut limits);
        } else {
            let reason = Feature::Causes.without();
            limits.extend(["wait_ns", "waits", "waiters_max", "pairs"].map(|f| limit(f, reason)));
        }
        Ok(schema::Gil {
            wait_ns: waits_known.then(|| self.wait_ns.over(scope)),
            waits: waits_known.then(|| self.tally.over(scope).report()),
            waiters_max: waits_known.then(|| self.crowd.max(scope)),
            held_ns: usage.held_ns,
            free_ns: usage.free_ns,
            utilization: usage.utilization,
            estimated: vec!["held_ns", "free_ns", "utilization"],
            switches: usage.switches,
            pairs,
            hog: None,
            limits,
        })
    }

    /// Adds what was waited for it in the window, and its use.
    pub(crate) fn add_to(&self, delta: &mut GilDelta) {
        if self.gils.is_empty() && !self.told(Scope::Window) {
            return;
        }
        delta.add(&GilDelta {
            seen: true,
            wait_ns: self.wait_ns.over(Scope::Window),
            waits: self.tally.over(Scope::Window),
            held_ns: self.usage.held_ns(),
        });
    }

    /// There was a GIL, before the process ran another program, of which something is to be told.
    fn told(&self, scope: Scope) -> bool {
        self.wait_ns.over(scope) > 0 || !self.tally.over(scope).is_empty() || self.usage.told(scope)
    }

    fn known(&self, look: Option<&PythonFact>) -> Result<(), String> {
        let Some(look) = look else {
            return Err("no Python interpreter was seen in this process".to_owned());
        };
        if look.info.free_threaded {
            return Err("free-threaded: there is no GIL".to_owned());
        }
        if !look.info.supported {
            return Err(super::interpreter::unsupported(look).to_owned());
        }
        if self.gils.is_empty() {
            let said = look.limits.get("gil").or(look.limits.get("blocked_ns.gil"));
            let reason = said.map_or("its GIL was not found", String::as_str);
            return Err(reason.to_owned());
        }
        Ok(())
    }

    fn wait_limits(&self, context: &GilContext<'_>, left_out_ns: u64, limits: &mut Vec<Limit>) {
        if context.lost > 0 {
            let reason = format!(
                "{} records were lost: of {} ns that the ledgers have as blocked on the GIL, {} ns \
                 are told here",
                context.lost,
                context.ledgers_ns,
                self.blocked_ns.over(context.scope)
            );
            limits.extend(
                ["wait_ns", "waits", "waiters_max", "pairs"].map(|f| limit(f, reason.clone())),
            );
        }
        if left_out_ns > 0 {
            let reason = format!("only the largest: {left_out_ns} ns of waiting are in none");
            limits.push(limit("pairs", reason));
        }
        if self.crowd.cut(context.scope) {
            let reason = "at least: there were too many waits to compare all of them";
            limits.push(limit("waiters_max", reason));
        }
    }
}

/// Parts of one wait by holder; few, so they are searched one by one.
#[derive(Clone, Debug, Default)]
struct Parts(Vec<(Option<Tid>, u64)>);

/// Holders that are told apart within one wait.
const MAX_PARTS: usize = 64;

impl Parts {
    fn add(&mut self, holder: Option<Tid>, ns: u64) {
        match self.0.iter_mut().find(|(known, _)| *known == holder) {
            Some((_, sum)) => *sum = sum.saturating_add(ns),
            None => {
                if self.0.len() < MAX_PARTS {
                    self.0.push((holder, ns));
                }
            }
        }
    }

    /// Who had the largest part; of equal ones a known holder.
    fn largest(&self) -> Option<Tid> {
        let largest = self.0.iter().max_by_key(|(holder, ns)| (*ns, *holder));
        largest.and_then(|(holder, _)| *holder)
    }
}

#[cfg(test)]
mod tests;
