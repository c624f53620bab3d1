//! Locks, queues and handles of threads: what a thread blocks on.

use serde::Serialize;

use super::Since;

/// `lockobject`, `rlockobject`, `simplequeueobject`, `SemLockObject`.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct LockLayout {
    /// A pointer to a semaphore, or the lock itself (`PyMutex`).
    pub lock: u32,
    /// Of a lock that can be taken several times: the identity of the thread that has it.
    pub owner: u32,
    /// Of a semaphore of processes: how many permits there can be.
    pub permits: u32,
    /// How far before the futex of a parked thread is the address of what it waits for
    /// (`struct wait_entry` of `Python/parking_lot.c`).
    pub before_futex: u32,
    /// `None`: the end of a thread is waited for with a lock.
    pub handle: Option<HandleLayout>,
}

/// `ThreadHandle` of `Modules/_threadmodule.c`.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct HandleLayout {
    /// The byte that is waited for.
    pub event: u32,
    pub ident: u32,
}

pub(super) const LOCK: Since<LockLayout> = &[
    (8, LOCK_3_8),
    (
        13,
        LockLayout {
            handle: Some(HandleLayout {
                event: 57,
                ident: 32,
            }),
            ..LOCK_3_8
        },
    ),
];

const LOCK_3_8: LockLayout = LockLayout {
    lock: 16,
    owner: 24,
    permits: 36,
    before_futex: 8,
    handle: None,
};
