//! Looks at recorded interpreters: without root, without a Python, the same everywhere.
//!
//! `cargo xtask images` records them; what they hold is pinned here without ids and addresses, so
//! that a new recording of the same program gives the same.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use concmon::event::{PyFrame, PyTask, PythonFact, Tid};
use concmon::python::ScanOptions;
use concmon::python::image::{Image, timeless};

/// How often a look may still ask whether it is over when it is.
const MOST_AFTER: usize = 300;

fn images() -> BTreeMap<String, PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/images");
    std::fs::read_dir(dir)
        .expect("images")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "image"))
        .map(|path| {
            let name = path.file_stem().expect("a name").to_string_lossy();
            (name.into_owned(), path.clone())
        })
        .collect()
}

fn load(path: &Path) -> Image {
    Image::parse(&std::fs::read(path).expect("a file")).expect("an image")
}

#[test]
fn looks_at_images_are_pinned() {
    let images = images();
    assert!(images.len() >= 6, "{:?}", images.keys());
    for (name, path) in images {
        let image = load(&path);
        assert!(image.header.version.starts_with(&name), "{name}");
        let mut interpreter = image.replay(None).expect("an interpreter");
        let options = ScanOptions::default();
        let first = interpreter.scan(7, &options);
        assert_eq!(first.reads_failed, 0, "{name}: {:?}", first.limits);
        let second = interpreter.scan(7, &options);
        assert!(
            format!("{:?}", timeless(&first)) == format!("{:?}", timeless(&second)),
            "{name}: a second look gives the same"
        );
        let gils = interpreter.gils().expect("GILs");
        assert_eq!(gils.len(), 1, "{name}");
        insta::assert_snapshot!(format!("image_{name}"), describe(&first));
    }
}

/// A look that may read little says so.
#[test]
fn a_small_budget_is_kept_and_said() {
    for (name, path) in images() {
        for bytes in [0, 1000, 30_000, 100_000] {
            let options = ScanOptions {
                bytes,
                ..ScanOptions::default()
            };
            let mut interpreter = load(&path).replay(None).expect("an interpreter");
            let fact = interpreter.scan(7, &options);
            assert!(fact.reads_failed > 0, "{name} with {bytes}");
            assert!(
                fact.limits.contains_key("python") || fact.limits.contains_key("threads"),
                "{name} with {bytes}: {:?}",
                fact.limits
            );
        }
    }
}

/// A look that has to end at any of its reads ends soon, says so, and has nothing that is not so.
#[test]
fn a_look_that_has_to_end_keeps_what_it_has() {
    const REASON: &str = "time is up";
    for (name, path) in images() {
        let options = ScanOptions::default();
        let look = |most: usize| {
            let asked = AtomicUsize::new(0);
            let is_over = || {
                let before = asked.fetch_add(1, Ordering::Relaxed);
                (before >= most).then(|| REASON.to_owned())
            };
            let mut interpreter = load(&path).replay(None).expect("an interpreter");
            let fact = interpreter.scan_until(7, &options, &is_over);
            (fact, asked.into_inner())
        };
        let (whole, questions) = look(usize::MAX);
        assert_eq!(whole.reads_failed, 0, "{name}: {:?}", whole.limits);
        let tasks: HashMap<u64, &PyTask> = whole.tasks.iter().map(|task| (task.id, task)).collect();
        let step = (questions / 150).max(1);
        for most in (0..questions).step_by(step) {
            let (fact, asked) = look(most);
            let label = format!("{name} after {most} of {questions}");
            assert!(asked < most + MOST_AFTER, "{label}: asked {asked} times");
            assert_eq!(
                fact.limits.get("python").map(String::as_str),
                Some(REASON),
                "{label}"
            );
            for (part, count, all) in [
                ("threads", fact.threads.len(), whole.threads.len()),
                ("loops", fact.loops.len(), whole.loops.len()),
                ("executors", fact.executors.len(), whole.executors.len()),
                ("tasks", fact.tasks.len(), whole.tasks.len()),
            ] {
                let said = fact.limits.contains_key(part);
                assert!(said || count == all, "{label}: {count} of {all} {part}");
            }
            for task in &fact.tasks {
                let known = tasks[&task.id];
                assert_eq!(
                    (&task.name, &task.coroutine, task.state),
                    (&known.name, &known.coroutine, known.state),
                    "{label}"
                );
                let is_told = task.awaiting == known.awaiting
                    && task.awaited_by == known.awaited_by
                    && task.waits_for == known.waits_for
                    && task.context == known.context
                    && task.exception == known.exception;
                assert!(
                    is_told || fact.limits.contains_key("tasks"),
                    "{label}: {task:?}"
                );
            }
        }
    }
}

fn describe(fact: &PythonFact) -> String {
    let names: HashMap<Tid, &str> = fact
        .threads
        .iter()
        .map(|thread| (thread.tid, thread.name.as_deref().unwrap_or("?")))
        .collect();
    let name = |tid: Tid| names.get(&tid).copied().unwrap_or("not a thread");
    let tasks: HashMap<u64, &str> = fact
        .tasks
        .iter()
        .map(|task| (task.id, task.name.as_str()))
        .collect();
    let mut lines = Vec::new();
    for thread in &fact.threads {
        let mut line = format!(
            "thread {:?} daemon={:?} entry={:?} main={} pool={} stack_size={:?} torn={}",
            name(thread.tid),
            thread.daemon,
            thread.entry,
            thread.main,
            thread.pool,
            thread.stack_size_bytes,
            thread.stack_torn,
        );
        if let Some(wait) = &thread.waiting_for {
            let owner = wait.owner.map(name);
            let _ = write!(
                line,
                " waits={:?}/{:?} owner={owner:?}",
                wait.kind, wait.purpose
            );
        }
        lines.push(line + &frames(&thread.stack));
    }
    for found in &fact.loops {
        lines.push(format!(
            "loop of {:?} {:?} ready={:?} scheduled={:?} stall={:?} debug={:?} created={:?}",
            name(found.tid),
            found.kind,
            found.ready,
            found.scheduled,
            found.stall_threshold_ns,
            found.debug,
            found.tasks_created,
        ));
    }
    for task in &fact.tasks {
        let mut awaited_by: Vec<&str> = task
            .awaited_by
            .iter()
            .map(|id| tasks.get(id).copied().unwrap_or("?"))
            .collect();
        awaited_by.sort_unstable();
        let short: String = task.name.chars().take(30).collect();
        lines.push(format!(
            "task {short:?} {} {:?} waits={:?} by={awaited_by:?} cancel={} exception={:?} \
             retrieved={:?} context={:?}{}",
            task.coroutine,
            task.state,
            task.waits_for.as_ref().map(|wait| &wait.kind),
            task.cancel_requested,
            task.exception,
            task.retrieved,
            task.context,
            frames(&task.awaiting),
        ));
    }
    for gil in &fact.gils {
        lines.push(format!(
            "gil locked={} holder={:?}",
            gil.locked,
            gil.last_holder.map(name)
        ));
    }
    if let Some(gc) = &fact.gc {
        lines.push(format!(
            "gc of {} generations, collecting={}",
            gc.generations.len(),
            gc.collecting
        ));
    }
    for executor in &fact.executors {
        let running: Vec<_> = executor.running.iter().map(|work| &work.function).collect();
        lines.push(format!(
            "executor {:?} {:?} workers={} idle={:?} max={:?} queued={:?} running={running:?}",
            executor.kind,
            executor.name_prefix,
            executor.workers,
            executor.workers_idle,
            executor.max_workers,
            executor.queued,
        ));
    }
    // Lists of threads and tasks are in the order of hash tables here and there.
    lines.sort();
    lines.extend(fact.limits.iter().map(|limit| format!("limit {limit:?}")));
    lines.join("\n")
}

/// Lines only of the program itself: those of the library move with every release.
fn frames(frames: &[PyFrame]) -> String {
    frames
        .iter()
        .map(|frame| match frame.file.as_ref() {
            "<string>" => format!("\n    {}:{}", frame.function, frame.line),
            file => format!(
                "\n    {} in {}",
                frame.function,
                file.rsplit('/').next().unwrap_or(file)
            ),
        })
        .collect()
}
