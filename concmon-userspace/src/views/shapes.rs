//! Which trees of tasks are equal: of the same coroutines at the same places, whatever they are called.

use std::collections::HashMap;

/// Levels of a tree that is compared with others; a deeper one is like no other.
const MAX_LEVELS: usize = 32;

/// What makes a task like another: its own lines, and the shapes of the tasks that it awaits.
type Shape = (String, Vec<usize>);

/// The shape of each task, by number.
#[derive(Debug)]
pub(super) struct Shapes<'a> {
    lines: &'a [String],
    awaits: &'a [Vec<usize>],
    awaited_by: &'a [Vec<usize>],
    numbers: HashMap<Shape, usize>,
    /// `None`: it is like no other, as what several tasks await, or what is in a cycle.
    of: Vec<Option<usize>>,
}

impl<'a> Shapes<'a> {
    /// The shapes of the trees below these roots. `lines`: what each task's own lines say.
    pub(super) fn below(
        roots: &[usize],
        lines: &'a [String],
        awaits: &'a [Vec<usize>],
        awaited_by: &'a [Vec<usize>],
    ) -> Vec<Option<usize>> {
        let mut shapes = Self {
            lines,
            awaits,
            awaited_by,
            numbers: HashMap::new(),
            of: vec![None; lines.len()],
        };
        for root in roots {
            shapes.find(*root, 0);
        }
        shapes.of
    }

    /// Each task is met once: what several tasks await has no shape.
    fn find(&mut self, at: usize, levels: usize) -> Option<usize> {
        if levels >= MAX_LEVELS || self.awaited_by[at].len() > 1 {
            return None;
        }
        let awaits = self.awaits;
        let below: Vec<Option<usize>> = awaits[at]
            .iter()
            .map(|child| self.find(*child, levels + 1))
            .collect();
        let mut below = below.into_iter().collect::<Option<Vec<usize>>>()?;
        below.sort_unstable();
        let next = self.numbers.len();
        let shape = (self.lines[at].clone(), below);
        let number = *self.numbers.entry(shape).or_insert(next);
        self.of[at] = Some(number);
        Some(number)
    }
}
