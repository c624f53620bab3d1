//! The demo on a machine that lets it watch: starts its program, and watches that.

use std::time::Duration;

use tokio::signal::unix::SignalKind;

use super::{
    demo, start,
    watch::{settle, watch_child},
};
use crate::{
    cli::{Exact, Options},
    procfs::rights,
    session::{
        Failure, Recording, code, drive,
        output::{self, Output},
        say, signals,
    },
};

/// How long the demo is watched when no duration is given.
const DEMO: Duration = Duration::from_secs(15);
pub(super) async fn watch_demo(options: &Options) -> Result<u8, Failure> {
    let missing = rights::lacking(rights::LOADING);
    if !missing.is_empty() {
        let missing = rights::names(missing);
        return demo::play(options, &format!("loading kernel programs needs {missing}")).await;
    }
    let mut options = options.clone();
    if !options.watching.exact.contains(&Exact::Futures) {
        options.watching.exact.push(Exact::Futures);
    }
    let options = &options;
    let (_directory, program) = start::demo_program()?;
    let duration = options.duration.unwrap_or(DEMO);
    // The program ends by itself, should nobody be left to end it.
    let seconds = (duration.as_secs() + 30).to_string();
    let needs = |error| Failure::new(code::FAILURE, format!("the demo needs python3: {error}"));
    let command = [start::python3().map_err(needs)?, program, seconds.into()];
    let sink = output::open(options)?;
    let waiting = start::fork(&command, true)?;
    let pid = waiting.pid;
    let (watch, started) = match watch_child(waiting, options, None) {
        Err(failure) if [code::PERMISSION, code::UNSUPPORTED].contains(&failure.code) => {
            return demo::play(options, &failure.message).await;
        }
        watched => watched?,
    };
    if !options.quiet {
        say(
            "concmon-bpf: the demo has --exact futures on, which shows failures in thread pools that \
             nobody asks for; each probe takes 1 to 3 us: one per submit, one per frame an exception \
             passes\n",
        );
    }
    settle(options, &Recording::None, Some(pid));
    let output = Output::new(options, sink, false)?;
    let end = drive(watch, output, options, Some(duration), Some(started), None).await?;
    if let Some(Err(error)) = end.child {
        return Err(needs(error));
    }
    if end.running.is_some() {
        signals::send(pid, SignalKind::terminate());
    }
    Ok(end.code())
}
