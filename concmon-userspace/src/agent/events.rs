//! What happens in services, and is told once: stalls, hangs, findings that begin and end.

use std::{collections::BTreeMap, mem};

use serde::{Deserialize, Serialize};

use crate::{
    model::timing::Notice,
    schema::{Delayed, Frame, Process, Severity, Snapshot, Trace},
};

/// Of one window.
const MAX_EVENTS: usize = 1_024;
/// Bytes of a text, frames of a stack, and values of a context that are told.
const MAX_TEXT: usize = 256;
const MAX_FRAMES: usize = 32;
const MAX_VALUES: usize = 16;
/// The service of a process of which none is known, as OpenTelemetry calls it.
const UNKNOWN: &str = "unknown_service";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Event {
    pub(super) service: String,
    pub(super) pid: u32,
    /// When it began; of a finding that ends, when it did.
    pub(super) at_unix_ns: u64,
    /// How long it took, or has lasted so far.
    pub(super) duration_ns: u64,
    pub(super) what: What,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum What {
    /// A step kept an event loop for long.
    Stall(Step),
    /// One has for long, and still does.
    Hang(Step),
    Finding(Held),
}

/// A step of an event loop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Step {
    pub(super) cause: String,
    /// Whose event loop it is.
    pub(super) kind: String,
    pub(super) task: Option<String>,
    pub(super) coroutine: Option<String>,
    /// The innermost frame first.
    pub(super) stack: Vec<Place>,
    pub(super) trace: Option<SpanIds>,
    /// Values of context variables that may be told.
    pub(super) context: BTreeMap<String, String>,
    /// HTTP requests that waited meanwhile.
    pub(super) delayed: Option<Delayed>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    pub(super) function: String,
    pub(super) file: String,
    pub(super) line: u32,
}

/// A span of the user's own trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SpanIds {
    pub(super) trace_id: [u8; 16],
    pub(super) span_id: Option<[u8; 8]>,
    pub(super) sampled: bool,
}

/// A finding that begins or ends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Held {
    pub(super) rule: String,
    pub(super) severity: String,
    pub(super) summary: String,
    pub(super) raised: bool,
}

/// What is known of a finding that holds: when it began, its severity, and what it says.
type Known = (u64, Severity, String);

/// Makes events of what windows and their notices tell.
#[derive(Debug, Default)]
pub(super) struct Events {
    /// Context variables whose values may be told.
    allowed: Vec<String>,
    notices: Vec<Notice>,
    /// Findings that hold, by process (id and start) and rule, with the process's service.
    holding: BTreeMap<(u32, u64, &'static str), (String, Known)>,
    /// Events that found no room since this was asked last.
    lost: u64,
}

impl Events {
    pub(super) fn new(allowed: &[String]) -> Self {
        Self {
            allowed: allowed.to_vec(),
            ..Self::default()
        }
    }

    pub(super) fn take(&mut self, mut notices: Vec<Notice>) {
        notices.retain(|notice| !matches!(notice, Notice::StillHangs(_)));
        let room = MAX_EVENTS.saturating_sub(self.notices.len());
        self.lost += notices.len().saturating_sub(room) as u64;
        self.notices.extend(notices.into_iter().take(room));
    }

    pub(super) fn take_lost(&mut self) -> u64 {
        mem::take(&mut self.lost)
    }

    /// The events of a window that has ended, which knows whose processes they are: findings first, but no more than
    /// there is `room` for; others of them are told of the next window.
    pub(super) fn of_window(&mut self, window: &Snapshot, room: usize) -> Vec<Event> {
        let of = window.window;
        let mut events = Vec::new();
        self.findings(
            window,
            of.start_unix_ns.saturating_add(of.duration_ns),
            room.min(MAX_EVENTS),
            &mut events,
        );
        let service = |pid: u32| {
            let found = window.processes.iter().find(|process| process.pid == pid);
            found.map_or_else(|| UNKNOWN.to_owned(), service)
        };
        let notices = mem::take(&mut self.notices);
        let notices = notices.into_iter();
        events.extend(notices.map(|notice| self.of_notice(notice, &service)));
        self.lost += events.len().saturating_sub(MAX_EVENTS) as u64;
        events.truncate(MAX_EVENTS);
        events
    }

    fn of_notice(&self, notice: Notice, service: &impl Fn(u32) -> String) -> Event {
        let (pid, at_unix_ns, duration_ns, what) = match notice {
            Notice::Stall(new) => {
                let stall = new.stall;
                let step = Step {
                    cause: stall.culprit.kind.name().to_owned(),
                    kind: new.kind.name().to_owned(),
                    task: stall.task.map(|task| clip(&task.name)),
                    coroutine: stall.coroutine.as_deref().map(clip),
                    stack: places(&stall.stack),
                    trace: stall.trace.as_ref().and_then(SpanIds::of),
                    context: self.told(stall.context),
                    delayed: stall.delayed,
                };
                let what = What::Stall(step);
                (new.pid, stall.at_unix_ns, stall.duration_ns, what)
            }
            Notice::Hang(new) | Notice::StillHangs(new) => {
                let hang = new.hang;
                let step = Step {
                    cause: hang.cause.name().to_owned(),
                    kind: new.kind.name().to_owned(),
                    task: hang.task.map(|task| clip(&task.name)),
                    coroutine: hang.coroutine.as_deref().map(clip),
                    stack: places(&hang.stack),
                    trace: hang.trace.as_ref().and_then(SpanIds::of),
                    context: self.told(hang.context),
                    delayed: hang.delayed,
                };
                let what = What::Hang(step);
                (new.pid, hang.since_unix_ns, hang.lasting_ns, what)
            }
        };
        Event {
            service: service(pid),
            pid,
            at_unix_ns,
            duration_ns,
            what,
        }
    }

    /// The values that may be told.
    fn told(&self, context: BTreeMap<String, String>) -> BTreeMap<String, String> {
        let allowed = context
            .into_iter()
            .filter(|(name, _)| self.allowed.contains(name));
        allowed
            .take(MAX_VALUES)
            .map(|(name, value)| (clip(&name), clip(&value)))
            .collect()
    }

    /// Findings that hold now and did not, and the other way round. Past `room` they stay as they were.
    fn findings(
        &mut self,
        window: &Snapshot,
        now_unix_ns: u64,
        room: usize,
        events: &mut Vec<Event>,
    ) {
        let before = mem::take(&mut self.holding);
        for process in &window.processes {
            for finding in process.findings.iter().filter(|_| process.exited.is_none()) {
                let key = (process.pid, process.start_unix_ns, finding.rule);
                let known = (
                    finding.since_unix_ns,
                    finding.severity,
                    clip(&finding.summary),
                );
                self.holding.insert(key, (service(process), known));
            }
        }
        let event =
            |(pid, _, rule): &(u32, u64, &'static str), service: &str, known: &Known, raised| {
                let (since_unix_ns, severity, summary) = known;
                Event {
                    service: service.to_owned(),
                    pid: *pid,
                    at_unix_ns: if raised { *since_unix_ns } else { now_unix_ns },
                    duration_ns: now_unix_ns.saturating_sub(*since_unix_ns),
                    what: What::Finding(Held {
                        rule: (*rule).to_owned(),
                        severity: severity.name().to_owned(),
                        summary: summary.clone(),
                        raised,
                    }),
                }
            };
        let mut left = room;
        let mut has_room = || {
            let has = left > 0;
            left = left.saturating_sub(1);
            has
        };
        let mut kept = Vec::new();
        for (key, of) in &before {
            if self.holding.contains_key(key) {
                continue;
            }
            match has_room() {
                true => events.push(event(key, &of.0, &of.1, false)),
                false => kept.push((*key, of.clone())),
            }
        }
        self.holding.retain(|key, (service, known)| {
            let is_told = before.contains_key(key) || has_room();
            if is_told && !before.contains_key(key) {
                events.push(event(key, service, known, true));
            }
            is_told
        });
        self.holding.extend(kept);
    }
}

impl Event {
    /// About how many bytes it takes.
    pub(super) fn size(&self) -> usize {
        let texts: usize = match &self.what {
            What::Stall(step) | What::Hang(step) => {
                let places = step.stack.iter();
                let places = places.map(|place| place.function.len() + place.file.len() + 56);
                let values = step.context.iter();
                let values = values.map(|(name, value)| name.len() + value.len() + 48);
                places.chain(values).sum::<usize>()
                    + step.task.as_ref().map_or(0, String::len)
                    + step.coroutine.as_ref().map_or(0, String::len)
            }
            What::Finding(held) => held.rule.len() + held.severity.len() + held.summary.len(),
        };
        size_of::<Self>() + self.service.len() + texts
    }
}

impl SpanIds {
    fn of(trace: &Trace) -> Option<Self> {
        Some(Self {
            trace_id: u128::from_str_radix(&trace.trace_id, 16)
                .ok()?
                .to_be_bytes(),
            span_id: match &trace.span_id {
                Some(id) => Some(u64::from_str_radix(id, 16).ok()?.to_be_bytes()),
                None => None,
            },
            sampled: trace.sampled == Some(true),
        })
    }
}

fn places(stack: &[Frame]) -> Vec<Place> {
    let places = stack.iter().take(MAX_FRAMES).map(|frame| Place {
        function: clip(&frame.function),
        file: clip(&frame.file),
        line: frame.line,
    });
    places.collect()
}

fn service(process: &Process) -> String {
    let group = process.group.clone();
    group.unwrap_or_else(|| UNKNOWN.to_owned())
}

fn clip(text: &str) -> String {
    let ends = text.char_indices().map(|(at, sign)| at + sign.len_utf8());
    let end = ends.take_while(|end| *end <= MAX_TEXT).last();
    text[..end.unwrap_or(0)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{
            testing::{Fixture, SECOND},
            timing::NewStall,
        },
        schema::{Address, Cost, Culprit, CulpritKind, Finding, LoopKind, Stall, StallTask},
    };

    /// A window of one process.
    fn window(end_ns: u64, findings: &[&'static str]) -> Snapshot {
        let mut fixture = Fixture::new();
        let mut window = fixture.read(7, 7, end_ns, |_| {}).tick(end_ns);
        let process = window.processes.first_mut().expect("a process");
        process.group = Some("shop".to_owned());
        process.findings = findings
            .iter()
            .map(|rule| Finding {
                rule,
                severity: Severity::Warning,
                summary: "it holds".to_owned(),
                evidence: BTreeMap::new(),
                advice: String::new(),
                since_unix_ns: 5,
                active_ns: 1,
            })
            .collect();
        window
    }

    const DELAYED: Delayed = Delayed {
        requests: 3,
        delay_ns: 9,
        unread_ns: 4,
    };

    fn stall(pid: u32) -> Notice {
        let frame = Frame {
            function: "f".repeat(10_000).into(),
            file: "/srv/app.py".into(),
            line: 3,
        };
        Notice::Stall(NewStall {
            pid,
            tid: pid,
            kind: LoopKind::Uvloop,
            stall: Stall {
                at_unix_ns: 9,
                duration_ns: 4,
                cost: Cost::default(),
                collecting_ns: 0,
                culprit: Culprit {
                    kind: CulpritKind::Io,
                    frame: None,
                    holder_tid: None,
                },
                task: Some(StallTask {
                    id: Address(1),
                    name: "Task-1".to_owned(),
                }),
                coroutine: None,
                creator: None,
                stack: vec![frame; 100],
                context: BTreeMap::from([
                    ("request_id".to_owned(), "r-1".to_owned()),
                    ("password".to_owned(), "secret".to_owned()),
                ]),
                trace: Some(Trace {
                    trace_id: "000000000000000000000000000000ab".to_owned(),
                    span_id: Some("00000000000000cd".to_owned()),
                    sampled: Some(true),
                }),
                waiting: None,
                delayed: Some(DELAYED),
                samples: 1,
                estimated: Vec::new(),
                limits: Vec::new(),
            },
            holder: None,
        })
    }

    #[test]
    fn stalls_are_told_within_bounds_and_without_what_is_not_allowed() {
        let mut events = Events::new(&["request_id".to_owned()]);
        events.take(vec![stall(7), stall(8)]);
        let told = events.of_window(&window(SECOND, &[]), MAX_EVENTS);
        let services: Vec<&str> = told.iter().map(|event| &*event.service).collect();
        assert_eq!(services, ["shop", UNKNOWN]);
        let What::Stall(step) = &told[0].what else {
            panic!("{told:?}");
        };
        assert_eq!((&*step.cause, &*step.kind), ("io", "uvloop"));
        assert_eq!(step.delayed, Some(DELAYED));
        assert_eq!(step.stack.len(), MAX_FRAMES);
        assert_eq!(step.stack[0].function.len(), MAX_TEXT);
        assert_eq!(step.context.keys().collect::<Vec<_>>(), ["request_id"]);
        let ids = step.trace.expect("its trace");
        assert_eq!((ids.trace_id[15], ids.sampled), (0xab, true));
        assert_eq!(ids.span_id, Some([0, 0, 0, 0, 0, 0, 0, 0xcd]));
        assert!(told[0].size() > MAX_FRAMES * MAX_TEXT);
        let mut closed = Events::new(&[]);
        closed.take(vec![stall(7)]);
        let told = closed.of_window(&window(SECOND, &[]), MAX_EVENTS);
        assert!(!format!("{told:?}").contains("r-1"), "{told:?}");
    }

    /// So that a message has room for its events, whatever is in them.
    #[test]
    fn texts_are_bounded_by_bytes() {
        assert_eq!(clip("abc"), "abc");
        assert_eq!(clip(&"\u{1f40d}".repeat(100)).len(), MAX_TEXT);
        assert_eq!(clip(&"\u{20ac}".repeat(100)).len(), MAX_TEXT - 1);
    }

    /// Findings go before stalls, and are told later where there is no room.
    #[test]
    fn findings_are_told_in_any_case() {
        let mut events = Events::new(&[]);
        let mut told = |end_ns, stalls, room, findings: &[&'static str]| {
            events.take(vec![stall(7); stalls]);
            let told = events.of_window(&window(end_ns, findings), room);
            let of_findings = told.iter().map_while(|event| match &event.what {
                What::Finding(held) => Some((held.rule.clone(), held.raised)),
                What::Stall(_) | What::Hang(_) => None,
            });
            (of_findings.collect::<Vec<_>>(), told.len())
        };
        let raised = |rule: &str, raised| (rule.to_owned(), raised);
        let (one, two) = ("gil-contention", "loop-blocked");
        let (findings, count) = told(SECOND, MAX_EVENTS, 9, &[one]);
        assert_eq!((findings, count), (vec![raised(one, true)], MAX_EVENTS));
        assert_eq!(told(2 * SECOND, 0, 0, &[two]), (vec![], 0));
        let (findings, _) = told(3 * SECOND, 0, 1, &[two]);
        assert_eq!(findings, [raised(one, false)]);
        let (findings, _) = told(4 * SECOND, 0, 1, &[two]);
        assert_eq!(findings, [raised(two, true)]);
    }

    #[test]
    fn more_than_there_is_room_for_is_counted() {
        let mut events = Events::new(&[]);
        events.take(vec![stall(7); MAX_EVENTS + 3]);
        events.take(vec![stall(7)]);
        assert_eq!(
            events.of_window(&window(SECOND, &[]), MAX_EVENTS).len(),
            MAX_EVENTS
        );
        assert_eq!((events.take_lost(), events.take_lost()), (4, 0));
    }

    #[test]
    fn findings_are_told_when_they_begin_and_when_they_end() {
        let mut events = Events::default();
        let mut told = |end_ns, findings: &[&'static str]| {
            let told = events
                .of_window(&window(end_ns, findings), MAX_EVENTS)
                .into_iter();
            told.map(|event| match event.what {
                What::Finding(held) => (held.rule, held.raised),
                other => panic!("{other:?}"),
            })
            .collect::<Vec<_>>()
        };
        let raised = |rule: &str, raised| (rule.to_owned(), raised);
        let (one, two) = ("gil-contention", "loop-blocked");
        assert_eq!(told(SECOND, &[one]), [raised(one, true)]);
        assert_eq!(told(2 * SECOND, &[one, two]), [raised(two, true)]);
        assert_eq!(told(3 * SECOND, &[one, two]), []);
        assert_eq!(told(4 * SECOND, &[two]), [raised(one, false)]);
        assert_eq!(told(5 * SECOND, &[]), [raised(two, false)]);
    }
}
