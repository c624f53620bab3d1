//! asyncio's own objects.

use serde::Serialize;

use super::Since;

/// `TaskObj` of asyncio's C module.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct TaskLayout {
    /// What `tp_basicsize` must be for the rest to hold.
    pub size: u32,
    pub loop_object: u32,
    pub state: u32,
    pub awaited_future: u32,
    pub coroutine: u32,
    pub name: u32,
    /// The node by which tasks are linked into lists; `None` where they are not.
    pub node: Option<u32>,
    /// Attributes of `asyncio.tasks` that are weak sets of tasks.
    pub weak_sets: &'static [&'static str],
    /// Attributes of `asyncio.tasks` that are plain sets of tasks.
    pub sets: &'static [&'static str],
}

pub(super) const TASK: Since<TaskLayout> = &[
    (8, task(144, 72, 104)),
    (9, task(184, 80, 144)),
    (10, task(192, 88, 152)),
    (11, task(176, 88, 128)),
    (
        12,
        TaskLayout {
            weak_sets: &["_scheduled_tasks"],
            sets: &["_eager_tasks"],
            ..task(176, 88, 128)
        },
    ),
    (
        13,
        TaskLayout {
            weak_sets: &["_scheduled_tasks"],
            sets: &["_eager_tasks"],
            ..task(144, 96, 112)
        },
    ),
    (
        14,
        TaskLayout {
            node: Some(152),
            weak_sets: &["_scheduled_tasks"],
            sets: &["_eager_tasks"],
            ..task(168, 104, 120)
        },
    ),
];

/// The future waited for, the coroutine and the name follow one another.
const fn task(size: u32, state: u32, awaited_future: u32) -> TaskLayout {
    TaskLayout {
        size,
        loop_object: 16,
        state,
        awaited_future,
        coroutine: awaited_future + 8,
        name: awaited_future + 16,
        node: None,
        weak_sets: &["_all_tasks"],
        sets: &[],
    }
}
