//! `report`: what a live watch would have said, from a capture.

use std::{
    io::{BufWriter, Write as _},
    path::Path,
};

use super::export::{finish, unread};
use crate::session::{
    files::Target,
    outcome::{Failure, code},
    output, privileges,
};
use crate::{
    capture::{CaptureError, CaptureInput, Header, Outline},
    cli::{Instant, Options, Report},
    model::intervals::{Intervals, NoSink},
    source::replay::{Range, Replay, Step},
    views::{
        escape::escape,
        html::{self, Series},
        json, lines, summary,
    },
};

pub(super) fn run(options: &Options, report: &Report) -> Result<u8, Failure> {
    if let Some(page) = &report.html {
        return self::page(options, report, page);
    }
    let unread = unread(&report.input);
    let mut replay = open(report).map_err(&unread)?;
    if options.redact {
        replay = replay.redacted();
    }
    let mut sink = output::open_beside(options, &[&report.input])?;
    crate::session::settle_reader(privileges::CAPTURES, options.output.as_deref());
    let mut stream = json::Stream::new(sink.form.all());
    let reason = replay.header().reason.as_deref();
    let mut printed = match reason.filter(|_| !options.json) {
        Some(reason) => writeln!(sink.writer, "Flight recording: {}", escape(reason)),
        None => Ok(()),
    };
    let summary = replay
        .run(&mut |step| {
            let Step::Window(window) = step else {
                return;
            };
            if report.per.is_none() || printed.is_err() {
                return;
            }
            printed = if options.json {
                stream.write(*window, &mut sink.writer)
            } else {
                lines::write(&window, sink.form, &mut sink.writer)
            };
        })
        .map_err(|error| unread(error.into()))?;
    let written = printed.and_then(|()| {
        if options.json {
            json::write(&summary, &mut sink.writer)
        } else {
            summary::write(&summary, sink.form, &mut sink.writer)
        }
    });
    crate::session::printed(written.and_then(|()| sink.writer.finish()))?;
    Ok(code::OK)
}

/// Writes the page of `report --html`.
fn page(options: &Options, report: &Report, page: &Path) -> Result<u8, Failure> {
    let unread = unread(&report.input);
    let target = Target::beside(page, &[&report.input])?;
    let mut replay = open(report).map_err(&unread)?;
    let mut out = BufWriter::new(target.create()?);
    crate::session::settle_reader(privileges::CAPTURES, Some(page));
    if options.redact {
        replay = replay.redacted();
    }
    let mut intervals = Intervals::new(&replay.header().info);
    let mut series = Series::default();
    let summary = replay
        .run(&mut |step| match step {
            Step::Before(event) => intervals.before(event),
            Step::Event(event) => intervals.apply(event, &mut NoSink),
            Step::Window(window) => series.add(&window),
        })
        .map_err(|error| unread(error.into()))?;
    intervals.finish(&mut NoSink);
    intervals.settle(&summary);
    let shown = html::Report {
        summary: &summary,
        intervals: &intervals,
        series: &series,
    };
    let written = html::write(&shown, &mut out);
    finish(written, out)
}

/// The part of the capture that was asked for.
fn open(report: &Report) -> Result<Replay<CaptureInput>, CaptureError> {
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
