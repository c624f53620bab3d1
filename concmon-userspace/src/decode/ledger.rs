//! A thread's account, copied out of shared memory, to a fact: validated, or told to read again.

use concmon_ebpf::{Hists, Ledger, cause, ledger_flags, state};

use crate::event::{Cause, HistFact, LedgerFact, Pid, ThreadState, Tid};

/// Why a copy of an account is no fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    #[error("the slot belongs to no thread")]
    Free,
    #[error("the account was being written; read it again")]
    Torn,
    #[error("the account is in the unknown state {0}")]
    State(u8),
    #[error("the account names the unknown cause {0}")]
    Cause(u8),
}

/// The fact in a copy of an account that was made at `read_ns`, and in one of its histograms, from the
/// same moment; `None`: they have not changed since they were read last, and the fact says so.
///
/// The fact's `read_ns` is never before the account's own last boundary.
///
/// # Errors
/// [`LedgerError::Torn`] when `seq` is odd or the columns do not sum to the time that they cover:
/// the caller copies again. A copy of which parts are from different writes is not always told by
/// that; compare `seq` before and after copying, too.
pub fn fact(
    ledger: &Ledger,
    hists: Option<&Hists>,
    read_ns: u64,
) -> Result<LedgerFact, LedgerError> {
    let (ledger, woken) = &book_wakeup(ledger, read_ns);
    if !ledger.seq.is_multiple_of(2) {
        return Err(LedgerError::Torn);
    }
    if ledger.state == state::FREE {
        return Err(LedgerError::Free);
    }
    let cause = Cause::from_wire(ledger.cause).ok_or(LedgerError::Cause(ledger.cause))?;
    let state = match ledger.state {
        state::RUNNING => ThreadState::Running,
        state::WOKEN => ThreadState::Woken,
        state::PREEMPTED => ThreadState::Preempted,
        state::BLOCKED => ThreadState::Blocked(cause),
        state::DEAD => ThreadState::Dead,
        other => return Err(LedgerError::State(other)),
    };
    if !is_whole(ledger) {
        return Err(LedgerError::Torn);
    }
    let mut off_cpu: Vec<HistFact> = match hists {
        Some(hists) => (0..cause::COUNT)
            .map(|cause| HistFact::of_thread(hists, Hists::off_cpu(cause)))
            .collect(),
        None => Vec::new(),
    };
    if let Some(blocked_ns) = *woken
        && let Some(off_cpu) = off_cpu.get_mut(usize::from(ledger.cause))
    {
        off_cpu.record(blocked_ns);
    }
    let histogram = |number| {
        hists.map_or_else(HistFact::default, |hists| {
            HistFact::of_thread(hists, number)
        })
    };
    Ok(LedgerFact {
        read_ns: read_ns.max(ledger.since_ns),
        pid: Pid(ledger.tgid),
        tid: Tid(ledger.tid),
        start_boottime_ns: ledger.start_boottime_ns,
        seeded: ledger.flags & ledger_flags::SEEDED != 0,
        folded: ledger.flags & ledger_flags::FOLDED != 0,
        start_ns: ledger.start_ns,
        since_ns: ledger.since_ns,
        state,
        sum_exec_ns: ledger.sum_exec_ns,
        on_cpu_ns: ledger.on_cpu_ns,
        woken_ns: ledger.woken_ns,
        preempted_ns: ledger.preempted_ns,
        stolen_ns: ledger.stolen_ns,
        unknown_ns: ledger.unknown_ns,
        unobserved_ns: ledger.unobserved_ns,
        unobserved_run_ns: ledger.unobserved_run_ns,
        blocked_ns: ledger.blocked_ns,
        voluntary: ledger.voluntary,
        involuntary: ledger.involuntary,
        migrations: ledger.migrations,
        hists_since_ns: hists.map_or(0, |hists| hists.since_ns),
        wakeup_latency: histogram(Hists::WAKEUP_LATENCY),
        slice: histogram(Hists::SLICE),
        off_cpu,
    })
}

/// Whether a wakeup waits for a switch-in to book it. One that came after the reading's instant, or that another
/// CPU's clock has put into the future, is of the next reading.
pub fn is_woken(ledger: &Ledger) -> bool {
    ledger.state == state::BLOCKED && ledger.waking_ns > ledger.since_ns
}

/// Books a wakeup that no switch-in has booked yet, as that will do. Also gives how long the wait was, ns.
fn book_wakeup(ledger: &Ledger, read_ns: u64) -> (Ledger, Option<u64>) {
    let mut booked = *ledger;
    let (since_ns, waking_ns) = (ledger.since_ns, ledger.waking_ns);
    let cause = usize::from(ledger.cause);
    if !is_woken(ledger) || waking_ns > read_ns || cause >= cause::COUNT {
        return (booked, None);
    }
    let blocked_ns = waking_ns - since_ns;
    booked.blocked_ns[cause] = booked.blocked_ns[cause].saturating_add(blocked_ns);
    booked.since_ns = waking_ns;
    booked.state = state::WOKEN;
    (booked, Some(blocked_ns))
}

/// Whether the columns sum to the time that they cover.
pub fn is_whole(ledger: &Ledger) -> bool {
    let covered = ledger.since_ns.checked_sub(ledger.start_ns);
    covered.is_some() && covered == sum(ledger)
}

/// Makes an account whole again that was broken for good, by two writers at once: what is missing
/// becomes `unknown`; what is too much makes the account begin earlier.
pub fn heal(ledger: &mut Ledger) {
    let Some(sum) = sum(ledger) else { return };
    match ledger.since_ns.checked_sub(ledger.start_ns) {
        Some(covered) if covered > sum => {
            ledger.unknown_ns = ledger.unknown_ns.saturating_add(covered - sum);
        }
        _ => ledger.start_ns = ledger.since_ns.saturating_sub(sum),
    }
}

/// All columns; `None` when that is more than any clock shows.
fn sum(ledger: &Ledger) -> Option<u64> {
    let running = [ledger.on_cpu_ns, ledger.woken_ns, ledger.preempted_ns];
    let rest = [ledger.stolen_ns, ledger.unknown_ns, ledger.unobserved_ns];
    let columns = running.iter().chain(&rest).chain(&ledger.blocked_ns);
    columns.copied().try_fold(0u64, u64::checked_add)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Rng;
    use concmon_ebpf::{MAX_GILS, hist_bucket};

    /// 100 ns on a CPU, 20 woken, 30 preempted, 5 stolen, 1 unknown, 44 blocked: 200 from 1,000 on.
    fn sample() -> Ledger {
        let mut blocked_ns = [0; cause::COUNT];
        blocked_ns[usize::from(cause::GIL)] = 40;
        blocked_ns[usize::from(cause::OTHER)] = 4;
        Ledger {
            seq: 8,
            tid: 11,
            tgid: 10,
            flags: ledger_flags::SEEDED,
            state: state::BLOCKED,
            cause: cause::IO,
            wait_flags: 1,
            sums_only: 0,
            last_cpu: 1,
            start_boottime_ns: 77,
            start_ns: 1_000,
            since_ns: 1_200,
            sum_exec_ns: 100,
            off_ns: 0,
            wake_ns: 0,
            in_ns: 0,
            arg0: 0,
            syscall: -1,
            waker_tid: 0,
            stack_tat_ns: [0; cause::COUNT],
            stack_interval_ns: 0,
            thread_state: 0,
            step_version: 0,
            step_since_ns: 0,
            step_told: 0,
            on_cpu_ns: 100,
            woken_ns: 20,
            preempted_ns: 30,
            stolen_ns: 5,
            unknown_ns: 1,
            unobserved_ns: 0,
            unobserved_run_ns: 0,
            blocked_ns,
            voluntary: 3,
            involuntary: 2,
            migrations: 1,
            voluntary_base: 0,
            involuntary_base: 0,
            waking_ns: 0,
            waking_tid: 0,
            hists: 1,
            gils: [0; MAX_GILS],
        }
    }

    fn hists() -> Hists {
        let mut hists = Hists::ZERO;
        hists.heads[Hists::WAKEUP_LATENCY].count = 1;
        hists.heads[Hists::WAKEUP_LATENCY].min_ns = 9;
        hists.heads[Hists::SLICE].min_ns = u64::MAX;
        hists
    }

    fn fact(ledger: &Ledger, read_ns: u64) -> Result<LedgerFact, LedgerError> {
        super::fact(ledger, Some(&hists()), read_ns)
    }

    #[test]
    fn histograms_that_have_not_changed() {
        let found = super::fact(&sample(), None, 1_300).unwrap();
        assert_eq!((found.wakeup_latency.count, found.slice.count), (0, 0));
        assert!(found.off_cpu.is_empty());
    }

    #[test]
    fn a_broken_account_is_healed() {
        for (on_cpu_ns, unknown_ns, start_ns) in [(90, 11, 1_000), (130, 1, 970)] {
            let mut ledger = Ledger {
                on_cpu_ns,
                ..sample()
            };
            assert!(!is_whole(&ledger));
            heal(&mut ledger);
            assert!(is_whole(&ledger));
            assert_eq!((ledger.unknown_ns, ledger.start_ns), (unknown_ns, start_ns));
        }
    }

    #[test]
    fn a_whole_account() {
        let fact = fact(&sample(), 1_300).unwrap();
        assert_eq!(
            (fact.pid, fact.tid, fact.start_boottime_ns),
            (Pid(10), Tid(11), 77)
        );
        assert_eq!(fact.state, ThreadState::Blocked(Cause::Io));
        assert_eq!((fact.seeded, fact.folded), (true, false));
        assert_eq!(
            (fact.start_ns, fact.since_ns, fact.read_ns),
            (1_000, 1_200, 1_300)
        );
        assert_eq!(
            (fact.on_cpu_ns, fact.woken_ns, fact.preempted_ns),
            (100, 20, 30)
        );
        assert_eq!((fact.stolen_ns, fact.unknown_ns), (5, 1));
        assert_eq!(fact.blocked_ns, [40, 0, 0, 0, 0, 0, 0, 0, 4]);
        assert_eq!(
            (fact.voluntary, fact.involuntary, fact.migrations),
            (3, 2, 1)
        );
        assert_eq!((fact.wakeup_latency.min_ns, fact.slice.min_ns), (9, 0));
        assert_eq!(fact.off_cpu.len(), cause::COUNT);
    }

    #[test]
    fn a_wakeup_that_no_switch_in_has_booked() {
        let woken = |waking_ns| Ledger {
            waking_ns,
            ..sample()
        };
        let found = fact(&woken(1_250), 1_300).unwrap();
        assert_eq!(found.state, ThreadState::Woken);
        assert_eq!((found.since_ns, found.read_ns), (1_250, 1_300));
        let io = usize::from(cause::IO);
        assert_eq!(found.blocked_ns[io], sample().blocked_ns[io] + 50);
        let off_cpu = &found.off_cpu[io];
        assert_eq!((off_cpu.count, off_cpu.sum_ns, off_cpu.min_ns), (1, 50, 50));
        assert_eq!(off_cpu.buckets, [(hist_bucket(50) as u8, 1)]);
        // One that came after the reading's instant is of the next reading.
        let later = fact(&woken(1_400), 1_300).unwrap();
        assert_eq!(later.state, ThreadState::Blocked(Cause::Io));
        assert_eq!((later.since_ns, later.off_cpu[io].count), (1_200, 0));
        // One of the stretch before says nothing.
        let before = fact(&woken(1_100), 1_300).unwrap();
        assert_eq!(before.state, ThreadState::Blocked(Cause::Io));
        // Who is preempted has not slept.
        let preempted = Ledger {
            state: state::PREEMPTED,
            ..woken(1_250)
        };
        assert_eq!(fact(&preempted, 1_300).unwrap().since_ns, 1_200);
    }

    #[test]
    fn a_read_instant_before_the_last_boundary_becomes_the_boundary() {
        assert_eq!(fact(&sample(), 1_100).unwrap().read_ns, 1_200);
    }

    #[test]
    fn every_state() {
        for (number, expected) in [
            (state::RUNNING, Ok(ThreadState::Running)),
            (state::WOKEN, Ok(ThreadState::Woken)),
            (state::PREEMPTED, Ok(ThreadState::Preempted)),
            (state::BLOCKED, Ok(ThreadState::Blocked(Cause::Io))),
            (state::DEAD, Ok(ThreadState::Dead)),
            (state::FREE, Err(LedgerError::Free)),
            (6, Err(LedgerError::State(6))),
        ] {
            let found = fact(
                &Ledger {
                    state: number,
                    ..sample()
                },
                0,
            )
            .map(|f| f.state);
            assert_eq!(found, expected, "{number}");
        }
        let folded = Ledger {
            flags: ledger_flags::FOLDED,
            ..sample()
        };
        assert!(fact(&folded, 0).unwrap().folded);
    }

    #[test]
    fn what_breaks_the_law_is_torn() {
        let whole = sample();
        for (what, torn) in [
            ("seq", Ledger { seq: 9, ..whole }),
            (
                "on_cpu",
                Ledger {
                    on_cpu_ns: 101,
                    ..whole
                },
            ),
            (
                "woken",
                Ledger {
                    woken_ns: 19,
                    ..whole
                },
            ),
            (
                "preempted",
                Ledger {
                    preempted_ns: 0,
                    ..whole
                },
            ),
            (
                "stolen",
                Ledger {
                    stolen_ns: 6,
                    ..whole
                },
            ),
            (
                "unknown",
                Ledger {
                    unknown_ns: 0,
                    ..whole
                },
            ),
            (
                "unobserved",
                Ledger {
                    unobserved_ns: 1,
                    ..whole
                },
            ),
            (
                "blocked",
                Ledger {
                    blocked_ns: [0; cause::COUNT],
                    ..whole
                },
            ),
            (
                "since",
                Ledger {
                    since_ns: 1_201,
                    ..whole
                },
            ),
            (
                "order",
                Ledger {
                    since_ns: 999,
                    ..whole
                },
            ),
            (
                "overflow",
                Ledger {
                    on_cpu_ns: u64::MAX,
                    ..whole
                },
            ),
        ] {
            assert_eq!(fact(&torn, 0).err(), Some(LedgerError::Torn), "{what}");
        }
        assert_eq!(
            fact(&Ledger { cause: 9, ..whole }, 0).err(),
            Some(LedgerError::Cause(9))
        );
    }

    /// Whatever comes out of noise keeps the law.
    #[test]
    fn noise() {
        let mut rng = Rng::new(4);
        let mut facts = 0;
        for _ in 0..20_000 {
            let mut ledger = sample();
            for _ in 0..rng.below(3) {
                match rng.below(6) {
                    0 => ledger.state = rng.below(8) as u8,
                    1 => ledger.cause = rng.below(12) as u8,
                    2 => ledger.seq = rng.next() as u32,
                    3 => ledger.on_cpu_ns = rng.next() >> rng.below(64),
                    4 => ledger.blocked_ns[rng.below(9)] = rng.next() >> rng.below(64),
                    _ => ledger.since_ns = rng.next() >> rng.below(64),
                }
            }
            if let Ok(fact) = fact(&ledger, rng.next()) {
                facts += 1;
                let columns = u128::from(fact.on_cpu_ns)
                    + u128::from(fact.woken_ns)
                    + u128::from(fact.preempted_ns)
                    + u128::from(fact.stolen_ns)
                    + u128::from(fact.unknown_ns)
                    + u128::from(fact.unobserved_ns)
                    + fact
                        .blocked_ns
                        .iter()
                        .map(|ns| u128::from(*ns))
                        .sum::<u128>();
                assert_eq!(columns, u128::from(fact.since_ns - fact.start_ns));
                assert!(fact.read_ns >= fact.since_ns);
            }
        }
        assert!(facts > 1_000, "only {facts} facts got through");
    }
}
