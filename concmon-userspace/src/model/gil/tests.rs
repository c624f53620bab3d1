//! Waits for the GIL, on slices that are told one by one.

use super::super::testing::*;
use super::Gil;
use crate::event::*;
use crate::schema::{GilPair, Snapshot};

const US: u64 = 1_000;
const HOG: u32 = 100;
const A: u32 = 101;
const B: u32 = 102;
const C: u32 = 103;
/// Where the GIL is, and futexes inside: of its condition, and of the one for who dropped it.
const GIL: u64 = 0x10_0000;
const COND: u64 = GIL + 32;
const WAITING: u64 = COND + 40;
const DROPPED: u64 = COND + 88;
const INSIDE: u64 = COND + 8;

fn gil(read_ns: u64) -> PyGil {
    PyGil {
        read_ns,
        address: GIL,
        cond: COND,
        locked: true,
        last_holder: None,
        switches: 0,
        samples: 0,
        locked_samples: 0,
    }
}

/// A process with four threads whose slices are told one by one.
struct Story {
    fixture: Fixture,
    /// Where the last slice of a thread ended.
    out: [u64; 4],
    looks: u64,
}

impl Story {
    fn new() -> Self {
        let mut fixture = Fixture::new();
        for tid in [HOG, A, B, C] {
            fixture.read(100, tid, 0, |_| {});
        }
        fixture.look(100, 0, |look| look.gils = vec![gil(START)]);
        Story {
            fixture,
            out: [0; 4],
            looks: 0,
        }
    }

    fn slice(&mut self, tid: u32, wait: Wait, in_at: u64, out_at: u64, voluntary: bool) {
        self.out[(tid - HOG) as usize] = out_at;
        self.fixture.apply(Event::Slice(Slice {
            tid: Tid(tid),
            cpu: 0,
            wait: Some(wait),
            in_ns: START + in_at,
            out_ns: START + out_at,
            on_cpu_ns: out_at - in_at,
            voluntary,
        }));
    }

    /// Blocked on a futex of the GIL since its last slice, woken at `wake` by `waker`, on a CPU at
    /// once, until `out`.
    fn gil(&mut self, tid: u32, futex: u64, wake: u64, waker: Option<u32>, out: u64) {
        let wait = Wait {
            off_ns: START + self.out[(tid - HOG) as usize],
            wake_ns: Some(START + wake),
            cause: Some(Cause::Gil),
            queue: true,
            arg0: futex,
            waker: waker.map(Tid),
        };
        self.slice(tid, wait, wake, out, true);
    }

    /// Asleep since its last slice until `wake`, on a CPU until `out`.
    fn sleep(&mut self, tid: u32, wake: u64, out: u64) {
        let wait = Wait {
            off_ns: START + self.out[(tid - HOG) as usize],
            wake_ns: Some(START + wake),
            cause: Some(Cause::Sleep),
            queue: true,
            arg0: 0,
            waker: None,
        };
        self.slice(tid, wait, wake, out, true);
    }

    fn end(&mut self, at: u64) -> Snapshot {
        self.fixture.apply(Event::End);
        self.tick(at)
    }

    fn tick(&mut self, at: u64) -> Snapshot {
        for tid in [HOG, A, B, C] {
            self.fixture.read(100, tid, at, |fact| {
                fact.state = ThreadState::Running;
                fact.since_ns = fact.read_ns;
                fact.on_cpu_ns = at;
            });
        }
        let looks = self.looks;
        self.looks += 1;
        self.fixture.look(100, at, |look| {
            look.gils = vec![PyGil {
                switches: looks,
                ..gil(START + at)
            }];
        });
        self.fixture.tick(at)
    }
}

fn of(snapshot: &Snapshot) -> &crate::schema::Gil {
    snapshot.processes[0].gil.as_ref().expect("a GIL")
}

fn pair(holder: Option<u32>, victim: u32, wait_ns: u64, count: u64) -> GilPair {
    GilPair {
        holder_tid: holder,
        victim_tid: victim,
        wait_ns,
        count,
    }
}

#[test]
fn timeouts_belong_to_one_wait_and_the_hog_is_charged() {
    let mut story = Story::new();
    story.sleep(HOG, 10, MS);
    story.sleep(A, MS, MS + 10 * US);
    // The hog runs from 2 ms on; A wants the GIL from 3 ms on, and asks for it after 5 ms.
    story.sleep(HOG, 2 * MS, 2 * MS);
    story.out[0] = MS;
    story.sleep(A, 3 * MS - 5 * US, 3 * MS);
    story.gil(A, WAITING, 8 * MS, None, 8 * MS + 20 * US);
    let wait = Wait {
        off_ns: START + 2 * MS,
        wake_ns: None,
        cause: None,
        queue: true,
        arg0: 0,
        waker: None,
    };
    story.slice(HOG, wait, 2 * MS, 9 * MS, true);
    story.gil(A, WAITING, 9 * MS - 10 * US, Some(HOG), 12 * MS);
    let end = story.end(SECOND);
    let gil = of(&end);
    let waited = 5 * MS + (9 * MS - 10 * US - 8 * MS - 20 * US);
    assert_eq!(gil.wait_ns, Some(waited));
    assert_eq!(gil.pairs, [pair(Some(HOG), A, waited, 1)]);
    let waits = gil.waits.as_ref().expect("waits");
    assert_eq!((waits.count, waits.sum_ns), (1, waited));
    assert_eq!(gil.waiters_max, Some(1));
}

/// The waker's slice comes long after the victim's.
#[test]
fn a_holder_that_is_known_late_is_charged() {
    let mut story = Story::new();
    story.sleep(HOG, MS, 2 * MS);
    story.sleep(A, 2 * MS, 6 * MS);
    story.gil(A, WAITING, 20 * MS, Some(HOG), 30 * MS);
    let first = story.tick(100 * MS);
    assert_eq!(of(&first).wait_ns, Some(0), "the hog is not known yet");
    story.sleep(HOG, 5 * MS, 200 * MS);
    let second = story.tick(300 * MS);
    assert_eq!(of(&second).pairs, [pair(Some(HOG), A, 14 * MS, 1)]);
    // And if it never is, the wait is told all the same.
    story.gil(A, WAITING, 40 * MS, Some(B), 50 * MS);
    let third = story.tick(400 * MS);
    assert_eq!(of(&third).wait_ns, Some(0));
    let last = story.tick(3 * SECOND);
    assert_eq!(of(&last).pairs, [pair(None, A, 10 * MS, 1)]);
}

/// What is charged to somebody for who asks afterwards is told once a call of several seconds is over.
#[test]
fn a_hold_of_several_seconds_is_charged_as_a_whole() {
    let slice = |tid, (off, wake, waker), cause, out| Slice {
        tid: Tid(tid),
        cpu: 0,
        wait: Some(Wait {
            off_ns: START + off,
            wake_ns: Some(START + wake),
            cause: Some(cause),
            queue: true,
            arg0: WAITING,
            waker,
        }),
        in_ns: START + wake,
        out_ns: START + out,
        on_cpu_ns: out - wake,
        voluntary: true,
    };
    let mut told = Gil::with_charges();
    told.look(&[gil(START)]);
    told.slice(&slice(A, (0, MS, None), Cause::Sleep, 2 * MS));
    let (mut at, mut charged) = (2 * MS, 0);
    for second in 1..=7 {
        while at < second * SECOND - 10 * MS {
            let wake = (at, at + 5 * MS, None);
            at += 5 * MS + 10 * US;
            told.slice(&slice(A, wake, Cause::Gil, at));
        }
        if second == 7 {
            let run = slice(HOG, (0, MS, None), Cause::Sleep, 7 * SECOND - MS);
            told.slice(&run);
            let over = (at, 7 * SECOND - 2 * MS, Some(Tid(HOG)));
            told.slice(&slice(A, over, Cause::Gil, 7 * SECOND));
        }
        told.settle(START + second * SECOND, std::iter::empty(), false);
        let charges = told.take_charges();
        assert!(charges.iter().all(|charge| charge.holder == Tid(HOG)));
        charged += charges.iter().map(|one| one.blocked_ns).sum::<u64>();
    }
    assert!(charged > 6_900 * MS, "{charged}");
}

/// A victim that was woken by another victim still waited for the hog.
#[test]
fn victims_that_wake_each_other_do_not_hide_the_hog() {
    let mut story = Story::new();
    story.sleep(HOG, MS, MS + US);
    for tid in [A, B, C] {
        story.sleep(tid, MS, 2 * MS);
    }
    // The hog holds the GIL from 1 to 12 ms; then A, B and C pass it on within microseconds.
    story.out[0] = MS + US;
    story.sleep(HOG, MS + 2 * US, 12 * MS);
    story.gil(A, WAITING, 12 * MS - US, Some(HOG), 12 * MS + 20 * US);
    story.gil(B, WAITING, 12 * MS + 19 * US, Some(A), 12 * MS + 40 * US);
    story.gil(C, WAITING, 12 * MS + 39 * US, Some(B), 12 * MS + 60 * US);
    for tid in [A, B, C] {
        story.sleep(tid, 20 * MS, 21 * MS);
    }
    let end = story.end(SECOND);
    let gil = of(&end);
    let hog: u64 = gil
        .pairs
        .iter()
        .filter(|pair| pair.holder_tid == Some(HOG))
        .map(|pair| pair.wait_ns)
        .sum();
    let all: u64 = gil.pairs.iter().map(|pair| pair.wait_ns).sum();
    assert_eq!(gil.wait_ns, Some(all));
    assert!(hog * 100 >= all * 99, "{hog} of {all}: {:?}", gil.pairs);
    let counts: Vec<_> = gil.pairs.iter().filter(|p| p.count > 0).collect();
    assert!(
        counts.iter().all(|p| p.holder_tid == Some(HOG)),
        "{counts:?}"
    );
    assert_eq!(gil.waiters_max, Some(3));
}

/// A C extension sleeps without giving the GIL up.
#[test]
fn a_holder_that_is_blocked_meanwhile_is_charged() {
    let mut story = Story::new();
    story.sleep(HOG, MS, 2 * MS);
    story.sleep(A, 2 * MS, 3 * MS);
    story.gil(A, WAITING, 8 * MS, None, 8 * MS + 10 * US);
    story.sleep(HOG, 50 * MS, 51 * MS);
    story.gil(A, WAITING, 51 * MS - US, Some(HOG), 52 * MS);
    let end = story.end(SECOND);
    let gil = of(&end);
    assert_eq!(gil.pairs, [pair(Some(HOG), A, gil.wait_ns.unwrap(), 1)]);
}

/// Made to drop the GIL while its victim was awake for a moment: nobody was woken by it.
#[test]
fn who_was_made_to_drop_it_had_it() {
    let mut story = Story::new();
    story.sleep(HOG, MS, 8 * MS + 5 * US);
    story.sleep(A, 2 * MS, 3 * MS);
    story.gil(A, WAITING, 8 * MS, None, 9 * MS);
    story.gil(HOG, DROPPED, 8 * MS + 30 * US, Some(A), 8 * MS + 40 * US);
    story.gil(HOG, WAITING, 9 * MS - US, Some(A), 10 * MS);
    let end = story.end(SECOND);
    let pairs = &of(&end).pairs;
    assert_eq!(pairs[0], pair(Some(HOG), A, 5 * MS, 1));
    assert_eq!((pairs[1].holder_tid, pairs[1].victim_tid), (Some(A), HOG));
}

/// Waiters that time out together fight for the locks inside the condition variable.
#[test]
fn waiters_that_wake_each_other_have_not_held_it() {
    let mut story = Story::new();
    story.sleep(HOG, MS, MS + US);
    for tid in [A, B] {
        story.sleep(tid, MS, 2 * MS);
    }
    for (futex, at) in [(INSIDE, 7), (WAITING, 12)] {
        let at = at * MS;
        story.gil(A, WAITING, at, None, at + 10 * US);
        story.gil(B, futex, at + 5 * US, Some(A), at + 15 * US);
    }
    story.sleep(HOG, MS + 2 * US, 20 * MS);
    story.gil(A, WAITING, 20 * MS - US, Some(HOG), 21 * MS);
    story.gil(B, WAITING, 21 * MS - US, Some(A), 22 * MS);
    let end = story.end(SECOND);
    for pair in &of(&end).pairs {
        let by_a = pair.holder_tid == Some(A);
        assert!(!by_a || pair.wait_ns <= MS, "{pair:?}");
        assert_ne!(pair.holder_tid, Some(B));
        assert!(
            pair.holder_tid.is_some() || pair.wait_ns < 100 * US,
            "{pair:?}"
        );
    }
}

/// Nothing ends for seconds: what is waited is told meanwhile, and looks say who it is.
#[test]
fn long_waits_are_told_before_they_end() {
    let mut story = Story::new();
    story.sleep(A, MS, 2 * MS);
    let mut told = 0;
    for second in 1..=6u64 {
        let mut at = story.out[1];
        while at + 6 * MS < second * SECOND {
            at += 5 * MS;
            story.gil(A, WAITING, at, None, at + 10 * US);
            at += 10 * US;
        }
        let now = START + second * SECOND;
        story.fixture.look(100, second * SECOND, |look| {
            look.gils = vec![PyGil {
                last_holder: Some(Tid(HOG)),
                ..gil(now)
            }];
        });
        let snapshot = story.fixture.tick(second * SECOND);
        let gil = of(&snapshot);
        told += gil.wait_ns.unwrap();
        assert_eq!(gil.waits.as_ref().unwrap().count, 0);
        assert!(
            gil.pairs.iter().all(|p| p.holder_tid == Some(HOG)),
            "{:?}",
            gil.pairs
        );
    }
    assert!(told > 3_900 * MS, "{told}");
    let end = story.end(7 * SECOND);
    let waits = of(&end).waits.clone().unwrap();
    assert_eq!(waits.count, 1);
    assert!(waits.sum_ns > 5_900 * MS, "{}", waits.sum_ns);
    assert_eq!(
        of(&story.fixture.model.summary()).wait_ns,
        Some(waits.sum_ns)
    );
}

/// Of those that were left out between two slices, nobody knows when the last began.
#[test]
fn a_run_before_slices_that_are_missing_is_not_the_one_before_a_block() {
    let slice = |off_ns, in_ns, cause| Slice {
        tid: Tid(A),
        cpu: 0,
        wait: Some(Wait {
            off_ns,
            wake_ns: Some(in_ns),
            cause: Some(cause),
            queue: true,
            arg0: 0,
            waker: None,
        }),
        in_ns,
        out_ns: in_ns + MS,
        on_cpu_ns: MS,
        voluntary: true,
    };
    for (off_ns, run_ns) in [(3 * MS, Some(2 * MS)), (500 * MS, None)] {
        let (mut threads, mut waits) = (super::waits::Threads::default(), Default::default());
        threads.slice(&slice(MS, 2 * MS, Cause::Sleep), &mut waits);
        let told = threads.slice(&slice(off_ns, off_ns + MS, Cause::Gil), &mut waits);
        assert_eq!(told.block.and_then(|block| block.run_ns), run_ns);
    }
}

#[test]
fn samples_become_time() {
    let mut fixture = Fixture::new();
    let mut look = |at: u64, samples, locked, switches| {
        fixture.read(100, 100, at, |_| {});
        fixture.look(100, at, |look| {
            look.gils = vec![PyGil {
                samples,
                locked_samples: locked,
                switches,
                ..gil(START + at)
            }];
        });
        let snapshot = fixture.tick(at);
        let gil = of(&snapshot);
        let held = gil.held_ns.zip(gil.free_ns);
        assert_eq!(held.is_none(), has_limit(&gil.limits, "held_ns"));
        assert_eq!(gil.switches.is_none(), has_limit(&gil.limits, "switches"));
        (held, gil.switches)
    };
    assert_eq!(look(0, 0, 0, 700), (None, None));
    assert_eq!(
        look(SECOND, 100, 25, 750),
        (Some((250 * MS, 750 * MS)), Some(50))
    );
    // Too few: they count in the next window.
    assert_eq!(look(2 * SECOND, 105, 30, 760), (None, Some(10)));
    let third = look(3 * SECOND, 120, 40, 760);
    assert_eq!(third, (Some((1_500 * MS, 500 * MS)), Some(0)));
    let summary = fixture.model.summary();
    assert_eq!(of(&summary).held_ns, Some(1_750 * MS));
    assert_eq!(of(&summary).switches, Some(60));
}

#[test]
fn without_a_gil_there_is_a_reason() {
    for (free_threaded, supported, reason) in [
        (true, true, "free-threaded: there is no GIL"),
        (false, false, "this interpreter is not supported"),
        (false, true, "its GIL was not found"),
    ] {
        let mut fixture = Fixture::new();
        fixture.look(100, 0, |look| {
            (look.info.free_threaded, look.info.supported) = (free_threaded, supported);
        });
        let process = &fixture.tick(SECOND).processes[0];
        assert!(process.gil.is_none());
        let limit = process.limits.iter().find(|limit| limit.field == "gil");
        assert_eq!(limit.expect("a reason").reason, reason);
    }
}

/// What was told of a program stays when the process runs another one.
#[test]
fn another_program_does_not_take_the_time_away() {
    let mut story = Story::new();
    story.sleep(HOG, MS, 2 * MS);
    story.sleep(A, MS, 2 * MS);
    story.gil(A, WAITING, 12 * MS, None, 13 * MS);
    story.fixture.apply(Event::Exec(Exec {
        at_ns: START + 100 * MS,
        pid: Pid(100),
        comm: "sleep".into(),
    }));
    let window = story.fixture.tick(SECOND);
    assert_eq!(of(&window).wait_ns, Some(10 * MS));
    story.fixture.read(100, HOG, 2 * SECOND, |_| {});
    assert!(story.fixture.tick(2 * SECOND).processes[0].gil.is_none());
    assert_eq!(of(&story.fixture.model.summary()).wait_ns, Some(10 * MS));
}

/// It counts where it is waited, while nothing tells of it but the account.
#[test]
fn a_wait_that_goes_on_counts_in_each_of_its_windows() {
    let mut story = Story::new();
    for window in 1..=4u64 {
        let at = window * SECOND;
        for tid in [HOG, A, B, C] {
            story.fixture.read(100, tid, at, |fact| {
                if tid == A {
                    fact.state = ThreadState::Blocked(Cause::Gil);
                    fact.since_ns = START;
                } else {
                    (fact.state, fact.since_ns, fact.on_cpu_ns) =
                        (ThreadState::Running, fact.read_ns, at);
                }
            });
        }
        story.fixture.look(100, at, |look| {
            look.gils = vec![PyGil {
                last_holder: Some(Tid(HOG)),
                ..gil(START + at)
            }];
        });
        let snapshot = story.fixture.tick(at);
        let threads = &snapshot.processes[0].threads;
        let waited: u64 = threads.iter().map(|one| one.ledger.blocked_ns.gil).sum();
        assert_eq!(waited, SECOND, "window {window}");
        assert_eq!(of(&snapshot).wait_ns, Some(waited), "window {window}");
        assert_eq!(of(&snapshot).pairs, [pair(Some(HOG), A, SECOND, 0)]);
        let hog = of(&snapshot).hog.as_ref();
        assert_eq!(hog.map(|hog| (hog.tid, hog.wait_ns)), Some((HOG, SECOND)));
    }
}

#[test]
fn lost_records_are_said() {
    let mut story = Story::new();
    story.fixture.apply(Event::Loss(Loss {
        cpu: 0,
        records: 7,
        from_ns: START,
        to_ns: START,
    }));
    let end = story.end(SECOND);
    for field in ["wait_ns", "waits", "waiters_max", "pairs"] {
        assert!(has_limit(&of(&end).limits, field), "{field}");
    }
}

/// Random slices of several threads, some out of order, some nonsense; and the ledgers that fit the
/// plausible ones.
fn storm(seed: u64, nonsense: u64) {
    let mut random = Random::new(seed);
    let mut fixture = Fixture::new();
    let tids = [HOG, A, B, C];
    for tid in tids {
        fixture.read(100, tid, 0, |_| {});
    }
    let (mut out, mut blocked) = ([0u64; 4], [0u64; 4]);
    let mut wait_ns = 0;
    let (mut count, mut sum, mut pairs_ns, mut most) = (0, 0, 0, 0);
    for window in 1..=8u64 {
        let from = (window - 1) * SECOND;
        fixture.look(100, from, |look| look.gils = vec![gil(START + from)]);
        for _ in 0..random.below(300) {
            let index = random.below(4) as usize;
            let off = out[index] + random.below(5 * US) * random.below(2);
            let wake = off + random.below(6 * MS);
            let run_from = wake + random.below(100 * US);
            let until = run_from + random.below(600 * US);
            let cause = [None, Some(Cause::Gil), Some(Cause::Gil), Some(Cause::Io)];
            let cause = cause[random.below(4) as usize];
            let futexes = [WAITING, DROPPED, INSIDE, 0, random.any()];
            let mut slice = Slice {
                tid: Tid(tids[index]),
                cpu: 0,
                wait: random.chance(97).then_some(Wait {
                    off_ns: START + off,
                    wake_ns: cause.map(|_| START + wake),
                    cause,
                    queue: true,
                    arg0: futexes[random.below(5) as usize],
                    waker: random.chance(70).then(|| Tid(HOG + random.below(5) as u32)),
                }),
                in_ns: START + run_from,
                out_ns: START + until,
                on_cpu_ns: until - run_from,
                voluntary: random.chance(80),
            };
            if random.chance(nonsense) {
                slice.in_ns = random.nasty();
                slice.out_ns = random.nasty();
                slice.on_cpu_ns = random.nasty();
                if let Some(wait) = &mut slice.wait {
                    (wait.off_ns, wait.wake_ns) = (random.nasty(), Some(random.nasty()));
                }
            } else if until >= window * SECOND {
                continue;
            } else {
                out[index] = until;
                if slice.wait.is_some() && cause == Some(Cause::Gil) {
                    blocked[index] += wake - off;
                }
            }
            fixture.apply(Event::Slice(slice));
        }
        for (index, tid) in tids.into_iter().enumerate() {
            let gil_ns = blocked[index];
            fixture.read(100, tid, window * SECOND, |fact| {
                fact.state = match random.below(3) {
                    0 => ThreadState::Blocked(Cause::Io),
                    1 => ThreadState::Blocked(Cause::Gil),
                    _ => ThreadState::Running,
                };
                fact.since_ns = (START + out[index]).max(fact.start_ns);
                fact.blocked_ns[Cause::Gil as usize] = gil_ns;
            });
        }
        if window == 8 {
            fixture.apply(Event::End);
        }
        let snapshot = fixture.tick(window * SECOND);
        let gil = of(&snapshot);
        let pairs: u64 = gil.pairs.iter().map(|pair| pair.wait_ns).sum();
        assert_eq!(gil.wait_ns, Some(pairs), "seed {seed} window {window}");
        let waits = gil.waits.as_ref().unwrap();
        wait_ns += gil.wait_ns.unwrap();
        (count, sum, pairs_ns) = (count + waits.count, sum + waits.sum_ns, pairs_ns + pairs);
        most = most.max(gil.waiters_max.unwrap());
        assert!(gil.waiters_max <= Some(4));
    }
    let summary = fixture.model.summary();
    let whole = of(&summary);
    let waits = whole.waits.as_ref().unwrap();
    assert_eq!(whole.wait_ns, Some(wait_ns), "seed {seed}");
    assert_eq!((waits.count, waits.sum_ns), (count, sum), "seed {seed}");
    assert_eq!(whole.pairs.iter().map(|p| p.count).sum::<u64>(), count);
    assert_eq!(whole.waiters_max, Some(most));
    if nonsense == 0 {
        let told = fixture.model.process_table.processes.values();
        let told: u64 = told.map(|p| p.gil.blocked_ns.now).sum();
        assert_eq!(
            told,
            blocked.iter().sum::<u64>(),
            "seed {seed}: the ledgers' own"
        );
        assert!(wait_ns >= told, "{wait_ns} {told}");
        assert!(count > 20, "nothing was compared");
    }
}

#[test]
fn pairs_and_waits_are_the_same_time_and_windows_add_up() {
    for seed in 0..40 {
        storm(seed, 0);
    }
}

#[test]
fn nonsense_breaks_no_law() {
    for seed in 0..60 {
        storm(seed, 20);
    }
}

/// More than fits: nothing is kept for ever, and no time is forgotten.
#[test]
fn what_is_kept_is_bounded() {
    let mut story = Story::new();
    let mut at = MS;
    for tid in [HOG, A] {
        story.sleep(tid, MS, MS);
    }
    for _ in 0..100_000u32 {
        at += 10 * US;
        // By a thread that never tells when it began.
        story.gil(A, WAITING, at, Some(C), at + US);
        at += US;
        let gil = &story.fixture.model.process_table.processes.values().next();
        assert!(gil.expect("a process").gil.waits.pieces() <= super::MAX_PIECES);
    }
    let end = story.end(2 * SECOND);
    let whole = of(&end);
    let process = story.fixture.model.process_table.processes.values().next();
    let gil = &process.expect("a process").gil;
    assert_eq!(whole.wait_ns, Some(gil.blocked_ns.now));
    assert_eq!(gil.waits.pieces(), 0);
}
