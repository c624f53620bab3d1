//! For whom threads wait on the network: against the client's own account.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use concmon_tests::harness::quiet;
use concmon_tests::interpreter::Interpreter;
use concmon_tests::watch::{PATIENCE, Watch};
use concmon_tests::workload::Workload;
use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::watch_python;

pub(crate) fn trials() -> Vec<Trial> {
    ["3.9", "3.13"]
        .map(|version| {
            quiet(
                format!("peers::waits_are_the_clients_own::py{version}"),
                &watch_python(version),
                move || waits(version),
            )
        })
        .into()
}

/// Answers each question after some time, and one for what takes long after a longer one.
fn serve() -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let port = listener.local_addr()?.port();
    let answer = |mut stream: TcpStream| -> std::io::Result<()> {
        let mut question = [0];
        loop {
            stream.read_exact(&mut question)?;
            let ms = if question == *b"w" { 600 } else { 10 };
            std::thread::sleep(Duration::from_millis(ms));
            stream.write_all(b"!")?;
        }
    };
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // It ends with its client.
            std::thread::spawn(move || drop(answer(stream)));
        }
    });
    Ok(port)
}

fn waits(version: &str) -> Result<()> {
    const COUNT: u64 = 25;
    let (kept, fresh) = (serve()?, serve()?);
    let ports = [kept.to_string(), fresh.to_string()];
    let mut client = Workload::start(
        &Interpreter::find(version)?,
        "peers.py",
        &[&ports[0], &ports[1]],
    )?;
    let pid = client.pid().to_string();
    let mut watch = Watch::start(&["--pid", &pid, "--json", "-i", "1s", "--http"])?;
    watch.next(PATIENCE)?;
    let own = client.ask(&json!({ "count": COUNT }), "asked")?["waited"].clone();
    client.ask(&json!({ "loop": true }), "asked")?;
    // What a CPU holds back is taken later.
    std::thread::sleep(Duration::from_millis(500));
    let outcome = watch.interrupt()?;
    let process = outcome.summary()?.processes.first().context("a process")?;
    let peers = process.peers.as_ref().and_then(Value::as_array);
    let peers = peers.context("its peers")?;
    ensure!(peers.len() == 2, "{peers:?}");
    for (port, direction) in [(kept, Value::Null), (fresh, "out".into())] {
        let mut found = peers.iter().filter(|peer| peer["port"] == port);
        let peer = found.next().context("a peer")?;
        ensure!(peer["address"] == "127.0.0.1", "{peer}");
        ensure!(peer["direction"] == direction, "{peer}");
        let own_ns = own[port.to_string()].as_u64().context("its account")?;
        let wait_ns = peer["wait_ns"].as_u64().context("a time")?;
        let count = peer["waits"]["count"].as_u64().context("a count")?;
        // Its own has what comes after the wakeup, too.
        ensure!(
            wait_ns <= own_ns && wait_ns >= own_ns / 4 * 3,
            "{port}: {wait_ns} ns, it has {own_ns}"
        );
        ensure!(
            (COUNT * 9 / 10..=COUNT).contains(&count),
            "{port}: {count} waits"
        );
    }
    Ok(())
}
