//! asyncio's own objects.

use serde::Serialize;

use super::Since;

/// Where small facts about a future or a task are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum FutureFlags {
    /// Whole integers.
    Integers { unretrieved: u32, must_cancel: u32 },
    /// Bits of one byte: 0 not retrieved, 2 must cancel.
    Bits(u32),
}

/// Who awaits a future or a task, where it knows that itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct AwaitedBy {
    /// One of them, or a set of them.
    pub object: u32,
    pub is_set: u32,
}

/// `FutureObj` and `TaskObj` of asyncio's C module; both begin in the same way.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct TaskLayout {
    /// What `tp_basicsize` must be for the rest to hold.
    pub size: u32,
    /// The same for futures that are no tasks.
    pub future_size: u32,
    pub loop_object: u32,
    /// The first callback, and a list of the others with their contexts.
    pub callback: u32,
    pub callbacks: u32,
    pub exception: u32,
    pub state: u32,
    pub flags: FutureFlags,
    pub awaited_by: Option<AwaitedBy>,
    pub awaited_future: u32,
    pub coroutine: u32,
    pub name: u32,
    pub context: u32,
    /// How often it was asked to end.
    pub cancels: Option<u32>,
    /// The node by which tasks are linked into lists; `None` where they are not.
    pub node: Option<u32>,
    /// Attributes of `asyncio.tasks` that are weak sets of tasks.
    pub weak_sets: &'static [&'static str],
    /// Attributes of `asyncio.tasks` that are plain sets of tasks.
    pub sets: &'static [&'static str],
    pub counter: Option<TaskCounter>,
}

/// How many names asyncio has made up for tasks: a field of its C module's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct TaskCounter {
    /// Of a module object: the pointer to its state.
    pub module_state: u32,
    pub count: u32,
    /// Tasks that were given a name are counted, too.
    pub counts_named: bool,
}

pub(super) const TASK: Since<TaskLayout> = &[
    (8, task(144, 104, 72, integers(76, 136), 104)),
    (9, task(184, 144, 80, integers(84, 176), 144)),
    (10, task(192, 152, 88, integers(92, 184), 152)),
    (11, TASK_3_11),
    (
        12,
        TaskLayout {
            weak_sets: &["_scheduled_tasks"],
            sets: &["_eager_tasks"],
            counter: Some(counter(32, 168, true)),
            ..TASK_3_11
        },
    ),
    (
        13,
        TaskLayout {
            cancels: Some(104),
            counter: Some(counter(32, 152, false)),
            ..newer(task(144, 104, 96, FutureFlags::Bits(100), 112))
        },
    ),
    (14, TASK_3_14),
    (
        15,
        TaskLayout {
            counter: Some(counter(24, 144, false)),
            ..TASK_3_14
        },
    ),
];

const TASK_3_11: TaskLayout = TaskLayout {
    cancels: Some(168),
    ..task(176, 128, 88, integers(92, 160), 128)
};

const TASK_3_14: TaskLayout = TaskLayout {
    awaited_by: Some(AwaitedBy {
        object: 96,
        is_set: 109,
    }),
    cancels: Some(112),
    node: Some(152),
    counter: Some(counter(32, 144, false)),
    ..newer(task(168, 112, 104, FutureFlags::Bits(110), 120))
};

const fn integers(unretrieved: u32, must_cancel: u32) -> FutureFlags {
    FutureFlags::Integers {
        unretrieved,
        must_cancel,
    }
}

const fn counter(module_state: u32, count: u32, counts_named: bool) -> TaskCounter {
    TaskCounter {
        module_state,
        count,
        counts_named,
    }
}

/// The future waited for, the coroutine, the name and the context follow one another.
const fn task(
    size: u32,
    future_size: u32,
    state: u32,
    flags: FutureFlags,
    awaited_future: u32,
) -> TaskLayout {
    TaskLayout {
        size,
        future_size,
        loop_object: 16,
        callback: 24,
        callbacks: 40,
        exception: 48,
        state,
        flags,
        awaited_by: None,
        awaited_future,
        coroutine: awaited_future + 8,
        name: awaited_future + 16,
        context: awaited_future + 24,
        cancels: None,
        node: None,
        weak_sets: &["_all_tasks"],
        sets: &[],
        counter: None,
    }
}

const fn newer(task: TaskLayout) -> TaskLayout {
    TaskLayout {
        weak_sets: &["_scheduled_tasks"],
        sets: &["_eager_tasks"],
        ..task
    }
}
