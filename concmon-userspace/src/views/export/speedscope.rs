//! speedscope's JSON: shared frames, and one sampled profile per thread, the one with the most time first.
//!
//! <https://www.speedscope.app/file-format-schema.json>

use std::cmp::Reverse;
use std::collections::HashMap;
use std::io::{self, Write};

use serde::Serialize;

use super::stacks::{Frame, Stacks};

#[derive(Debug, Serialize)]
struct File<'a> {
    #[serde(rename = "$schema")]
    schema: &'static str,
    exporter: String,
    name: String,
    #[serde(rename = "activeProfileIndex")]
    active: usize,
    shared: Shared<'a>,
    profiles: Vec<Profile>,
}

#[derive(Debug, Serialize)]
struct Shared<'a> {
    frames: Vec<SharedFrame<'a>>,
}

#[derive(Debug, Serialize)]
struct SharedFrame<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    file: &'a str,
    #[serde(skip_serializing_if = "is_zero")]
    line: u32,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands out references"
)]
const fn is_zero(line: &u32) -> bool {
    *line == 0
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    #[serde(rename = "type")]
    kind: &'static str,
    name: String,
    unit: &'static str,
    start_value: u64,
    end_value: u64,
    samples: Vec<Vec<usize>>,
    weights: Vec<u64>,
}

pub(super) fn write(stacks: &Stacks, version: &str, out: &mut dyn Write) -> io::Result<()> {
    let mut frames = Vec::new();
    let mut indices: HashMap<&Frame, usize> = HashMap::new();
    let mut profiles: Vec<Profile> = Vec::new();
    for (thread, name) in &stacks.threads {
        let mut profile = Profile {
            kind: "sampled",
            name: format!(
                "{} {} ({} {})",
                name.thread, name.tid, name.process, name.pid
            ),
            unit: "nanoseconds",
            start_value: 0,
            end_value: 0,
            samples: Vec::new(),
            weights: Vec::new(),
        };
        for stack in stacks.stacks.iter().filter(|stack| stack.thread == *thread) {
            let sample = stack.frames.iter().map(|frame| {
                *indices.entry(frame).or_insert_with(|| {
                    frames.push(SharedFrame {
                        name: &frame.function,
                        file: &frame.file,
                        line: frame.line,
                    });
                    frames.len() - 1
                })
            });
            profile.samples.push(sample.collect());
            profile.weights.push(stack.ns);
            profile.end_value += stack.ns;
        }
        profiles.push(profile);
    }
    profiles.sort_by_key(|profile| Reverse(profile.end_value));
    let file = File {
        schema: "https://www.speedscope.app/file-format-schema.json",
        exporter: format!("concmon {version}"),
        name: format!("time by {}", stacks.by.name()),
        active: 0,
        shared: Shared { frames },
        profiles,
    };
    crate::views::json::write(&file, out)
}
