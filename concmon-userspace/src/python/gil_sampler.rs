//! Looks at GILs about a hundred times a second, and counts how often they are locked.
//!
//! A sample is one read of 32 bytes. The time between two rounds varies, so that it keeps no step
//! with what the target does, for one its switch interval of 5 ms.
//!
//! While nothing runs in a process, its GIL stays as it is: it is read once, and counted at its turns from then on.
//! These counts are good when it turns out that nothing has run until then, and given up otherwise.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::memory::ProcessMemory;
use super::walk::gil::{GIL_BYTES, GilState};
use crate::event::Pid;
use crate::procfs::{clocks::monotonic_ns, rights};

/// Between two rounds at least, and how much it varies above that.
const PAUSE: Duration = Duration::from_micros(7_000);
const JITTER_US: u64 = 6_000;
/// Between two rounds on average, ns.
const MEAN_NS: u64 = PAUSE.as_nanos() as u64 + JITTER_US / 2 * 1_000;
/// GILs that are read in one round: 500 reads in a second.
const READS_PER_ROUND: usize = 5;
/// Reads that may fail one after the other.
const MAX_FAILURES: u32 = 20;

/// Samples of one GIL since it has been watched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GilCounts {
    pub samples: u64,
    pub locked: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Sampled {
    counts: GilCounts,
    failures: u32,
    /// Nothing has run in the process lately.
    rests: bool,
    /// Whether it was locked when it was read since then.
    stays: Option<bool>,
    /// Turns at which it was not read since then.
    unread: u64,
}

#[derive(Debug, Default)]
struct State {
    gils: BTreeMap<(Pid, u64), Sampled>,
    /// Up to when turns are counted, ns, while there is nothing to read; `None`: there is.
    asleep_ns: Option<u64>,
    stop: bool,
}

impl State {
    /// None of them is to be read until something runs.
    fn all_stay(&self) -> bool {
        !self.gils.is_empty() && self.gils.values().all(|of| of.stays.is_some())
    }

    /// Counts the turns that there would have been by now, had somebody taken them.
    fn count_turns(&mut self, now_ns: u64) {
        let Some(from_ns) = self.asleep_ns else {
            return;
        };
        let (gils, reads) = (self.gils.len() as u64, READS_PER_ROUND as u64);
        // Where they are few, each has one in every round.
        let turn_ns = (MEAN_NS * gils / reads).max(MEAN_NS);
        let turns = now_ns.saturating_sub(from_ns) / turn_ns;
        for sampled in self.gils.values_mut() {
            sampled.unread += turns;
        }
        self.asleep_ns = Some(from_ns + turns * turn_ns);
    }
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Samples GILs in a thread of its own until it is dropped.
#[derive(Debug, Default)]
pub struct GilSampler {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl GilSampler {
    /// The GILs of a process from now on; what is known of those that it has already stays.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn watch(&mut self, pid: Pid, addresses: &[u64]) -> std::io::Result<()> {
        {
            let mut state = self.shared.lock();
            state
                .gils
                .retain(|(other, address), _| *other != pid || addresses.contains(address));
            for address in addresses {
                state.gils.entry((pid, *address)).or_default();
            }
        }
        if self.thread.is_none() && !addresses.is_empty() {
            let shared = Arc::clone(&self.shared);
            let run = move || {
                // It was there before the watch gave up what it does not need.
                if let Err(error) = rights::reduce_to(rights::LOOKS) {
                    log::debug!("the sampler of GILs keeps capabilities: {error}");
                }
                run(&shared);
            };
            let builder = std::thread::Builder::new().name("gil-sampler".to_owned());
            self.thread = Some(builder.spawn(run)?);
        }
        self.shared.changed.notify_all();
        Ok(())
    }

    pub fn forget(&mut self, pid: Pid) {
        self.shared
            .lock()
            .gils
            .retain(|(other, _), _| *other != pid);
    }

    /// Takes over in which processes nothing has run since this was told last.
    pub fn rested(&self, processes: impl Iterator<Item = (Pid, bool)>) {
        let mut state = self.shared.lock();
        state.count_turns(monotonic_ns());
        for (pid, rests) in processes {
            for (_, sampled) in state.gils.range_mut((pid, 0)..=(pid, u64::MAX)) {
                sampled.rested(rests);
            }
        }
        if state.asleep_ns.is_some() && !state.all_stay() {
            self.shared.changed.notify_all();
        }
    }

    /// How many GILs are watched.
    pub fn watched(&self) -> usize {
        self.shared.lock().gils.len()
    }

    /// What has been counted; zeros for a GIL that is not watched.
    pub fn counts(&self, pid: Pid, address: u64) -> GilCounts {
        let state = self.shared.lock();
        let sampled = state.gils.get(&(pid, address));
        sampled.map_or_else(GilCounts::default, |sampled| sampled.counts)
    }
}

impl Drop for GilSampler {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(shared: &Shared) {
    let mut random = monotonic_ns() | 1;
    let mut last = (Pid(0), 0);
    let mut memories: BTreeMap<Pid, ProcessMemory> = BTreeMap::new();
    let mut round = Vec::with_capacity(READS_PER_ROUND);
    loop {
        let mut state = shared.lock();
        while state.gils.is_empty() && !state.stop {
            let woken = shared.changed.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
        let pause = PAUSE + Duration::from_micros(next(&mut random) % JITTER_US);
        let stop = |state: &mut State| !state.stop;
        let waited = shared.changed.wait_timeout_while(state, pause, stop);
        state = waited.unwrap_or_else(PoisonError::into_inner).0;
        if state.stop {
            return;
        }
        choose(&state.gils, last, &mut round);
        last = round.last().copied().unwrap_or(last);
        round.retain(|key| state.gils.get_mut(key).is_some_and(|of| !of.stays()));
        if round.is_empty() && state.all_stay() {
            state.asleep_ns = Some(monotonic_ns());
            let rests = |state: &mut State| !state.stop && state.all_stay();
            let woken = shared.changed.wait_while(state, rests);
            state = woken.unwrap_or_else(PoisonError::into_inner);
            state.count_turns(monotonic_ns());
            state.asleep_ns = None;
            continue;
        }
        if memories.len() > 2 * state.gils.len() {
            memories.clear();
        }
        drop(state);
        for key in &round {
            let (pid, address) = *key;
            let mut bytes = [0; GIL_BYTES];
            let memory = memories
                .entry(pid)
                .or_insert_with(|| ProcessMemory::new(pid));
            let read = memory.read_plain(address, &mut bytes);
            if read.is_err() {
                memories.remove(&pid);
            }
            let mut state = shared.lock();
            if let Some(sampled) = state.gils.get_mut(key) {
                sampled.take(read.ok().and_then(|()| GilState::parse(&bytes)));
                if sampled.failures >= MAX_FAILURES {
                    state.gils.remove(key);
                }
            }
        }
    }
}

/// The GILs of a round: those that follow on the last one, all of them when they are few.
fn choose(gils: &BTreeMap<(Pid, u64), Sampled>, last: (Pid, u64), round: &mut Vec<(Pid, u64)>) {
    use std::ops::Bound::{Excluded, Unbounded};
    round.clear();
    let after = gils.range((Excluded(last), Unbounded));
    let all = after.chain(gils.range(..=last));
    round.extend(all.map(|(key, _)| *key).take(READS_PER_ROUND));
}

impl Sampled {
    /// Nothing has run in its process since this was told last, or something has.
    fn rested(&mut self, rests: bool) {
        if let Some(locked) = self.stays.filter(|_| rests) {
            self.counts.samples += self.unread;
            self.counts.locked += self.unread * u64::from(locked);
        }
        if !rests {
            self.stays = None;
        }
        (self.rests, self.unread) = (rests, 0);
    }

    /// It is its turn: whether it needs no reading.
    fn stays(&mut self) -> bool {
        let stays = self.stays.is_some();
        self.unread += u64::from(stays);
        stays
    }

    fn take(&mut self, state: Option<GilState>) {
        match state {
            Some(state) => {
                self.counts.samples += 1;
                self.counts.locked += u64::from(state.locked);
                self.failures = 0;
                self.stays = self.rests.then_some(state.locked);
            }
            None => self.failures += 1,
        }
    }
}

/// Xorshift (Marsaglia 2003).
fn next(random: &mut u64) -> u64 {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    *random
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u64) -> (Pid, u64) {
        (Pid(number as u32 / 3), number)
    }

    #[test]
    fn rounds_are_fair() {
        for all in [1u64, 4, 5, 6, 23] {
            let gils: BTreeMap<_, _> = (0..all).map(|n| (key(n), Sampled::default())).collect();
            let mut taken = BTreeMap::new();
            let (mut last, mut round) = ((Pid(0), 0), Vec::new());
            for _ in 0..all * 10 {
                choose(&gils, last, &mut round);
                assert_eq!(round.len(), READS_PER_ROUND.min(all as usize));
                last = round[round.len() - 1];
                for key in &round {
                    *taken.entry(*key).or_insert(0u64) += 1;
                }
            }
            let (least, most) = (taken.values().min(), taken.values().max());
            assert_eq!(taken.len() as u64, all);
            assert!(
                most.unwrap() - least.unwrap() <= 1,
                "{all}: {least:?} {most:?}"
            );
        }
    }

    #[test]
    fn what_rests_is_read_once_and_counted_while_it_does() {
        let locked = GilState::parse(&bytes_of(&[5_000, 0, 1, 9]));
        let mut sampled = Sampled::default();
        let turn = |sampled: &mut Sampled| {
            let reads = !sampled.stays();
            if reads {
                sampled.take(locked);
            }
            reads
        };
        assert!(turn(&mut sampled) && turn(&mut sampled));
        sampled.rested(true);
        assert!(turn(&mut sampled) && !turn(&mut sampled) && !turn(&mut sampled));
        assert_eq!(sampled.counts.samples, 3);
        sampled.rested(true);
        assert_eq!((sampled.counts.samples, sampled.counts.locked), (5, 5));
        assert!(!turn(&mut sampled));
        // It has run: what was not read meanwhile may have been anything.
        sampled.rested(false);
        assert_eq!(sampled.counts.samples, 5);
        assert!(turn(&mut sampled));
    }

    #[test]
    fn turns_are_counted_while_nobody_takes_them() {
        for (gils, wanted) in [(1, 100), (5, 100), (50, 10)] {
            let mut state = State::default();
            for number in 0..gils {
                let sampled = Sampled {
                    stays: Some(true),
                    ..Sampled::default()
                };
                state.gils.insert(key(number), sampled);
            }
            assert!(state.all_stay());
            state.asleep_ns = Some(7);
            // However often they are asked for.
            for part in 1..=300 {
                state.count_turns(7 + 100 * MEAN_NS * part / 300);
            }
            let mut sampled = state.gils.values_mut();
            assert!(sampled.all(|of| of.unread == wanted), "{gils}");
            for of in state.gils.values_mut() {
                of.rested(true);
            }
            let counts = state.gils.values().map(|of| of.counts);
            let wanted = GilCounts {
                samples: wanted,
                locked: wanted,
            };
            assert!(counts.into_iter().all(|counts| counts == wanted), "{gils}");
            state.gils.entry(key(0)).or_default().rested(false);
            assert!(!state.all_stay());
        }
    }

    fn bytes_of(words: &[u64; 4]) -> [u8; GIL_BYTES] {
        let mut bytes = [0; GIL_BYTES];
        let words = words.iter().flat_map(|word| word.to_ne_bytes());
        bytes
            .iter_mut()
            .zip(words)
            .for_each(|(to, from)| *to = from);
        bytes
    }

    /// This process's own memory, with something like a GIL in it.
    #[test]
    fn counts_what_is_there_and_gives_up_on_what_is_not() {
        let held: Box<[u64; 4]> = Box::new([5_000, 0, 1, 9]);
        let free: Box<[u64; 4]> = Box::new([5_000, 0, 0, 9]);
        let wrong: Box<[u64; 4]> = Box::new([0, 0, 7, 9]);
        let address = |words: &[u64; 4]| words.as_ptr() as u64;
        let pid = Pid(std::process::id());
        let addresses = [address(&held), address(&free), address(&wrong)];
        let mut sampler = GilSampler::default();
        sampler.watch(pid, &addresses).expect("a thread");
        let mut counts = [GilCounts::default(); 3];
        for _ in 0..600 {
            std::thread::sleep(Duration::from_millis(10));
            counts = addresses.map(|address| sampler.counts(pid, address));
            if counts[0].samples >= 30 {
                break;
            }
        }
        assert!(counts[0].samples >= 30, "{counts:?}");
        assert_eq!(counts[0].locked, counts[0].samples);
        assert!(counts[1].samples > 0 && counts[1].locked == 0, "{counts:?}");
        assert_eq!(counts[2].samples, 0);
        let gone = |sampler: &GilSampler| {
            !sampler
                .shared
                .lock()
                .gils
                .contains_key(&(pid, addresses[2]))
        };
        assert!(gone(&sampler), "what is no GIL is read on");
        sampler.forget(pid);
        assert_eq!(sampler.counts(pid, addresses[0]), GilCounts::default());
    }
}
