//! pprof's `profile.proto`, gzipped.
//!
//! Field numbers: <https://github.com/google/pprof/blob/main/proto/profile.proto>

use std::collections::HashMap;
use std::io::{self, Write};

use flate2::{Compression, write::GzEncoder};
use prost::Message;

use super::stacks::{Frame, Stacks, state};
use crate::model::WatchInfo;
use crate::model::intervals::Intervals;

#[derive(Clone, PartialEq, Message)]
struct Profile {
    #[prost(message, repeated, tag = "1")]
    sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    sample: Vec<Sample>,
    #[prost(message, repeated, tag = "4")]
    location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    function: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    string_table: Vec<String>,
    #[prost(int64, tag = "9")]
    time_nanos: i64,
    #[prost(int64, tag = "10")]
    duration_nanos: i64,
    #[prost(int64, repeated, tag = "13")]
    comment: Vec<i64>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct ValueType {
    #[prost(int64, tag = "1")]
    kind: i64,
    #[prost(int64, tag = "2")]
    unit: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Sample {
    /// The innermost first.
    #[prost(uint64, repeated, tag = "1")]
    location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
    #[prost(message, repeated, tag = "3")]
    label: Vec<Label>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Label {
    #[prost(int64, tag = "1")]
    key: i64,
    #[prost(int64, tag = "2")]
    str: i64,
    #[prost(int64, tag = "3")]
    num: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(message, repeated, tag = "4")]
    line: Vec<Line>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Line {
    #[prost(uint64, tag = "1")]
    function_id: u64,
    #[prost(int64, tag = "2")]
    line: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Function {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "2")]
    name: i64,
    #[prost(int64, tag = "3")]
    system_name: i64,
    #[prost(int64, tag = "4")]
    filename: i64,
}

/// Strings by number; the first is empty.
#[derive(Debug)]
struct Strings {
    all: Vec<String>,
    known: HashMap<String, i64>,
}

impl Strings {
    fn new() -> Self {
        Strings {
            all: vec![String::new()],
            known: HashMap::from([(String::new(), 0)]),
        }
    }

    fn number(&mut self, text: &str) -> i64 {
        if let Some(&number) = self.known.get(text) {
            return number;
        }
        let number = self.all.len() as i64;
        self.all.push(text.to_owned());
        self.known.insert(text.to_owned(), number);
        number
    }
}

pub(super) fn write(
    stacks: &Stacks,
    info: &WatchInfo,
    intervals: &Intervals,
    out: &mut dyn Write,
) -> io::Result<()> {
    let mut gzip = GzEncoder::new(out, Compression::default());
    gzip.write_all(&profile(stacks, info, intervals).encode_to_vec())?;
    gzip.finish()?;
    Ok(())
}

fn profile(stacks: &Stacks, info: &WatchInfo, intervals: &Intervals) -> Profile {
    let mut strings = Strings::new();
    // It may be a part of a watch.
    let since_ns = intervals.start_ns().saturating_sub(info.start_ns);
    let mut profile = Profile {
        sample_type: vec![ValueType {
            kind: strings.number(&stacks.by.name().replace('-', "_")),
            unit: strings.number("nanoseconds"),
        }],
        time_nanos: signed(info.start_unix_ns.saturating_add(since_ns)),
        duration_nanos: signed(intervals.end_ns().saturating_sub(intervals.start_ns())),
        comment: vec![strings.number(&format!("concmon {}", info.version))],
        ..Profile::default()
    };
    let mut functions: HashMap<(&str, &str), u64> = HashMap::new();
    let mut locations: HashMap<&Frame, u64> = HashMap::new();
    for stack in &stacks.stacks {
        let mut location_id = Vec::with_capacity(stack.frames.len());
        for frame in stack.frames.iter().rev() {
            let next = locations.len() as u64 + 1;
            let id = *locations.entry(frame).or_insert(next);
            if id == next {
                let key = (&*frame.function, &*frame.file);
                let next = functions.len() as u64 + 1;
                let function_id = *functions.entry(key).or_insert(next);
                if function_id == next {
                    let name = strings.number(&frame.function);
                    profile.function.push(Function {
                        id: function_id,
                        name,
                        system_name: name,
                        filename: strings.number(&frame.file),
                    });
                }
                profile.location.push(Location {
                    id,
                    line: vec![Line {
                        function_id,
                        line: i64::from(frame.line),
                    }],
                });
            }
            location_id.push(id);
        }
        let mut label = Vec::new();
        if let Some(name) = stacks.threads.get(&stack.thread) {
            for (key, text) in [
                ("thread", &*name.thread),
                ("process", &*name.process),
                ("state", state(stack.activity)),
            ] {
                label.push(Label {
                    key: strings.number(key),
                    str: strings.number(text),
                    num: 0,
                });
            }
            for (key, number) in [("thread_id", name.tid), ("pid", name.pid)] {
                label.push(Label {
                    key: strings.number(key),
                    str: 0,
                    num: i64::from(number),
                });
            }
        }
        profile.sample.push(Sample {
            location_id,
            value: vec![signed(stack.ns)],
            label,
        });
    }
    profile.string_table = strings.all;
    profile
}

fn signed(ns: u64) -> i64 {
    i64::try_from(ns).unwrap_or(i64::MAX)
}
