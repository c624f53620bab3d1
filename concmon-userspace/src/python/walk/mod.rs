//! Walks from objects to facts: threads and their stacks, event loops, tasks, pools, and what waits for what.

pub(super) mod chain;
pub(super) mod collector;
pub(super) mod contexts;
pub(super) mod executors;
mod frames;
pub(super) mod gil;
pub(super) mod heap;
pub(super) mod locals;
pub(super) mod loops;
pub(super) mod queues;
pub(super) mod stacks;
mod suspended;
pub(super) mod task_heads;
pub(super) mod task_lists;
pub(super) mod task_waits;
pub(super) mod tasks;
pub(super) mod thread_locals;
pub(super) mod thread_states;
pub(super) mod threads;
pub(super) mod timers;
pub(super) mod trio;
mod trio_tasks;
mod trio_waits;
pub(super) mod wait_rules;
pub(super) mod waiters;
pub(super) mod waits;
pub(super) mod workers;
