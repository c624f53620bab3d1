//! A thread: its account, what else is known of it, and its row.

use std::{collections::BTreeMap, sync::Arc};

use super::add::Add;
use super::cpu::{CpuSplit, Modes};
use super::delta::Delta;
use super::interpreter::{PythonColumns, thread_limits};
use super::ledger::{Account, Totals};
use super::locks::{Futexes, LockWaits};
use super::rows::cause;
use super::wakers::Wakers;
use super::window::{Clock, Cumulative, Growth, Scope, limit};
use crate::event::{Cause, LedgerFact, PyThread, PythonFact, Slice, ThreadStat, ThreadState, Tid};
use crate::schema;

/// The resolution of start times in `/proc`, ns: `USER_HZ` is 100 on every architecture that
/// matters here (include/asm-generic/param.h).
pub(crate) const PROC_TICK_NS: u64 = 10_000_000;
/// Windows without a reading of the ledger after which an ended thread is given up.
const PATIENCE: u64 = 2;
/// The same for a thread whose end was not seen.
const LONG_PATIENCE: u64 = 10;

/// The identity of a thread: ids get reused, start times do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ThreadKey {
    pub(crate) tid: Tid,
    pub(crate) start_boottime_ns: u64,
}

/// How the account of a thread ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The kernel closed it.
    Whole,
    /// The end of the account is in the folded account of the process.
    Folded,
    /// The account stopped coming.
    Lost,
}

#[derive(Clone, Debug)]
pub(crate) struct Thread {
    pub(crate) key: ThreadKey,
    born_epoch: u64,
    /// Instant, and window in which it was seen.
    exit: Option<(u64, u64)>,
    /// Its account is complete, or given up.
    end: Option<(u64, End)>,
    /// Window and instant of the latest and window of the first reading of the ledger.
    read_epoch: Option<u64>,
    read_ns: u64,
    first_epoch: u64,
    /// Where the account begins.
    pub(crate) start_ns: u64,
    seeded: bool,
    /// The wait that the account ends with: since when, and why.
    wait: Option<(u64, Cause)>,
    off_balance_ns: u64,
    /// When its histograms begin, where that is later than the account; 0: they do not.
    hists_since_ns: u64,
    /// Elsewhere, for it is large, and slices do not need it.
    pub(crate) account: Box<Cumulative<Account>>,
    wakers: Wakers,
    locks: LockWaits,
    cpu: CpuSplit,
    /// The kernel's name of it.
    comm: Arc<str>,
    python: Option<PythonColumns>,
    looked: bool,
    /// Its last window is over.
    pub(crate) retired: bool,
    /// It is in the list of ended threads already.
    pub(crate) listed: bool,
    /// Its row is gone from the summary: it is in the `ended` of its process.
    pub(crate) folded: bool,
}

/// What a row needs to know beside the thread itself.
pub(crate) struct RowContext<'a> {
    pub(crate) scope: Scope,
    pub(crate) clock: &'a Clock,
    /// Records that never arrived in `scope`.
    pub(crate) lost: u64,
    /// The latest look into the process.
    pub(crate) look: Option<&'a PythonFact>,
}

impl Thread {
    pub(crate) fn new(key: ThreadKey, epoch: u64) -> Self {
        Thread {
            key,
            born_epoch: epoch,
            exit: None,
            end: None,
            read_epoch: None,
            read_ns: 0,
            first_epoch: 0,
            start_ns: 0,
            seeded: false,
            wait: None,
            off_balance_ns: 0,
            hists_since_ns: 0,
            account: Box::default(),
            wakers: Wakers::default(),
            locks: LockWaits::default(),
            cpu: CpuSplit::default(),
            comm: Arc::default(),
            python: None,
            looked: false,
            retired: false,
            listed: false,
            folded: false,
        }
    }

    /// The ledger of the thread was read at least once: it has a row.
    pub(crate) fn accounted(&self) -> bool {
        self.read_epoch.is_some()
    }

    /// The ledger was read for the first time in the window `epoch`.
    pub(crate) fn first_read_in(&self, epoch: u64) -> bool {
        self.accounted() && self.first_epoch == epoch
    }

    pub(crate) fn alive(&self) -> bool {
        self.exit.is_none() && self.end.is_none()
    }

    /// Nothing more of its account will come.
    pub(crate) fn ended(&self) -> bool {
        self.end.is_some()
    }

    fn ended_ns(&self) -> Option<u64> {
        let end = self.end.map(|(at_ns, _)| at_ns);
        end.or(self.exit.map(|(at_ns, _)| at_ns))
    }

    /// `CLOCK_MONOTONIC` up to which the account goes.
    pub(crate) fn accounted_until(&self) -> u64 {
        self.start_ns
            .saturating_add(self.account.now.totals.columns.wall_ns())
    }

    pub(crate) fn ledger(&mut self, fact: &LedgerFact, epoch: u64) {
        if fact.read_ns < self.read_ns {
            return;
        }
        let dead = fact.state == ThreadState::Dead;
        if self.retired {
            if dead && fact.since_ns <= self.accounted_until() {
                return;
            }
            self.reopen();
        }
        if self.read_epoch.is_none() {
            self.first_epoch = epoch;
            self.start_ns = fact.start_ns;
            self.seeded = fact.seeded;
        }
        self.read_epoch = Some(epoch);
        self.read_ns = fact.read_ns;
        self.wait = match fact.state {
            ThreadState::Blocked(cause) => Some((fact.since_ns, cause)),
            _ => None,
        };
        self.off_balance_ns = self.off_balance_ns.max(self.account.now.update(fact));
        self.hists_since_ns = self.hists_since_ns.max(fact.hists_since_ns);
        self.locks.ledger(fact);
        if dead {
            self.end = Some((fact.since_ns, End::Whole));
        } else if !matches!(self.end, Some((_, End::Whole))) {
            // If it was given up, that was too early.
            self.end = None;
        }
    }

    /// It waits for the same as when its ledger was read last.
    pub(crate) fn stands(&mut self, read_ns: u64, epoch: u64) {
        let Some((since_ns, cause)) = self.wait.filter(|_| self.alive() && !self.retired) else {
            return;
        };
        let grown_ns = read_ns.saturating_sub(self.read_ns);
        self.account.now.totals.columns.wait(cause, grown_ns);
        self.read_epoch = Some(epoch);
        self.read_ns = self.read_ns.max(read_ns);
        self.locks.stands(cause, since_ns, self.read_ns);
    }

    pub(crate) fn exit(&mut self, at_ns: u64, epoch: u64) {
        self.exit.get_or_insert((at_ns, epoch));
    }

    /// Takes the wait before a slice. `false`: the slice is not this thread's.
    pub(crate) fn slice(&mut self, slice: &Slice) -> bool {
        if self
            .ended_ns()
            .is_some_and(|ended_ns| slice.in_ns > ended_ns)
        {
            return false;
        }
        if let Some(wait) = &slice.wait {
            if self.retired {
                self.reopen();
            }
            self.wakers.count(wait, slice.in_ns);
            self.locks.wait(wait, slice.in_ns);
        }
        true
    }

    /// Takes over what was counted under its id before it was known.
    pub(crate) fn adopt(&mut self, wakers: Wakers) {
        self.wakers = wakers;
    }

    pub(crate) fn stat(&mut self, stat: &ThreadStat) {
        let counted = Modes {
            user_ns: stat.cpu_user_ns,
            system_ns: stat.cpu_system_ns,
        };
        self.cpu.observe(counted, self.seeded);
        if *self.comm != *stat.comm {
            self.comm = stat.comm.as_str().into();
        }
    }

    /// The thread lived at this instant, as far as is known.
    pub(crate) fn lived_at(&self, ns: u64) -> bool {
        self.start_ns <= ns && self.ended_ns().is_none_or(|ended_ns| ns <= ended_ns)
    }

    pub(crate) fn python(&mut self, thread: &PyThread, fact: &PythonFact) {
        self.python = Some(PythonColumns::of(thread, fact, self.python.as_ref()));
        if let Some(wait) = &thread.waiting_for {
            self.locks.met(wait.purpose);
        }
    }

    /// The interpreter was read while the thread lived.
    pub(crate) fn looked_at(&mut self) {
        self.looked = true;
        if let Some(python) = &mut self.python {
            python.forget_stack();
        }
    }

    /// The program was replaced: what the interpreter said is void.
    pub(crate) fn forget_python(&mut self) {
        self.python = None;
        self.looked = false;
    }

    /// Its account went into the folded one of the process, if anywhere: it was not read in the
    /// window `epoch`, although it is not known to be complete.
    pub(crate) fn missing(&self, epoch: u64) -> bool {
        self.accounted() && !self.ended() && self.read_epoch != Some(epoch)
    }

    pub(crate) fn exited(&self) -> bool {
        self.exit.is_some() && self.end.is_none()
    }

    /// The rest of the account is in the folded one of the process.
    pub(crate) fn end_folded(&mut self) {
        let at_ns = self.ended_ns().unwrap_or(self.read_ns);
        self.end = Some((at_ns, End::Folded));
    }

    pub(crate) fn is_folded_end(&self) -> bool {
        matches!(self.end, Some((_, End::Folded)))
    }

    /// At the end of the window `epoch`: brings estimates up to the account, and gives up a
    /// thread of which nothing came for long. `process_ended`: so will nothing more.
    pub(crate) fn settle(&mut self, epoch: u64, process_ended: bool, futexes: &Futexes) {
        let cpu_ns = |account: &Account| account.totals.columns.cpu_ns();
        self.cpu
            .settle(cpu_ns(&self.account.now), cpu_ns(self.account.base()));
        self.locks
            .settle(self.account.now.totals.columns.lock_ns(), futexes);
        let Some(read) = self.read_epoch else {
            return;
        };
        let patience = match self.exit {
            None if !process_ended => LONG_PATIENCE,
            _ => PATIENCE,
        };
        let since = self.exit.map_or(read, |(_, epoch)| epoch.max(read));
        if self.end.is_none() && since + patience <= epoch {
            let at_ns = self.ended_ns().unwrap_or(self.read_ns);
            self.end = Some((at_ns, End::Lost));
        }
    }

    /// Known for long without an account: it will have none.
    pub(crate) fn hopeless(&self, epoch: u64) -> bool {
        let since = self.exit.map_or(self.born_epoch, |(_, epoch)| epoch);
        !self.accounted() && since + PATIENCE <= epoch
    }

    /// Begins a window.
    pub(crate) fn roll(&mut self) {
        if self.retired {
            return;
        }
        if self.ended() {
            self.retired = true;
            if let Some(python) = &mut self.python {
                python.forget_stack();
            }
            self.account.forget_base();
            self.cpu.forget_base();
            self.wakers.shrink();
            self.locks.shrink();
        } else {
            self.account.roll();
            self.cpu.roll();
            self.wakers.roll();
            self.locks.roll();
        }
    }

    /// Something came after the last window: there is one more.
    fn reopen(&mut self) {
        self.retired = false;
        self.account.roll();
        self.cpu.roll();
        self.wakers.roll();
        self.locks.roll();
    }

    /// Columns and switches in `scope`.
    pub(crate) fn totals(&self, scope: Scope) -> Totals {
        match scope {
            Scope::Window if self.retired => Totals::default(),
            Scope::Window => self.account.now.totals.since(&self.account.base().totals),
            Scope::Whole => self.account.now.totals,
        }
    }

    /// How long it waited for locks, by what these are.
    pub(super) fn lock_ns(&self, scope: Scope) -> schema::LockNs {
        self.locks.over(scope)
    }

    /// Adds what the window has brought; `epoch` is the window's.
    pub(crate) fn add_to(&mut self, delta: &mut Delta, epoch: u64) {
        let modes = self.cpu.take_growth();
        delta.cpu_user_ns.add(&modes.user_ns);
        delta.cpu_system_ns.add(&modes.system_ns);
        if self.first_read_in(epoch) && !self.seeded {
            delta.threads_started.add(&1);
        }
        if self.retired {
            return;
        }
        let role = self.python.as_ref().map(PythonColumns::role);
        delta.threads.of(role).add(&self.totals(Scope::Window));
        delta.lock_ns.add(&self.locks.over(Scope::Window));
        let (now, base) = (&self.account.now, self.account.base());
        if now.wakeup_latency != base.wakeup_latency {
            let grown = now.wakeup_latency.since(&base.wakeup_latency);
            delta.wakeup_latency.add(&grown);
        }
    }

    /// The row of the thread.
    pub(crate) fn row(&self, context: &RowContext<'_>) -> schema::Thread {
        let scope = context.scope;
        let account = self.account.over(scope);
        let cpu = self.cpu.over(scope);
        let (wakers, left_out) = self.wakers.report(scope);
        let python = self.python.as_ref();
        let off_cpu: BTreeMap<_, _> = Cause::ALL
            .iter()
            .zip(&account.off_cpu)
            .filter(|(_, tally)| !tally.is_empty())
            .map(|(cause, tally)| (cause.name(), tally.report()))
            .collect();

        let mut limits = thread_limits(python, context.look, self.looked);
        let running = python.filter(|_| self.alive());
        match (python, running) {
            (_, Some(running)) => limits.extend(running.stack_limits(context.look)),
            (Some(_), None) => {
                limits.extend(["stack", "waiting_for"].map(|field| limit(field, "it has ended")));
            }
            (None, None) => {}
        }
        if self.comm.is_empty() {
            limits.push(limit("comm", "/proc was not read while the thread lived"));
        }
        if cpu.is_none() {
            for field in ["cpu_user_ns", "cpu_system_ns"] {
                limits.push(limit(field, "/proc was not read while the thread lived"));
            }
        }
        match self.end {
            Some((_, End::Folded)) => limits.push(limit(
                "wall_ns",
                "the end of its account was folded into `ended` of its process",
            )),
            Some((_, End::Lost)) => {
                limits.push(limit("wall_ns", "the end of its account was not seen"));
            }
            _ => {}
        }
        if self.off_balance_ns > 0 {
            let reason = format!(
                "the kernel's columns were off by {} ns: cut, or filled up here",
                self.off_balance_ns
            );
            limits.push(limit("unknown_ns", reason));
        }
        let wait = self.wait.filter(|_| self.alive());
        let waiting_for = running.and_then(|running| {
            // One that began after the look is another one.
            let looked_ns = context.look.map_or(0, |look| look.read_ns);
            let same = wait.filter(|(ns, cause)| *cause == Cause::Lock && *ns <= looked_ns);
            Some(schema::WaitingFor {
                since_unix_ns: same.map(|(ns, _)| context.clock.unix_of(ns)),
                ..running.waiting_for.clone()?
            })
        });
        if left_out > 0 {
            let reason = format!(
                "only the {} largest: {left_out} waits are in none",
                wakers.len()
            );
            limits.push(limit("wakers", reason));
        }
        if context.lost > 0 {
            limits.push(super::lost_wakers(context.lost));
        }
        let late = self.hists_since_ns != 0;
        if late {
            let reason = "too many threads began at once: begun later than the columns";
            for field in ["wakeup_latency", "slice", "off_cpu"] {
                limits.push(limit(field, reason));
            }
        }

        schema::Thread {
            tid: self.key.tid.0,
            ident: python.map(|python| python.ident),
            name: python.and_then(|python| python.name.clone()),
            comm: (!self.comm.is_empty()).then(|| self.comm.clone()),
            role: python.map(PythonColumns::role),
            daemon: python.and_then(|python| python.daemon),
            alive: self.alive(),
            entry: python.and_then(|python| python.entry.clone()),
            started_unix_ns: context.clock.unix_of_boottime(self.key.start_boottime_ns),
            ended_unix_ns: self.ended_ns().map(|ns| context.clock.unix_of(ns)),
            stack_size_bytes: python.and_then(|python| python.stack_size_bytes),
            ledger: account.totals.columns.report(),
            lock_ns: self.lock_ns(scope),
            cpu_user_ns: cpu.map(|cpu| cpu.user_ns),
            cpu_system_ns: cpu.map(|cpu| cpu.system_ns),
            estimated: &["cpu_user_ns", "cpu_system_ns", "lock_ns"],
            code: None,
            switches: account.totals.switches,
            migrations: account.migrations,
            histograms_since_unix_ns: late.then(|| context.clock.unix_of(self.hists_since_ns)),
            wakeup_latency: account.wakeup_latency.report(),
            slice: account.slice.report(),
            off_cpu,
            wakers,
            wait: wait.map(|(ns, why)| schema::Wait {
                cause: cause(why),
                since_unix_ns: context.clock.unix_of(ns),
                before_watch: self.seeded && ns <= self.start_ns,
            }),
            waiting_for,
            stack: running.map_or_else(Arc::default, |running| running.stack.clone()),
            limits,
        }
    }
}
