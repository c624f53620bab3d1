//! What a suspended trio task waits for, by the functions of trio that it is in.

use crate::event::{PyFrame, PyTask};
use crate::python::memory::addresses::{AddressMap, AddressSet};
use crate::python::objects::Reader;

/// The function in which tasks wait for a limiter.
const LIMITER: &str = "CapacityLimiter.acquire_on_behalf_of";
/// Those in which tasks wait for a lock.
const LOCK: &str = "Lock";
const OWNER: &str = "_owner";
const LOCKS: &[&str] = &["Lock.acquire", "_LockImpl.acquire"];
/// What a task waits for that waits for the tasks of one, or for a time.
pub(super) const NURSERY: &str = "Nursery";
pub(super) const SLEEP: &str = "sleep";

/// Functions that say what they wait for, whoever calls them: qualified name, kind. Releases from
/// 0.16 to 0.35.
const WAITS: &[(&str, &str)] = &[
    ("sleep", SLEEP),
    ("sleep_until", SLEEP),
    ("sleep_forever", SLEEP),
    ("Event.wait", "Event"),
    ("Condition.wait", "Condition"),
    ("Lock.acquire", LOCK),
    ("_LockImpl.acquire", LOCK),
    ("Semaphore.acquire", "Semaphore"),
    ("CapacityLimiter.acquire", "CapacityLimiter"),
    (LIMITER, "CapacityLimiter"),
    (
        "MemoryReceiveChannel.receive",
        "MemoryReceiveChannel.receive",
    ),
    ("MemorySendChannel.send", "MemorySendChannel.send"),
    ("UnboundedQueue.get_batch", "UnboundedQueue"),
    ("SignalReceiver.__anext__", "signal"),
    ("Process.wait", "Process"),
    ("to_thread_run_sync", "thread"),
    ("Nursery._nested_child_finished", NURSERY),
    ("wait_all_tasks_blocked", "wait_all_tasks_blocked"),
    ("Runner.wait_all_tasks_blocked", "wait_all_tasks_blocked"),
    ("_SocketType._nonblocking_helper", "socket"),
    ("_SocketType.accept", "socket"),
    ("_SocketType.connect", "socket"),
];

/// What says more than nothing, where none of the others is there.
const GENERAL: &[(&str, &str)] = &[
    ("EpollIOManager._epoll_wait", "fd"),
    ("ParkingLot.park", "ParkingLot"),
];

/// What is known when a task waits in no function of trio's: the trap that all of them use.
const TRAP: &str = "wait_task_rescheduled";

/// The kind of a wait. `chain` are the frames of the task, the outermost first, with qualified
/// names; `sleeps_on` is the class of what the task says it sleeps on.
pub(crate) fn kind(chain: &[PyFrame], sleeps_on: Option<&str>) -> String {
    let own = chain
        .iter()
        .rev()
        .take_while(|frame| is_of_trio(&frame.file));
    let find = |table: &[(&str, &'static str)]| {
        own.clone()
            .find_map(|frame| table.iter().find(|(name, _)| **name == *frame.function))
            .map(|(_, kind)| *kind)
    };
    find(WAITS)
        .or_else(|| find(GENERAL))
        .or(sleeps_on)
        .unwrap_or(TRAP)
        .to_owned()
}

/// Which of a task's frames is the function of a limiter that waits for a token, or of a lock that does for that.
pub(crate) fn own_frame(chain: &[PyFrame]) -> Option<usize> {
    let is_own = |frame: &PyFrame| {
        let name = &*frame.function;
        (name == LIMITER || LOCKS.contains(&name)) && is_of_trio(&frame.file)
    };
    chain.iter().rposition(is_own)
}

/// Says which task has each lock that tasks wait for.
pub(super) fn add_owners(reader: &mut Reader<'_>, tasks: &mut [PyTask]) {
    let waits = tasks.iter().filter_map(|task| task.waits_for.as_ref());
    let locks: AddressSet = waits
        .filter(|wait| wait.kind == LOCK)
        .filter_map(|wait| wait.object)
        .collect();
    let locks: Vec<u64> = locks.into_iter().collect();
    let found = reader.members(&locks, &[OWNER]);
    let owned = locks.into_iter().zip(found);
    let mut held: AddressMap<Vec<u64>> = AddressMap::default();
    for (lock, found) in owned {
        if let Some(owner) = found.and_then(|found| found[0]) {
            held.entry(owner).or_default().push(lock);
        }
    }
    for task in tasks {
        if let Some(locks) = held.remove(&task.id) {
            task.holds.extend(locks);
        }
    }
}

fn is_of_trio(file: &str) -> bool {
    file.contains("/trio/_")
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "/usr/lib/python3/site-packages/trio/_core/_run.py";
    const OTHER: &str = "/home/me/trio.py";

    fn kind_of(chain: &[(&str, &str)], sleeps_on: Option<&str>) -> String {
        let frames: Vec<PyFrame> = chain
            .iter()
            .map(|(file, function)| PyFrame {
                function: (*function).into(),
                file: (*file).into(),
                line: 1,
            })
            .collect();
        kind(&frames, sleeps_on)
    }

    #[test]
    fn the_innermost_function_that_says_something_decides() {
        let trap = (OWN, TRAP);
        for (chain, sleeps_on, expected) in [
            (
                &[
                    (OTHER, "main"),
                    (OWN, "sleep"),
                    (OWN, "sleep_forever"),
                    trap,
                ][..],
                None,
                "sleep",
            ),
            (
                &[
                    (OWN, "Condition.wait"),
                    (OWN, "Lock.acquire"),
                    (OWN, "ParkingLot.park"),
                    trap,
                ],
                None,
                "Lock",
            ),
            (
                &[
                    (OWN, "SocketStream.receive_some"),
                    (OWN, "_SocketType._nonblocking_helper"),
                    (OWN, "EpollIOManager._epoll_wait"),
                    trap,
                ],
                None,
                "socket",
            ),
            (
                &[(OTHER, "main"), (OWN, "EpollIOManager._epoll_wait"), trap],
                None,
                "fd",
            ),
            (
                &[(OTHER, "main"), (OWN, "ParkingLot.park"), trap],
                Some("ParkingLot"),
                "ParkingLot",
            ),
            // The program's own functions may be called like trio's.
            (&[(OTHER, "sleep"), trap], None, TRAP),
            (&[("/home/me/trio/main.py", "sleep"), trap], None, TRAP),
            (
                &[(OWN, "sleep"), (OTHER, "wait"), trap],
                Some("Mine"),
                "Mine",
            ),
            (&[], None, TRAP),
        ] {
            assert_eq!(kind_of(chain, sleeps_on), expected, "{chain:?}");
        }
    }
}
