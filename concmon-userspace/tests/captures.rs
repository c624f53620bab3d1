//! Captures of every format version that there was: each can still be read.

use std::fs::File;
use std::path::Path;

use concmon::capture::Reader;
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
        let about_file = |limit: &&concmon::model::snapshot::Limit| limit.field == "capture";
        let missing = summary.limits.iter().find(about_file);
        assert_eq!(missing, None, "{}", path.display());
        let process = &summary.processes[0];
        assert!(process.threads.len() > 5 && !process.loops.is_empty());
        versions.push(path);
    }
    assert!(!versions.is_empty());
}
