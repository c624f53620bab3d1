//! The example that ships leads to the line that its page names.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use concmon_tests::agent::sum;
use concmon_tests::harness::quiet;
use concmon_tests::interpreter::Interpreter;
use concmon_tests::needs::Need;
use concmon_tests::spawn::Group;
use concmon_tests::watch::{PATIENCE, binary};
use libtest_mimic::Trial;

use crate::WATCH;
use crate::agent::config;
use crate::debug::{Profile, place, scraped, start};
use crate::recorders::tool;

pub(crate) fn trials() -> Vec<Trial> {
    let [root, ebpf] = WATCH;
    let needs = [root, ebpf, Need::Python("3.13"), Need::Tool("curl")];
    vec![quiet(
        "example::leads_to_its_line",
        &needs,
        leads_to_its_line,
    )]
}

/// What the page shows of it: who made its requests wait, to the line, in a profile and in a recording.
fn leads_to_its_line() -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../concmon-userspace/dist/example");
    let program = folder.join("shop.py").canonicalize()?;
    let lines = std::fs::read_to_string(&program)?;
    let line = lines
        .lines()
        .position(|line| line.contains("ADDRESS.fullmatch"))
        .context("it does not match any more")?;
    let cause = format!("is_customer (shop.py:{})", line + 1);
    let page = std::fs::read_to_string(folder.join("README.md"))?;
    ensure!(page.contains(&cause), "the page does not name {cause}");

    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let mut python = Interpreter::find("3.13")?.command();
    python.arg(&program).arg(port.to_string());
    let _service = Group::start(python.stdin(Stdio::null()))?;
    let (_folder, socket) = place()?;
    let config = config(&program.to_string_lossy());
    let config = config.replacen("[[allow]]", "[flight]\nmemory = \"8MB\"\n[[allow]]", 1);
    let agent = start(&config, &socket)?;
    let shop = "concmon_processes{service_name=\"shop\"";
    agent.metrics_with("the service", |metrics| sum(metrics, shop) == Some(1.0))?;
    let deadline = Instant::now() + PATIENCE;
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        ensure!(Instant::now() < deadline, "it does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut python = Interpreter::find("3.13")?.command();
    python.arg(folder.join("load.py")).arg(port.to_string());
    let _clients = Group::start(python.stdin(Stdio::null()))?;
    let profile = scraped(&socket, "shop", "blame", 3)?;
    let finding = "concmon_finding_active{service_name=\"shop\",concmon_rule=\"gil-contention\"}";
    agent.metrics_with("the finding", |metrics| sum(metrics, finding) == Some(1.0))?;
    let recorded = tempfile::tempdir()?;
    let file = recorded.path().join("F");
    let mut record = Command::new(binary()?);
    record.args(["record", "--from-agent", "--service", "shop", "--socket"]);
    let record = record.arg(&socket).arg("-o").arg(&file).output()?;
    ensure!(record.status.success(), "{record:?}");
    let read = Profile::read(profile.path(), "blame")?;
    let (all, its) = read.under("is_customer", "shop.py", "[had the GIL]");
    ensure!(
        all > 0.0 && its >= all * 0.8,
        "{its} of {all} s are the pattern's: {:?}",
        read.lines
    );
    let report = tool(&["report", "-i"], &file)?;
    // The lines of a finding are broken where they are full.
    let words: Vec<&str> = report.split_whitespace().collect();
    ensure!(
        words
            .join(" ")
            .contains(&format!("holds it most, at {cause}")),
        "{report}"
    );
    Ok(())
}
