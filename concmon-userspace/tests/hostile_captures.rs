//! Captures that ask for much: what reading them takes stays within what the file is worth.

#[path = "common/crafted.rs"]
mod crafted;

use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use crafted::Shape;

/// What a command may take beside four times the file, bytes.
const BASE_BYTES: u64 = 256 << 20;
/// Content before compression, of a file and of one twice as long.
const CONTENT: [usize; 2] = [1 << 20, 2 << 20];
/// What the shorter one may take at least, whatever it does.
/// How often what took too long is measured again; the least counts.
const AGAIN: usize = 3;
const LEAST: Duration = Duration::from_millis(500);

/// What a command took.
struct Took {
    peak_bytes: u64,
    cpu: Duration,
    status: ExitStatus,
}

/// Runs the tool on a file to its end.
fn run(arguments: &[&str]) -> Took {
    #[allow(clippy::zombie_processes, reason = "wait4 waits for it")]
    let child = Command::new(env!("CARGO_BIN_EXE_concmon-bpf"))
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the tool");
    let mut status = 0;
    // SAFETY: plain numbers, of which zero is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: waits for a child that nobody else waits for; the kernel writes to both.
    let waited = unsafe { libc::wait4(child.id() as i32, &mut status, 0, &mut usage) };
    assert_eq!(waited, child.id() as i32);
    let time = |at: libc::timeval| {
        Duration::from_secs(at.tv_sec as u64) + Duration::from_micros(at.tv_usec as u64)
    };
    Took {
        peak_bytes: usage.ru_maxrss as u64 * 1024,
        cpu: time(usage.ru_utime) + time(usage.ru_stime),
        status: ExitStatus::from_raw(status),
    }
}

/// Every way to read a capture.
fn ways<'a>(file: &'a str, page: &'a str) -> Vec<Vec<&'a str>> {
    let export = |format| {
        vec![
            "export", "-i", file, "-f", format, "-o", page, "--by", "wall",
        ]
    };
    vec![
        vec!["report", "-i", file],
        vec![
            "report", "-i", file, "--json", "--since", "-100000s", "--per", "1s",
        ],
        vec!["report", "-i", file, "--html", page],
        vec!["export", "-i", file, "-f", "perfetto", "-o", page],
        export("speedscope"),
        export("pprof"),
        export("svg"),
        vec!["diff", file, file],
    ]
}

fn check(shape: Shape) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name| folder.path().join(name);
    let text = |path: &Path| path.to_str().expect("text").to_owned();
    let page = text(&path("page"));
    let file = text(&path("capture.concmon"));
    let write = |bytes| {
        let content = shape.file(bytes);
        std::fs::write(&file, &content).expect("a file");
        content.len() as u64
    };
    let took = |way: &[&str], bytes: u64| {
        let took = run(way);
        let code = took.status.code();
        assert!(matches!(code, Some(0 | 1)), "{way:?}: {}", took.status);
        assert!(
            took.peak_bytes <= 4 * bytes + BASE_BYTES,
            "{shape:?}, {bytes} bytes, {way:?}: {} bytes of memory",
            took.peak_bytes
        );
        took.cpu
    };
    let [short, long] = CONTENT;
    let bytes = write(long);
    let ways = ways(&file, &page);
    let mut slow: Vec<_> = ways.iter().map(|way| (way, took(way, bytes))).collect();
    // With what is as quick as this anyway, the shorter one is not compared.
    slow.retain(|(_, cpu)| *cpu > LEAST * 3);
    for (way, mut least) in slow {
        let mut least_of_short = took(way, write(short)).max(LEAST);
        // CPU time, too, is longer beside others, who take caches and the hardware's threads.
        for _ in 0..AGAIN {
            if least <= least_of_short * 3 {
                break;
            }
            least = least.min(took(way, write(long)));
            least_of_short = least_of_short.min(took(way, write(short)).max(LEAST));
        }
        assert!(
            least <= least_of_short * 3,
            "{shape:?}, {way:?}: {least_of_short:?}, and {least:?} for twice as much"
        );
    }
}

macro_rules! shapes {
    ($($name:ident: $shape:ident,)*) => {
        $(#[test]
        fn $name() {
            check(Shape::$shape);
        })*

        #[test]
        fn no_shape_is_forgotten() {
            assert_eq!([$(Shape::$shape),*], Shape::ALL);
        }
    };
}

shapes! {
    nested_heads: NestedHeads,
    zeros: Zeros,
    huge_chunks: HugeChunks,
    unknown: Unknown,
    one_string: OneString,
    held_stacks: HeldStacks,
    held_facts: HeldFacts,
    empty_batches: EmptyBatches,
    releases: Releases,
    ticks: Ticks,
    tasks: Tasks,
    loops: Loops,
    histograms: Histograms,
    threads: Threads,
    processes: Processes,
    names: Names,
    cpus: Cpus,
}

/// Who trusts a file can have all of it read.
#[test]
fn more_memory_can_be_granted() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("capture.concmon");
    std::fs::write(&file, Shape::Processes.file(CONTENT[1])).expect("a file");
    let report = |granted: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_concmon-bpf"));
        command
            .args(["report", "--json", "-i"])
            .arg(&file)
            .args(granted);
        let out = command.output().expect("the tool");
        assert!(out.status.success(), "{out:?}");
        String::from_utf8(out.stdout)
            .expect("JSON")
            .contains("--budget-memory allows for more")
    };
    assert!(report(&[]));
    assert!(!report(&["--budget-memory", "4GB"]));
}
