//! `concurrent.futures`: the queues of its pools, and their work items.

use serde::Serialize;

use super::Since;

/// How many items a `_queue.SimpleQueue` holds, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum QueueShape {
    /// A list, of which the first ones have been taken already.
    List { list: u32, taken: u32 },
    /// A ring: the next one is put at `put`.
    Ring {
        items: u32,
        put: u32,
        capacity: u32,
        count: u32,
    },
}

/// Where a work item has what it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum WorkShape {
    /// The attributes `fn` and `args`.
    Attributes,
    /// A tuple, the attribute `task`: the function, its arguments.
    Tuple,
}

/// What is known of pools beyond their attributes.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ExecutorLayout {
    pub queue: QueueShape,
    /// `tp_basicsize` of a `_queue.SimpleQueue`.
    pub queue_size: u32,
    /// The tuple of arguments of a `functools.partial`.
    pub partial_arguments: u32,
    /// Of a thread pool.
    pub work: WorkShape,
}

pub(super) const EXECUTORS: Since<ExecutorLayout> = &[
    (
        8,
        ExecutorLayout {
            queue: QueueShape::List {
                list: 32,
                taken: 40,
            },
            queue_size: 56,
            ..EXECUTORS_3_13
        },
    ),
    (13, EXECUTORS_3_13),
    (
        14,
        ExecutorLayout {
            work: WorkShape::Tuple,
            ..EXECUTORS_3_13
        },
    ),
];

const EXECUTORS_3_13: ExecutorLayout = ExecutorLayout {
    queue: QueueShape::Ring {
        items: 40,
        put: 24,
        capacity: 48,
        count: 56,
    },
    queue_size: 72,
    partial_arguments: 24,
    work: WorkShape::Attributes,
};
