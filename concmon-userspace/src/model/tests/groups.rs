//! Groups: who belongs to which, and that their sums are those of the processes, whatever becomes of these.

use crate::event::*;
use crate::model::testing::*;
use crate::schema::{Group, GroupSource, Snapshot};

fn group<'a>(snapshot: &'a Snapshot, name: &str) -> &'a Group {
    let mut groups = snapshot.groups.iter();
    let names = || {
        snapshot
            .groups
            .iter()
            .map(|group| &group.name)
            .collect::<Vec<_>>()
    };
    groups
        .find(|group| group.name == name)
        .unwrap_or_else(|| panic!("no {name} in {:?}", names()))
}

fn group_of(snapshot: &Snapshot, pid: u32) -> Option<&str> {
    let mut processes = snapshot.processes.iter();
    let process = processes.find(|process| process.pid == pid);
    process.and_then(|process| process.group.as_deref())
}

fn runs(script: &str) -> impl FnOnce(&mut ProcessFact) + '_ {
    move |fact| {
        fact.cmdline = vec!["python3".into(), script.into()];
        fact.entry = Some(script.into());
    }
}

fn exec(watch: &mut Fixture, pid: u32, at: u64) {
    watch.apply(Event::Exec(Exec {
        at_ns: START + at,
        pid: Pid(pid),
        comm: "python3".into(),
    }));
}

/// Workers of one service come and go by the thousand: their sums stay, and are nobody else's.
#[test]
fn sums_outlive_the_workers() {
    let mut watch = Fixture::new();
    let mut pid = 1_000;
    let (mut started, mut spent) = (0, 0);
    let mut before = 0;
    for window in 1..=40 {
        let now = window * SECOND;
        watch.read(100, 100, now, |_| {}).proc(100, now, |_| {});
        watch
            .read(200, 200, now, |_| {})
            .proc(200, now, runs("other.py"));
        for _ in 0..100 {
            pid += 1;
            watch
                .fork(100, pid, pid, now - 3 * MS)
                .die(pid, pid, now - MS);
            watch.exit(pid, pid, now - MS, |exit| {
                exit.last = true;
                exit.status = if pid % 2 == 0 { 9 } else { 1 << 8 };
            });
            (started, spent) = (started + 1, spent + 2 * MS);
        }
        watch.tick(now);
        let summary = watch.model.summary();
        let app = group(&summary, "app.py");
        assert_eq!((app.processes_started, app.cpu_ns), (started, spent));
        assert_eq!(
            (app.exits.signal, app.exits.error),
            (started / 2, started / 2)
        );
        assert_eq!(app.processes_count, 1);
        assert!(app.cpu_ns >= before);
        before = app.cpu_ns;
        let other = group(&summary, "other.py");
        assert_eq!((other.cpu_ns, other.processes_started), (0, 0));
        assert_eq!(other.ended.processes, 0);
    }
    let summary = watch.model.summary();
    // Those without a row are in the row of what has made them.
    assert_eq!(summary.processes[0].ended.processes, 4_000 - 1_024);
}

/// The id of an ended process goes to one of another service.
#[test]
fn an_id_that_is_used_again_is_not_the_same_process() {
    let mut watch = Fixture::new();
    watch
        .read(100, 100, SECOND, |_| {})
        .proc(100, SECOND, |_| {});
    watch
        .read(200, 200, SECOND, |_| {})
        .proc(200, SECOND, runs("other.py"));
    watch
        .fork(100, 300, 300, SECOND / 2)
        .die(300, 300, SECOND / 2 + 7 * MS);
    watch.exit(300, 300, SECOND / 2 + 7 * MS, |exit| exit.last = true);
    watch
        .fork(200, 300, 300, SECOND - 50 * MS)
        .die(300, 300, SECOND - 45 * MS);
    watch.exit(300, 300, SECOND - 45 * MS, |exit| exit.last = true);
    // What probes have counted of the first one is read when the second one lives.
    let exact = ExactFact {
        read_ns: START + SECOND,
        pid: Pid(300),
        start_boottime_ns: boot(START + SECOND / 2) / (10 * MS) * (10 * MS),
        since: Ok(START),
        tasks: vec![TaskCounts {
            tid: Tid(300),
            loop_id: 7,
            name: "job".into(),
            started: 3,
            finished: 2,
            failed: 1,
            cancelled: 0,
            duration: hist(&[1, 2, 3]),
        }],
        missed: 0,
    };
    watch.apply(Event::Exact(Box::new(exact)));
    let snapshot = watch.tick(SECOND);
    let (app, other) = (group(&snapshot, "app.py"), group(&snapshot, "other.py"));
    assert_eq!((app.cpu_ns, other.cpu_ns), (7 * MS, 5 * MS));
    let counts = app.tasks.exact.as_ref().expect("they are counted");
    assert_eq!((counts.started, counts.finished, counts.failed), (3, 2, 1));
    assert!(other.tasks.exact.is_none());
}

/// A program that is started by another one is a service by itself once it has lived; what ended before
/// that has worked for whoever started it, and until then nothing is charged to either.
#[test]
fn a_program_of_its_own_becomes_a_service() {
    let mut watch = Fixture::new();
    watch
        .read(100, 100, SECOND, |_| {})
        .proc(100, SECOND, |_| {});
    for pid in [300, 400] {
        watch.fork(100, pid, pid, SECOND / 2);
        exec(&mut watch, pid, SECOND / 2 + MS);
        watch.proc(pid, SECOND - MS, runs("job.py"));
        watch.read(pid, pid, SECOND, |fact| fact.on_cpu_ns = SECOND / 2);
    }
    let snapshot = watch.tick(SECOND);
    assert_eq!(
        (group_of(&snapshot, 300), group_of(&snapshot, 400)),
        (None, None)
    );
    assert_eq!(group(&snapshot, "app.py").cpu_ns, 0);
    watch
        .die(400, 400, 2 * SECOND)
        .exit(400, 400, 2 * SECOND, |exit| exit.last = true);
    watch.read(100, 100, 2 * SECOND, |_| {});
    watch.read(300, 300, 2 * SECOND, |_| {});
    let snapshot = watch.tick(2 * SECOND);
    let app = group(&snapshot, "app.py");
    assert_eq!((app.cpu_ns, app.processes_ended), (3 * SECOND / 2, 1));
    for second in 3..=6 {
        let at = second * SECOND;
        watch.read(100, 100, at, |_| {}).read(300, 300, at, |_| {});
        watch.tick(at);
    }
    let summary = watch.model.summary();
    assert_eq!(group_of(&summary, 300), Some("job.py"));
    let job = group(&summary, "job.py");
    assert_eq!(
        (job.source, job.processes_started),
        (GroupSource::Script, 1)
    );
    assert_eq!(job.cpu_ns, 11 * SECOND / 2);
    assert_eq!(group(&summary, "app.py").cpu_ns, 3 * SECOND / 2);
}

/// Two services of one name, in two folders; helpers that name no program; what a process says of itself.
#[test]
fn who_belongs_to_whom() {
    let mut watch = Fixture::new();
    let at = SECOND;
    let place = |fact: &mut ProcessFact, folder: &str| fact.place.folder = Some(folder.into());
    for (pid, folder) in [(100, "/srv/a"), (200, "/srv/b")] {
        watch.read(pid, pid, at, |_| {});
        watch.proc(pid, at, |fact| {
            runs("job.py")(fact);
            place(fact, folder);
        });
    }
    watch.read(201, 201, at, |_| {}).proc(201, at, |fact| {
        runs("-c")(fact);
        fact.ppid = 200;
    });
    watch.read(202, 202, at, |_| {}).proc(202, at, |fact| {
        fact.ppid = 200;
        fact.place.service = Some("shop".into());
    });
    watch.read(203, 203, at, |_| {}).proc(203, at, |fact| {
        (fact.cmdline, fact.entry) = (vec!["uwsgi".into()], None);
        fact.name = "uwsgi".into();
    });
    let snapshot = watch.tick(at);
    for (pid, name) in [
        (100, "job.py"),
        (200, "job.py (/srv/b)"),
        (201, "job.py (/srv/b)"),
        (202, "shop"),
        (203, "uwsgi"),
    ] {
        assert_eq!(group_of(&snapshot, pid), Some(name), "{pid}");
    }
    assert_eq!(group(&snapshot, "uwsgi").source, GroupSource::Tree);
    assert_eq!(group(&snapshot, "shop").source, GroupSource::Otel);
    assert_eq!(group(&snapshot, "job.py (/srv/b)").processes_count, 2);
}

/// What was made before its parent is known does not get lost.
#[test]
fn what_ends_before_its_parent_is_known_is_its_parents() {
    let mut watch = Fixture::new();
    watch.read(100, 100, SECOND, |_| {});
    watch
        .fork(100, 300, 300, SECOND / 2)
        .die(300, 300, SECOND / 2 + 7 * MS);
    watch.exit(300, 300, SECOND / 2 + 7 * MS, |exit| exit.last = true);
    let snapshot = watch.tick(SECOND);
    assert!(snapshot.groups.is_empty(), "{:?}", snapshot.groups);
    watch
        .read(100, 100, 2 * SECOND, |_| {})
        .proc(100, 2 * SECOND, |_| {});
    watch.tick(2 * SECOND);
    let summary = watch.model.summary();
    let app = group(&summary, "app.py");
    assert_eq!((app.cpu_ns, app.processes_ended), (7 * MS, 1));
}

#[test]
fn services_are_bounded() {
    let mut watch = Fixture::new();
    for pid in 1_000..1_300 {
        watch.read(pid, pid, SECOND, |_| {});
        watch.proc(pid, SECOND, runs(&format!("job{pid}.py")));
    }
    let snapshot = watch.tick(SECOND);
    assert_eq!(snapshot.groups.len(), 201);
    assert_eq!(group(&snapshot, "_OTHER").processes_count, 100);
    assert!(has_limit(&snapshot.limits, "groups"));
}

/// The room of a service whose processes are long gone is another one's, which begins with nothing.
#[test]
fn a_service_that_is_forgotten_gives_its_room_back() {
    let mut watch = Fixture::new();
    watch.model.keep_sums_only(1);
    let begin = |watch: &mut Fixture, pid, script, at: u64| {
        watch
            .fork(1, pid, pid, at - SECOND)
            .proc(pid, at - SECOND / 2, runs(script));
        watch.tick(at);
    };
    let end = |watch: &mut Fixture, pid, at: u64| {
        watch.die(pid, pid, at - MS);
        watch.exit(pid, pid, at - MS, |exit| exit.last = true);
        watch.tick(at)
    };
    begin(&mut watch, 300, "one.py", 2 * SECOND);
    let window = end(&mut watch, 300, 3 * SECOND);
    let told = watch.model.services(&window);
    assert_eq!((told.len(), told[0].processes_ended), (1, 1), "{told:?}");
    assert!(told[0].cpu_ns > 0);
    begin(&mut watch, 400, "two.py", 5 * SECOND);
    assert_eq!(watch.model.services_refused(), 1);
    // One of them lives, and it is not a service that can be forgotten.
    watch.model.forget_service("_OTHER");
    watch.model.forget_service("one.py");
    let window = end(&mut watch, 400, 6 * SECOND);
    let told = watch.model.services(&window);
    assert_eq!((told.len(), told[0].name.as_str()), (1, "_OTHER"));
    assert_eq!(watch.model.services_refused(), 0);
    begin(&mut watch, 500, "three.py", 8 * SECOND);
    watch.model.forget_service("three.py");
    let window = watch.tick(9 * SECOND);
    let told = watch.model.services(&window);
    let three = told.iter().find(|group| group.name == "three.py");
    let three = three.expect("it lives, so it stays");
    assert_eq!((three.processes_started, three.processes_ended), (1, 0));
}

/// One who is left out holds no service back, and is not kept.
#[test]
fn who_is_left_out_does_not_stay() {
    let mut watch = Fixture::new();
    watch.model.keep_sums_only(1);
    watch
        .fork(1, 300, 300, SECOND)
        .proc(300, SECOND + SECOND / 2, runs("one.py"));
    let window = watch.tick(2 * SECOND);
    assert_eq!(watch.model.services(&window).len(), 1);
    watch.apply(Event::Excluded(Pid(300)));
    let window = watch.tick(3 * SECOND);
    watch.model.forget_service("one.py");
    assert!(watch.model.services(&window).is_empty());
    for at in 4..16 {
        watch.tick(at * SECOND);
    }
    assert!(watch.model.process_table.processes.is_empty());
}
