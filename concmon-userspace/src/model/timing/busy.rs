//! A busy stretch as timers see it: where turns begin in it, and what no turn begins in.

use std::collections::VecDeque;

use crate::event::LoopKind;

/// Beginnings of turns, and times without one, that are kept of one stretch.
const MAX_TURNS: usize = 4_096;
/// Turns are not told apart more finely: nothing that is late depends on it, ns.
const MIN_TURN_NS: u64 = 100_000;
/// Times off the CPU that are shorter are part of what turns take on average, ns.
const PAUSE_NS: u64 = 1_000_000;

/// A busy stretch, or the part of it that lag is not booked of.
#[derive(Clone, Debug)]
pub(super) struct Busy {
    pub(super) from_ns: u64,
    /// `None`: it goes on.
    pub(super) to_ns: Option<u64>,
    /// Up to where lag is booked.
    pub(super) booked_ns: u64,
    /// How long the loop was idle before it, and then waited for a CPU; not yet booked.
    pub(super) idle: (u64, u64),
    /// Beginnings of turns behind the first one's, in order.
    turns: VecDeque<u64>,
    /// Up to where these are known or spread.
    spread_ns: u64,
    /// A turn begins there.
    at_turn: bool,
    /// Stalls, and long times off the CPU: beginnings and ends, in order. No turn begins in them.
    closed: VecDeque<(u64, u64)>,
    /// Its stalls: beginnings and ends; those of one turn as one. Those of shorter steps are not known well
    /// enough to count.
    stalls: Vec<(u64, u64)>,
    /// The turn that the last of these is of.
    stalled_turn: Option<u64>,
}

impl Busy {
    pub(super) fn new(from_ns: u64) -> Self {
        Busy {
            from_ns,
            to_ns: None,
            booked_ns: from_ns,
            idle: (0, 0),
            turns: VecDeque::new(),
            spread_ns: from_ns,
            at_turn: true,
            closed: VecDeque::new(),
            stalls: Vec::new(),
            stalled_turn: None,
        }
    }

    /// Nothing before is the loop's.
    pub(super) fn begin_at(&mut self, from_ns: u64) {
        (self.from_ns, self.booked_ns) = (from_ns, from_ns);
        self.spread_ns = self.spread_ns.max(from_ns);
    }

    /// A time off the CPU, behind all others.
    pub(super) fn note_pause(&mut self, from_ns: u64, to_ns: u64) {
        if to_ns.saturating_sub(from_ns) < PAUSE_NS {
            return;
        }
        if self.closed.len() >= MAX_TURNS {
            self.closed.pop_front();
        }
        self.closed.push_back((from_ns, to_ns));
    }

    /// A step that was a stall, of the turn that samples tell. Returns whether a turn is known to begin at its end.
    pub(super) fn note_stall(
        &mut self,
        kind: LoopKind,
        turn: Option<u64>,
        begin_ns: u64,
        end_ns: u64,
    ) -> bool {
        let before = std::mem::replace(&mut self.stalled_turn, turn);
        if self.stalls.len() >= MAX_TURNS {
            return false;
        }
        // Nothing that is due runs between steps of one turn.
        let last = self.stalls.pop_if(|_| turn.is_some() && before == turn);
        let stall = last.map_or((begin_ns, end_ns), |last| (last.0, last.1.max(end_ns)));
        self.stalls.push(stall);
        self.turns
            .retain(|turn| *turn <= stall.0 || *turn >= stall.1);
        let apart = |other: &(u64, u64)| other.1 <= stall.0 || other.0 >= stall.1;
        self.closed.retain(apart);
        let place = self.closed.partition_point(|other| other.0 < stall.0);
        self.closed.insert(place, stall);
        if end_ns <= self.spread_ns && self.spread_ns > begin_ns {
            return false;
        }
        self.spread_ns = self.spread_ns.max(end_ns);
        // Nothing else tells when a turn of uvloop ended.
        self.at_turn = kind == LoopKind::Uvloop;
        if self.at_turn {
            self.turns.push_back(end_ns);
        }
        self.at_turn
    }

    /// How much of a part of it turns may begin in.
    pub(super) fn open_between(&self, from_ns: u64, to_ns: u64) -> u64 {
        let first = self.closed.partition_point(|closed| closed.1 <= from_ns);
        let closed = self.closed.range(first..);
        let closed_ns: u64 = closed
            .take_while(|closed| closed.0 < to_ns)
            .map(|closed| closed.1.min(to_ns) - closed.0.max(from_ns))
            .sum();
        to_ns.saturating_sub(from_ns).saturating_sub(closed_ns)
    }

    /// Spreads turns up to an instant, so many per ns. `carry`: parts of one, from stretch to stretch.
    pub(super) fn spread(&mut self, to_ns: u64, rate: f64, to_turn: bool, carry: &mut f64) {
        if to_ns <= self.spread_ns {
            return;
        }
        let open_ns = self.open_between(self.spread_ns, to_ns);
        let exact = open_ns as f64 * rate + *carry;
        *carry = exact.fract();
        let room = MAX_TURNS.saturating_sub(self.turns.len()) as u64;
        let count = (exact as u64).min(open_ns / MIN_TURN_NS).min(room);
        // Where it begins or ends in the middle of a turn, half of that is there on average.
        let head = if self.at_turn { 1.0 } else { 0.5 };
        let tail = if to_turn { 1.0 } else { 0.5 };
        let turn_ns = open_ns as f64 / (head + tail + count as f64 - 1.0);
        let mut closed = self.closed.partition_point(|one| one.1 <= self.spread_ns);
        let (mut at_ns, mut passed_ns) = (self.spread_ns, 0);
        for number in 0..count {
            let offset_ns = ((head + number as f64) * turn_ns) as u64;
            let mut left_ns = offset_ns.saturating_sub(passed_ns);
            passed_ns = offset_ns;
            while let Some((begin_ns, end_ns)) = self.closed.get(closed).copied()
                && begin_ns <= at_ns.saturating_add(left_ns)
            {
                left_ns = left_ns.saturating_sub(begin_ns.saturating_sub(at_ns));
                at_ns = at_ns.max(end_ns);
                closed += 1;
            }
            at_ns = at_ns.saturating_add(left_ns);
            if at_ns >= to_ns {
                break;
            }
            self.turns.push_back(at_ns);
        }
        (self.spread_ns, self.at_turn) = (to_ns, to_turn);
    }

    /// Turns are told up to an instant before that one.
    pub(super) const fn is_behind(&self, at_ns: u64) -> bool {
        at_ns > self.spread_ns
    }

    /// A turn began there, and what shows it lasts until `until_ns`.
    pub(super) fn shown(&mut self, start_ns: Option<u64>, until_ns: u64) {
        self.turns.extend(start_ns);
        if until_ns > self.spread_ns {
            (self.spread_ns, self.at_turn) = (until_ns, false);
        }
    }

    /// Up to where it is known when what is due runs.
    pub(super) fn known_ns(&self) -> u64 {
        let before_last = self.turns.len().checked_sub(2);
        let known = before_last.map_or(self.booked_ns, |index| self.turns[index]);
        self.to_ns.unwrap_or(known)
    }

    pub(super) fn is_full(&self) -> bool {
        self.turns.len() >= MAX_TURNS / 2
    }

    /// Its stalls that began between two instants.
    pub(super) fn stalls_between(&self, from_ns: u64, to_ns: u64) -> impl Iterator<Item = u64> {
        let begins = self.stalls.iter().map(|stall| stall.0);
        begins.filter(move |begin_ns| (from_ns..to_ns).contains(begin_ns))
    }

    /// How long a timer waits that is due then: for the turn to end, and for a part of the next one.
    pub(super) fn wait(&self, due_ns: u64, part: f64) -> u64 {
        let next = self.turns.partition_point(|turn| *turn <= due_ns);
        let end_ns = self.begin_of(next, due_ns);
        self.within(end_ns, next + 1, part).saturating_sub(due_ns)
    }

    /// The same for one that is due when it begins: for a part of the first turn.
    pub(super) fn wait_at_begin(&self, part: f64) -> u64 {
        let until_ns = self.within(self.from_ns, 0, part);
        until_ns.saturating_sub(self.from_ns)
    }

    /// When the turn behind so many others begins; else its end.
    fn begin_of(&self, index: usize, at_ns: u64) -> u64 {
        let turn = self.turns.get(index).copied();
        turn.or(self.to_ns).unwrap_or(at_ns).max(at_ns)
    }

    fn within(&self, begin_ns: u64, next: usize, part: f64) -> u64 {
        let length_ns = self.begin_of(next, begin_ns).saturating_sub(begin_ns);
        begin_ns.saturating_add((length_ns as f64 * part) as u64)
    }

    /// Lag is booked up to an instant.
    pub(super) fn forget(&mut self, until_ns: u64) {
        self.booked_ns = until_ns;
        while self.turns.front().is_some_and(|turn| *turn <= until_ns) {
            self.turns.pop_front();
        }
        let spread_ns = self.spread_ns;
        let is_over = |end_ns: u64| end_ns <= until_ns && end_ns <= spread_ns;
        while self.closed.front().is_some_and(|closed| is_over(closed.1)) {
            self.closed.pop_front();
        }
        self.stalls.retain(|stall| stall.1 > until_ns);
    }
}
