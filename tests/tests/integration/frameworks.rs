//! Routes of frameworks other than FastAPI, against what the application's own middleware was told of each request.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use concmon_tests::harness::case;
use concmon_tests::interpreter::Interpreter;
use concmon_tests::packages;
use concmon_tests::watch::{PATIENCE, Watch};
use concmon_tests::workload::Workload;
use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::routes::{ask, rows};
use crate::watch_python;

/// A program, what it needs, its arguments, and what it is asked for.
struct Framework {
    program: &'static str,
    needed: &'static [&'static str],
    arguments: &'static [&'static str],
    version: &'static str,
    asked: &'static [(&'static str, &'static str)],
    /// Paths, folded, of which it cannot be told from outside which route they have.
    unclear: &'static [&'static str],
}

const TRIALS: [Framework; 6] = [
    aiohttp(&["run_app"], "3.9"),
    aiohttp(&["runner"], "3.13"),
    flask(&["flask", "gunicorn"], &["flask", "gunicorn"], "3.9"),
    flask(&["flask", "waitress"], &["flask", "waitress"], "3.13"),
    django(&["django"], &["django", "wsgiref"], "3.11"),
    django(&["django", "uvicorn"], &["django", "uvicorn"], "3.13"),
];

const fn aiohttp(arguments: &'static [&'static str], version: &'static str) -> Framework {
    Framework {
        program: "routes_aiohttp.py",
        needed: &["aiohttp"],
        arguments,
        version,
        asked: &[
            ("GET", "/items/latest"),
            ("GET", "/"),
            ("GET", "/items/17"),
            ("GET", "/items/seventeen"),
            ("PUT", "/items/17"),
            ("DELETE", "/items/17"),
            ("GET", "/n/17"),
            ("GET", "/n/17/a/b"),
            ("GET", "/n/x"),
            ("GET", "/other/9"),
            ("POST", "/other"),
            ("PATCH", "/any/x.json"),
            ("GET", "/static/account.py"),
            ("GET", "/api/users/joe"),
            ("POST", "/api/users"),
            ("GET", "/api/users"),
            ("GET", "/api/nothing"),
            ("GET", "/items/a%20b"),
        ],
        // Encoded, it might be `latest`.
        unclear: &["/items/{encoded}"],
    }
}

const fn flask(
    needed: &'static [&'static str],
    arguments: &'static [&'static str],
    version: &'static str,
) -> Framework {
    Framework {
        program: "routes_wsgi.py",
        needed,
        arguments,
        version,
        asked: &[
            ("GET", "/"),
            ("GET", "//items/latest"),
            ("GET", "/items/latest"),
            ("GET", "/items/17"),
            ("GET", "/items/seventeen"),
            ("PUT", "/items/17"),
            ("DELETE", "/items/17"),
            ("GET", "/items/17/edit/"),
            ("GET", "/items/17/edit"),
            ("GET", "/u/6f1e6bd2-9e2d-4a52-8f7a-6c1f0e5d7a10"),
            ("GET", "/u/x"),
            ("GET", "/even/4"),
            ("GET", "/even/5"),
            ("GET", "/word/abc"),
            ("GET", "/word/ABC"),
            ("GET", "/files/a/b/raw"),
            ("GET", "/files/a/b"),
            ("GET", "/bounded/7"),
            ("GET", "/bounded/17"),
            ("GET", "/api/users/joe"),
            ("POST", "/api/users"),
            ("GET", "/api/users"),
            ("GET", "/inner"),
            ("GET", "/inner/"),
            ("GET", "/inner/a/b"),
            ("GET", "/inner/x"),
            ("GET", "/any/thing"),
            ("POST", "/any/thing"),
        ],
        // Their converters may refuse what their expressions take.
        unclear: &["/even/{number}", "/bounded/{number}"],
    }
}

const fn django(
    needed: &'static [&'static str],
    arguments: &'static [&'static str],
    version: &'static str,
) -> Framework {
    Framework {
        program: "routes_wsgi.py",
        needed,
        arguments,
        version,
        asked: &[
            ("GET", "/"),
            ("POST", "/"),
            ("GET", "/items/latest/"),
            ("GET", "/items/17/"),
            ("GET", "/items/seventeen/"),
            ("GET", "/items/17"),
            ("GET", "/u/6f1e6bd2-9e2d-4a52-8f7a-6c1f0e5d7a10/"),
            ("GET", "/api/v1/"),
            ("GET", "/api/v1/7/"),
            ("GET", "/api/v1/abc/edit"),
            ("GET", "/api/v1/ABC/edit"),
            ("GET", "/year/2024/"),
            ("GET", "/files/a/b/c"),
            ("GET", "/articles/2024/"),
            ("GET", "/articles/2024/page-2/"),
            ("GET", "/old/17/and/more"),
            ("GET", "/de/hello/"),
            ("GET", "/fr/hello/"),
        ],
        unclear: &["/year/{number}/"],
    }
}

pub(crate) fn trials() -> Vec<Trial> {
    let trials = TRIALS.iter().map(|of| {
        let name = of.arguments.join("::");
        let program = of.program.trim_end_matches(".py");
        case(
            format!("frameworks::{program}::{name}::py{}", of.version),
            &watch_python(of.version),
            || told(of),
        )
    });
    let below = case(
        "frameworks::below_a_path_no_route_is_told",
        &watch_python("3.13"),
        below_a_path,
    );
    trials.chain([below]).collect()
}

/// Which paths are handed to applications that are served below another one is for their servers to say.
fn below_a_path() -> Result<()> {
    let python = Interpreter::find("3.13")?;
    let start = |needed: &[&str], program: &str, arguments: &[&str]| -> Result<Workload> {
        let packages = packages::folder(&python, "3.13", needed)?;
        Workload::start_with(&python, Some(&packages), program, arguments)
    };
    let servers = [
        start(&["fastapi", "uvicorn"], "routes.py", &["asyncio", "/below"])?,
        start(
            &["django"],
            "routes_wsgi.py",
            &["django", "wsgiref", "/below"],
        )?,
    ];
    let pids = servers.each_ref().map(|server| server.pid().to_string());
    let pids = pids.iter().flat_map(|pid| ["--pid", pid]);
    let arguments: Vec<&str> = pids.chain(["--json", "-i", "500ms"]).collect();
    let mut watch = Watch::start(&arguments)?;
    watch.next(PATIENCE)?;
    for server in &servers {
        ask(server.said("port")?, "GET", "/items/latest/")?;
    }
    std::thread::sleep(Duration::from_millis(700));
    let outcome = watch.interrupt()?;
    let rows: Vec<&Value> = rows(outcome.summary()?).collect();
    ensure!(rows.len() == servers.len(), "{rows:?}");
    for row in rows {
        let limits = row["limits"].as_array().context("limits")?;
        let is_said = limits.iter().any(|limit| {
            limit["field"] == "route"
                && limit["reason"]
                    .as_str()
                    .is_some_and(|said| said.contains("below a path"))
        });
        ensure!(row["route"].is_null() && is_said, "{row}");
    }
    Ok(())
}

fn told(of: &Framework) -> Result<()> {
    let python = Interpreter::find(of.version)?;
    let packages = packages::folder(&python, of.version, of.needed)?;
    let mut server = Workload::start_with(&python, Some(&packages), of.program, of.arguments)?;
    let port: u16 = server.said("port")?;
    let pid: u32 = server.said("worker")?;
    // Some applications have their routes in order with the first request only.
    for (method, path) in of.asked {
        ask(port, method, path)?;
    }
    let before = counts(&server.ask(&json!({}), "served")?)?;
    let mut watch = Watch::start(&["--pid", &pid.to_string(), "--json", "-i", "1s", "--http"])?;
    watch.next(PATIENCE)?;
    for (method, path) in of.asked.iter().chain(of.asked) {
        ask(port, method, path)?;
    }
    let mut wanted = counts(&server.ask(&json!({}), "served")?)?;
    for (key, count) in before {
        *wanted.entry(key).or_default() -= count;
    }
    wanted.retain(|_, count| *count > 0);
    std::thread::sleep(Duration::from_millis(700));
    let outcome = watch.interrupt()?;
    let summary = outcome.summary()?;
    let mut unclear = 0;
    for row in rows(summary) {
        let count = row["count"].as_u64().context("a count")?;
        let path = row["learned_path"].as_str().context("a path")?;
        let route = row["route"].as_str();
        if of.unclear.contains(&path) {
            ensure!(route.is_none(), "{path} is told to be of {route:?}");
            unclear += count;
            continue;
        }
        let key = key(row)?;
        let left = wanted.get_mut(&key);
        let left = left.with_context(|| format!("{path} is told as {key}: {row}"))?;
        *left = left
            .checked_sub(count)
            .with_context(|| format!("more than {left} of {key}"))?;
    }
    // What is left over had a route of which nothing is told.
    let left: u64 = wanted.values().sum();
    ensure!(
        left == unclear && unclear > 0,
        "{unclear} are unclear, and left: {wanted:?}"
    );
    Ok(())
}

/// `GET /items/{id} 200`, as the programs count; without a route where there is none.
fn key(row: &Value) -> Result<String> {
    let text = |field: &str| row[field].as_str().unwrap_or_default();
    let status = row["status"].as_u64().context("a status")?;
    Ok(format!("{} {} {status}", text("method"), text("route")))
}

fn counts(said: &Value) -> Result<BTreeMap<String, u64>> {
    let counts = said["counts"].as_object().context("its account")?;
    let counts = counts.iter();
    let counts = counts.map(|(key, count)| Some((key.clone(), count.as_u64()?)));
    counts.collect::<Option<_>>().context("counts")
}
