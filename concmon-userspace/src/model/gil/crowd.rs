//! How many threads waited at the same time.

use super::super::window::Scope;

/// Waits that are compared with later ones.
const MAX_SPANS: usize = 32_768;

/// Spans of waiting of the last seconds, and the most of them that overlap.
#[derive(Clone, Debug, Default)]
pub(super) struct Crowd {
    spans: Vec<(u64, u64)>,
    /// Of these, how many have been compared.
    compared: usize,
    window: u64,
    whole: u64,
    cut_window: bool,
    cut_whole: bool,
}

impl Crowd {
    /// A thread waited from `from_ns` to `to_ns`.
    pub(super) fn add(&mut self, from_ns: u64, to_ns: u64) {
        if from_ns >= to_ns {
            return;
        }
        if self.spans.len() >= MAX_SPANS {
            self.compare();
            // The oldest half: what has just been compared is in the maximum.
            self.spans.drain(..MAX_SPANS / 2);
            self.compared = self.spans.len();
            (self.cut_window, self.cut_whole) = (true, true);
        }
        self.spans.push((from_ns, to_ns));
    }

    /// Compares what has come; forgets what ended before `expired_ns`.
    pub(super) fn settle(&mut self, expired_ns: u64) {
        self.compare();
        self.spans.retain(|(_, to_ns)| *to_ns > expired_ns);
        self.compared = self.spans.len();
    }

    /// The most that overlap where at least one is new.
    fn compare(&mut self) {
        if self.compared == self.spans.len() {
            return;
        }
        let mut ends = Vec::with_capacity(self.spans.len() * 2);
        for (index, &(from_ns, to_ns)) in self.spans.iter().enumerate() {
            let is_new = index >= self.compared;
            ends.push((from_ns, true, is_new));
            ends.push((to_ns, false, is_new));
        }
        // Ends before beginnings: a wait that follows another is not beside it.
        ends.sort_unstable();
        let (mut waiting, mut fresh) = (0u64, 0u64);
        for (_, begins, is_new) in ends {
            let fresh_one = u64::from(is_new);
            if begins {
                (waiting, fresh) = (waiting + 1, fresh + fresh_one);
                if fresh > 0 {
                    self.window = self.window.max(waiting);
                }
            } else {
                (waiting, fresh) = (waiting - 1, fresh - fresh_one);
            }
        }
        self.whole = self.whole.max(self.window);
        self.compared = self.spans.len();
    }

    pub(super) fn max(&self, scope: Scope) -> u64 {
        match scope {
            Scope::Window => self.window,
            Scope::Whole => self.whole,
        }
    }

    /// Not all spans were compared.
    pub(super) fn cut(&self, scope: Scope) -> bool {
        match scope {
            Scope::Window => self.cut_window,
            Scope::Whole => self.cut_whole,
        }
    }

    pub(super) fn roll(&mut self) {
        (self.window, self.cut_window) = (0, false);
    }
}
