//! The collector: the watch of all services, whose windows become samples for the exporter.

use std::time::Duration;

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::{
    config::Config,
    debug::{self, Asked, Question},
    events::Events,
    link::Link,
    local::Local,
    metrics::{
        Exemplars,
        collect::Services,
        own::{Own, State},
    },
    notify::Notify,
    profiles::Profiles,
    recorders::Recorders,
    roster::Roster,
    wire::{Samples, Settings},
};
use crate::{
    cli::Agent,
    procfs::{
        ProcessReader,
        clocks::{self, Clocks},
        rights::Denied,
        tree::Tree,
    },
    session::{Failure, PUMP, code, notify_of_records, until, watch::Watch},
};

pub(crate) use super::link::EXPORTER_ENDED;

/// Samples are current for so many intervals, and so long in any case.
const VALID_INTERVALS: u32 = 3;
const VALID: Duration = Duration::from_secs(5);

/// Everything that must be there before the filter of system calls is.
#[derive(Debug)]
pub(crate) struct Collector {
    link: Link,
    questions: mpsc::Receiver<Asked>,
    /// It goes with this.
    _local: Option<Local>,
    notify: Notify,
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    /// The command line, which a configuration that is read again does not replace.
    flags: Agent,
    config: Config,
}

enum Wake {
    Tick,
    EndWindow,
    Pump,
    BeginReadings,
    Read,
    Done,
    Alive,
    Reload,
    Asked(Asked),
    Profiles,
    End,
    Broken(&'static str),
}

/// What is remembered from window to window, of which others are told.
struct Told {
    services: Services,
    own: Own,
    reader: ProcessReader,
    events: Events,
    exemplars: Exemplars,
    roster: Roster,
    recorders: Recorders,
}

impl Told {
    fn new(config: &Config) -> Result<Self, Failure> {
        Ok(Self {
            services: Services::default(),
            own: Own::default(),
            reader: ProcessReader::new(std::process::id()),
            events: Events::new(&config.otlp.context_vars),
            exemplars: Exemplars::default(),
            roster: Roster::default(),
            recorders: Recorders::new(config.flight.as_ref())?,
        })
    }

    /// Stalls and hangs have become known, which are counted in the sums.
    fn take_notices(&mut self, watch: &mut Watch) {
        let notices = watch.take_notices();
        self.recorders.notices(&notices, &self.roster);
        self.events.take(notices);
    }
}

impl Collector {
    /// `socket` leads to the exporter.
    ///
    /// # Errors
    /// Signals or the sockets cannot be waited for.
    pub(crate) fn new(
        socket: std::os::unix::net::UnixStream,
        mut local: Option<Local>,
        flags: Agent,
        config: Config,
    ) -> Result<Self, Failure> {
        let (asker, questions) = mpsc::channel(debug::MAX_WAITING);
        if let Some(local) = &mut local {
            local.serve(asker.clone())?;
        }
        Ok(Self {
            link: Link::new(socket, asker, config.token.is_some())?,
            questions,
            _local: local,
            notify: Notify::new(),
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            flags,
            config,
        })
    }

    /// Watches until a signal ends it.
    ///
    /// # Errors
    /// The exporter is gone, or the loop cannot be set up.
    pub(crate) async fn run(mut self, mut watch: Watch) -> Result<u8, Failure> {
        let arrived = notify_of_records(&watch)?;
        watch.start_worker()?;
        let done = watch.done();
        let max_groups = self.config.max_groups;
        watch.keep_sums_only(max_groups);
        let mut told = Told::new(&self.config)?;
        let mut profiles = Profiles::default();
        let period = self.config.interval;
        watch.set_duty(self.config.duty, period);
        let mut tick_at = Instant::now() + period;
        let mut pump_at = Instant::now() + PUMP;
        // A window is to end next.
        let mut ending = false;
        let mut is_ready = false;
        let mut alive_at = self.notify.watchdog.map(|pause| Instant::now() + pause);
        log::info!("watching all Python processes of this host");
        loop {
            watch.passes.end();
            if !ending {
                tick_at = profiles.window_ends(watch.window_turns(tick_at));
                tick_at = tick_at.min(profiles.soon(told.recorders.window_ends(tick_at)));
            }
            let readings_at = watch.readings_at(tick_at, period);
            let wake = tokio::select! {
                biased;
                _ = self.interrupt.recv() => Wake::End,
                _ = self.terminate.recv() => Wake::End,
                _ = self.hangup.recv() => Wake::Reload,
                reason = self.link.broken() => Wake::Broken(reason),
                () = until(alive_at) => Wake::Alive,
                () = std::future::ready(()), if ending => Wake::EndWindow,
                () = sleep_until(tick_at) => Wake::Tick,
                () = until(profiles.due()) => Wake::Profiles,
                () = arrived.notified() => Wake::Pump,
                () = sleep_until(pump_at) => Wake::Pump,
                () = done.notified() => Wake::Done,
                () = until(readings_at) => Wake::BeginReadings,
                Some(asked) = self.questions.recv() => Wake::Asked(asked),
                () = std::future::ready(()), if watch.is_reading() => Wake::Read,
            };
            watch.passes.begin();
            match wake {
                Wake::End => break,
                Wake::Broken(reason) => return Err(Failure::new(code::FAILURE, reason)),
                Wake::Reload => self.reload(&mut watch, is_ready),
                Wake::Alive => {
                    self.notify.tell("WATCHDOG=1");
                    alive_at = self.notify.watchdog.map(|pause| Instant::now() + pause);
                }
                Wake::Pump => {
                    watch.pump();
                    profiles.step(&mut watch);
                    told.take_notices(&mut watch);
                    pump_at = Instant::now() + watch.pump_pause();
                }
                Wake::Asked(Asked { question, reply }) => match question {
                    Question::Targets => drop(reply.send(told.roster.targets(&mut watch))),
                    Question::Profile(of) => {
                        let processes = told.roster.of_service(&of.service);
                        profiles.begin(of, processes, reply);
                    }
                    Question::Recording { service, last_s } => {
                        let last = Duration::from_secs(last_s.into());
                        told.recorders.ask(service, last, reply);
                    }
                },
                Wake::Profiles => profiles.step(&mut watch),
                Wake::BeginReadings => watch.begin_readings(),
                Wake::Read => watch.take_turn_reading().await,
                Wake::Done => watch.take_done(),
                Wake::Tick => {
                    tick_at = Instant::now() + period;
                    watch.prepare_end();
                    ending = true;
                }
                Wake::EndWindow => {
                    ending = false;
                    profiles.before_window(&mut watch);
                    told.recorders.before_window(&mut watch, &told.roster);
                    self.tell(&mut watch, &mut told);
                    profiles.after_window();
                    if !is_ready {
                        is_ready = true;
                        self.notify.tell("READY=1");
                        log::info!("ready");
                    }
                }
            }
        }
        self.notify.tell("STOPPING=1");
        told.recorders.end();
        log::info!("ended by a signal");
        Ok(code::OK)
    }

    /// Ends a window, and hands it on.
    fn tell(&self, watch: &mut Watch, told: &mut Told) {
        let window = watch.end_window();
        told.roster.learn(&window);
        told.take_notices(watch);
        told.recorders.after_window(&window, watch);
        let Told {
            services,
            own,
            reader,
            events,
            exemplars,
            ..
        } = told;
        let told = events.of_window(&window, self.link.room());
        exemplars.take(&told);
        let lost = events.take_lost();
        if self.config.otlp.has_events() {
            own.lost("notices", lost + self.link.events(told));
        }
        let now_ns = clocks::monotonic_ns();
        let denied = watch.denied();
        if let Some((count, pid)) = denied
            && !own.has_told_denied
        {
            own.has_told_denied = true;
            let reason = Denied::reading(pid.0, "denied reading its memory");
            log::warn!("{count} processes are not watched, for instance: {reason}");
        }
        let pipeline = watch.pipeline();
        let sums = pipeline.services(&window);
        let mut collected = services.collect(&window, &sums, now_ns);
        pipeline.forget_services(&collected.gone);
        exemplars.forget(&collected.gone);
        exemplars.give(&mut collected.samples);
        let process = reader.read(now_ns, &Clocks::now(), &Tree::default()).ok();
        let state = State {
            denied: denied.map_or(0, |(count, _)| count),
            max_groups: self.config.max_groups,
            groups_refused: pipeline.services_refused(),
            process: process.as_ref(),
        };
        let of_agent = own.collect(&window, &collected, &state);
        let mut samples = std::mem::take(&mut collected.samples);
        samples.extend(of_agent);
        let valid = VALID.max(self.config.interval * VALID_INTERVALS);
        let of = window.window;
        let samples = Samples {
            at_unix_ns: of.start_unix_ns.saturating_add(of.duration_ns),
            valid_ms: valid.as_millis() as u64,
            samples,
        };
        match self.link.samples(samples) {
            Ok(true) => own.sent += 1,
            Ok(false) => own.dropped += 1,
            Err(error) => {
                own.dropped += 1;
                log::warn!("metrics are not handed on: {error}");
            }
        }
        watch.pipeline().give_back(window);
    }

    /// Reads the configuration again: rules hold for whoever comes from now on, the duty cycle, the token and the number
    /// of clients at once. All else stays until the next start.
    fn reload(&mut self, watch: &mut Watch, is_ready: bool) {
        self.notify.reloading(clocks::monotonic_ns());
        let read = (self.config).read_again(&self.flags, |name| std::env::var(name).ok());
        match read {
            Ok(config) => {
                let now = &mut self.config;
                let stays = now.listen != config.listen
                    || now.socket != config.socket
                    || now.interval != config.interval
                    || now.budget_cpu != config.budget_cpu
                    || now.budget_memory != config.budget_memory
                    || now.max_groups != config.max_groups
                    || now.http != config.http
                    || now.exporter != config.exporter
                    || now.otlp != config.otlp
                    || now.flight != config.flight;
                if stays {
                    log::warn!(
                        "listen, socket, interval, budgets, max_groups, http, exporter.user, otlp and flight are taken up by a restart only"
                    );
                }
                watch.set_rules(config.rules.clone());
                watch.set_duty(config.duty, now.interval);
                (now.rules, now.duty) = (config.rules, config.duty);
                (now.token, now.max_clients) = (config.token, config.max_clients);
                now.identity = config.identity;
                now.file = config.file;
                match self.link.settings(Settings::of(now)) {
                    Ok(()) => log::info!("the configuration was read again"),
                    Err(error) => log::warn!("the exporter keeps its settings: {error}"),
                }
            }
            Err(error) => log::warn!("the configuration stays as it was: {error}"),
        }
        // Before the first reading, that will tell it.
        if is_ready {
            self.notify.tell("READY=1");
        }
    }
}
