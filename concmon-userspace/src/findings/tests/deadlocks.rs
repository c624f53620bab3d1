//! Which deadlocks are told: those that looks confirm.

use super::*;

/// Two tasks wait for one another, as they have since before the first look; `label` tells deadlocks apart.
fn tasks_deadlocked(process: &mut Process, label: u64) {
    let tasks = &mut process.loops[0].tasks;
    let mut other = tasks[0].clone();
    (other.id, other.name) = (Address(2), "Task-2".to_owned());
    tasks.push(other);
    for task in tasks.iter_mut() {
        let seen = task.seen.expect("a watch has seen it");
        task.waits_for = Some(crate::schema::TaskWait {
            kind: "Lock".to_owned(),
            object: Some(Address(task.id.0 + label)),
            since_unix_ns: Some(seen.first_seen_unix_ns - 9 * SECOND),
        });
    }
    let members = tasks.iter().map(|task| DeadlockMember {
        tid: None,
        task: Some(task.id),
        name: Some(task.name.clone()),
        holds: Some("asyncio.Lock 0xa".to_owned()),
        inferred: true,
        waits_for: format!("asyncio.Lock {}", Address(label)),
        place: Some(frame("restock")),
    });
    process.deadlocks = vec![Deadlock {
        members: members.collect(),
        behind: 0,
    }];
}

fn is_told(one_look: bool, change: impl Fn(&mut Process, u64)) -> bool {
    let mut story = Story::new();
    story.one_look = one_look;
    let mut told = false;
    for number in 0..12 {
        let found = story.window(|process, _| change(process, number));
        told |= names(&found).contains(&"deadlock");
    }
    told
}

#[test]
fn of_tasks_it_is_told_when_looks_show_it_again() {
    assert!(is_told(false, |process, _| tasks_deadlocked(process, 0)));
    // One look is shown in all windows.
    assert!(!is_told(true, |process, _| tasks_deadlocked(process, 0)));
    // Each look shows another one, or every other look shows none.
    assert!(!is_told(false, tasks_deadlocked));
    assert!(!is_told(false, |process, number| if number % 2 == 0 {
        tasks_deadlocked(process, 0);
    }));
    // One of them has been through and back before each look; or it is not known how it waits.
    assert!(!is_told(false, |process, number| {
        tasks_deadlocked(process, 0);
        let task = &mut process.loops[0].tasks[1];
        let seen = task.seen.expect("a watch has seen it");
        let wait = task.waits_for.as_mut().expect("it waits");
        wait.since_unix_ns = Some(seen.first_seen_unix_ns + number * SECOND);
    }));
    assert!(!is_told(false, |process, _| {
        tasks_deadlocked(process, 0);
        process.loops[0].tasks.truncate(1);
    }));
}

#[test]
fn of_threads_it_is_told_when_each_is_known_to_wait() {
    let since = STORY_BEGIN - 9 * SECOND;
    assert!(is_told(true, |process, _| deadlocked(process, since)));
    assert!(!is_told(true, |process, _| {
        deadlocked(process, since);
        process.threads.retain(|thread| thread.tid != 102);
    }));
}
