//! The demo where kernel programs cannot be loaded: a recording of it.

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use rustix::thread::CapabilitySet;

use crate::session::{
    outcome::{Failure, code},
    output,
};
use crate::{
    capture::{CaptureError, Reader},
    cli::Options,
    schema::Snapshot,
    source::replay::{Replay, Step},
    views::{escape::escape, json, lines, summary},
};

/// The embedded program under watch, with `--redact`.
const CAPTURE: &[u8] = include_bytes!("../demo/misbehave.concmon");

/// Plays the recording, on a terminal at the pace at which it was made, and says that it is one.
pub(super) async fn play(options: &Options, why: &str) -> Result<u8, Failure> {
    let damaged = |error: CaptureError| Failure::new(code::FAILURE, error.to_string());
    if !options.quiet {
        crate::session::say(&format!(
            "concmon-bpf: {}. This is a recording of the demo, made elsewhere; for the real thing \
             run: sudo concmon-bpf demo\n",
            escape(why)
        ));
    }
    let mut windows: Vec<Snapshot> = Vec::new();
    let replay = Replay::new(Reader::embedded(CAPTURE).map_err(damaged)?);
    let whole = replay
        .run(&mut |step| {
            if let Step::Window(window) = step {
                windows.push(*window);
            }
        })
        .map_err(|error| damaged(error.into()))?;
    let mut sink = output::open(options)?;
    crate::session::settle_reader(CapabilitySet::empty(), options.output.as_deref());
    let paced = !options.json && options.output.is_none() && io::stdout().is_terminal();
    let mut stream = json::Stream::new(sink.form.all());
    for window in windows {
        if paced {
            tokio::time::sleep(Duration::from_nanos(window.window.duration_ns)).await;
        }
        let written = match options.json {
            true => stream.write(window, &mut sink.writer),
            false => lines::write(&window, sink.form, &mut sink.writer),
        };
        if !crate::session::printed(written)? {
            return Ok(code::OK);
        }
    }
    let written = match options.json {
        true => json::write(&whole, &mut sink.writer),
        false => summary::write(&whole, sink.form, &mut sink.writer),
    };
    crate::session::printed(written.and_then(|()| sink.writer.finish()))?;
    Ok(code::OK)
}
