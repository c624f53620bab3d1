//! What is read of processes that do something, rest, are replaced, and end.

use super::*;
use std::fs::File;
use std::process::{Child, Command};

fn look(pid: u32) -> Result<ProcessFact, ProcError> {
    ProcessReader::new(pid).read(7, &Clocks::now(), &Tree::scan().unwrap())
}

#[test]
fn this_process() {
    let held: Vec<File> = (0..20).map(|_| File::open("/dev/null").unwrap()).collect();
    let fact = look(std::process::id()).unwrap();
    assert_eq!((fact.read_ns, fact.pid), (7, std::process::id()));
    assert_eq!(fact.ppid, std::os::unix::process::parent_id());
    assert_eq!(fact.cmdline, std::env::args().collect::<Vec<_>>());
    assert!(!fact.zombie);
    assert!(fact.fds.unwrap() > held.len() as u64);
    assert!(fact.rss_bytes.unwrap() > 1 << 20);
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    assert_eq!(fact.fds_limit, limit.current);
    let leader = fact
        .thread_stats
        .iter()
        .find(|t| t.tid.0 == fact.pid)
        .unwrap();
    assert_eq!(leader.start_boottime_ns, fact.start_boottime_ns);
    assert_eq!(leader.comm, fact.name);
}

#[test]
fn a_thread_by_its_name() {
    let thread = std::thread::Builder::new().name("odd) R 1 name".to_owned());
    let thread = thread.spawn(|| {
        let tid = rustix::thread::gettid().as_raw_pid().cast_unsigned();
        let fact = look(std::process::id()).unwrap();
        fact.thread_stats.into_iter().find(|t| t.tid.0 == tid)
    });
    let stat = thread.unwrap().join().unwrap().unwrap();
    assert_eq!(stat.comm, "odd) R 1 name");
}

/// Takes one from how many files a process may have open.
fn lower_limit(child: &Child, limit: u64) {
    let pid = rustix::process::Pid::from_child(child);
    let changed = rustix::process::Rlimit {
        current: Some(limit - 1),
        maximum: Some(limit),
    };
    let resource = rustix::process::Resource::Nofile;
    rustix::process::prlimit(Some(pid), resource, changed).unwrap();
}

/// The command line is what it was, until the process is another program or what is kept is old.
#[test]
fn what_seldom_changes_is_read_seldom() {
    let mut child = Command::new("sh")
        .args(["-c", "read line; exec sleep 10"])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let (clocks, tree) = (Clocks::now(), Tree::scan().unwrap());
    let mut reader = ProcessReader::new(child.id());
    let mut look = |read_ns| reader.read(read_ns, &clocks, &tree).unwrap();
    while look(1).cmdline.first().is_none_or(|name| name != "sh") {
        std::thread::yield_now();
    }
    let limit = look(1).fds_limit.unwrap();
    // Somebody else changes its limit.
    lower_limit(&child, limit);
    assert_eq!(look(KEPT_NS).fds_limit, Some(limit));
    assert_eq!(look(KEPT_NS + 1).fds_limit, Some(limit - 1));
    let listed = std::fs::read_dir(format!("/proc/{}/fd", child.id())).unwrap();
    assert_eq!(look(KEPT_NS + 1).fds, Some(listed.count() as u64));
    drop(child.stdin.take());
    let is_sleep = |fact: ProcessFact| fact.cmdline == ["sleep", "10"];
    let seen = (0..2_000).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(1));
        is_sleep(look(KEPT_NS + 2))
    });
    assert!(seen, "an exec is seen at once");
    child.kill().unwrap();
    child.wait().unwrap();
}

/// What it alone can change is not read again while it rests; what others can is.
#[test]
fn what_rests_is_what_it_was_but_for_what_others_do() {
    let mut child = Command::new("sh")
        .args(["-c", "read line"])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let (clocks, tree) = (Clocks::now(), Tree::scan().unwrap());
    let mut reader = ProcessReader::new(child.id());
    let waits = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        stat.contains("(sh) S ")
    };
    while !waits() {
        std::thread::yield_now();
    }
    let before = reader.read(1, &clocks, &tree).unwrap();
    let limit = before.fds_limit.unwrap();
    lower_limit(&child, limit);
    let at_rest = reader.read_at_rest(&before, 0, KEPT_NS + 2, &clocks, &tree);
    let at_rest = at_rest.unwrap();
    let looks = |reader: &ProcessReader| {
        let identity = &reader.kept.as_ref().unwrap().identity;
        (identity.looks, identity.pod_looks)
    };
    // What it publishes it has published before.
    assert_eq!(looks(&reader), (1, 2));
    assert_eq!(at_rest.fds_limit, Some(limit - 1));
    let mut whole = ProcessReader::new(child.id());
    let whole = whole.read(KEPT_NS + 2, &clocks, &tree).unwrap();
    assert_eq!(format!("{at_rest:?}"), format!("{whole:?}"));
    let told = ProcessFact {
        fds: Some(4_711),
        ..before.clone()
    };
    let mut fds = |before: &ProcessFact| {
        let fact = reader.read_at_rest(before, 0, KEPT_NS + 2, &clocks, &tree);
        fact.unwrap().fds
    };
    assert_eq!(fds(&told), told.fds);
    let has_run = ProcessFact {
        cpu_user_ns: told.cpu_user_ns.map(|ns| ns + clocks::tick_ns()),
        ..told
    };
    assert_eq!(fds(&has_run), whole.fds);
    // What is kept was read before it ran last.
    let ran_ns = KEPT_NS + 3;
    let at_rest = reader.read_at_rest(&before, ran_ns, 3 * KEPT_NS, &clocks, &tree);
    assert_eq!(at_rest.unwrap().fds, before.fds);
    assert_eq!(looks(&reader), (2, 3));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_zombie_and_its_parent() {
    let mut child = Command::new("true").spawn().unwrap();
    while !look(child.id()).unwrap().zombie {
        std::thread::yield_now();
    }
    let fact = look(child.id()).unwrap();
    assert_eq!((fact.name.as_str(), fact.cmdline.len()), ("true", 0));
    assert!(look(std::process::id()).unwrap().zombies >= 1);
    child.wait().unwrap();
    assert!(matches!(look(child.id()), Err(ProcError::Gone(_))));
}

#[test]
fn start_on_the_wall_clock() {
    let before = Clocks::now();
    let mut child = Command::new("sleep").arg("10").spawn().unwrap();
    let fact = look(child.id()).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    // The start is cut down to a tick of 10 ms.
    let earliest = before.unix_ns - clocks::tick_ns();
    let after = Clocks::now().unix_ns;
    assert!((earliest..=after).contains(&fact.start_unix_ns));
}

#[test]
fn pieces() {
    for (bytes, expected) in [
        (&b""[..], &[][..]),
        (b"\0\0", &[]),
        (b"python3\0-c\0print(1)\0", &["python3", "-c", "print(1)"]),
        (b"a\0\0b\0", &["a", "", "b"]),
        (b"worker: idle\0\0\0\0", &["worker: idle"]),
        (b"no end", &["no end"]),
        (b"\xff\0", &["\u{fffd}"]),
    ] {
        assert_eq!(split_cmdline(bytes), expected);
    }
    let limits = "Limit   Soft Limit  Hard Limit  Units\nMax open files  1024  4096  files\n";
    assert_eq!(soft_limit(limits, "Max open files"), Some(1024));
    let unlimited = "Max open files  unlimited  unlimited  files";
    assert_eq!(soft_limit(unlimited, "Max open files"), None);
}
