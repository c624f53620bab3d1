//! `report`: what a live watch would have said, from a capture.

use super::{
    outcome::{Failure, code},
    output,
};
use crate::{
    capture::CaptureError,
    cli::{Options, Report},
    source::replay::Replay,
    views::{escape::escape, json, summary},
};

pub(super) fn run(options: &Options, report: &Report) -> Result<u8, Failure> {
    if let Some(page) = &report.html {
        return super::export::page(&report.input, page);
    }
    let name = escape(&report.input.to_string_lossy()).into_owned();
    let unread =
        |error: CaptureError| Failure::new(code::FAILURE, format!("cannot read {name}: {error}"));
    let replay = Replay::open(&report.input).map_err(unread)?;
    let found = replay
        .run(&mut |_| {})
        .map_err(|error| unread(error.into()))?;
    let mut sink = output::open(options)?;
    let written = if options.json {
        json::write(&found, &mut sink.writer)
    } else {
        summary::write(&found, sink.paint, &mut sink.writer)
    };
    super::printed(written)?;
    Ok(code::OK)
}
