//! A loop's thread as the kernel and the interpreter tell it: slices, samples, ledgers, looks.

use std::sync::Arc;

use crate::event::*;
use crate::model::testing::*;
use crate::model::timing::{NewHang, NewStall, Notice};
use crate::schema::{Snapshot, Stall, Timing};

pub(super) const US: u64 = 1_000;
pub(super) const TID: u32 = 100;
pub(super) const LOOP: u64 = 7;
/// Of samples by the clock: 99 Hz.
const SAMPLE_NS: u64 = 10_101_010;
/// What is read of buffers is this old.
const HORIZON_NS: u64 = 400 * MS;

/// Whose step it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Who {
    pub(super) coroutine: Option<u64>,
    pub(super) function: &'static str,
}

pub(super) const fn task(coroutine: u64, function: &'static str) -> Who {
    Who {
        coroutine: Some(coroutine),
        function,
    }
}

pub(super) const fn callback(function: &'static str) -> Who {
    Who {
        coroutine: None,
        function,
    }
}

fn refuse(look: &mut PythonFact, on: bool) {
    if !on {
        let reason = "stacks are not sampled".to_owned();
        look.limits.insert("samples".to_owned(), reason);
    }
}

/// One thread that runs a loop, and the watch that sees it. Instants are ns after the start.
pub(super) struct Simulator {
    pub(super) watch: Fixture,
    pub(super) now: u64,
    pub(super) loop_id: u64,
    pub(super) kind: LoopKind,
    /// Callbacks of each turn, where not those so far are meant.
    pub(super) ready: Option<u32>,
    /// Turns so far.
    turns: u32,
    pub(super) tasks: Vec<PyTask>,
    /// Samples are taken.
    pub(super) sampled: bool,
    refused: bool,
    pub(super) collecting: bool,
    /// Whose step the eager task's is in the middle of.
    pub(super) creator: Option<u64>,
    /// What is on its way, with the instant of its arrival.
    pub(super) queue: Vec<(u64, Event)>,
    pub(super) snapshots: Vec<Snapshot>,
    pub(super) stalls: Vec<NewStall>,
    pub(super) hangs: Vec<NewHang>,
    pub(super) still_hangs: Vec<NewHang>,
    /// Somebody keeps an eye on the thread.
    pub(super) eyed: bool,
    pub(super) version: u64,
    next_sample: u64,
    next_tick: u64,
    turn_ns: u64,
    index: u32,
    step: Option<Who>,
    /// The innermost function of the step.
    pub(super) inner: &'static str,
    wait: Option<Wait>,
    in_ns: u64,
    on_cpu_ns: u64,
    blocked_ns: [u64; 9],
}

impl Simulator {
    pub(super) fn new() -> Self {
        Self::sampling(true)
    }

    /// `on`: stacks are sampled, as far as looks say.
    pub(super) fn sampling(on: bool) -> Self {
        let mut watch = Fixture::new();
        watch.read(100, TID, 0, |fact| fact.state = ThreadState::Running);
        watch.look(100, 0, |look| {
            look.loops = vec![py_loop(TID, LOOP)];
            refuse(look, on);
        });
        Simulator {
            watch,
            now: 0,
            loop_id: LOOP,
            kind: LoopKind::Asyncio,
            ready: None,
            turns: 1,
            tasks: Vec::new(),
            sampled: on,
            refused: !on,
            collecting: false,
            creator: None,
            queue: Vec::new(),
            snapshots: Vec::new(),
            stalls: Vec::new(),
            hangs: Vec::new(),
            still_hangs: Vec::new(),
            eyed: false,
            version: 10,
            next_sample: SAMPLE_NS,
            next_tick: SECOND,
            turn_ns: 0,
            index: 0,
            step: None,
            inner: "inner",
            wait: None,
            in_ns: 0,
            on_cpu_ns: 0,
            blocked_ns: [0; 9],
        }
    }

    /// On a CPU.
    pub(super) fn run(&mut self, ns: u64) -> &mut Self {
        let until = self.now + ns;
        while self.now < until {
            if self.next_sample <= self.now {
                self.next_sample += SAMPLE_NS;
                continue;
            }
            let next = until.min(self.next_sample).min(self.next_tick);
            self.now = next;
            if self.next_sample == next {
                self.next_sample += SAMPLE_NS;
                self.sample(SampleKind::OnCpu);
            }
            if self.next_tick == next {
                self.tick(ThreadState::Running, self.in_ns);
            }
        }
        self
    }

    /// Off the CPU.
    pub(super) fn block(&mut self, cause: Cause, ns: u64, waker: Option<u32>) -> &mut Self {
        let off_ns = self.now;
        self.queue_slice();
        if self.step.is_some() {
            self.sample(SampleKind::Block(cause));
        }
        let until = self.now + ns;
        let mut next_look = match self.eyed && self.step.is_some() {
            true => self.now + 110 * MS,
            false => u64::MAX,
        };
        let mut pause = 600 * MS;
        while self.now < until {
            self.now = until.min(self.next_tick).min(next_look);
            if next_look == self.now {
                next_look += std::mem::replace(&mut pause, SECOND);
                self.see(ThreadState::Blocked(cause), off_ns, off_ns);
            }
            if self.next_tick == self.now {
                self.tick(ThreadState::Blocked(cause), off_ns);
            }
        }
        self.blocked_ns[cause as usize] += ns;
        self.in_ns = self.now;
        self.wait = Some(Wait {
            off_ns: START + off_ns,
            wake_ns: Some(START + self.now),
            cause: Some(cause),
            queue: true,
            arg0: 0,
            waker: waker.map(Tid),
        });
        self
    }

    /// In the loop's selector; a turn begins when it is over.
    pub(super) fn idle(&mut self, ns: u64) -> &mut Self {
        self.block(Cause::Poll, ns, None);
        self.turn()
    }

    /// The loop did not wait between two turns.
    pub(super) fn turn(&mut self) -> &mut Self {
        self.turns += 1;
        (self.turn_ns, self.index) = (self.now, 0);
        self
    }

    pub(super) fn step(&mut self, who: Who, what: impl FnOnce(&mut Self)) -> &mut Self {
        self.version += 1;
        let around = self.step.replace(who);
        what(self);
        self.step = around;
        self.version += 1;
        self.index += u32::from(around.is_none());
        self
    }

    /// Somebody looks at the step that is under way.
    pub(super) fn fact(&mut self, name: &str, request: &str) {
        let fact = StepFact {
            read_ns: START + self.now,
            pid: Pid(100),
            tid: Tid(TID),
            context_version: self.version,
            task: Some(StepTask {
                id: 0xbeef,
                name: name.into(),
                coroutine: self.step.and_then(|who| who.coroutine),
            }),
            context: [("request_id".to_owned(), request.to_owned())].into(),
            span: SpanContext::new(0xab, Some(0xcd), Some(true)),
            ready: Some(3),
            overdue: Some(2),
            seen: None,
        };
        self.watch.apply(Event::Step(Box::new(fact)));
    }

    /// An eye on the thread sees it in this state, and in this step, since then.
    pub(super) fn see(&mut self, state: ThreadState, since: u64, step_since: u64) {
        let last = self.wait.filter(|_| state == ThreadState::Running);
        let last = last.and_then(|wait| Some((wait.off_ns, wait.wake_ns?, wait.cause?)));
        let before = self.queue.len();
        let kind = match state {
            ThreadState::Blocked(cause) => SampleKind::Block(cause),
            _ => SampleKind::OnCpu,
        };
        self.sample(kind);
        let Some((_, Event::Sample(mut sample))) = self.queue.pop() else {
            panic!("a sample was queued");
        };
        assert_eq!(self.queue.len(), before);
        if let ThreadState::Blocked(_) = state {
            sample.at_ns = START + since;
        }
        let fact = StepFact {
            read_ns: START + self.now,
            pid: Pid(100),
            tid: Tid(TID),
            context_version: self.version,
            task: None,
            context: [("request_id".to_owned(), "r-1".to_owned())].into(),
            span: SpanContext::new(0xab, Some(0xcd), Some(true)),
            ready: Some(3),
            overdue: Some(2),
            seen: Some(StepSeen {
                state,
                since_ns: START + since,
                step_since_ns: START + step_since,
                busy_from_ns: (since == 0).then_some(START),
                idle: false,
                wait: last.map(|(from_ns, to_ns, cause)| StepWait {
                    from_ns,
                    to_ns,
                    cause,
                }),
                sample: *sample,
            }),
        };
        self.watch.apply(Event::Step(Box::new(fact)));
        self.take_notices();
    }

    fn take_notices(&mut self) {
        for notice in self.watch.model.take_notices() {
            match notice {
                Notice::Stall(stall) => self.stalls.push(stall),
                Notice::Hang(hang) => self.hangs.push(hang),
                Notice::StillHangs(hang) => self.still_hangs.push(hang),
            }
        }
    }

    /// The slice that ends here.
    fn queue_slice(&mut self) {
        let on_cpu_ns = self.now - self.in_ns;
        let slice = Slice {
            tid: Tid(TID),
            cpu: 0,
            wait: self.wait.take(),
            in_ns: START + self.in_ns,
            out_ns: START + self.now,
            on_cpu_ns,
            voluntary: true,
        };
        self.on_cpu_ns += on_cpu_ns;
        self.in_ns = self.now;
        self.queue.push((self.now, Event::Slice(slice)));
    }

    fn sample(&mut self, kind: SampleKind) {
        if !self.sampled {
            return;
        }
        let mut frames = Vec::new();
        if let Some(who) = self.step {
            frames.push(frame(self.inner, 20));
            frames.push(frame(who.function, 10));
        }
        let step_frames = frames.len();
        let is_asyncio = self.kind == LoopKind::Asyncio;
        frames.push(frame("BaseEventLoop.run_forever", 1));
        let stack = SampledStack {
            frames,
            step_frames,
            in_loop: true,
            truncated: false,
        };
        let sample = Sample {
            at_ns: START + self.now,
            pid: Pid(100),
            tid: Tid(TID),
            kind,
            context_version: Some(self.version),
            iteration: (self.kind != LoopKind::Uvloop).then(|| Iteration {
                start_ns: START + self.turn_ns,
                index: self.step.map(|_| self.index).filter(|_| is_asyncio),
                count: Some(self.ready.unwrap_or(self.index + 1)).filter(|_| is_asyncio),
            }),
            turns: (self.kind == LoopKind::Uvloop).then_some(self.turns),
            creator: self.creator,
            collecting: self.collecting,
            code: (kind == SampleKind::OnCpu).then_some(CodeKind::Interpreter),
            coroutine: self.step.and_then(|who| who.coroutine),
            stack: Arc::new(stack),
        };
        self.queue.push((self.now, Event::Sample(Box::new(sample))));
    }

    fn tick(&mut self, state: ThreadState, since: u64) {
        self.next_tick += SECOND;
        let until = self.now.saturating_sub(HORIZON_NS);
        self.deliver(until);
        let snapshot = self.close(state, since);
        self.snapshots.push(snapshot);
    }

    fn deliver(&mut self, until: u64) {
        let queue = std::mem::take(&mut self.queue);
        for (at, event) in queue {
            match at <= until {
                true => {
                    self.watch.apply(event);
                }
                false => self.queue.push((at, event)),
            }
        }
    }

    fn close(&mut self, state: ThreadState, since: u64) -> Snapshot {
        let (on_cpu_ns, blocked_ns) = (self.on_cpu_ns, self.blocked_ns);
        self.watch.read(100, TID, self.now, |fact| {
            (fact.state, fact.since_ns) = (state, START + since);
            (fact.on_cpu_ns, fact.blocked_ns) = (on_cpu_ns, blocked_ns);
        });
        let (loop_id, kind, tasks) = (self.loop_id, self.kind, self.tasks.clone());
        let is_on = !self.refused;
        self.watch.look(100, self.now, |look| {
            look.threads = vec![py_thread(TID, "MainThread")];
            look.loops = vec![PyLoop {
                kind,
                ..py_loop(TID, loop_id)
            }];
            look.tasks = tasks;
            refuse(look, is_on);
        });
        let snapshot = self.watch.tick(self.now);
        self.take_notices();
        snapshot
    }

    /// Everything has arrived, and the loop has come to rest: the summary.
    pub(super) fn end(&mut self) -> Snapshot {
        self.idle(2 * SECOND);
        self.run(US);
        self.queue_slice();
        self.deliver(u64::MAX);
        self.watch.apply(Event::End);
        let last = self.close(ThreadState::Running, self.now);
        self.snapshots.push(last);
        let summary = self.watch.model.summary();
        assert_lawful(&summary);
        summary
    }
}

pub(super) fn frame(function: &str, line: u32) -> PyFrame {
    PyFrame {
        function: function.into(),
        file: "app.py".into(),
        line,
    }
}

pub(super) fn timing(snapshot: &Snapshot) -> &Timing {
    let row = &snapshot.processes[0].loops[0];
    row.timing.as_ref().expect("something was sampled")
}

/// The only stall of a watch.
pub(super) fn only_stall(summary: &Snapshot) -> &Stall {
    let timing = timing(summary);
    assert_eq!(timing.stalls_count, 1, "{:#?}", timing.stalls);
    &timing.stalls[0]
}
