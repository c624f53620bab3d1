//! After the tool's end, however it came, nothing of it is left in the kernel.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use concmon_tests::bpf::Objects;
use concmon_tests::harness::quiet;
use concmon_tests::interpreter::Interpreter;
use concmon_tests::watch::{PATIENCE, Watch};
use concmon_tests::workload::Workload;
use libtest_mimic::Trial;

use crate::watch_python;

pub(crate) fn trials() -> Vec<Trial> {
    [
        ("sigint", libc::SIGINT),
        ("sigterm", libc::SIGTERM),
        ("sigkill", libc::SIGKILL),
    ]
    .into_iter()
    .map(|(name, signal)| {
        quiet(
            format!("leftovers::nothing_is_left_in_the_kernel_after::{name}"),
            &watch_python("3.11"),
            move || nothing_is_left(signal),
        )
    })
    .collect()
}

fn nothing_is_left(signal: i32) -> Result<()> {
    let workload = Workload::start(&Interpreter::find("3.11")?, "clocks.py", &["sleeper"])?;
    let mut watch = Watch::pid(workload.pid(), "1s", None)?;
    watch.next(PATIENCE)?;
    // Others may load programs at the same time: only what the tool holds counts.
    let held = Objects::held_by(watch.tool())?;
    ensure!(
        !held.programs.is_empty() && !held.maps.is_empty(),
        "the tool holds nothing, so nothing can be left: {held:?}"
    );
    ensure!(
        held.still_there()? == held,
        "not everything that is held is in the kernel's lists"
    );
    watch.signal(signal);
    let outcome = watch.finish(PATIENCE)?;
    if signal == libc::SIGKILL {
        ensure!(outcome.code == 128 + signal, "exit code {}", outcome.code);
    } else {
        outcome.ok()?;
    }
    // The kernel frees them some grace periods later.
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let left = held.still_there()?;
        if left.is_empty() {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "left in the kernel: {left:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
