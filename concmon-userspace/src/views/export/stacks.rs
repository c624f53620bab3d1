//! Time by stack, as all flame formats have it.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::event::Cause;
use crate::model::intervals::blame::{Blame, Held};
use crate::model::intervals::flames::{Flames, NodeId, ROOT};
use crate::model::intervals::{Activity, Intervals};
use crate::views::escape::escape;

/// Which time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum By {
    OnCpu,
    Gil,
    Lock,
    /// Blocked on I/O or the disk, and in selectors from code that is not a loop's own: an idle loop's
    /// time is left out, and what is without a stack.
    Io,
    /// All of it, with what was done as the innermost frame.
    Wall,
    /// Time that others waited for the GIL or for a lock, by the stack of whoever had it.
    Blame,
}

impl By {
    pub const ALL: [By; 6] = [By::OnCpu, By::Wall, By::Gil, By::Lock, By::Io, By::Blame];

    /// As on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            By::OnCpu => "on-cpu",
            By::Gil => "gil",
            By::Lock => "lock",
            By::Io => "io",
            By::Wall => "wall",
            By::Blame => "blame",
        }
    }

    fn wants(self, activity: Activity, known: bool) -> bool {
        match (self, activity) {
            (By::Wall, _)
            | (By::OnCpu, Activity::OnCpu)
            | (By::Gil, Activity::Blocked(Cause::Gil))
            | (By::Lock, Activity::Blocked(Cause::Lock))
            | (By::Io, Activity::Blocked(Cause::Io | Cause::Disk)) => true,
            (By::Io, Activity::Blocked(Cause::Poll)) => known,
            _ => false,
        }
    }
}

/// A function, or what stands for one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Frame {
    pub(super) function: Arc<str>,
    /// Empty where there is none.
    pub(super) file: Arc<str>,
    /// 0 where there is none.
    pub(super) line: u32,
}

/// What all stacks take at most, bytes: those of the least time go without, should it be more.
const MAX_BYTES: usize = 48 << 20;

/// Thread, activity, stack, ns.
type Weight = (usize, Activity, NodeId, u64);

/// One stack, and its time.
#[derive(Clone, Debug)]
pub(super) struct Stack {
    /// Index in the threads of the watch.
    pub(super) thread: usize,
    /// What was done with the time.
    pub(super) activity: Activity,
    /// The outermost first; nothing of the thread or the process.
    pub(super) frames: Vec<Frame>,
    pub(super) ns: u64,
}

/// A thread that has stacks.
#[derive(Clone, Debug)]
pub(super) struct ThreadName {
    pub(super) process: String,
    pub(super) pid: u32,
    pub(super) thread: String,
    pub(super) tid: u32,
}

/// All stacks, by thread, the outermost frames first. Their texts are escaped.
#[derive(Clone, Debug)]
pub(super) struct Stacks {
    pub(super) by: By,
    pub(super) threads: BTreeMap<usize, ThreadName>,
    pub(super) stacks: Vec<Stack>,
}

/// A text that may be shown anywhere; shared, where it is that already.
fn escaped(text: &Arc<str>) -> Arc<str> {
    match escape(text) {
        Cow::Borrowed(_) => Arc::clone(text),
        Cow::Owned(escaped) => escaped.into(),
    }
}

impl Stacks {
    pub(super) fn of(intervals: &Intervals, by: By) -> Self {
        let flames = intervals.flames();
        let mut stacks = Vec::new();
        let weights = flames.weights();
        let mut weights: Vec<Weight> = weights
            .filter(|(thread, activity, node, _)| {
                let known = *node != ROOT && !flames.is_idle(*thread, *node);
                by.wants(*activity, known)
            })
            .collect();
        if let (By::Blame, Some(blame)) = (by, intervals.blame()) {
            weights = blamed(blame, flames);
        }
        fit(&mut weights, flames);
        for (thread, activity, node, ns) in weights {
            let frames = flames.stack(node).into_iter();
            let mut frames: Vec<Frame> = frames
                .map(|frame| Frame {
                    function: escaped(&frame.function),
                    file: escaped(&frame.file),
                    line: frame.line,
                })
                .collect();
            let innermost = innermost(by, activity, frames.is_empty());
            frames.extend(innermost.map(|function| Frame {
                function: function.into(),
                file: "".into(),
                line: 0,
            }));
            stacks.push(Stack {
                thread,
                activity,
                frames,
                ns,
            });
        }
        stacks.sort_by(|one, other| (one.thread, &one.frames).cmp(&(other.thread, &other.frames)));
        let threads = intervals.threads();
        let known = threads.iter().enumerate().map(|(at, thread)| {
            let process = threads.process_name(thread.pid);
            let name = ThreadName {
                process: or(process, "process"),
                pid: thread.pid.0,
                thread: or(&thread.name, "thread"),
                tid: thread.tid.0,
            };
            (at, name)
        });
        let mut threads: BTreeMap<usize, ThreadName> = known.collect();
        let with_stacks: BTreeSet<usize> = stacks.iter().map(|stack| stack.thread).collect();
        threads.retain(|at, _| with_stacks.contains(at));
        Stacks {
            by,
            threads,
            stacks,
        }
    }
}

/// Time of waits by who had what was waited for; of a thread that waited [`Activity::Unseen`], where that is not known.
fn blamed(blame: &Blame, flames: &Flames) -> Vec<Weight> {
    let mut waited = BTreeMap::<usize, u64>::new();
    for (thread, activity, _, ns) in flames.weights() {
        if activity == Activity::Blocked(Cause::Gil) {
            *waited.entry(thread).or_default() += ns;
        }
    }
    let unknown = waited.into_iter().filter_map(|(thread, ns)| {
        let ns = ns.saturating_sub(blame.charged_ns(thread));
        (ns > 0).then_some((thread, Activity::Unseen, ROOT, ns))
    });
    let known = blame.weights().map(|(blamed, ns)| {
        let cause = match blamed.held {
            Held::Gil => Cause::Gil,
            Held::Lock => Cause::Lock,
        };
        (blamed.thread, Activity::Blocked(cause), blamed.stack, ns)
    });
    known.chain(unknown).collect()
}

/// What stands below the frames of a stack: what was done, or that there is none.
fn innermost(by: By, activity: Activity, is_empty: bool) -> Option<String> {
    let what = match (by, activity) {
        (By::Blame, Activity::Blocked(Cause::Gil)) => "had the GIL",
        (By::Blame, Activity::Blocked(_)) => "had a lock",
        (By::Blame, _) => return Some("[waited for the GIL, holder not known]".to_owned()),
        (By::Wall | By::Io, activity) => state(activity),
        (By::OnCpu | By::Gil | By::Lock, _) => {
            return is_empty.then(|| "[no stack]".to_owned());
        }
    };
    Some(match is_empty {
        true => format!("[{what}, no stack]"),
        false => format!("[{what}]"),
    })
}

/// What was done, as the columns of reports are called.
pub(super) const fn state(activity: Activity) -> &'static str {
    match activity {
        Activity::Unseen => "unknown",
        activity => activity.name(),
    }
}

/// Takes the stacks of the least time away where there are more than fit.
fn fit(weights: &mut Vec<Weight>, flames: &Flames) {
    let bytes = |node| {
        let frames = flames.stack(node).into_iter();
        let frames = frames.map(|one| size_of::<Frame>() + one.function.len() + one.file.len());
        size_of::<Stack>() + frames.sum::<usize>()
    };
    let sizes: Vec<usize> = weights.iter().map(|(_, _, node, _)| bytes(*node)).collect();
    let mut all: usize = sizes.iter().sum();
    if all <= MAX_BYTES {
        return;
    }
    let mut by_time: Vec<usize> = (0..weights.len()).collect();
    by_time.sort_by_key(|at| weights[*at].3);
    for at in by_time {
        if all <= MAX_BYTES {
            break;
        }
        all -= sizes[at];
        weights[at].2 = ROOT;
    }
    let mut merged: BTreeMap<(usize, Activity, NodeId), u64> = BTreeMap::new();
    for (thread, activity, node, ns) in weights.drain(..) {
        let sum = merged.entry((thread, activity, node)).or_default();
        *sum = sum.saturating_add(ns);
    }
    let merged = merged.into_iter();
    weights.extend(merged.map(|((thread, activity, node), ns)| (thread, activity, node, ns)));
}

fn or(name: &str, unknown: &str) -> String {
    match name {
        "" => unknown.to_owned(),
        name => escape(name).into_owned(),
    }
}
