//! Which frames of a stack are a step of an event loop: those that its own frames have called.

use crate::event::PyFrame;

/// The frames of loops, which call steps: file and functions.
const LOOPS: &[(&str, &[&str])] = &[
    (
        "asyncio/base_events.py",
        &["_run_once", "run_forever", "run_until_complete"],
    ),
    ("asyncio/unix_events.py", &["run_forever"]),
    ("asyncio/events.py", &["_run"]),
    ("asyncio/runners.py", &["run"]),
    (
        "asyncio/tasks.py",
        &["__step", "__step_run_and_handle_result", "__wakeup"],
    ),
    ("uvloop/__init__.py", &["run"]),
    ("trio/_core/_run.py", &["run", "unrolled_run"]),
    ("trio/_core/_io_epoll.py", &["get_events"]),
    (
        "nest_asyncio.py",
        &["run", "run_until_complete", "_run_once"],
    ),
];
/// Functions that call nothing but steps; what others call is their own work.
const CALLERS: &[&str] = &[
    "_run",
    "__step",
    "__step_run_and_handle_result",
    "__wakeup",
    "unrolled_run",
];

/// Functions that make tasks: what they call directly has been made eager.
const MAKERS: &[(&str, &[&str])] = &[
    (
        "asyncio/tasks.py",
        &["factory", "create_task", "__step_run_and_handle_result"],
    ),
    ("asyncio/base_events.py", &["create_task"]),
    ("asyncio/taskgroups.py", &["create_task"]),
];

pub(super) fn is_of_loop(frame: &PyFrame) -> bool {
    LOOPS.iter().any(|(file, functions)| {
        frame.file.ends_with(file) && functions.contains(&plain_name(frame))
    })
}

/// The last of a function's qualified names.
fn plain_name(frame: &PyFrame) -> &str {
    frame.function.rsplit('.').next().unwrap_or(&frame.function)
}

/// Whether it calls a loop that may be written in C.
pub(super) fn is_runner(frame: &PyFrame) -> bool {
    plain_name(frame) == "run" && frame.file.ends_with("asyncio/runners.py")
}

/// Whether a loop runs on a stack, and how many of the innermost frames are its step. Of loops in steps of
/// loops it is the inner one's. `in_c`: loops may be written in C.
pub(super) fn step_frames(frames: &[PyFrame], in_c: bool) -> (bool, usize) {
    let Some(last) = frames.iter().position(is_of_loop) else {
        return (false, 0);
    };
    let frame = &frames[last];
    let in_c = in_c || frames.iter().any(|frame| frame.file.contains("uvloop/"));
    if CALLERS.contains(&plain_name(frame)) || in_c && is_runner(frame) {
        (true, last)
    } else {
        (true, 0)
    }
}

/// Of a step's frames, how many are that of a task that it made, and that runs at once: an eager one. The
/// outermost is a coroutine that no other one awaits: asyncio's functions that make tasks have called it.
pub(super) fn eager_frames(
    frames: &[PyFrame],
    is_coroutine: impl Fn(usize) -> bool,
) -> Option<usize> {
    let makes_tasks = |frame: &PyFrame| {
        MAKERS.iter().any(|(file, functions)| {
            frame.file.ends_with(file) && functions.contains(&plain_name(frame))
        })
    };
    let callers = frames.iter().enumerate().skip(1);
    let mut makers = callers.filter(|(_, frame)| makes_tasks(frame));
    makers.find_map(|(maker, _)| is_coroutine(maker - 1).then_some(maker))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack(frames: &[(&str, &str)]) -> Vec<PyFrame> {
        let frame = |(function, file): &(&str, &str)| PyFrame {
            function: (*function).into(),
            file: format!("/usr/lib/python3.11/{file}").into(),
            line: 1,
        };
        frames.iter().map(frame).collect()
    }

    const OUTER: [(&str, &str); 4] = [
        ("BaseEventLoop.run_forever", "asyncio/base_events.py"),
        ("BaseEventLoop.run_until_complete", "asyncio/base_events.py"),
        ("run", "asyncio/runners.py"),
        ("<module>", "app.py"),
    ];

    #[test]
    fn a_step_is_what_a_handle_runs() {
        let mut frames = vec![
            ("work", "app.py"),
            ("main", "app.py"),
            ("Handle._run", "asyncio/events.py"),
            ("BaseEventLoop._run_once", "asyncio/base_events.py"),
        ];
        frames.extend(OUTER);
        assert_eq!(step_frames(&stack(&frames), false), (true, 2));
    }

    #[test]
    fn the_loop_itself_is_no_step() {
        let mut frames = vec![
            ("EpollSelector.select", "selectors.py"),
            ("BaseEventLoop._run_once", "asyncio/base_events.py"),
        ];
        frames.extend(OUTER);
        assert_eq!(step_frames(&stack(&frames), false), (true, 0));
        assert_eq!(step_frames(&stack(&OUTER), false), (true, 0));
        assert_eq!(
            step_frames(&stack(&[("work", "app.py")]), false),
            (false, 0)
        );
        assert_eq!(step_frames(&[], false), (false, 0));
    }

    #[test]
    fn of_loops_in_steps_the_inner_one_is_meant() {
        let run = |inner: &[(&'static str, &'static str)]| {
            let mut frames = inner.to_vec();
            frames.extend([
                ("_patch_loop.<locals>._run_once", "nest_asyncio.py"),
                ("_patch_loop.<locals>.run_until_complete", "nest_asyncio.py"),
                ("cell", "app.py"),
                ("Task.__step", "asyncio/tasks.py"),
                ("Handle._run", "asyncio/events.py"),
                ("_patch_loop.<locals>._run_once", "nest_asyncio.py"),
                ("_patch_loop.<locals>.run_forever", "nest_asyncio.py"),
                ("<module>", "app.py"),
            ]);
            step_frames(&stack(&frames), false)
        };
        let step = [
            ("blocker", "app.py"),
            ("Task.__step", "asyncio/tasks.py"),
            ("Handle._run", "asyncio/events.py"),
        ];
        assert_eq!(run(&step), (true, 1));
        assert_eq!(run(&[("EpollSelector.select", "selectors.py")]), (true, 0));
    }

    #[test]
    fn an_eager_task_is_a_step_in_another_one() {
        let frames = stack(&[
            ("compute", "app.py"),
            ("load", "app.py"),
            (
                "create_eager_task_factory.<locals>.factory",
                "asyncio/tasks.py",
            ),
            ("BaseEventLoop.create_task", "asyncio/base_events.py"),
            ("create_task", "asyncio/tasks.py"),
            ("acceptor", "app.py"),
        ]);
        assert_eq!(
            eager_frames(&frames, |frame| [1, 5].contains(&frame)),
            Some(2)
        );
        // Making a task that does not run at once.
        assert_eq!(eager_frames(&frames[2..], |frame| frame == 3), None);
        assert_eq!(eager_frames(&frames[5..], |_| true), None);
    }

    #[test]
    fn steps_of_loops_in_c_and_of_trio() {
        let uvloop = [
            ("handler", "app.py"),
            ("run.<locals>.wrapper", "site-packages/uvloop/__init__.py"),
            ("Runner.run", "asyncio/runners.py"),
            ("run", "site-packages/uvloop/__init__.py"),
        ];
        assert_eq!(step_frames(&stack(&uvloop), false), (true, 2));
        let callback = [
            ("callback", "app.py"),
            ("run", "asyncio/runners.py"),
            ("<module>", "app.py"),
        ];
        assert_eq!(step_frames(&stack(&callback), true), (true, 1));
        assert_eq!(step_frames(&stack(&callback), false), (true, 0));
        let trio = [
            ("work", "app.py"),
            ("main", "app.py"),
            ("unrolled_run", "site-packages/trio/_core/_run.py"),
            ("run", "site-packages/trio/_core/_run.py"),
            ("<module>", "app.py"),
        ];
        assert_eq!(step_frames(&stack(&trio), false), (true, 2));
        let idle = [
            (
                "EpollIOManager.get_events",
                "site-packages/trio/_core/_io_epoll.py",
            ),
            ("unrolled_run", "site-packages/trio/_core/_run.py"),
            ("run", "site-packages/trio/_core/_run.py"),
        ];
        assert_eq!(step_frames(&stack(&idle), false), (true, 0));
    }
}
