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

/// Whether a loop runs on a stack, and how many of the innermost frames are its step. `in_c`: loops
/// may be written in C.
pub(super) fn step_frames(frames: &[PyFrame], in_c: bool) -> (bool, usize) {
    let Some(first) = frames.iter().rposition(is_of_loop) else {
        return (false, 0);
    };
    // From there inwards, to the last of the loop's frames that follow one another.
    let mut last = first;
    while last > 0 && is_of_loop(&frames[last - 1]) {
        last -= 1;
    }
    let frame = &frames[last];
    let in_c = in_c || frames.iter().any(|frame| frame.file.contains("uvloop/"));
    if CALLERS.contains(&plain_name(frame)) || in_c && is_runner(frame) {
        (true, last)
    } else {
        (true, 0)
    }
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
    }
}
