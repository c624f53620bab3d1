//! `report`: what a live watch would have said, from a capture.

use crate::session::{
    outcome::{Failure, code},
    output, privileges,
};
use crate::{
    capture::{CaptureError, CaptureInput, Header, Outline},
    cli::{Instant, Options, Report},
    source::replay::{Range, Replay, Step},
    views::{escape::escape, json, lines, summary},
};

pub(super) fn run(options: &Options, report: &Report) -> Result<u8, Failure> {
    if let Some(page) = &report.html {
        return super::export::page(options, report, page);
    }
    let name = escape(&report.input.to_string_lossy()).into_owned();
    let unread =
        |error: CaptureError| Failure::new(code::FAILURE, format!("cannot read {name}: {error}"));
    let mut replay = open(report).map_err(unread)?;
    if options.redact {
        replay = replay.redacted();
    }
    let mut sink = output::open_beside(options, &[&report.input])?;
    crate::commands::settle_reader(privileges::CAPTURES, options.output.as_deref());
    let mut printed = Ok(());
    let summary = replay
        .run(&mut |step| {
            let Step::Window(window) = step else {
                return;
            };
            if report.per.is_none() || printed.is_err() {
                return;
            }
            printed = if options.json {
                json::write(&window, &mut sink.writer)
            } else {
                lines::write(&window, sink.paint, &mut sink.writer)
            };
        })
        .map_err(|error| unread(error.into()))?;
    let written = printed.and_then(|()| {
        if options.json {
            json::write(&summary, &mut sink.writer)
        } else {
            summary::write(&summary, sink.paint, &mut sink.writer)
        }
    });
    crate::session::printed(written.and_then(|()| sink.writer.finish()))?;
    Ok(code::OK)
}

/// The part of the capture that was asked for.
pub(super) fn open(report: &Report) -> Result<Replay<CaptureInput>, CaptureError> {
    let memory = report.memory.budget_bytes;
    if report.since.is_none() && report.until.is_none() && report.per.is_none() {
        return Ok(Replay::open(&report.input)?.granted(memory));
    }
    let replay = Replay::open_range(&report.input, |header, outline| Range {
        since_ns: report.since.map(|at| monotonic_ns(at, header, outline)),
        until_ns: report.until.map(|at| monotonic_ns(at, header, outline)),
        per_ns: report
            .per
            .map_or(0, |per| u64::try_from(per.as_nanos()).unwrap_or(u64::MAX)),
    });
    Ok(replay?.granted(memory))
}

fn monotonic_ns(at: Instant, header: &Header, outline: &Outline) -> u64 {
    match at {
        Instant::Unix(unix_ns) => {
            let info = &header.info;
            let since_ns = unix_ns.saturating_sub(info.start_unix_ns);
            info.start_ns.saturating_add(since_ns)
        }
        Instant::BeforeEnd(ns) => outline.end_ns.saturating_sub(ns),
    }
}
