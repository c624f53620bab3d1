//! What a thread did, stretch by stretch, from its slices.

use std::collections::VecDeque;

use crate::event::{Cause, Slice, Tid};
use crate::model::timing::cost::column;
use crate::schema::Cost;

/// Segments that are kept; beyond, the oldest are forgotten.
const MAX_SEGMENTS: usize = 8_192;

/// What a thread does from one instant to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Activity {
    /// Part of it on a CPU, the rest stolen.
    OnCpu {
        on_cpu_ns: u64,
    },
    Runnable,
    Blocked {
        cause: Cause,
        waker: Option<Tid>,
        /// On a queue of events (epoll), as loops do when they are idle.
        queue: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) from_ns: u64,
    pub(super) to_ns: u64,
    pub(super) what: Activity,
}

impl Segment {
    pub(super) fn ns(&self) -> u64 {
        self.to_ns.saturating_sub(self.from_ns)
    }

    /// How much of it lies between two instants, ns.
    fn within(&self, from_ns: u64, to_ns: u64) -> u64 {
        self.to_ns
            .min(to_ns)
            .saturating_sub(self.from_ns.max(from_ns))
    }

    /// The part behind an instant.
    fn after(&self, from_ns: u64) -> Option<Segment> {
        if self.to_ns <= from_ns.max(self.from_ns) {
            return None;
        }
        let part = self.within(from_ns, u64::MAX);
        let what = match self.what {
            Activity::OnCpu { on_cpu_ns } => Activity::OnCpu {
                on_cpu_ns: share(on_cpu_ns, part, self.ns()),
            },
            other => other,
        };
        Some(Segment {
            from_ns: self.from_ns.max(from_ns),
            what,
            ..*self
        })
    }
}

/// `part` of `whole` of `ns`.
fn share(ns: u64, part: u64, whole: u64) -> u64 {
    if whole == 0 {
        return 0;
    }
    (u128::from(ns) * u128::from(part) / u128::from(whole)) as u64
}

/// The segments of a slice from `from_ns` on, in order of time: they never overlap, whatever the
/// instants in the slice are.
pub(super) fn of_slice(slice: &Slice, from_ns: u64) -> Vec<Segment> {
    let mut found = Vec::with_capacity(3);
    if let Some(wait) = &slice.wait {
        let woken_ns = match wait.cause {
            Some(cause) => {
                let woken_ns = wait.wake_ns.unwrap_or(slice.in_ns).min(slice.in_ns);
                found.push(Segment {
                    from_ns: wait.off_ns,
                    to_ns: woken_ns,
                    what: Activity::Blocked {
                        cause,
                        waker: wait.waker,
                        queue: wait.queue,
                    },
                });
                woken_ns
            }
            None => wait.off_ns,
        };
        found.push(Segment {
            from_ns: woken_ns,
            to_ns: slice.in_ns,
            what: Activity::Runnable,
        });
    }
    found.push(Segment {
        from_ns: slice.in_ns,
        to_ns: slice.out_ns,
        what: Activity::OnCpu {
            on_cpu_ns: slice
                .on_cpu_ns
                .min(slice.out_ns.saturating_sub(slice.in_ns)),
        },
    });
    found
        .iter()
        .filter_map(|segment| segment.after(from_ns))
        .collect()
}

/// The latest segments of a busy stretch.
#[derive(Clone, Debug, Default)]
pub(super) struct Segments(VecDeque<Segment>);

impl Segments {
    pub(super) fn push(&mut self, segment: Segment) {
        if self.0.len() >= MAX_SEGMENTS {
            self.0.pop_front();
        }
        self.0.push_back(segment);
    }

    /// Forgets what ended before an instant.
    pub(super) fn forget(&mut self, before_ns: u64) {
        while self
            .0
            .front()
            .is_some_and(|segment| segment.to_ns <= before_ns)
        {
            self.0.pop_front();
        }
    }

    /// Where the time between two instants went.
    pub(super) fn cost(&self, from_ns: u64, to_ns: u64) -> Cost {
        let mut cost = Cost::default();
        for segment in &self.0 {
            let part = segment.within(from_ns, to_ns);
            match segment.what {
                Activity::OnCpu { on_cpu_ns } => {
                    let on_cpu_ns = share(on_cpu_ns, part, segment.ns());
                    cost.on_cpu_ns += on_cpu_ns;
                    cost.runnable_ns += part - on_cpu_ns.min(part);
                }
                Activity::Runnable => cost.runnable_ns += part,
                Activity::Blocked { cause, .. } => *column(&mut cost.blocked_ns, cause) += part,
            }
        }
        cost
    }

    /// Time off the CPU between two instants, outside of the time from `known` to `until`, ns.
    pub(super) fn off_cpu_outside(&self, from_ns: u64, to_ns: u64, known: (u64, u64)) -> u64 {
        let off = |from, to| -> u64 {
            self.0
                .iter()
                .filter(|segment| !matches!(segment.what, Activity::OnCpu { .. }))
                .map(|segment| segment.within(from, to))
                .sum()
        };
        off(from_ns, known.0.min(to_ns)) + off(known.1.max(from_ns), to_ns)
    }

    /// Who ended waits for the GIL between two instants, with how much waiting each.
    pub(super) fn gil_wakers(&self, from_ns: u64, to_ns: u64) -> Vec<(Tid, u64)> {
        let mut found: Vec<(Tid, u64)> = Vec::new();
        for segment in &self.0 {
            let Activity::Blocked {
                cause: Cause::Gil,
                waker: Some(waker),
                ..
            } = segment.what
            else {
                continue;
            };
            let part = segment.within(from_ns, to_ns);
            match found.iter_mut().find(|(tid, _)| *tid == waker) {
                Some((_, sum)) => *sum += part,
                None if part > 0 => found.push((waker, part)),
                None => {}
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Wait;

    fn slice() -> Slice {
        Slice {
            tid: Tid(1),
            cpu: 0,
            wait: Some(Wait {
                off_ns: 100,
                wake_ns: Some(150),
                cause: Some(Cause::Sleep),
                queue: true,
                arg0: 0,
                waker: None,
            }),
            in_ns: 160,
            out_ns: 200,
            on_cpu_ns: 30,
            voluntary: true,
        }
    }

    #[test]
    fn a_slice_is_waiting_and_running() {
        let found = of_slice(&slice(), 0);
        assert_eq!(found.len(), 3);
        let mut segments = Segments::default();
        for segment in found {
            segments.push(segment);
        }
        let cost = segments.cost(0, 1_000);
        assert_eq!((cost.on_cpu_ns, cost.runnable_ns), (30, 20));
        assert_eq!(cost.blocked_ns.sleep, 50);
        assert_eq!(cost.total_ns(), 100);
        assert_eq!(segments.cost(120, 180).total_ns(), 60);
        assert_eq!(segments.off_cpu_outside(100, 200, (150, 200)), 50);
    }

    #[test]
    fn what_is_known_already_is_left_out() {
        let found = of_slice(&slice(), 180);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].what, Activity::OnCpu { on_cpu_ns: 15 });
        assert!(of_slice(&slice(), 200).is_empty());
    }
}
