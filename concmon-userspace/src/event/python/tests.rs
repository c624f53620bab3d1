//! What is told of stacks and of tasks that were read.

use super::*;

#[test]
fn what_stands_for_other_frames_is_nobodys() {
    let frame = |file: &str| PyFrame {
        function: "[f]".into(),
        file: file.into(),
        line: 7,
    };
    let stack = [
        frame("/usr/lib/python3.11/threading.py"),
        PyFrame::of_left_out(3),
        frame("/srv/app.py"),
    ];
    assert_eq!(own_frame(&stack, |frame| &frame.file), stack.last());
    assert_eq!(own_frame(&stack[..2], |frame| &frame.file), None);
    assert!(stack[1].is_left_out());
    assert!(!stack[2].is_left_out() && !frame("").is_left_out());
}

#[test]
fn a_task_is_in_so_many_statements_of_locks() {
    let read = |holds: usize| {
        let task = serde_json::json!({
            "id": 1,
            "loop_id": 7,
            "name": "a",
            "coroutine": "app.serve",
            "coroutine_id": 2,
            "state": "Pending",
            "awaiting": [],
            "waits_for": null,
            "holds": vec![9; holds],
            "awaited_by": [],
            "cancel_requested": false,
            "exception": null,
            "retrieved": null,
            "context": {},
        });
        let task = serde_json::from_value::<PyTask>(task).ok()?;
        Some(task.holds.len())
    };
    assert_eq!((read(64), read(65)), (Some(64), None));
}
