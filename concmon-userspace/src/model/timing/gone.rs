//! Tasks that are gone: they have begun, have not ended, and are there no more.
//!
//! What began is counted before a look at the tasks that are pending, what has ended after it, so a task that
//! is in none of these is gone for sure; one that began in between may make the number too low, never too
//! high. What cannot be read in one piece is asked twice: a task that is gone stays gone.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};

use super::names::folded;
use crate::event::{PythonFact, TaskState};
use crate::model::window::{Cumulative, Scope};

/// Readings of the counts that are kept: a look may begin before the one before it.
const MAX_BEFORE: usize = 3;

/// Loops that are remembered, and names of one of which some are gone.
const MAX_LOOPS: usize = 1_024;
const MAX_NAMES: usize = 1_024;

/// What was counted, by loop and name: how many began, and how many of all have ended.
pub(super) type Totals = BTreeMap<u64, BTreeMap<String, (u64, u64)>>;

#[derive(Clone, Debug)]
struct Look {
    read_ns: u64,
    /// How many are pending, by loop and name.
    loops: BTreeMap<u64, BTreeMap<String, u64>>,
}

/// One loop.
#[derive(Clone, Debug, Default)]
struct OfLoop {
    /// How many were gone by the look before, at least: by name, and in all.
    before: BTreeMap<String, i64>,
    before_all: i64,
    gone: BTreeMap<String, Cumulative<u64>>,
}

/// The tasks of one process that are gone.
#[derive(Clone, Debug, Default)]
pub(super) struct Gone {
    /// The latest look that nothing was concluded from yet.
    look: Option<Look>,
    counted: VecDeque<(u64, Totals)>,
    loops: BTreeMap<u64, OfLoop>,
}

impl Gone {
    pub(super) fn look(&mut self, look: &PythonFact) {
        self.look = None;
        if look.limits.contains_key("tasks") || look.reads_failed > 0 {
            return;
        }
        let mut loops: BTreeMap<u64, BTreeMap<String, u64>> = BTreeMap::new();
        for one in &look.loops {
            loops.entry(one.id).or_default();
        }
        let pending = look
            .tasks
            .iter()
            .filter(|task| task.state != TaskState::Done);
        for task in pending {
            let Some(names) = loops.get_mut(&task.loop_id) else {
                continue;
            };
            *names
                .entry(folded(&task.name, &task.coroutine))
                .or_default() += 1;
        }
        self.look = Some(Look {
            read_ns: look.read_ns,
            loops,
        });
    }

    /// Takes over what was counted since `since_ns` by `read_ns`, behind the look.
    pub(super) fn count(&mut self, since_ns: u64, read_ns: u64, now: Totals) {
        if self.counted.is_empty() {
            self.counted.push_back((since_ns, Totals::new()));
        }
        if let Some(look) = self.look.take()
            && let Some((_, before)) = self
                .counted
                .iter()
                .rev()
                .find(|(ns, _)| *ns <= look.read_ns)
        {
            // What is gone of others stays known.
            self.loops.retain(|id, known| {
                let is_there = look.loops.contains_key(id);
                if !is_there {
                    known.restart();
                }
                is_there || !known.gone.is_empty()
            });
            for (id, alive) in &look.loops {
                if self.loops.len() >= MAX_LOOPS && !self.loops.contains_key(id) {
                    continue;
                }
                let empty = BTreeMap::new();
                let (before, now) = (before.get(id), now.get(id));
                let counts = (before.unwrap_or(&empty), now.unwrap_or(&empty));
                self.loops.entry(*id).or_default().conclude(alive, counts);
            }
        }
        self.counted.push_back((read_ns, now));
        if self.counted.len() > MAX_BEFORE {
            self.counted.pop_front();
        }
    }

    /// The tasks of before have ended with their program.
    pub(super) fn replaced(&mut self) {
        self.look = None;
        self.counted.clear();
        self.loops.values_mut().for_each(OfLoop::restart);
    }

    pub(super) fn roll(&mut self) {
        for gone in self
            .loops
            .values_mut()
            .flat_map(|known| known.gone.values_mut())
        {
            gone.roll();
        }
    }

    /// How many of one name are gone.
    pub(super) fn over(&self, loop_id: u64, name: &str, scope: Scope) -> u64 {
        let known = self.loops.get(&loop_id);
        let gone = known.and_then(|known| known.gone.get(name));
        gone.map_or(0, |gone| gone.over(scope))
    }
}

/// The counts before a look and behind it.
type Counts<'a> = (
    &'a BTreeMap<String, (u64, u64)>,
    &'a BTreeMap<String, (u64, u64)>,
);

/// What had begun by the first of two counts, less what has ended by the second.
fn open((begun, over): Counts<'_>, name: &str) -> i64 {
    let started = begun.get(name).map_or(0, |(started, _)| *started);
    let ended = over.get(name).map_or(0, |(_, ended)| *ended);
    signed(started).saturating_sub(signed(ended))
}

impl OfLoop {
    /// Forgets the look before.
    fn restart(&mut self) {
        self.before.clear();
        self.before_all = 0;
    }

    fn conclude(&mut self, alive: &BTreeMap<String, u64>, counts: Counts<'_>) {
        let mut names: Vec<&String> = alive.keys().chain(counts.1.keys()).collect();
        names.sort_unstable();
        names.dedup();
        let bounds: BTreeMap<String, i64> = names
            .into_iter()
            .map(|name| {
                let pending = alive.get(name).map_or(0, |pending| signed(*pending));
                (name.clone(), open(counts, name).saturating_sub(pending))
            })
            .collect();
        // Tasks may change their names: what is gone under one name must not be there under another, where
        // there are more than can have begun. Those of before the counting are among these.
        let strangers = alive.iter().map(|(name, pending)| {
            let most = open((counts.1, counts.0), name);
            signed(*pending).saturating_sub(most).max(0)
        });
        let strangers = strangers.fold(0, i64::saturating_add);
        let all = bounds.values().map(|bound| (*bound).max(0));
        let all = all.fold(0, i64::saturating_add).saturating_sub(strangers);
        let mut left = all.min(self.before_all);
        let mut sure: Vec<(&String, i64)> = bounds
            .iter()
            .filter_map(|(name, bound)| Some((name, *bound.min(self.before.get(name)?))))
            .filter(|(_, sure)| *sure > 0)
            .collect();
        sure.sort_by_key(|(name, sure)| (Reverse(*sure), *name));
        for (name, sure) in sure {
            let sure = sure.min(left);
            if sure <= 0 {
                break;
            }
            left -= sure;
            if self.gone.len() >= MAX_NAMES && !self.gone.contains_key(name) {
                continue;
            }
            let gone = self.gone.entry(name.clone()).or_default();
            gone.now = gone.now.max(sure.unsigned_abs());
        }
        (self.before, self.before_all) = (bounds, all);
    }
}

/// As a number that can be added to others.
fn signed(count: u64) -> i64 {
    const MOST: i64 = i64::MAX / 4;
    i64::try_from(count).map_or(MOST, |count| count.min(MOST))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::testing::{look, py_loop, py_task};

    const LOOP: u64 = 7;

    /// A watch in which each step is a look and then the counts.
    struct Watch {
        gone: Gone,
        now_ns: u64,
    }

    impl Watch {
        fn new() -> Self {
            Watch {
                gone: Gone::default(),
                now_ns: 100,
            }
        }

        /// How many of `job` are gone, when so many are pending, and were counted.
        fn step(&mut self, pending: &[(&str, u64)], counts: &[(&str, u64, u64)]) -> u64 {
            self.now_ns += 100;
            let mut fact = look(100, self.now_ns);
            fact.loops = vec![py_loop(100, LOOP)];
            for (name, count) in pending {
                for number in 0..*count {
                    fact.tasks.push(py_task(number, LOOP, name));
                }
            }
            self.gone.look(&fact);
            let counts = counts.iter();
            let counts =
                counts.map(|(name, started, ended)| ((*name).to_owned(), (*started, *ended)));
            let totals = [(LOOP, counts.collect())].into();
            self.gone.count(100, self.now_ns + 10, totals);
            self.gone.over(LOOP, "job", Scope::Whole)
        }
    }

    #[test]
    fn what_began_and_neither_ended_nor_is_there_is_gone() {
        let mut watch = Watch::new();
        assert_eq!(watch.step(&[("job", 5)], &[]), 0);
        // Those of before are not counted, so that they hide as many.
        for expected in [0, 0, 5] {
            let gone = watch.step(&[("job", 8)], &[("job", 15, 2)]);
            assert_eq!(gone, expected);
        }
        // It stays so, and a window has what came to it.
        watch.gone.roll();
        assert_eq!(watch.step(&[("job", 8)], &[("job", 25, 12)]), 5);
        assert_eq!(watch.gone.over(LOOP, "job", Scope::Window), 0);
    }

    #[test]
    fn nothing_is_gone_where_tasks_come_and_go() {
        let mut watch = Watch::new();
        for second in 1..50u64 {
            // A hundred per second, of which some are there at the look; some ended before they were counted.
            let began = second * 100;
            let there = (second * 37) % 90;
            assert_eq!(
                watch.step(&[("job", there)], &[("job", began, began - there)]),
                0
            );
        }
    }

    #[test]
    fn others_that_come_and_go_hide_nothing() {
        let mut watch = Watch::new();
        let mut gone = 0;
        for second in 0..10u64 {
            let others = second * 100;
            let counts = [
                ("job", second * 5, 0),
                ("other", others, others - second % 3),
            ];
            gone = watch.step(&[("other", second % 3)], &counts);
        }
        // All but those of the last two seconds.
        assert_eq!(gone, 35);
    }

    #[test]
    fn tasks_under_another_name_and_cut_looks_are_none() {
        let mut watch = Watch::new();
        watch.step(&[], &[]);
        for _ in 0..5 {
            assert_eq!(watch.step(&[("renamed", 10)], &[("job", 10, 0)]), 0);
        }
        // A task that one look did not meet.
        let mut watch = Watch::new();
        for number in 0..9 {
            let there = if number == 5 { 8 } else { 10 };
            assert_eq!(watch.step(&[("job", there)], &[("job", 10, 0)]), 0);
        }
        let mut cut = look(100, watch.now_ns + 1);
        cut.loops = vec![py_loop(100, LOOP)];
        cut.limits.insert("tasks".into(), "cut".into());
        for _ in 0..3 {
            watch.gone.look(&cut);
            let totals = [(LOOP, [("job".to_owned(), (10, 0))].into())].into();
            watch.gone.count(100, watch.now_ns + 20, totals);
        }
        assert_eq!(watch.gone.over(LOOP, "job", Scope::Whole), 0);
    }

    /// Nothing is concluded over a time in which the loop was not there, or of the program before.
    #[test]
    fn a_loop_that_was_away_starts_anew() {
        for replaced in [false, true] {
            let mut watch = Watch::new();
            watch.step(&[("job", 5)], &[("job", 15, 2)]);
            assert_eq!(watch.step(&[("job", 5)], &[("job", 15, 2)]), 0);
            watch.now_ns += 100;
            if replaced {
                watch.gone.replaced();
            } else {
                watch.gone.look(&look(100, watch.now_ns));
                watch.gone.count(100, watch.now_ns + 10, Totals::new());
            }
            assert_eq!(watch.step(&[("job", 5)], &[("job", 15, 2)]), 0);
        }
    }

    #[test]
    fn loops_that_come_and_go_leave_nothing() {
        let mut gone = Gone::default();
        for id in 0..5_000 {
            let now_ns = 1_000 + id * 100;
            let mut fact = look(100, now_ns);
            fact.loops = vec![py_loop(100, id)];
            gone.look(&fact);
            gone.count(100, now_ns + 10, Totals::new());
            assert!(gone.loops.len() <= 1);
        }
        let mut fact = look(100, 1_000_000);
        fact.loops = (0..5_000).map(|id| py_loop(100, id)).collect();
        gone.look(&fact);
        gone.count(100, 1_000_010, Totals::new());
        assert_eq!(gone.loops.len(), MAX_LOOPS);
    }

    #[test]
    fn numbers_that_nothing_counts_do_not_overflow() {
        let names: Vec<String> = (0..20).map(|number| format!("job{number}")).collect();
        let mut watch = Watch::new();
        for (started, ended) in [(0, 0), (u64::MAX, 0), (u64::MAX, 0), (0, u64::MAX), (9, 9)] {
            let counts: Vec<_> = names
                .iter()
                .map(|name| (name.as_str(), started, ended))
                .collect();
            watch.step(&[("job", 5)], &counts);
        }
    }
}
