//! Handmade snapshots of services: a main process and its workers.

use concmon::schema::*;

use crate::fixture::*;

/// A worker of a service, by its process id, with the threads of a pool, all of them busy in the same way.
fn service_worker(pid: u32, title: &str, pool: &str, threads: u32) -> Process {
    let mut main = thread(pid, "MainThread", [20, 60, 80, 0, 840, 0, 0, 0, 0]);
    main.role = Some(Role::Main);
    let mut all = vec![main];
    for n in 0..threads {
        let busy = 100 + u64::from(n % 4);
        let name = match pool {
            "AnyIO worker thread" => pool.to_owned(),
            pool => format!("{pool}_{n}"),
        };
        let mut worker = thread(
            pid + 1 + n,
            &name,
            [busy, 120, 60, 720 - busy, 0, 0, 0, 0, 0],
        );
        worker.role = Some(Role::Pool);
        worker.wakers = vec![Waker {
            tid: Some(pid),
            process: None,
            cause: Cause::Lock,
            count: 40,
            blocked_ns: 400 * MS,
        }];
        worker.wait = Some(Wait {
            cause: Cause::Lock,
            since_unix_ns: START - 2_000 * MS,
            before_watch: true,
        });
        all.push(worker);
    }
    let mut process = process(pid, title, all);
    (process.title, process.role) = (Some(title.to_owned()), Some(ProcessRole::Worker));
    process.gil = Some(fought_gil());
    if let Some(gil) = &mut process.gil {
        gil.pairs = (0..threads)
            .map(|n| GilPair {
                holder_tid: Some(pid + 1 + n),
                victim_tid: pid + 1 + (n + 1) % threads,
                wait_ns: u64::from(300 + n) * MS,
                count: 40,
            })
            .collect();
        gil.limits = vec![limit(
            "pairs",
            &format!("only the largest: {pid} ns are in none"),
        )];
    }
    process.executors = vec![Executor {
        kind: ExecutorKind::Thread,
        name_prefix: Some("ThreadPoolExecutor-0".to_owned()),
        object: None,
        workers: u64::from(threads),
        workers_idle: Some(2),
        max_workers: Some(u64::from(threads)),
        queued: Some(1),
        waiting: None,
        running: Vec::new(),
        unfinished: Some(1),
        submitted: None,
        finished: None,
        failed: None,
        unretrieved: None,
        limits: Vec::new(),
    }];
    process
}

/// A service of a main process and workers.
fn service(name: &str, workers: Vec<Process>) -> Snapshot {
    let main = thread(3000, "MainThread", [0, 0, 0, 1000, 0, 0, 0, 0, 0]);
    let mut main = process(3000, name, vec![main]);
    main.children_count = Some(workers.len() as u64);
    let mut processes = vec![main];
    for mut worker in workers {
        worker.ppid = 3000;
        processes.push(worker);
    }
    snapshot(processes)
}

/// gunicorn with 4 workers of 8 threads that have not enough CPUs.
pub(crate) fn gunicorn() -> Snapshot {
    let workers = (0..4).map(|n| {
        let pid = 3100 + n * 100;
        let mut worker = service_worker(pid, "gunicorn: worker [web:app]", "ThreadPoolExecutor-0", 8);
        let starved = format!(
            "threads wait for a CPU {} % of the time that they could run; ThreadPoolExecutor-0_{n} most",
            60 + n
        );
        worker.findings = vec![finding("cpu-starved", Severity::Critical, &starved, "fewer workers")];
        worker
    });
    service("gunicorn: master [web:app]", workers.collect())
}

/// uvicorn with 2 workers, whose synchronous handlers run in 40 threads each; one loop is blocked.
pub(crate) fn uvicorn() -> Snapshot {
    let workers = (0..2).map(|n| {
        let pid = 3100 + n * 100;
        let title = format!("SpawnProcess-{}", n + 1);
        let mut worker = service_worker(pid, &title, "AnyIO worker thread", 40);
        worker.loops = stalls().processes[0].loops.clone();
        worker.loops[0].tid = pid;
        if n == 1 {
            worker.findings = stalls().processes[0].findings.clone();
        }
        worker
    });
    service("uvicorn", workers.collect())
}

/// Many workers of one pool, of which most have ended.
pub(crate) fn celery() -> Snapshot {
    let workers = (0..300).map(|n| {
        let pid = 3100 + n * 10;
        let title = format!("ForkPoolWorker-{}", n + 1);
        let mut main = thread(pid, "MainThread", [10, 1, 0, 0, 0, 0, 989, 0, 0]);
        let ended = n < 280;
        main.alive = !ended;
        let mut worker = process(pid, &title, vec![main]);
        worker.role = Some(ProcessRole::Worker);
        worker.exited = ended.then_some(Exited {
            code: Some(0),
            signal: None,
        });
        worker
    });
    service("celery", workers.collect())
}

/// Services of several processes, by name.
pub(crate) fn all() -> Vec<(&'static str, Snapshot)> {
    vec![
        ("gunicorn", gunicorn()),
        ("uvicorn", uvicorn()),
        ("celery", celery()),
    ]
}
