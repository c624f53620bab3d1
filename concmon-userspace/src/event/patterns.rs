//! Patterns of paths: regular expressions, run over paths that were folded.
//!
//! A folded path stands for all paths that are folded to it. So a pattern takes it, does not, or may: it takes some of
//! these. Expressions are run over bytes, which decides the same for whole paths as long as no part of it is counted.

use std::collections::BTreeSet;

use regex_automata::dfa::{Automaton as _, StartKind, dense};
use regex_automata::nfa::thompson::{self, WhichCaptures};
use regex_automata::util::primitives::StateID;
use regex_automata::util::start;
use regex_automata::util::syntax;
use regex_automata::{Anchored, MatchKind};

use super::paths::{ENCODED, MORE, Shape};

/// What one pattern may take: its automaton, and what is needed to build it, bytes.
const MAX_BYTES: usize = 64 << 10;
const MAX_BUILDING: usize = 256 << 10;

/// Whether a pattern takes a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Takes {
    No,
    Maybe,
    Yes,
}

/// A pattern of whole paths.
#[derive(Clone, Debug)]
pub(crate) struct Pattern {
    automaton: dense::DFA<Vec<u32>>,
    start: StateID,
    /// One of the bytes that the automaton does not tell from each other.
    classes: Vec<u8>,
    /// Of those that are in parts without anything encoded, nor does the shape of a part tell these from each other.
    plain: Vec<u8>,
}

/// What may be searched: steps from one state to the next.
#[derive(Clone, Debug)]
pub(crate) struct Budget(usize);

/// Of one path and one pattern.
const MAX_STEPS: usize = 1 << 16;

impl Budget {
    pub(crate) fn new(steps: usize) -> Self {
        Self(steps)
    }

    pub(crate) fn is_spent(&self) -> bool {
        self.0 == 0
    }

    /// `None`: that is more than was left.
    fn spend(&mut self, steps: usize) -> Option<()> {
        let left = self.0.checked_sub(steps);
        self.0 = left.unwrap_or(0);
        left.map(|_| ())
    }
}

impl Pattern {
    /// `None`: it is no expression, or one that is too large.
    pub(crate) fn new(expression: &str) -> Option<Self> {
        let config = dense::Config::new()
            .start_kind(StartKind::Anchored)
            .match_kind(MatchKind::All)
            .accelerate(false)
            .dfa_size_limit(Some(MAX_BYTES))
            .determinize_size_limit(Some(MAX_BUILDING));
        let building = thompson::Config::new()
            .utf8(false)
            .which_captures(WhichCaptures::None)
            .nfa_size_limit(Some(MAX_BUILDING));
        let automaton = dense::Builder::new()
            .configure(config)
            .syntax(syntax::Config::new().unicode(false).utf8(false))
            .thompson(building)
            .build(&format!("(?:{expression})\\z"))
            .ok()?;
        let anchored = start::Config::new().anchored(Anchored::Yes);
        let start = automaton.start_state(&anchored).ok()?;
        Some(Self {
            classes: different(&automaton, 0..=u8::MAX, |byte| {
                (byte == b'/', byte == b'\n')
            }),
            plain: different(&automaton, (b'!'..=b'~').filter(is_plain), |byte| {
                (Shape::default().then(byte), byte == b'-')
            }),
            automaton,
            start,
        })
    }

    /// How much it takes.
    pub(crate) fn bytes(&self) -> usize {
        self.automaton.memory_usage() + self.classes.len() + self.plain.len()
    }

    /// Whether it takes a folded path; where that takes too long, it may.
    pub(crate) fn takes(&self, path: &str, budget: &mut Budget) -> Takes {
        let mut own = Budget::new(budget.0.min(MAX_STEPS));
        let before = own.0;
        let takes = self.search(path, &mut own).unwrap_or(Takes::Maybe);
        budget.0 -= before - own.0;
        takes
    }

    /// `None`: there is too much to search.
    fn search(&self, path: &str, budget: &mut Budget) -> Option<Takes> {
        let mut states = BTreeSet::from([self.start]);
        for (index, part) in path.split('/').enumerate() {
            if index > 0 {
                states = self.after(&states, b'/');
            }
            budget.spend(states.len())?;
            states = match part {
                MORE => self.after_any(&states, |byte| byte != b'\n', budget)?,
                ENCODED => {
                    let first = self.after_one(&states, is_of_part);
                    self.after_any(&first, is_of_part, budget)?
                }
                "{number}" | "{uuid}" | "{hash}" | "{text}" => {
                    self.after_folded(&states, part, budget)?
                }
                _ => {
                    for byte in part.bytes() {
                        budget.spend(states.len())?;
                        states = self.after(&states, byte);
                    }
                    states
                }
            };
            if states.iter().all(|state| self.is_dead(*state)) {
                return Some(Takes::No);
            }
        }
        let accepted = states.iter().filter(|state| self.accepts(**state)).count();
        Some(match accepted {
            0 => Takes::No,
            _ if accepted == states.len() => Takes::Yes,
            _ => Takes::Maybe,
        })
    }

    /// Nothing that it takes begins with something else that it takes.
    pub(crate) fn is_prefix_free(&self) -> bool {
        let all = self.all_after(&BTreeSet::from([self.start]));
        let accepting = all.into_iter().filter(|state| self.accepts(*state));
        let behind = self.after_one(&accepting.collect(), |_| true);
        !self.accepts_any(&self.all_after(&behind))
    }

    /// Whether it takes anything that has this byte.
    pub(crate) fn may_have(&self, byte: u8) -> bool {
        let all = self.all_after(&BTreeSet::from([self.start]));
        self.accepts_any(&self.all_after(&self.after(&all, byte)))
    }

    fn is_dead(&self, state: StateID) -> bool {
        self.automaton.is_dead_state(state)
    }

    fn accepts(&self, state: StateID) -> bool {
        let end = self.automaton.next_eoi_state(state);
        self.automaton.is_match_state(end)
    }

    fn accepts_any(&self, states: &BTreeSet<StateID>) -> bool {
        states.iter().any(|state| self.accepts(*state))
    }

    fn after(&self, states: &BTreeSet<StateID>, byte: u8) -> BTreeSet<StateID> {
        let next = |state: &StateID| self.automaton.next_state(*state, byte);
        states.iter().map(next).collect()
    }

    /// The states after one of these bytes.
    fn after_one(&self, states: &BTreeSet<StateID>, is: fn(u8) -> bool) -> BTreeSet<StateID> {
        let bytes = self.classes.iter().filter(|byte| is(**byte));
        bytes.flat_map(|byte| self.after(states, *byte)).collect()
    }

    /// The states after any bytes, of which there are no more than the automaton has.
    fn all_after(&self, states: &BTreeSet<StateID>) -> BTreeSet<StateID> {
        let all = self.after_any(states, |_| true, &mut Budget::new(usize::MAX));
        all.unwrap_or_default()
    }

    /// The states after any number of these bytes, none included.
    fn after_any(
        &self,
        states: &BTreeSet<StateID>,
        is: fn(u8) -> bool,
        budget: &mut Budget,
    ) -> Option<BTreeSet<StateID>> {
        let mut all = states.clone();
        let mut front = all.clone();
        while !front.is_empty() {
            budget.spend(front.len().saturating_mul(self.classes.len()))?;
            let next = self.after_one(&front, is);
            front = next
                .into_iter()
                .filter(|state| all.insert(*state))
                .collect();
        }
        Some(all)
    }

    /// The states after any part that is folded to this.
    fn after_folded(
        &self,
        states: &BTreeSet<StateID>,
        folded: &str,
        budget: &mut Budget,
    ) -> Option<BTreeSet<StateID>> {
        let (dead, alive): (Vec<_>, Vec<_>) =
            states.iter().partition(|state| self.is_dead(**state));
        let mut found = BTreeSet::from_iter(dead);
        let begin = alive.into_iter().map(|state| (state, Shape::default()));
        let mut all: BTreeSet<(StateID, Shape)> = begin.collect();
        let mut front: Vec<(StateID, Shape)> = all.iter().copied().collect();
        while let Some((state, shape)) = front.pop() {
            budget.spend(self.plain.len())?;
            for byte in &self.plain {
                let shape = shape.then(*byte);
                if !shape.may_become(folded) {
                    continue;
                }
                let next = (self.automaton.next_state(state, *byte), shape.settled());
                // What is dead stays so, whatever the part becomes.
                if self.is_dead(next.0) {
                    found.insert(next.0);
                } else if all.insert(next) {
                    front.push(next);
                    if next.1.folded() == Some(folded) {
                        found.insert(next.0);
                    }
                }
            }
        }
        Some(found)
    }
}

/// One of those bytes that neither the automaton nor this tells from each other.
fn different<T: Ord>(
    automaton: &dense::DFA<Vec<u32>>,
    bytes: impl IntoIterator<Item = u8>,
    key: impl Fn(u8) -> T,
) -> Vec<u8> {
    let classes = automaton.byte_classes();
    let mut seen = BTreeSet::new();
    let bytes = bytes.into_iter();
    bytes
        .filter(|byte| seen.insert((classes.get(*byte), key(*byte))))
        .collect()
}

/// Bytes of a part in which nothing is encoded.
fn is_plain(byte: &u8) -> bool {
    !b"/%?#".contains(byte)
}

/// Bytes of a part that was encoded.
fn is_of_part(byte: u8) -> bool {
    byte != b'/' && byte != b'\n'
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::paths::fold;

    /// For each pattern, whether it takes what it says of the folded path is so of all paths of which it may be said.
    #[test]
    fn a_folded_path_stands_for_all_that_are_folded_to_it() {
        let paths = [
            "/items/17",
            "/items/x",
            "/items/9f86d081884c7d65",
            "/items/",
            "/items",
            "/items/6f1e6bd2-9e2d-4a52-8f7a-6c1f0e5d7a10",
            "/items/someone@example.org",
            "/items/a1b2c3d4e5f6g7h8i9",
            "/items/17/edit",
            "/items/abcdefab",
            "/items/00000000",
            "/items/a/b/c/d/e/f/g/h/i",
            "/items/-",
            "/items/a.json",
            "/items/1.5",
        ];
        let expressions = [
            "/items/[^/]+",
            "/items/[0-9]+",
            "/items/[-a-zA-Z0-9_]+",
            "/items/.*",
            "/items/.+",
            "/items(?:/.*)?",
            "/items/[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
            "/items/[0-9]+/edit",
            "/items/x",
            "/items/[^/]+\\.json",
            "/items/\\d+\\.\\d+",
            "/[a-z]+/\\w{1,4}",
        ];
        for expression in expressions {
            let pattern = Pattern::new(expression).unwrap();
            let whole = regex::Regex::new(&format!("^(?:{expression})$")).unwrap();
            for path in paths {
                let takes = pattern.takes(&fold(path), &mut Budget::new(usize::MAX));
                let is = if whole.is_match(path) {
                    Takes::Yes
                } else {
                    Takes::No
                };
                assert!(
                    takes == is || takes == Takes::Maybe,
                    "{expression} {path}: {takes:?}"
                );
                if fold(path) == path {
                    assert_eq!(takes, is, "{expression} {path}");
                }
            }
        }
    }

    #[test]
    fn what_all_identifiers_have_in_common_decides() {
        use Takes::{Maybe, No, Yes};
        for (expression, path, takes) in [
            ("/[0-9]+", "/{number}", Yes),
            ("/[0-9]+", "/{hash}", No),
            ("/[0-9]+", "/{text}", No),
            ("/[0-9]{3}", "/{number}", Maybe),
            ("/latest", "/{text}", No),
            ("/2024", "/{number}", Maybe),
            ("/[-a-z0-9]+", "/{uuid}", Yes),
            ("/[a-z]+", "/{uuid}", No),
            ("/[^/]+", "/{encoded}", Yes),
            ("/a b", "/{encoded}", Maybe),
            ("/[^/]+", "/...", Maybe),
            ("/.*", "/...", Yes),
            ("/a/.*", "/...", Maybe),
            ("/a/.*", "/b/...", No),
        ] {
            let pattern = Pattern::new(expression).unwrap();
            assert_eq!(
                pattern.takes(path, &mut Budget::new(usize::MAX)),
                takes,
                "{expression} {path}"
            );
        }
    }

    #[test]
    fn what_is_too_large_or_no_expression_is_no_pattern() {
        assert!(Pattern::new("/[a-z").is_none());
        assert!(Pattern::new("(?:(?:[ab]{50}){50}){50}").is_none());
        assert!(Pattern::new("/(?:a|b)*a(?:a|b){12}").is_none());
        assert!(Pattern::new("/items/[0-9]+").unwrap().bytes() < 4_096);
    }

    /// What an expression of many states does to identifiers is not searched without end.
    #[test]
    fn what_takes_too_long_may_be_taken() {
        let pattern = Pattern::new("/(?:a|b)*a(?:a|b){9}").unwrap();
        let mut budget = Budget::new(usize::MAX);
        assert_eq!(pattern.takes("/{text}", &mut budget), Takes::Maybe);
        assert!(budget.0 >= usize::MAX - MAX_STEPS);
        let mut spent = Budget::new(3);
        assert_eq!(pattern.takes("/abcdef", &mut spent), Takes::Maybe);
        assert!(spent.is_spent());
        // Of an usual one all is searched.
        let pattern = Pattern::new("/[^/]+\\.json").unwrap();
        let searched = pattern.search("/{text}", &mut Budget::new(MAX_STEPS));
        assert_eq!(searched, Some(Takes::Maybe));
    }

    #[test]
    fn of_some_patterns_one_beginning_of_a_path_is_taken() {
        for (expression, is) in [
            ("/api/", true),
            ("/[^/]+/", true),
            ("/.+/", false),
            ("/[0-9]+", false),
        ] {
            assert_eq!(
                Pattern::new(expression).unwrap().is_prefix_free(),
                is,
                "{expression}"
            );
        }
    }
}
