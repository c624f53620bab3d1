//! Recordings of single services, which begin and end while the watch of all goes on.

use std::{collections::BTreeSet, io, mem};

use crate::{
    capture::{Header, Input, Part, Recorder, Store},
    event::{Event, Pid},
    schema::Snapshot,
};

/// Which recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TapId(u64);

/// What is to be recorded.
#[derive(Debug)]
pub(crate) struct TapPlan {
    pub(crate) service: String,
    /// Its processes now.
    pub(crate) processes: BTreeSet<Pid>,
    pub(crate) store: Box<dyn Store>,
    /// It ends where it would be longer, bytes.
    pub(crate) most_bytes: u64,
    /// Somebody waits for it: nothing is left out meanwhile, whatever the budget is.
    pub(crate) is_asked_for: bool,
}

/// How far it has come.
#[derive(Debug)]
enum Phase {
    Running,
    /// It ends with the window that ends next.
    Last,
    /// Facts at the end of that window. Records of what was before are still under way, and come first.
    Held(Vec<Input>),
    /// The same, with the tick that they end with.
    Ended(Vec<Input>, u64),
}

/// A recording that goes on.
#[derive(Debug)]
struct Tap {
    id: TapId,
    service: String,
    part: Part,
    recorder: Recorder,
    most_bytes: u64,
    is_asked_for: bool,
    phase: Phase,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Taps {
    all: Vec<Tap>,
    last: u64,
    /// Something is made yet of one that has ended.
    held: bool,
}

impl Taps {
    pub(crate) const fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Begins one, with the window that ends next.
    pub(crate) fn open(&mut self, plan: TapPlan, header: &Header) -> TapId {
        self.last += 1;
        let id = TapId(self.last);
        self.all.push(Tap {
            id,
            service: plan.service,
            part: Part::new(plan.processes),
            recorder: Recorder::new(plan.store, header),
            most_bytes: plan.most_bytes,
            is_asked_for: plan.is_asked_for,
            phase: Phase::Running,
        });
        id
    }

    /// Whose processes they are about.
    pub(crate) fn processes(&self) -> BTreeSet<Pid> {
        let all = self.all.iter();
        all.flat_map(|tap| tap.part.processes().iter().copied())
            .collect()
    }

    /// Somebody waits for one of them, or for what is made of one.
    pub(crate) fn is_asked_for(&self) -> bool {
        self.held || self.all.iter().any(|tap| tap.is_asked_for)
    }

    /// Whether something is made yet of one that has ended.
    pub(crate) const fn hold(&mut self, held: bool) {
        self.held = held;
    }

    /// It ends with the window that ends next. What belongs to it and comes later is taken until [`Self::close`].
    pub(crate) fn end_with_window(&mut self, id: TapId) {
        if let Some(tap) = self.all.iter_mut().find(|tap| tap.id == id) {
            tap.phase = Phase::Last;
        }
    }

    /// Has all kept that it has taken in.
    pub(crate) fn seal(&mut self, id: TapId) {
        if let Some(tap) = self.all.iter_mut().find(|tap| tap.id == id) {
            tap.recorder.seal();
        }
    }

    /// Gives it up.
    pub(crate) fn abandon(&mut self, id: TapId) {
        self.all.retain(|tap| tap.id != id);
    }

    /// Ends it, and gives how long it is.
    ///
    /// # Errors
    /// It is not whole.
    pub(crate) fn close(&mut self, id: TapId) -> io::Result<u64> {
        let at = self.all.iter().position(|tap| tap.id == id);
        let at = at.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        self.all.swap_remove(at).close()
    }

    pub(crate) fn input(&mut self, input: &Input) {
        for tap in &mut self.all {
            tap.input(input);
        }
    }

    /// What comes next arrives at this instant.
    pub(crate) fn at(&mut self, now_ns: u64) {
        for tap in &mut self.all {
            tap.recorder.now(now_ns);
        }
    }

    /// The facts of a tick come next.
    pub(crate) fn key(&mut self, now_ns: u64) {
        for tap in &mut self.all {
            match tap.phase {
                Phase::Running => tap.recorder.key(now_ns),
                Phase::Last => tap.phase = Phase::Held(Vec::new()),
                Phase::Held(_) | Phase::Ended(..) => {}
            }
        }
    }

    /// A window has ended, which knows whose processes are whose.
    pub(crate) fn renew(&mut self, window: &Snapshot) {
        for tap in &mut self.all {
            let before = tap.part.processes();
            let processes = window.processes.iter();
            let members = processes.filter(|process| match &process.group {
                Some(group) => *group == tap.service,
                // It goes with its parent, unless it turns out to be something else.
                None => before.contains(&Pid(process.pid)),
            });
            let members: Vec<Pid> = members.map(|process| Pid(process.pid)).collect();
            tap.part.renew(members);
        }
    }
}

impl Tap {
    fn input(&mut self, input: &Input) {
        if self.recorder.bytes() > self.most_bytes {
            return;
        }
        let is_late = match (&self.phase, input) {
            (Phase::Ended(_, tick_ns), Input::Release { until_ns }) => until_ns > tick_ns,
            (Phase::Ended(..), Input::Now(_)) => true,
            _ => false,
        };
        if is_late {
            return;
        }
        let Some(part) = self.part.of(input) else {
            return;
        };
        match (&mut self.phase, part) {
            (Phase::Held(held), part @ Input::Now(_)) => {
                let tick = match &part {
                    Input::Now(Event::Tick(tick)) => Some(tick.at_ns),
                    _ => None,
                };
                held.push(part);
                if let Some(tick_ns) = tick {
                    self.phase = Phase::Ended(mem::take(held), tick_ns);
                }
            }
            (_, part) => self.recorder.input(&part),
        }
    }

    fn close(mut self) -> io::Result<u64> {
        let bytes = self.recorder.bytes();
        if bytes > self.most_bytes {
            let text = format!("it is longer than {} bytes", self.most_bytes);
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
        }
        if let Phase::Ended(held, until_ns) = self.phase {
            // As at the end of a watch.
            self.recorder.input(&Input::Release { until_ns });
            self.recorder.input(&Input::Now(Event::End));
            self.recorder.key(until_ns);
            held.iter().for_each(|input| self.recorder.input(input));
        }
        self.recorder.finish()
    }
}
