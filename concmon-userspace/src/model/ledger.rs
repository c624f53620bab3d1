//! The account of one thread: the kernel's columns, made to add up and never to fall.

use concmon_ebpf::cause;

use super::histogram::Tally;
use super::projection::project;
use super::window::Growth;
use crate::event::{Cause, LedgerFact, ThreadState};
use crate::schema::{Blocked, Cost, LedgerSum, Switches};

const ON_CPU: usize = 0;
const WOKEN: usize = 1;
const PREEMPTED: usize = 2;
const STOLEN: usize = 3;
const UNKNOWN: usize = 4;
/// While nobody looked, by the kernel's own account of CPU time: on a CPU, and not.
const UNOBSERVED_RUN: usize = 5;
const UNOBSERVED_OFF: usize = 6;
/// The first of the blocked columns, which are in the order of [`Cause::ALL`].
const BLOCKED: usize = 7;
const COLUMNS: usize = BLOCKED + cause::COUNT;

/// Nanoseconds by column. Every one lies in exactly one column, so the sum is the wall time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Columns([u64; COLUMNS]);

impl Columns {
    /// What a reading says: its closed columns, and the open stretch in the column it is in.
    /// The sum is `max(read, since) - start`, for an ended thread `since - start`. Also gives
    /// how many ns the closed columns were off that rule; they are cut or filled with `unknown`.
    pub(crate) fn of(fact: &LedgerFact) -> (Self, u64) {
        let mut columns = [0; COLUMNS];
        columns[ON_CPU] = fact.on_cpu_ns;
        columns[WOKEN] = fact.woken_ns;
        columns[PREEMPTED] = fact.preempted_ns;
        columns[STOLEN] = fact.stolen_ns;
        columns[UNKNOWN] = fact.unknown_ns;
        columns[UNOBSERVED_RUN] = fact.unobserved_run_ns.min(fact.unobserved_ns);
        columns[UNOBSERVED_OFF] = fact.unobserved_ns - columns[UNOBSERVED_RUN];
        columns[BLOCKED..].copy_from_slice(&fact.blocked_ns);

        let closed_until = fact.since_ns.max(fact.start_ns);
        let mut left = closed_until - fact.start_ns;
        let mut off = 0u64;
        for column in &mut columns {
            let kept = (*column).min(left);
            off = off.saturating_add(*column - kept);
            *column = kept;
            left -= kept;
        }
        columns[UNKNOWN] += left;
        off = off.saturating_add(left);

        let open = fact.read_ns.saturating_sub(closed_until);
        match fact.state {
            ThreadState::Running => columns[ON_CPU] += open,
            ThreadState::Woken => columns[WOKEN] += open,
            ThreadState::Preempted => columns[PREEMPTED] += open,
            ThreadState::Blocked(cause) => columns[BLOCKED + cause as usize] += open,
            ThreadState::Dead => {}
        }
        (Columns(columns), off)
    }

    /// The columns that follow these when the reading `next` comes: see [`project`].
    ///
    /// What was shown of a running slice falls because a part of it turns out to be stolen; so
    /// stolen time pays first, and the correction touches no other column.
    pub(crate) fn advance(&self, next: &Columns) -> Columns {
        let mut columns = next.0;
        let mut stolen = columns[STOLEN].saturating_sub(self.0[STOLEN]);
        for (column, &shown) in columns.iter_mut().zip(&self.0) {
            let pay = shown.saturating_sub(*column).min(stolen);
            *column += pay;
            stolen -= pay;
        }
        columns[STOLEN] = columns[STOLEN].min(self.0[STOLEN].saturating_add(stolen));
        Columns(project(&self.0, &columns))
    }

    /// It has waited for so much longer.
    pub(crate) fn wait(&mut self, cause: Cause, grown_ns: u64) {
        let column = &mut self.0[BLOCKED + cause as usize];
        *column = column.saturating_add(grown_ns);
    }

    pub(crate) fn wall_ns(&self) -> u64 {
        self.0
            .iter()
            .fold(0, |sum, &column| sum.saturating_add(column))
    }

    /// On a CPU, whether somebody looked or not.
    pub(crate) fn cpu_ns(&self) -> u64 {
        self.0[ON_CPU].saturating_add(self.0[UNOBSERVED_RUN])
    }

    /// While nobody looked.
    pub(crate) fn unobserved_ns(&self) -> u64 {
        self.0[UNOBSERVED_RUN].saturating_add(self.0[UNOBSERVED_OFF])
    }

    /// Blocked in a selector.
    pub(crate) fn poll_ns(&self) -> u64 {
        self.0[BLOCKED + Cause::Poll as usize]
    }

    /// Blocked on a lock.
    pub(crate) fn lock_ns(&self) -> u64 {
        self.0[BLOCKED + Cause::Lock as usize]
    }

    /// Blocked on the GIL.
    pub(crate) fn gil_ns(&self) -> u64 {
        self.0[BLOCKED + Cause::Gil as usize]
    }

    pub(crate) fn plus(&self, other: &Columns) -> Columns {
        Columns(std::array::from_fn(|i| {
            self.0[i].saturating_add(other.0[i])
        }))
    }

    /// All but the time in a selector, while somebody looked. What is not known counts as blocked for another cause.
    pub(crate) fn busy(&self) -> Cost {
        let sum = self.report();
        Cost {
            on_cpu_ns: sum.on_cpu_ns,
            runnable_ns: sum.runnable_ns,
            blocked_ns: Blocked {
                poll: 0,
                other: sum.blocked_ns.other.saturating_add(sum.unknown_ns),
                ..sum.blocked_ns
            },
        }
    }

    /// The columns as views see them.
    pub(crate) fn report(&self) -> LedgerSum {
        let blocked = |cause: Cause| self.0[BLOCKED + cause as usize];
        LedgerSum {
            wall_ns: self.wall_ns(),
            on_cpu_ns: self.0[ON_CPU],
            runnable_ns: self.0[WOKEN]
                .saturating_add(self.0[PREEMPTED])
                .saturating_add(self.0[STOLEN]),
            preempted_ns: self.0[PREEMPTED],
            stolen_ns: self.0[STOLEN],
            blocked_ns: Blocked {
                gil: blocked(Cause::Gil),
                lock: blocked(Cause::Lock),
                poll: blocked(Cause::Poll),
                sleep: blocked(Cause::Sleep),
                io: blocked(Cause::Io),
                child: blocked(Cause::Child),
                disk: blocked(Cause::Disk),
                stopped: blocked(Cause::Stopped),
                other: blocked(Cause::Other),
            },
            unknown_ns: self.0[UNKNOWN],
            unobserved_ns: self.unobserved_ns(),
            unobserved_on_cpu_ns: self.0[UNOBSERVED_RUN],
        }
    }
}

impl Growth for Columns {
    fn since(&self, base: &Self) -> Self {
        Columns(std::array::from_fn(|i| self.0[i].saturating_sub(base.0[i])))
    }
}

/// Columns and switches: what can be summed over threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) columns: Columns,
    pub(crate) switches: Switches,
}

impl Totals {
    pub(crate) fn plus(&self, other: &Totals) -> Totals {
        Totals {
            columns: self.columns.plus(&other.columns),
            switches: Switches {
                voluntary: self
                    .switches
                    .voluntary
                    .saturating_add(other.switches.voluntary),
                involuntary: self
                    .switches
                    .involuntary
                    .saturating_add(other.switches.involuntary),
            },
        }
    }
}

impl Growth for Totals {
    fn since(&self, base: &Self) -> Self {
        Totals {
            columns: self.columns.since(&base.columns),
            switches: Switches {
                voluntary: self.switches.voluntary.since(&base.switches.voluntary),
                involuntary: self.switches.involuntary.since(&base.switches.involuntary),
            },
        }
    }
}

/// Everything the kernel counts for one thread, as it is reported.
#[derive(Clone, Debug, Default)]
pub(crate) struct Account {
    pub(crate) totals: Totals,
    pub(crate) migrations: u64,
    pub(crate) wakeup_latency: Tally,
    pub(crate) slice: Tally,
    /// By [`Cause`].
    pub(crate) off_cpu: [Tally; cause::COUNT],
}

impl Account {
    /// Takes over a newer reading. Gives how many ns the kernel's columns did not add up by.
    pub(crate) fn update(&mut self, fact: &LedgerFact) -> u64 {
        let (columns, off) = Columns::of(fact);
        self.totals.columns = self.totals.columns.advance(&columns);
        let switches = &mut self.totals.switches;
        switches.voluntary = switches.voluntary.max(fact.voluntary);
        switches.involuntary = switches.involuntary.max(fact.involuntary);
        self.migrations = self.migrations.max(fact.migrations);
        self.wakeup_latency.update(&fact.wakeup_latency);
        self.slice.update(&fact.slice);
        for (tally, fact) in self.off_cpu.iter_mut().zip(&fact.off_cpu) {
            tally.update(fact);
        }
        off
    }
}

impl Growth for Account {
    fn since(&self, base: &Self) -> Self {
        Account {
            totals: self.totals.since(&base.totals),
            migrations: self.migrations.since(&base.migrations),
            wakeup_latency: self.wakeup_latency.since(&base.wakeup_latency),
            slice: self.slice.since(&base.slice),
            off_cpu: std::array::from_fn(|i| self.off_cpu[i].since(&base.off_cpu[i])),
        }
    }

    fn catch_up(&mut self, now: &Self) {
        (self.totals, self.migrations) = (now.totals, now.migrations);
        self.wakeup_latency.catch_up(&now.wakeup_latency);
        self.slice.catch_up(&now.slice);
        for (base, now) in self.off_cpu.iter_mut().zip(&now.off_cpu) {
            base.catch_up(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::testing::{Random, assert_closed, ledger, random_ledger};

    #[test]
    fn the_open_stretch_belongs_to_the_state() {
        for (state, want) in [
            (ThreadState::Running, (50, 0, 0, 0)),
            (ThreadState::Woken, (10, 40, 0, 0)),
            (ThreadState::Preempted, (10, 40, 40, 0)),
            (ThreadState::Blocked(Cause::Poll), (10, 0, 0, 40)),
            (ThreadState::Dead, (10, 0, 0, 0)),
        ] {
            let mut fact = ledger(1, 1);
            (fact.start_ns, fact.since_ns, fact.read_ns) = (100, 110, 150);
            fact.state = state;
            fact.on_cpu_ns = 10;
            let (columns, off) = Columns::of(&fact);
            let sum = columns.report();
            let got = (
                sum.on_cpu_ns,
                sum.runnable_ns,
                sum.preempted_ns,
                sum.blocked_ns.poll,
            );
            assert_eq!((got, off), (want, 0), "{state:?}");
            assert_closed(&sum);
        }
    }

    #[test]
    fn unobserved_time_is_a_column_and_its_cpu_time_is_no_other() {
        let mut fact = ledger(1, 1);
        (fact.start_ns, fact.since_ns, fact.read_ns) = (0, 100, 100);
        (fact.on_cpu_ns, fact.blocked_ns[Cause::Poll as usize]) = (20, 30);
        (fact.unobserved_ns, fact.unobserved_run_ns) = (50, 10);
        let (columns, off) = Columns::of(&fact);
        let sum = columns.report();
        assert_closed(&sum);
        assert_eq!((off, sum.wall_ns), (0, 100));
        let told = (sum.on_cpu_ns, sum.unobserved_ns, sum.unobserved_on_cpu_ns);
        assert_eq!(told, (20, 50, 10));
        assert_eq!((columns.cpu_ns(), sum.cpu_ns()), (30, 30));
        // A loop was busy for what was seen of it.
        assert_eq!(columns.busy().total_ns(), 20);
        // More of it on a CPU than there is of it is no time.
        fact.unobserved_run_ns = 80;
        assert_eq!(Columns::of(&fact).0.report().unobserved_on_cpu_ns, 50);
    }

    #[test]
    fn a_late_correction_is_paid_by_what_grew() {
        let mut fact = ledger(1, 1);
        (fact.start_ns, fact.since_ns, fact.read_ns) = (0, 0, 100);
        fact.state = ThreadState::Running;
        let mut account = Account::default();
        account.update(&fact);
        assert_eq!(account.totals.columns.report().on_cpu_ns, 100);
        // At the switch-out, 30 of the 100 ns turn out to be stolen; then it blocks for 20.
        (fact.since_ns, fact.read_ns) = (100, 120);
        fact.state = ThreadState::Blocked(Cause::Io);
        (fact.on_cpu_ns, fact.stolen_ns) = (70, 30);
        account.update(&fact);
        let sum = account.totals.columns.report();
        assert_eq!((sum.wall_ns, sum.on_cpu_ns), (120, 100));
        assert_eq!(sum.stolen_ns + sum.blocked_ns.io, 20);
        // Once every column has grown past what was shown, the account is the kernel's again.
        fact.on_cpu_ns = 150;
        fact.stolen_ns = 40;
        fact.blocked_ns[Cause::Io as usize] = 210;
        (fact.since_ns, fact.read_ns) = (400, 400);
        account.update(&fact);
        let sum = account.totals.columns.report();
        assert_eq!(
            (sum.wall_ns, sum.on_cpu_ns, sum.stolen_ns, sum.blocked_ns.io),
            (400, 150, 40, 210)
        );
    }

    #[test]
    fn a_broken_reading_is_made_to_add_up() {
        for (on_cpu_ns, want, want_off) in
            [(10, (10, 90), 90), (150, (100, 0), 50), (100, (100, 0), 0)]
        {
            let mut fact = ledger(1, 1);
            (fact.start_ns, fact.since_ns, fact.read_ns) = (0, 100, 100);
            fact.on_cpu_ns = on_cpu_ns;
            let (columns, off) = Columns::of(&fact);
            let sum = columns.report();
            assert_eq!(((sum.on_cpu_ns, sum.unknown_ns), off), (want, want_off));
            assert_closed(&sum);
        }
    }

    #[test]
    fn the_law_holds_for_any_sequence_of_readings() {
        for seed in 0..300 {
            let mut random = Random::new(seed);
            let mut account = Account::default();
            let mut wall = 0;
            for _ in 0..30 {
                let before = account.clone();
                let fact = random_ledger(&mut random);
                account.update(&fact);
                let sum = account.totals.columns.report();
                assert_closed(&sum);
                let end = match fact.state {
                    ThreadState::Dead => fact.since_ns,
                    _ => fact.since_ns.max(fact.read_ns),
                };
                wall = wall.max(end.saturating_sub(fact.start_ns));
                assert_eq!(sum.wall_ns, wall);
                assert_closed(&account.since(&before).totals.columns.report());
                for (now, before) in account.totals.columns.0.iter().zip(before.totals.columns.0) {
                    assert!(*now >= before);
                }
            }
        }
    }
}
