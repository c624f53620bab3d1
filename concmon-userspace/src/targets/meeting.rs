//! How a process that runs already comes under watch: the worker looks for its interpreter first, for whoever has
//! none is not watched.

use super::{
    TargetId, Targets, holder_mut,
    readings::{Done, Work},
    set_unwind,
    target::Target,
};
use crate::{
    event::Pid,
    python::{DetectError, Interpreter},
    source::live::{Live, LiveError},
};

impl Targets {
    /// Has a process looked at that may be wanted; [`Taken::met`](super::readings::Taken) tells.
    pub(crate) fn meet(&mut self, pid: Pid) {
        let id = TargetId::of(pid);
        self.worker.run(Box::new(move || Done {
            id,
            program: 0,
            work: Work::Met(Box::new(Interpreter::attach(pid))),
        }));
    }

    /// As [`adopt`](Self::adopt), of a process that the user may want: where it has no interpreter, it is forgotten.
    ///
    /// # Errors
    /// It is not Python, is just starting, or cannot be read.
    pub(crate) fn try_adopt(&mut self, pid: Pid) -> Result<(), DetectError> {
        let adopted = self.adopt(pid, true);
        let is_found = self.holder(pid).is_some_and(Target::is_attached);
        if is_found {
            return Ok(());
        }
        if let Some(id) = self.holder(pid).map(|target| target.id) {
            self.living.remove(&id);
        }
        adopted.and(Err(DetectError::Starting))
    }

    /// The user asked for a process that is known already; `named`: by itself.
    pub(crate) fn name(&mut self, pid: Pid, named: bool) {
        if let Some(target) = holder_mut(&mut self.living, pid) {
            target.named |= named;
        }
    }

    /// Whether `pid` is known already.
    pub(crate) fn holds(&self, pid: Pid) -> bool {
        self.holder(pid).is_some()
    }

    /// Takes in a process whose interpreter was found; `follow`: and the children that it will have. Its threads
    /// have accounts once they are seeded. `false`: its id has another holder by now.
    ///
    /// # Errors
    /// There is no room for it.
    pub(crate) fn join(
        &mut self,
        id: TargetId,
        interpreter: Interpreter,
        follow: bool,
        live: &mut Live,
    ) -> Result<bool, LiveError> {
        if self.holds(id.pid) || TargetId::of(id.pid) != id {
            return Ok(false);
        }
        self.insert(id, None);
        let Some(target) = self.living.get_mut(&id) else {
            return Ok(false);
        };
        target.named = true;
        target.take_interpreter(interpreter, &mut self.gils);
        if let Err(error) = live.watch(id.pid, target.gils(), follow) {
            self.ended(id.pid, live);
            return Err(error);
        }
        set_unwind(target, live, self.wants);
        Ok(true)
    }

    /// Takes in a child whose fork was not seen, and the children that it will have; what it runs is searched for.
    ///
    /// # Errors
    /// There is no room for it.
    pub(crate) fn join_child(&mut self, pid: Pid, live: &mut Live) -> Result<(), LiveError> {
        if !self.holds(pid) {
            self.insert(TargetId::of(pid), None);
        }
        self.watch_one(pid, live)
    }

    /// A process is not to be watched after all: nothing of it is kept.
    pub(crate) fn exclude(&mut self, pid: Pid, live: &mut Live) {
        live.unwatch(pid);
        self.ended(pid, live);
    }
}
