//! The end of a window: what is read at it, and what the tool says of itself.

use std::{mem, time::Duration};

use super::{super::budget::Shed, Watch};
use crate::{
    capture::Input,
    event::{BudgetFact, Event, MonitorFact, Tick},
    procfs::clocks::{self, Clocks},
    python::MOST_TASKS,
    schema::Snapshot,
    source::{
        live::{KernelRun, named_faults},
        requests::Requests,
    },
};

/// Between two times that room for threads is given back, ns.
const ROOM_PAUSE_NS: u64 = 5_000_000_000;
/// Between two stacks of a thread that runs no loop, when it blocks for the same cause and sums are all that is asked
/// for, in the long run.
const STACK_INTERVAL: Duration = Duration::from_secs(30);
/// What the kernel side calls it that it had no room to tell who begins to run a program.
const UNHEARD: &str = concmon_ebpf::fault::NAMES[concmon_ebpf::fault::EXEC_ROOM as usize];

/// What was read at the end of a window.
pub(super) struct WindowFacts {
    ledgers: Vec<Event>,
    others: Vec<Event>,
    kernel_run: Option<KernelRun>,
    end: Tick,
}

impl Watch {
    /// Everything that is read at the end of a window.
    pub(super) fn read_window(&mut self) -> WindowFacts {
        let now_ns = clocks::monotonic_ns();
        let pipeline = self.intake.pipeline();
        let records = pipeline.events() + pipeline.lost();
        let kernel_run = self.live.kernel_run(now_ns, records);
        let at_ns = self.turn_duty();
        let still = self.still();
        if self.sums_only {
            let tapped = self.intake.taps.processes();
            self.live.ration_stacks(STACK_INTERVAL, &tapped);
        }
        let (ledgers, at_ns) = self.read_in_time(at_ns, &still);
        let mut others = self.targets.facts(self.schedule.tree(), at_ns, &still);
        self.schedule.end();
        if now_ns.saturating_sub(self.room_given_ns) >= ROOM_PAUSE_NS {
            self.room_given_ns = now_ns;
            self.live.give_room_back();
        }
        others.extend(self.targets.counts(&mut self.live));
        let end = Tick {
            at_ns,
            unix_ns: self.clocks.unix_of_monotonic(at_ns),
        };
        WindowFacts {
            ledgers,
            others,
            kernel_run,
            end,
        }
    }

    /// Ends a window in the model.
    pub(super) fn close(&mut self, window: WindowFacts) -> Snapshot {
        self.intake.key(window.end.at_ns);
        for event in window.ledgers.into_iter().chain(window.others) {
            self.fact(event);
        }
        if let Some(newcomers) = &mut self.newcomers {
            newcomers.forget_services(&self.targets);
        }
        let monitor = self.read_self(window.kernel_run, window.end.at_ns);
        self.stay_inside(&monitor, window.end.at_ns);
        let told = monitor.faults.get(UNHEARD).copied().unwrap_or(0);
        if self.take_unheard(told) > 0 {
            self.schedule.search_all();
        }
        self.intake.now(Event::Monitor(Box::new(monitor)));
        let outputs = self.intake.feed(Input::Now(Event::Tick(window.end)));
        self.sort(outputs).expect("a tick ends a window")
    }

    fn read_self(&mut self, kernel_run: Option<KernelRun>, at_ns: u64) -> MonitorFact {
        let mut faults = named_faults(&self.live.faults());
        let pipeline = self.intake.pipeline();
        for (name, count) in [
            ("damaged-records", self.damaged),
            ("healed-ledgers", self.live.healed()),
        ]
        .into_iter()
        .chain(pipeline.faults())
        .chain(self.requests.iter().flat_map(Requests::faults))
        .chain(self.targets.faults())
        {
            if count != 0 {
                *faults.entry(name.to_owned()).or_default() += count;
            }
        }
        let now = Clocks::now();
        let told_ns = self.clocks.unix_of_monotonic(now.monotonic_ns);
        MonitorFact {
            cpu_ns: clocks::process_cpu_ns(),
            rss_bytes: clocks::process_rss_bytes().unwrap_or(0),
            kernel_run_ns: kernel_run.map(|run| run.ns),
            kernel_run_counted: kernel_run.is_some_and(|run| run.is_counted),
            unobserved_ns: self.live.unobserved_ns(at_ns),
            events: pipeline.events(),
            events_lost: pipeline.lost() + self.requests.as_ref().map_or(0, Requests::lost),
            reads_failed: self.reads_failed + self.live.reads_failed(),
            faults,
            shed: {
                let mut words = self.budget.shed().words(self.rate, MOST_TASKS);
                if self.sheds_requests() {
                    words.push("requests: none are told".to_owned());
                }
                words.extend(self.schedule.allowance.words());
                words.extend(self.shed_time());
                words
            },
            budget: BudgetFact {
                cpu_share: self.budget.cpu().0,
                cpu_share_used: self.budget.used().map(|share| share.0),
                memory_bytes: self.budget.memory_bytes(),
                sheds_slices: self.budget.shed().slices(),
                keeps_loops: self.budget.shed().keeps_loops(),
                sheds_requests: self.sheds_requests() || mem::take(&mut self.has_missed_requests),
            },
            wall_clock_ahead_ns: now.unix_ns.wrapping_sub(told_ns).cast_signed(),
            passes: self.passes.fact(),
        }
    }

    /// Leaves out what the budget does not allow for.
    fn stay_inside(&mut self, monitor: &MonitorFact, now_ns: u64) {
        let allowed = self.share_budget(now_ns);
        let judged = (self.budget).judge(now_ns, allowed, (monitor.cpu_ns, monitor.rss_bytes));
        if let Some(shed) = judged {
            self.leave_out_detail(shed);
        }
        self.suit_requests();
    }

    pub(super) fn leave_out_detail(&mut self, shed: Shed) {
        if let Err(error) = self.live.set_sample_rate(shed.rate(self.rate)) {
            log::debug!("the sampling rate stays as it is: {error}");
        }
        self.schedule.look_pause_ns = shed.look_pause_ns();
        self.targets.set_tasks(shed.tasks(MOST_TASKS));
    }
}
