//! The collector: the watch of all services, whose windows become samples for the exporter.

use std::time::Duration;

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, sleep_until},
};

use super::{
    config::Config,
    events::Events,
    link::Link,
    metrics::{
        Exemplars,
        collect::Services,
        own::{Own, State},
    },
    notify::Notify,
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
    session::{Failure, PUMP, code, every, notify_of_records, until, watch::Watch},
};

pub(crate) use super::link::EXPORTER_ENDED;

/// Samples are current for so many intervals, and so long in any case.
const VALID_INTERVALS: u32 = 3;
const VALID: Duration = Duration::from_secs(5);

/// Everything that must be there before the filter of system calls is.
#[derive(Debug)]
pub(crate) struct Collector {
    link: Link,
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
    End,
    Broken(&'static str),
}

impl Collector {
    /// `socket` leads to the exporter.
    ///
    /// # Errors
    /// Signals or the socket cannot be waited for.
    pub(crate) fn new(
        socket: std::os::unix::net::UnixStream,
        flags: Agent,
        config: Config,
    ) -> Result<Self, Failure> {
        Ok(Self {
            link: Link::new(socket)?,
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
        let (mut services, mut own) = (Services::default(), Own::default());
        let mut exemplars = Exemplars::default();
        let mut reader = ProcessReader::new(std::process::id());
        let otlp = &self.config.otlp;
        let mut events = Events::new(&otlp.context_vars);
        let period = self.config.interval;
        let mut tick_at = Instant::now() + period;
        let mut pump = every(PUMP);
        // A window is to end next.
        let mut ending = false;
        let mut is_ready = false;
        let mut alive_at = self.notify.watchdog.map(|pause| Instant::now() + pause);
        log::info!("watching all Python processes of this host");
        loop {
            watch.passes.end();
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
                () = arrived.notified() => Wake::Pump,
                _ = pump.tick() => Wake::Pump,
                () = done.notified() => Wake::Done,
                () = until(readings_at) => Wake::BeginReadings,
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
                    // Stalls and hangs are counted in the sums.
                    events.take(watch.take_notices());
                }
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
                    self.tell(
                        &mut watch,
                        &mut services,
                        &mut own,
                        &mut reader,
                        &mut events,
                        &mut exemplars,
                    );
                    if !is_ready {
                        is_ready = true;
                        self.notify.tell("READY=1");
                        log::info!("ready");
                    }
                }
            }
        }
        self.notify.tell("STOPPING=1");
        log::info!("ended by a signal");
        Ok(code::OK)
    }

    /// Ends a window, and hands it on.
    fn tell(
        &self,
        watch: &mut Watch,
        services: &mut Services,
        own: &mut Own,
        reader: &mut ProcessReader,
        events: &mut Events,
        exemplars: &mut Exemplars,
    ) {
        let window = watch.end_window();
        events.take(watch.take_notices());
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
    }

    /// Reads the configuration again: rules hold for whoever comes from now on, the token and the number of
    /// clients at once. All else stays until the next start.
    fn reload(&mut self, watch: &mut Watch, is_ready: bool) {
        self.notify.reloading(clocks::monotonic_ns());
        let read = (self.config).read_again(&self.flags, |name| std::env::var(name).ok());
        match read {
            Ok(config) => {
                let now = &mut self.config;
                let stays = now.listen != config.listen
                    || now.interval != config.interval
                    || now.budget_cpu != config.budget_cpu
                    || now.budget_memory != config.budget_memory
                    || now.max_groups != config.max_groups
                    || now.http != config.http
                    || now.exporter != config.exporter
                    || now.otlp != config.otlp;
                if stays {
                    log::warn!(
                        "listen, interval, budgets, max_groups, http, exporter.user and otlp are taken up by a restart only"
                    );
                }
                watch.set_rules(config.rules.clone());
                (now.rules, now.token, now.max_clients) =
                    (config.rules, config.token, config.max_clients);
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
