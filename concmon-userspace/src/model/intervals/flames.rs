//! Time by stack: on a CPU from samples by the clock, blocked from stacks taken at blocks.
//!
//! Time is that of intervals, whole: stacks only say whose it is. Time on a CPU between two samples of
//! a thread is given to the later one. A blocked stretch is given to the stack that was taken when it
//! began, else to what a look met in it, else to the stack taken last for the same cause: not every
//! block gives a stack, and one that began before the watch gives none. What is left without any is
//! under no frame.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use super::{ACTIVITIES, Activity, Interval, SAME_NS};
use crate::event::{Cause, PyFrame, Sample, SampleKind};

/// Frames of all stacks together that are told apart; beyond, stacks are cut there.
const MAX_NODES: usize = 200_000;
/// Functions with files and lines that are told apart.
const MAX_FRAMES: usize = 100_000;
/// Different stacks by thread and activity; beyond, time is under no frame.
const MAX_WEIGHTS: usize = 1_000_000;
/// Samples of a thread that wait for the slice they lie in.
const MAX_WAITING: usize = 4_096;
/// Waits of a thread that looks have met, and that have not ended as far as is known: slices come later.
const MAX_MET: usize = 4;

/// A stack: the frame of a node below that of its parent.
pub type NodeId = u32;

/// No frame at all.
pub const ROOT: NodeId = 0;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Node {
    parent: NodeId,
    frame: u32,
}

/// Time by thread, activity and stack.
#[derive(Clone, Debug)]
pub struct Flames {
    frames: Vec<PyFrame>,
    by_frame: HashMap<(Arc<str>, Arc<str>, u32), u32>,
    nodes: Vec<Node>,
    by_node: HashMap<(NodeId, u32), NodeId>,
    threads: Vec<ThreadFlames>,
    weights: BTreeMap<(usize, Activity, NodeId), u64>,
    /// Threads with stacks that they were met with as idle loops.
    idle: BTreeSet<(usize, NodeId)>,
    samples: u64,
    cut: bool,
}

#[derive(Clone, Debug, Default)]
struct ThreadFlames {
    /// Samples on a CPU whose slice has not come, in order of time.
    waiting: Vec<(u64, NodeId)>,
    /// Time on a CPU since the last sample.
    run_ns: u64,
    /// The latest stack on a CPU.
    running: Option<NodeId>,
    /// Stacks taken at blocks whose wait has not come, in order of time.
    blocks: VecDeque<(u64, Cause, NodeId)>,
    /// Waits that looks have met: when they began, and the stack.
    met: VecDeque<(u64, NodeId)>,
    /// By activity: the latest stack taken at a block, and time from before there was one.
    blocked: [(Option<NodeId>, u64); ACTIVITIES],
    /// What it last did off the CPU: a wait for a CPU goes on with that.
    last: Option<NodeId>,
}

impl Default for Flames {
    fn default() -> Self {
        Flames {
            frames: Vec::new(),
            by_frame: HashMap::new(),
            nodes: vec![Node {
                parent: ROOT,
                frame: u32::MAX,
            }],
            by_node: HashMap::new(),
            threads: Vec::new(),
            weights: BTreeMap::new(),
            idle: BTreeSet::new(),
            samples: 0,
            cut: false,
        }
    }
}

impl Flames {
    /// Takes a stack; gives its node.
    pub(super) fn sample(&mut self, thread: usize, sample: &Sample) -> NodeId {
        self.samples += 1;
        let node = self.intern(&sample.stack.frames);
        let thread = self.thread(thread);
        match sample.kind {
            SampleKind::OnCpu => {
                if thread.waiting.len() < MAX_WAITING {
                    thread.waiting.push((sample.at_ns, node));
                }
            }
            SampleKind::Block(cause) => {
                if thread.blocks.len() >= MAX_WAITING {
                    thread.blocks.pop_front();
                }
                thread.blocks.push_back((sample.at_ns, cause, node));
            }
        }
        node
    }

    /// A look has met a thread in a wait that began at `since_ns`. `idle`: it is a loop's own selector.
    pub(super) fn met(&mut self, thread: usize, since_ns: u64, stack: &[PyFrame], idle: bool) {
        let node = self.intern(stack);
        if idle {
            self.idle.insert((thread, node));
        }
        let met = &mut self.thread(thread).met;
        if met.back().is_some_and(|(since, _)| *since == since_ns) {
            met.pop_back();
        } else if met.len() >= MAX_MET {
            met.pop_front();
        }
        met.push_back((since_ns, node));
    }

    /// Takes an interval of an activity that began at `since_ns`. Gives the stack that was taken or met in
    /// this very wait.
    pub(super) fn interval(&mut self, interval: &Interval, since_ns: u64) -> Option<NodeId> {
        let ns = interval.ns();
        let at = interval.thread;
        let thread = self.thread(at);
        match interval.activity {
            Activity::OnCpu => {
                let within = thread
                    .waiting
                    .partition_point(|(at_ns, _)| *at_ns <= interval.to_ns);
                let mut found: Vec<NodeId> = thread
                    .waiting
                    .drain(..within)
                    .map(|(_, node)| node)
                    .collect();
                thread.run_ns += interval.on_cpu_ns;
                if let Some(&last) = found.last() {
                    thread.running = Some(last);
                    let ns = std::mem::take(&mut thread.run_ns);
                    let each = ns / found.len() as u64;
                    let rest = ns - each * found.len() as u64;
                    self.weigh(at, Activity::OnCpu, last, rest);
                    for node in found.drain(..) {
                        self.weigh(at, Activity::OnCpu, node, each);
                    }
                }
                let thread = self.thread(at);
                thread.last = thread.running;
                let (stolen_ns, node) = (ns - interval.on_cpu_ns.min(ns), thread.running);
                self.weigh(at, Activity::Runnable, node.unwrap_or(ROOT), stolen_ns);
            }
            Activity::Blocked(_) => {
                let mut own = None;
                // The stack of the next block may have come before this wait has.
                while let Some(&(at_ns, cause, node)) = thread.blocks.front()
                    && at_ns < interval.to_ns
                {
                    thread.blocked[Activity::Blocked(cause).number()].0 = Some(node);
                    thread.blocks.pop_front();
                    if at_ns.abs_diff(since_ns) <= SAME_NS && node != ROOT {
                        own = Some(node);
                    }
                }
                let met = thread.met.iter().find(|(since, _)| *since == since_ns);
                own = own.or(met.map(|(_, node)| *node));
                let (node, early_ns) = &mut thread.blocked[interval.activity.number()];
                *node = own.or(*node);
                match *node {
                    Some(node) => {
                        let early_ns = std::mem::take(early_ns);
                        thread.last = Some(node);
                        self.weigh(at, interval.activity, node, ns + early_ns);
                    }
                    None => {
                        *early_ns += ns;
                        thread.last = None;
                    }
                }
                return own;
            }
            Activity::Runnable => {
                let node = thread.last.unwrap_or(ROOT);
                self.weigh(at, Activity::Runnable, node, ns);
            }
            Activity::Unseen => {}
        }
        None
    }

    /// Gives what waits for a stack to the last one there was.
    pub(super) fn finish(&mut self) {
        for at in 0..self.threads.len() {
            let thread = std::mem::take(&mut self.threads[at]);
            self.weigh(
                at,
                Activity::OnCpu,
                thread.running.unwrap_or(ROOT),
                thread.run_ns,
            );
            for (activity, (node, early_ns)) in Activity::all().zip(thread.blocked) {
                self.weigh(at, activity, node.unwrap_or(ROOT), early_ns);
            }
        }
    }

    /// Adds time that has no stack.
    pub(super) fn grow(&mut self, thread: usize, activity: Activity, ns: u64) {
        self.weigh(thread, activity, ROOT, ns);
    }

    /// Takes time away: what has no stack first, then of all stacks the same part.
    pub(super) fn shrink(&mut self, thread: usize, activity: Activity, ns: u64) {
        let mut left = u128::from(ns);
        let root = (thread, activity, ROOT);
        if let Some(own) = self.weights.get_mut(&root) {
            let part = left.min(u128::from(*own));
            *own -= part as u64;
            left -= part;
        }
        let all = root..=(thread, activity, NodeId::MAX);
        let whole: u128 = self
            .weights
            .range(all.clone())
            .map(|(_, ns)| u128::from(*ns))
            .sum();
        let excess = left;
        let mut empty = Vec::new();
        for (key, own) in self.weights.range_mut(all) {
            let part = (u128::from(*own) * excess)
                .checked_div(whole)
                .map_or(0, |down| down + 1)
                .min(left)
                .min(u128::from(*own));
            *own -= part as u64;
            left -= part;
            if *own == 0 {
                empty.push(*key);
            }
        }
        for key in empty {
            self.weights.remove(&key);
        }
    }

    /// `(thread, activity, stack, ns)`: time without a stack is under [`ROOT`].
    pub fn weights(&self) -> impl Iterator<Item = (usize, Activity, NodeId, u64)> {
        self.weights
            .iter()
            .map(|(&(thread, activity, node), &ns)| (thread, activity, node, ns))
    }

    /// The frames of a stack, the outermost first.
    pub fn stack(&self, mut node: NodeId) -> Vec<&PyFrame> {
        let mut frames = Vec::new();
        while node != ROOT
            && let Some(known) = self.nodes.get(node as usize)
        {
            frames.extend(self.frames.get(known.frame as usize));
            node = known.parent;
        }
        frames.reverse();
        frames
    }

    /// The innermost frame of a stack.
    pub fn innermost(&self, node: NodeId) -> Option<&PyFrame> {
        let known = self.nodes.get(node as usize)?;
        self.frames.get(known.frame as usize)
    }

    /// Whether a thread was met with this stack as an idle loop, in its own selector.
    pub fn is_idle(&self, thread: usize, node: NodeId) -> bool {
        self.idle.contains(&(thread, node))
    }

    /// How many stacks were taken.
    pub const fn samples(&self) -> u64 {
        self.samples
    }

    /// There were more different stacks than are told apart.
    pub const fn cut(&self) -> bool {
        self.cut
    }

    fn thread(&mut self, thread: usize) -> &mut ThreadFlames {
        if self.threads.len() <= thread {
            self.threads.resize_with(thread + 1, ThreadFlames::default);
        }
        &mut self.threads[thread]
    }

    fn weigh(&mut self, thread: usize, activity: Activity, node: NodeId, ns: u64) {
        if ns == 0 {
            return;
        }
        let mut key = (thread, activity, node);
        if self.weights.len() >= MAX_WEIGHTS && !self.weights.contains_key(&key) {
            self.cut = true;
            key.2 = ROOT;
        }
        let sum = self.weights.entry(key).or_default();
        *sum = sum.saturating_add(ns);
    }

    pub(super) fn intern(&mut self, frames: &[PyFrame]) -> NodeId {
        let mut node = ROOT;
        for frame in frames.iter().rev() {
            let Some(frame) = self.frame(frame) else {
                self.cut = true;
                break;
            };
            let next = match self.by_node.get(&(node, frame)) {
                Some(&next) => next,
                None if self.nodes.len() >= MAX_NODES => {
                    self.cut = true;
                    break;
                }
                None => {
                    let next = self.nodes.len() as NodeId;
                    self.nodes.push(Node {
                        parent: node,
                        frame,
                    });
                    self.by_node.insert((node, frame), next);
                    next
                }
            };
            node = next;
        }
        node
    }

    fn frame(&mut self, frame: &PyFrame) -> Option<u32> {
        let key = (frame.function.clone(), frame.file.clone(), frame.line);
        if let Some(&known) = self.by_frame.get(&key) {
            return Some(known);
        }
        if self.frames.len() >= MAX_FRAMES {
            return None;
        }
        let at = self.frames.len() as u32;
        self.frames.push(frame.clone());
        self.by_frame.insert(key, at);
        Some(at)
    }
}
