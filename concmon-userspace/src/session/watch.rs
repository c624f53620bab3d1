//! One watch: the sources on one side, the model on the other, and the order of things between.

mod accounts;
mod closing;
mod duty;
mod newcomers;
mod readings;
mod requests;
mod starting;

use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use tokio::sync::Notify;

use newcomers::Newcomers;
pub(crate) use newcomers::Unwatched;
pub(crate) use starting::{HttpPlan, Plan};

use super::{
    PUMP, PUMP_AT_REST,
    budget::Budget,
    duty::Duty,
    intake::Intake,
    passes::Passes,
    schedule::Schedule,
    taps::{TapId, TapPlan, Taps},
};
use crate::{
    capture::Input,
    decode::{DecodeError, RawBatch},
    event::{Event, Pid, Tid},
    model::{intervals::Intervals, timing::Notice},
    procfs::clocks::{self, Clocks},
    schema::Snapshot,
    source::{
        exact::ExactLive,
        live::Live,
        pipeline::{Lifecycle, Output, Pipeline},
        requests::Requests,
    },
    targets::{Rules, Targets},
};

/// Events are passed on this much after they happened, so that those of slower CPUs arrive first:
/// the age at which the kernel sends a batch, and one of its ticks.
const HORIZON_NS: u64 = 400_000_000;
/// After the end of a window all that belongs to it has arrived by then.
pub(crate) const LATE: Duration = Duration::from_nanos(HORIZON_NS + 100_000_000);
/// What a CPU has not sent for so long is taken where it is: it sleeps. Samples sooner, for what they
/// show may go on.
const UNSENT_NS: u64 = 200_000_000;
const UNSENT_SAMPLES_NS: u64 = 30_000_000;

/// Between two searches for ended threads of which no record tells, ns: it may be lost. Each goes through all accounts.
const COLLECTION_PAUSE_NS: u64 = 1_000_000_000;
/// When nothing has come for so long, all are at rest, ns.
const REST_NS: u64 = 1_000_000_000;
/// Between two looks whether the targets still run, ns.
const TARGETS_PAUSE_NS: u64 = 500_000_000;

/// What is left to tell at the end of a watch.
pub(crate) struct Finished {
    pub(crate) notices: Vec<Notice>,
    pub(crate) window: Snapshot,
    pub(crate) summary: Snapshot,
    /// One of the rules has held.
    pub(crate) failed: bool,
    /// Bytes of the capture, or why it is not whole; `None`: nothing was recorded.
    pub(crate) recorded: Option<io::Result<u64>>,
    /// Probes that still are to be taken away, which nobody needs to wait for before the summary.
    _probes: Option<ExactLive>,
}

/// A running watch.
pub(crate) struct Watch {
    live: Live,
    intake: Intake,
    /// `None`: nobody asked for them, or they cannot be seen.
    requests: Option<Requests>,
    /// Somebody asked for them: they are told whatever the budget is.
    keeps_requests: bool,
    /// Sockets did not tell all the time since that was told last.
    has_missed_requests: bool,
    targets: Targets,
    schedule: Schedule,
    pub(crate) passes: Passes,
    /// For instants of the past on the wall clock: one mapping for the whole watch.
    clocks: Clocks,
    /// Threads with a living account that `/proc` does not have, and since when.
    missing: BTreeMap<(Tid, u64), u64>,
    /// What nobody was told of yet.
    notices: Vec<Notice>,
    rate: u32,
    budget: Budget,
    /// When it was last looked whether targets run, ns.
    targets_seen_ns: u64,
    /// A thread has ended whose account is still to be collected.
    has_ended: bool,
    /// When that was done last, ns.
    collected_ns: u64,
    /// When room for threads was given back last, ns.
    room_given_ns: u64,
    /// When records, samples, or somebody who has begun to run a program have come last, ns.
    came_ns: u64,
    damaged: u64,
    reads_failed: u64,
    /// Children are watched, too.
    follows: bool,
    /// `None`: nobody else is wanted, and nobody is left out.
    newcomers: Option<Newcomers>,
    /// Of whom the model is still to be told that they are left out.
    excluded: Vec<Pid>,
    /// Nobody asks for more than sums.
    sums_only: bool,
    /// `None`: switches are always told.
    duty: Option<Duty>,
}

impl Watch {
    /// A fact that was read; of a process, with the service that a rule says it is.
    fn fact(&mut self, mut fact: Event) {
        self.judge_service(&mut fact);
        if let Event::Python(look) = &fact
            && self.sums_only
        {
            for one in &look.loops {
                self.live.tell_slices(look.pid, one.tid);
            }
        }
        self.intake.now(fact);
    }

    fn judge_service(&mut self, fact: &mut Event) {
        if let Event::Process(process) = fact
            && let Some(newcomers) = &mut self.newcomers
        {
            process.place.rule = newcomers.service(process);
        }
    }

    /// From now on, these hold for whoever comes.
    pub(crate) fn set_rules(&mut self, rules: Rules) {
        if let Some(newcomers) = &mut self.newcomers {
            newcomers.selector().set_rules(rules);
        }
    }

    /// How many processes were wanted and may not be read, Python or not, and one of them.
    pub(crate) fn denied(&self) -> Option<(usize, Pid)> {
        self.newcomers.as_ref()?.denied()
    }

    /// For a watch that nobody asks for more than the sums of services: of few services, and without what only
    /// details are made of. Stacks of threads that run no loops are such; sums of the GIL need no stack.
    pub(crate) fn keep_sums_only(&mut self, max_groups: usize) {
        self.sums_only = true;
        self.pipeline().keep_sums_only(max_groups);
    }

    /// What all that was fed has come to.
    pub(crate) fn pipeline(&mut self) -> &mut Pipeline {
        self.intake.pipeline()
    }

    /// Descriptors that become readable when records have arrived.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = std::os::fd::BorrowedFd<'_>> {
        self.live.descriptors()
    }

    /// Takes in what has arrived, passes on what is old enough, and collects ended threads.
    pub(crate) fn pump(&mut self) {
        let now_ns = clocks::monotonic_ns();
        self.live.measure_run_time(now_ns);
        self.live.make_room();
        self.intake.at(now_ns);
        let old_ns = now_ns.saturating_sub(UNSENT_NS);
        self.take_records(old_ns);
        self.take_samples();
        let until_ns = now_ns.saturating_sub(HORIZON_NS);
        self.take_requests(old_ns, until_ns);
        self.pass_on(until_ns);
        let is_due = now_ns.saturating_sub(self.collected_ns) >= COLLECTION_PAUSE_NS;
        if std::mem::take(&mut self.has_ended) || is_due {
            self.collected_ns = now_ns;
            self.collect_ended();
        }
        self.tell_excluded();
        self.meet_newcomers(now_ns);
        self.targets.step(now_ns, &mut self.live);
        for id in self.targets.early_looks(now_ns) {
            self.read(id, now_ns);
        }
    }

    /// How long what arrives may wait until it is taken in, where nothing tells of it.
    pub(crate) fn pump_pause(&self) -> Duration {
        let rested_ns = clocks::monotonic_ns().saturating_sub(self.came_ns);
        if rested_ns >= REST_NS && self.targets.is_at_rest() {
            PUMP_AT_REST
        } else {
            PUMP
        }
    }

    /// Whether something has come.
    fn came(&mut self, something: bool) {
        if something {
            self.came_ns = clocks::monotonic_ns();
        }
    }

    /// Takes in the records that have arrived, and those that lie in batches since before `opened_ns`.
    fn take_records(&mut self, opened_ns: u64) {
        let mut arrived = Vec::new();
        self.live
            .drain(|bytes| arrived.push(RawBatch::parse(bytes)));
        self.live
            .drain_unsent(opened_ns, |bytes| arrived.push(RawBatch::parse(bytes)));
        self.came(!arrived.is_empty());
        for batch in arrived {
            self.take_batch(batch);
        }
    }

    fn take_samples(&mut self) {
        let now_ns = clocks::monotonic_ns();
        self.take_samples_of(now_ns.saturating_sub(UNSENT_SAMPLES_NS));
        self.check_steps(false);
    }

    /// The same of samples.
    fn take_samples_of(&mut self, opened_ns: u64) {
        let mut arrived = Vec::new();
        self.live
            .drain_samples(|bytes| arrived.push(bytes.to_vec()));
        self.live
            .drain_unsent_samples(opened_ns, |bytes| arrived.push(bytes.to_vec()));
        self.came(!arrived.is_empty());
        self.take_sample_batches(arrived);
    }

    /// Looks at steps that take long. `all`: at each that lasts, for a window ends.
    fn check_steps(&mut self, all: bool) {
        let mut facts = Vec::new();
        self.targets
            .check_steps(all, &self.live, |fact| facts.push(fact));
        for fact in facts {
            self.step(fact);
        }
    }

    /// What a look at a step says is about now, and does not wait for its turn.
    fn step(&mut self, fact: Event) {
        let outputs = self.intake.feed(Input::Now(fact));
        self.sort(outputs);
    }

    fn take_sample_batches(&mut self, batches: Vec<Vec<u8>>) {
        let (intake, mut facts) = (&mut self.intake, Vec::new());
        self.targets
            .take_samples(batches, &mut self.live, |cpu, event| match &event {
                Event::Sample(_) => {
                    intake.feed(Input::Ordered { cpu, event });
                }
                _ => facts.push(event),
            });
        for fact in facts {
            self.step(fact);
        }
    }

    /// Takes in all that the kernel side has told, and passes on what is of before `until_ns`.
    fn take_all(&mut self, until_ns: u64) {
        self.take_records(u64::MAX);
        self.take_samples_of(u64::MAX);
        self.take_requests(u64::MAX, until_ns);
        self.pass_on(until_ns);
    }

    fn take_batch(&mut self, batch: Result<RawBatch, DecodeError>) {
        let batch = match batch {
            Ok(batch) => batch,
            Err(error) => {
                log::debug!("a damaged batch: {error}");
                self.damaged += 1;
                return;
            }
        };
        let outputs = self.intake.feed(Input::Batch(batch));
        self.sort(outputs);
    }

    fn pass_on(&mut self, until_ns: u64) {
        let outputs = self.intake.feed(Input::Release { until_ns });
        self.sort(outputs);
    }

    /// Sees to what follows from an input; gives the window that it has ended.
    fn sort(&mut self, outputs: Vec<Output>) -> Option<Snapshot> {
        let mut ended = None;
        for output in outputs {
            match output {
                Output::Lifecycle(lifecycle) => self.follow(&lifecycle),
                Output::Notice(notice) => self.notices.push(*notice),
                Output::Window(window) => ended = Some(*window),
            }
        }
        ended
    }

    fn follow(&mut self, lifecycle: &Lifecycle) {
        self.schedule.saw(lifecycle);
        match lifecycle {
            Lifecycle::Born(fork) => self.targets.forked(fork, &mut self.live),
            Lifecycle::Replaced(exec) => self.targets.replaced(exec, &mut self.live),
            Lifecycle::Ended(exit) => {
                self.has_ended = true;
                self.targets.exited(exit, &mut self.live);
            }
        }
        self.leave_out(lifecycle);
    }

    /// Bytes recorded so far, or why it goes on no more; `None`: nothing is recorded.
    pub(crate) fn recorded(&self) -> Option<Result<u64, &io::Error>> {
        self.intake.recorded()
    }

    /// Stalls and hangs that have become known since this was asked last.
    pub(crate) fn take_notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    /// A window is to end: takes in all that belongs to it and is not read with its end.
    pub(crate) fn prepare_end(&mut self) {
        self.pump();
        // Where records leave no time for readings of their own turn, there are some all the same.
        if !self.has_begun_readings() {
            self.begin_readings();
        }
        self.read_some();
        self.take_done();
        self.check_steps(true);
    }

    /// Ends a window now: reads the ledgers, and takes what was read of processes.
    pub(crate) fn end_window(&mut self) -> Snapshot {
        let window = self.read_window();
        let window = self.close(window);
        self.intake.taps.renew(&window);
        self.suit_slices();
        window
    }

    /// Begins the recording of a service, with the window that ends next.
    pub(crate) fn open_tap(&mut self, plan: TapPlan) -> TapId {
        let id = self.intake.open_tap(plan);
        self.suit_taps();
        id
    }

    /// See [`Taps`].
    pub(crate) fn taps(&mut self) -> &mut Taps {
        &mut self.intake.taps
    }

    /// Recordings of services have begun or ended: while somebody waits for one, nothing is left out.
    pub(crate) fn suit_taps(&mut self) {
        let is_asked_for = self.intake.taps.is_asked_for();
        if let Some(duty) = &mut self.duty {
            duty.hold(is_asked_for, clocks::monotonic_ns());
        }
        if let Some(shed) = self.budget.suspend(is_asked_for) {
            self.leave_out_detail(shed);
        }
        self.suit_requests();
        self.suit_slices();
    }

    /// Ends the watch: reads everything once more while the hooks still account for it, takes them
    /// away, brings in the records that were left, and sums up. The last window comes first.
    pub(crate) fn finish(mut self, fail_on: &[String]) -> Finished {
        self.schedule.allowance.begin_last();
        self.pump();
        // What is under way ends at once, and has no part in the time of the last looks.
        self.schedule.forget_looks();
        while self.targets.is_busy() {
            self.take(true);
        }
        self.begin_readings();
        self.read_all();
        self.check_steps(true);
        let window = self.read_window();
        let read_ns = clocks::monotonic_ns();
        self.live.detach();
        self.take_all(read_ns);
        self.tell_excluded();
        self.intake.now(Event::End);
        let window = self.close(window);
        let kept = self.targets.kept().into_iter().chain(self.live.kept());
        let kept: Vec<String> = kept
            .map(|(what, count)| format!("{what} {count}"))
            .collect();
        log::info!("kept at the end: {}", kept.join(", "));
        let (accounts, histograms) = self.live.room();
        log::info!("room at the end: for {accounts} threads, histograms for {histograms} of them");
        let pipeline = self.intake.pipeline();
        Finished {
            notices: self.notices,
            window,
            summary: pipeline.summary(),
            failed: fail_on.iter().any(|rule| pipeline.has_held(rule)),
            recorded: self.intake.finish(),
            _probes: self.live.take_exact(),
        }
    }

    /// From now on, time by stack is kept for who looks at it.
    pub(crate) fn keep_intervals(&mut self) {
        self.intake.pipeline().keep_intervals();
    }

    pub(crate) fn intervals(&self) -> Option<&Intervals> {
        self.intake.intervals()
    }

    /// From now on, searches and looks are made by a thread of their own, and another one waits for the kernel.
    ///
    /// # Errors
    /// There can be no thread.
    pub(crate) fn start_worker(&mut self) -> io::Result<()> {
        self.live.start_helper()?;
        self.targets.start_worker()
    }

    /// Told when a search or a look is over.
    pub(crate) fn done(&self) -> Arc<Notify> {
        self.targets.notify()
    }

    /// Whether every process that the user asked for has ended.
    pub(crate) fn targets_gone(&mut self) -> bool {
        let newcomers = self.newcomers.as_mut();
        if newcomers.is_some_and(|newcomers| newcomers.selector().may_want_more()) {
            return false;
        }
        // Ends are told by records as well.
        let now_ns = clocks::monotonic_ns();
        if now_ns.saturating_sub(self.targets_seen_ns) >= TARGETS_PAUSE_NS {
            self.targets_seen_ns = now_ns;
            self.targets.check_named(&self.live);
        }
        !self.targets.has_named()
    }
}
