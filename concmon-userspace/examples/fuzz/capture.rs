//! What is done with a damaged capture: everything that `report` and `export` do.

use std::io;

use concmon::capture::Reader;
use concmon::model::intervals::Intervals;
use concmon::source::replay::{Replay, Step};
use concmon::views::export::{self, By, FlameFormat, perfetto::Perfetto};
use concmon::views::html::{self, Series};
use concmon::views::{Form, Paint, json, lines, summary};

/// Replays the bytes of a file, and makes all of it that can be made.
pub(crate) fn file(bytes: &[u8]) {
    let Ok(reader) = Reader::new(bytes) else {
        return;
    };
    let replay = Replay::new(reader);
    let info = replay.header().info.clone();
    let mut intervals = Intervals::new(&info).with_blame();
    let mut series = Series::default();
    let mut nowhere = io::sink();
    let mut trace = Perfetto::new(&info, &mut nowhere);
    let replayed = replay.run(&mut |step| match step {
        Step::Before(event) => intervals.before(event),
        Step::Event(event) => intervals.apply(event, &mut trace),
        Step::Window(window) => {
            trace.window(&window);
            series.add(&window);
            let _ = lines::write(
                &window,
                Form::new(Paint::Ansi, None, false),
                &mut io::sink(),
            );
        }
    });
    let Ok(watch) = replayed else {
        return;
    };
    intervals.finish(&mut trace);
    let corrections = intervals.settle(&watch);
    let _ = trace.finish(&intervals, &corrections);
    let shown = html::Report {
        summary: &watch,
        intervals: &intervals,
        series: &series,
    };
    let out = &mut io::sink();
    let _ = html::write(&shown, out);
    let _ = json::write(&watch, out);
    let _ = summary::write(&watch, Form::new(Paint::Ansi, None, false), out);
    for format in [
        FlameFormat::Speedscope,
        FlameFormat::Collapsed,
        FlameFormat::Svg,
        FlameFormat::Pprof,
    ] {
        for by in [By::Wall, By::Blame] {
            let _ = export::write(format, by, &info, &intervals, out);
        }
    }
}
