//! What several views say about a loop's time: stalls, lag, saturation, costs by name.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write};

use super::escape::{brief, cut_front};
use super::{Form, Paint, digest, format, json, requests};
use crate::model::timing::Notice;
use crate::schema::{
    Cost, Culprit, CulpritKind, Delayed, Frame, Hang, HangLine, Stall, StallLine, StallTask,
    Timing, Waiting,
};

/// Cells of a place, a name, a value of a context variable.
const MAX_PLACE: usize = 72;
const MAX_NAME: usize = 40;
const MAX_VALUE: usize = 48;
/// Names and contributors in one line.
const MAX_NAMES: usize = 4;

/// Writes a stall or a hang as one line of JSON.
///
/// # Errors
/// What the writer says.
pub fn write_json(notice: &Notice, out: &mut dyn Write) -> io::Result<()> {
    match notice {
        Notice::Stall(new) => {
            json::write(&StallLine::new(new.pid, new.tid, new.kind, &new.stall), out)
        }
        Notice::Hang(new) | Notice::StillHangs(new) => {
            json::write(&HangLine::new(new.pid, new.tid, new.kind, &new.hang), out)
        }
    }
}

/// Writes a stall or a hang as one line for people.
///
/// # Errors
/// What the writer says.
pub fn write_line(notice: &Notice, form: Form, out: &mut dyn Write) -> io::Result<()> {
    let (what, line) = match notice {
        Notice::Stall(new) => {
            let line = named_line(&new.stall, new.holder.as_deref());
            (format!("stall {}:", new.pid), line)
        }
        Notice::Hang(new) | Notice::StillHangs(new) => {
            let line = named_hang(&new.hang, new.holder.as_deref());
            (format!("HANG {}:", new.pid), line)
        }
    };
    let mut text = String::new();
    form.wrap(
        &mut text,
        0,
        4,
        &format!("{} {line}", form.paint.alarm(&what)),
    );
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// `12:30:01.120Z 152ms sleep: slow (app.py:10) in slow-1, request_id=7; 3 ready, 2 timers late`.
pub(super) fn line(stall: &Stall) -> String {
    named_line(stall, None)
}

/// With the name of the thread that had the GIL, where that is known.
fn named_line(stall: &Stall, holder: Option<&str>) -> String {
    let mut text = format!(
        "{} {} {}",
        format::precise_time_of_day(stall.at_unix_ns),
        format::duration(stall.duration_ns),
        culprit(&stall.culprit, holder)
    );
    let about = About {
        task: stall.task.as_ref(),
        coroutine: stall.coroutine.as_deref(),
        creator: stall.creator.as_ref(),
        context: &stall.context,
        waiting: stall.waiting,
        delayed: stall.delayed,
    };
    about.write(&mut text);
    text
}

/// `for at least 12s (since before the watch) lock: fetch (app.py:10) in task T (fetch), request_id=7; meanwhile 3 ready`.
pub(super) fn hang(hang: &Hang) -> String {
    named_hang(hang, None)
}

fn named_hang(hang: &Hang, holder: Option<&str>) -> String {
    let (at_least, since) = match hang.before_watch {
        true => ("at least ", "before the watch".to_owned()),
        false => ("", format::precise_time_of_day(hang.since_unix_ns)),
    };
    let culprit_of = Culprit {
        kind: hang.cause,
        frame: hang.frame.clone(),
        holder_tid: hang.holder_tid,
    };
    let mut text = format!(
        "for {at_least}{} (since {since}) {}",
        format::duration(hang.lasting_ns),
        culprit(&culprit_of, holder)
    );
    let about = About {
        task: hang.task.as_ref(),
        coroutine: hang.coroutine.as_deref(),
        creator: hang.creator.as_ref(),
        context: &hang.context,
        waiting: hang.waiting,
        delayed: hang.delayed,
    };
    about.write(&mut text);
    text
}

/// What a step is about.
struct About<'a> {
    task: Option<&'a StallTask>,
    coroutine: Option<&'a str>,
    /// Of an eager one.
    creator: Option<&'a StallTask>,
    context: &'a BTreeMap<String, String>,
    waiting: Option<Waiting>,
    delayed: Option<Delayed>,
}

impl About<'_> {
    fn write(&self, text: &mut String) {
        if let Some(task) = self.task {
            let _ = write!(text, " in task {}", brief(&task.name, MAX_NAME));
            if let Some(coroutine) = self.coroutine {
                let _ = write!(text, " ({})", brief(coroutine, MAX_NAME));
            }
        } else if let Some(coroutine) = self.coroutine {
            let _ = write!(text, " in {}", brief(coroutine, MAX_NAME));
        }
        if let Some(creator) = self.creator {
            let _ = write!(text, ", eager, made by {}", brief(&creator.name, MAX_NAME));
        }
        for (name, value) in self.context {
            let _ = write!(
                text,
                ", {}={}",
                brief(name, MAX_NAME),
                brief(value, MAX_VALUE)
            );
        }
        if let Some(waiting) = self.waiting {
            let ready = waiting.ready.filter(|ready| *ready > 0);
            let overdue = waiting.overdue.filter(|overdue| *overdue > 0);
            let parts: Vec<String> = [
                ready.map(|ready| format!("{ready} ready")),
                overdue.map(|overdue| format!("{} late", digest::plural(overdue, "timer"))),
            ]
            .into_iter()
            .flatten()
            .collect();
            if !parts.is_empty() {
                let _ = write!(text, "; meanwhile {}", parts.join(", "));
            }
        }
        if let Some(delayed) = &self.delayed {
            let _ = write!(text, "; {}", requests::delayed(delayed));
        }
    }
}

/// What it was, and where: `sleep: slow (app.py:10)`.
fn culprit(culprit: &Culprit, holder: Option<&str>) -> String {
    let what = match culprit.kind {
        CulpritKind::Cpu => "on CPU",
        CulpritKind::Gc => "garbage collection",
        CulpritKind::Gil => "waiting for the GIL",
        CulpritKind::Runnable => "waiting for a CPU",
        other => other.name(),
    };
    let place = culprit.frame.as_ref().map(place);
    let holder = culprit.holder_tid.map(|tid| match holder {
        Some(name) => format!("{} ({tid})", brief(name, MAX_NAME)),
        None => format!("thread {tid}"),
    });
    match (place, holder) {
        (Some(place), Some(holder)) => format!("{what}, held by {holder}: {place}"),
        (None, Some(holder)) => format!("{what}, held by {holder}"),
        (Some(place), None) => format!("{what}: {place}"),
        (None, None) => what.to_owned(),
    }
}

/// `function (file:line)`.
pub(super) fn place(frame: &Frame) -> String {
    let file = frame.file.rsplit('/').next().unwrap_or(&frame.file);
    let text = format!("{} ({file}:{})", frame.function, frame.line);
    cut_front(&super::escape::escape(&text), MAX_PLACE).into_owned()
}

/// `lag ~p50 0.5ms p99 12ms max 150ms, steps p99 ~3ms, 2 stalls 300ms`.
pub(super) fn timing(timing: &Timing, duration_ns: u64, paint: Paint) -> String {
    let mut parts = Vec::new();
    if let Some(lag) = &timing.lag {
        parts.push(format!(
            "lag ~p50 {} p99 {} max {}",
            format::maybe_duration(lag.p50_ns),
            format::maybe_duration(lag.p99_ns),
            format::maybe_duration(lag.max_ns)
        ));
    }
    if let Some(step) = &timing.step {
        parts.push(format!(
            "steps ~{}/s p99 {} max {}",
            format::rate(step.count, duration_ns),
            format::maybe_duration(step.p99_ns),
            format::maybe_duration(step.max_ns)
        ));
    }
    if timing.stalls_count > 0 {
        let stalls = format!(
            "{} {}",
            digest::plural(timing.stalls_count, "stall"),
            format::duration(timing.stalls_ns)
        );
        parts.push(paint.alarm(&stalls));
        parts.extend(timing.delayed.as_ref().map(requests::delayed));
    }
    if timing.saturation.busy_ns > 0 {
        let top: Vec<String> = timing
            .saturation
            .top
            .iter()
            .take(MAX_NAMES)
            .map(|one| {
                let share = format::share_percent(one.busy_ns, timing.saturation.busy_ns);
                format!("{} ~{share}", brief(&one.name, MAX_NAME))
            })
            .collect();
        parts.push(format!(
            "saturated {} by {}",
            format::duration(timing.saturation.busy_ns),
            if top.is_empty() {
                "?".to_owned()
            } else {
                top.join(", ")
            }
        ));
    }
    parts.join(", ")
}

/// The names that cost the most: `handler ~41%`, of the wall time.
pub(super) fn names<'a>(rows: impl Iterator<Item = (&'a str, &'a Cost)>, wall_ns: u64) -> String {
    let costly = rows.filter(|(_, cost)| cost.total_ns() > wall_ns / 200);
    let shown: Vec<String> = costly
        .take(MAX_NAMES)
        .map(|(name, cost)| format!("{} {}", brief(name, MAX_NAME), shares(cost, wall_ns)))
        .collect();
    shown.join(", ")
}

/// `~41% cpu`, `~3% cpu 12% blocked`.
fn shares(cost: &Cost, wall_ns: u64) -> String {
    let mut text = format!("~{} cpu", format::share_percent(cost.on_cpu_ns, wall_ns));
    let blocked = cost
        .total_ns()
        .saturating_sub(cost.on_cpu_ns)
        .saturating_sub(cost.runnable_ns);
    if blocked > wall_ns / 200 {
        let _ = write!(text, " {} blocked", format::share_percent(blocked, wall_ns));
    }
    text
}
