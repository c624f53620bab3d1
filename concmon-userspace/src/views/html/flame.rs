//! Stacks and their time, as the page has them: the heaviest, with the frames that they need.

use std::collections::HashMap;

use serde::Serialize;

use crate::model::intervals::flames::{Flames, NodeId, ROOT};

/// Stacks, by thread and activity, in one page.
const MAX_WEIGHTS: usize = 40_000;
/// Frames of them all together.
const MAX_NODES: usize = 60_000;

#[derive(Debug, Default, Serialize)]
pub(super) struct FlameData<'a> {
    /// Function, file, line.
    frames: Vec<(&'a str, &'a str, u32)>,
    /// Parent and frame; the first stands for no frame at all.
    nodes: Vec<(u32, u32)>,
    /// Thread, activity, node, time in us.
    weights: Vec<(usize, usize, u32, f64)>,
    samples: u64,
    /// Time of what was left out, us: without a stack.
    left_out_us: f64,
    cut: bool,
}

impl<'a> FlameData<'a> {
    /// `shown`: the threads of the page.
    pub(super) fn of(flames: &'a Flames, shown: impl Fn(usize) -> bool) -> Self {
        let mut weights: Vec<_> = flames.weights().filter(|weight| shown(weight.0)).collect();
        weights.sort_by_key(|&(thread, activity, node, ns)| {
            (std::cmp::Reverse(ns), thread, activity, node)
        });
        let mut data = FlameData {
            nodes: vec![(0, 0)],
            samples: flames.samples(),
            cut: flames.cut(),
            ..FlameData::default()
        };
        let mut nodes: HashMap<(u32, u32), u32> = HashMap::new();
        let mut frames: HashMap<(&str, &str, u32), u32> = HashMap::new();
        for (thread, activity, node, ns) in weights {
            let us = ns as f64 / 1e3;
            let fits = data.weights.len() < MAX_WEIGHTS && data.nodes.len() < MAX_NODES;
            if !fits && node != ROOT {
                data.left_out_us += us;
            }
            let node = if fits {
                data.node(flames, node, &mut nodes, &mut frames)
            } else {
                0
            };
            data.weights
                .push((thread, activity.number(), node, (us * 10.0).round() / 10.0));
        }
        data.merge_stackless();
        data
    }

    fn node(
        &mut self,
        flames: &'a Flames,
        node: NodeId,
        nodes: &mut HashMap<(u32, u32), u32>,
        frames: &mut HashMap<(&'a str, &'a str, u32), u32>,
    ) -> u32 {
        let mut at = 0;
        for frame in flames.stack(node) {
            let key = (&*frame.function, &*frame.file, frame.line);
            let frame = *frames.entry(key).or_insert_with(|| {
                self.frames.push(key);
                self.frames.len() as u32 - 1
            });
            at = *nodes.entry((at, frame)).or_insert_with(|| {
                self.nodes.push((at, frame));
                self.nodes.len() as u32 - 1
            });
        }
        at
    }

    /// Of what has no stack, one row for each thread and activity.
    fn merge_stackless(&mut self) {
        let mut sums: std::collections::BTreeMap<(usize, usize), f64> = Default::default();
        self.weights.retain(|&(thread, activity, node, us)| {
            if node == 0 {
                *sums.entry((thread, activity)).or_default() += us;
            }
            node != 0
        });
        let rest = sums
            .into_iter()
            .map(|((thread, activity), us)| (thread, activity, 0, us));
        self.weights.extend(rest);
    }
}
