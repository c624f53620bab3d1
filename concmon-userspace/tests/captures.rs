//! Captures of every format version that there was: each can still be read.

use std::fs::File;
use std::io::Seek as _;
use std::path::Path;

use concmon::capture::{FileStore, Input, Item, Reader, Recorder};
use concmon::event::Event;
use concmon::source::replay::{Replay, Step};

#[test]
fn old_captures_are_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/captures");
    let mut versions = Vec::new();
    for entry in std::fs::read_dir(folder).expect("captures") {
        let path = entry.expect("a file").path();
        let file = File::open(&path).expect("a file");
        let replay = Replay::new(Reader::embedded(file).expect("a capture"));
        let (mut windows, mut events) = (0, 0);
        let summary = replay
            .run(&mut |step| match step {
                Step::Before(_) => {}
                Step::Event(_) => events += 1,
                Step::Window(_) => windows += 1,
            })
            .expect("a file that can be read");
        assert!(windows > 3 && events > 1_000, "{windows} {events}");
        let about_file = |limit: &&concmon::schema::Limit| limit.field == "capture";
        let missing = summary.limits.iter().find(about_file);
        assert_eq!(missing, None, "{}", path.display());
        let process = &summary.processes[0];
        assert!(process.threads.len() > 5 && !process.loops.is_empty());
        versions.push(path);
    }
    assert!(!versions.is_empty());
}

/// The old capture with other instants of the wall clock, from its third tick on.
fn stepped(step_ns: i64) -> Vec<u64> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/captures/1.0.concmon");
    let file = File::open(path).expect("a file");
    let mut reader = Reader::embedded(file).expect("a capture");
    let mut into = tempfile::tempfile().expect("a file");
    let store = FileStore::new(into.try_clone().expect("a file"));
    let mut recorder = Recorder::new(Box::new(store), reader.header());
    let mut ticks = 0;
    while let Some(item) = reader.item().expect("bytes") {
        let Item::Chunk(chunk) = item else { continue };
        for input in chunk.inputs().expect("inputs") {
            let mut input = input.expect("an input");
            if let Input::Now(Event::Tick(tick)) = &mut input {
                recorder.now(tick.at_ns);
                ticks += 1;
                if ticks > 2 {
                    tick.unix_ns = tick.unix_ns.saturating_add_signed(step_ns);
                }
            }
            recorder.input(&input);
        }
    }
    recorder.finish().expect("written");
    into.rewind().expect("a file");
    let mut seen = Vec::new();
    let summary = Replay::new(Reader::embedded(into).expect("a capture"))
        .run(&mut |step| {
            if let Step::Window(window) = step {
                seen.push(window.window.duration_ns);
            }
        })
        .expect("a file that can be read");
    seen.push(summary.window.duration_ns);
    let threads = summary.processes.iter().flat_map(|one| &one.threads);
    seen.extend(threads.flat_map(|thread| [thread.ledger.wall_ns, thread.ledger.on_cpu_ns]));
    seen
}

/// Somebody sets the clock while it is recorded, by hours: durations do not know of it.
#[test]
fn a_step_of_the_wall_clock() {
    let unchanged = stepped(0);
    assert!(unchanged.len() > 10);
    for hours in [-500_000, -1, 1] {
        assert_eq!(stepped(hours * 3_600_000_000_000), unchanged, "{hours} h");
    }
}
