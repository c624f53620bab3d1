//! The push: what is sent to receivers when, and what becomes of it. It has no part in what `/metrics` shows, and what
//! waits for a receiver is bounded.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, VecDeque, btree_map::Entry},
    io::{self, Write as _},
    os::fd::OwnedFd,
    rc::Rc,
    time::{Duration, SystemTime},
};

use hyper::body::Bytes;
use prost::Message as _;
use tokio::{
    sync::Notify,
    time::{Instant, MissedTickBehavior, interval_at, sleep, sleep_until},
};

use super::{
    client::{Answer, Client, Roots},
    dial::{self, Line},
    pages::{Pages, compressed},
};
use crate::agent::{
    config::{Account, Endpoint, Otlp, Signal},
    events::Event,
    metrics::{Name, Sample},
    otlp::{Resources, events, metrics::Streams},
};

/// After a first failure, and after many.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Events are given up so long after they came.
const KEPT: Duration = Duration::from_secs(300);
/// A batch has at most so many, which came within this time, so that the first does not take the last along.
const BATCH: usize = 256;
const BATCH_SPAN: Duration = Duration::from_secs(30);
/// From an event to the batch that it is in.
const GATHERING: Duration = Duration::from_secs(1);
/// Events of one signal that wait, at most.
const MAX_QUEUED: usize = 2_048;
const MAX_QUEUED_BYTES: usize = 4 << 20;

/// Everything that must be there before the exporter has given up its rights.
#[derive(Debug)]
pub(super) struct Prepared {
    otlp: Otlp,
    /// By the receivers' hosts and ports.
    dialers: BTreeMap<(String, u16), OwnedFd>,
    roots: Option<Roots>,
}

/// Starts a dialer for each receiver, if there is anything to push.
///
/// # Errors
/// One cannot be started, or the certificates to trust cannot be read.
pub(super) fn prepare(otlp: &Otlp, user: Account) -> io::Result<Option<Prepared>> {
    if otlp.destinations.is_empty() {
        return Ok(None);
    }
    let receivers = || otlp.destinations.values().map(|to| &to.endpoint);
    let mut dialers = BTreeMap::new();
    for Endpoint { host, port, .. } in receivers() {
        if let Entry::Vacant(vacant) = dialers.entry((host.clone(), *port)) {
            vacant.insert(dial::start(host, *port, user)?);
        }
    }
    let roots = match receivers().any(|receiver| receiver.tls) {
        true => Some(Roots::of_system()?),
        false => None,
    };
    Ok(Some(Prepared {
        otlp: otlp.clone(),
        dialers,
        roots,
    }))
}

impl Prepared {
    pub(super) fn dialers(&self) -> impl Iterator<Item = &OwnedFd> {
        self.dialers.values()
    }

    /// Begins to push.
    ///
    /// # Errors
    /// A dialer cannot be waited for, or a receiver cannot be spoken to.
    pub(super) fn begin(self, pages: &Rc<RefCell<Pages>>) -> io::Result<Push> {
        let dialer_ended = Rc::new(Notify::new());
        let mut lines = BTreeMap::new();
        for (receiver, dialer) in self.dialers {
            let line = Line::new(dialer, Rc::clone(&dialer_ended))?;
            lines.insert(receiver, Rc::new(line));
        }
        let resources = Rc::new(RefCell::new(Resources::new(&self.otlp.resource)));
        let mut queues = Vec::new();
        for (signal, to) in self.otlp.destinations {
            let receiver = (to.endpoint.host.clone(), to.endpoint.port);
            let client = Client::new(to, Rc::clone(&lines[&receiver]), self.roots.as_ref())?;
            let sender = Sender::new(signal, client, Rc::clone(pages));
            let resources = Rc::clone(&resources);
            if signal == Signal::Metrics {
                let streams = Streams::new(self.otlp.temporality, unix_ns());
                let pause = self.otlp.interval;
                tokio::task::spawn_local(push_metrics(sender, streams, resources, pause));
            } else {
                let queue = Rc::new(Queue::default());
                queues.push((signal, Rc::clone(&queue)));
                tokio::task::spawn_local(push_events(sender, queue, resources));
            }
        }
        Ok(Push {
            dialer_ended,
            pages: Rc::clone(pages),
            resources,
            queues,
        })
    }
}

/// What goes on.
#[derive(Debug)]
pub(super) struct Push {
    /// Told when a question has shown that a dialer is gone, without which nothing goes.
    pub(super) dialer_ended: Rc<Notify>,
    pages: Rc<RefCell<Pages>>,
    resources: Rc<RefCell<Resources>>,
    queues: Vec<(Signal, Rc<Queue>)>,
}

impl Push {
    /// Takes over what samples tell of services.
    pub(super) fn learn(&self, samples: &[Sample]) {
        self.resources.borrow_mut().learn(samples);
    }

    /// Queues events, in place of older ones where there is no room.
    pub(super) fn take(&self, events: Vec<Event>) {
        for event in events.into_iter().map(Rc::new) {
            for (signal, queue) in &self.queues {
                if *signal == Signal::Traces && !events::is_span(&event) {
                    continue;
                }
                let dropped = queue.add(Rc::clone(&event), Instant::now());
                let mut pages = self.pages.borrow_mut();
                pages.pushed(Name::OtlpItems, *signal, Outcome::Dropped.name(), dropped);
            }
        }
    }
}

/// Events that wait to be pushed, and when they came.
#[derive(Debug, Default)]
struct Queue {
    waiting: RefCell<Waiting>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    events: VecDeque<(Instant, Rc<Event>)>,
    bytes: usize,
}

impl Queue {
    /// Gives how many older ones had to go.
    fn add(&self, event: Rc<Event>, now: Instant) -> u64 {
        let mut waiting = self.waiting.borrow_mut();
        waiting.bytes += event.size();
        waiting.events.push_back((now, event));
        let mut dropped = 0;
        while waiting.events.len() > MAX_QUEUED || waiting.bytes > MAX_QUEUED_BYTES {
            if waiting.pop().is_none() {
                break;
            }
            dropped += 1;
        }
        self.news.notify_one();
        dropped
    }

    /// The next events, when they are to be given up, and how many were too old.
    fn batch(&self, now: Instant) -> (Vec<Rc<Event>>, Instant, u64) {
        let mut waiting = self.waiting.borrow_mut();
        let mut dropped = 0;
        while waiting.first().is_some_and(|came| came + KEPT <= now) {
            waiting.pop();
            dropped += 1;
        }
        let first = waiting.first().unwrap_or(now);
        let mut batch = Vec::new();
        while batch.len() < BATCH
            && waiting
                .first()
                .is_some_and(|came| came <= first + BATCH_SPAN)
        {
            batch.extend(waiting.pop());
        }
        (batch, first + KEPT, dropped)
    }
}

impl Waiting {
    /// When the oldest came.
    fn first(&self) -> Option<Instant> {
        self.events.front().map(|(came, _)| *came)
    }

    fn pop(&mut self) -> Option<Rc<Event>> {
        let (_, event) = self.events.pop_front()?;
        self.bytes -= event.size();
        Some(event)
    }
}

fn unix_ns() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_nanos() as u64)
}

async fn push_metrics(
    sender: Sender,
    mut streams: Streams,
    resources: Rc<RefCell<Resources>>,
    pause: Duration,
) {
    let mut due = interval_at(Instant::now() + pause, pause);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut pushed_unix_ns = 0;
    loop {
        due.tick().await;
        // What is sent is what is known when it may be.
        sleep_until(sender.not_before.get()).await;
        let until = Instant::now() + pause;
        let reading = sender.pages.borrow().reading();
        let Some((samples, at_unix_ns)) = reading.filter(|(_, at)| *at != pushed_unix_ns) else {
            continue;
        };
        let (request, count) = streams.request(&resources.borrow(), &samples, at_unix_ns);
        drop(samples);
        // One that is not taken is replaced by the next, which has all that it had, but for one that is too large: the
        // next would be no smaller.
        match sender.send(request.encode_to_vec(), count, until).await {
            Outcome::Sent | Outcome::TooLarge => streams.is_pushed(),
            Outcome::Rejected | Outcome::Dropped => {}
        }
        pushed_unix_ns = at_unix_ns;
    }
}

async fn push_events(sender: Sender, queue: Rc<Queue>, resources: Rc<RefCell<Resources>>) {
    loop {
        // They wait where there is a bound for them.
        sleep_until(sender.not_before.get()).await;
        let (batch, until, dropped) = queue.batch(Instant::now());
        sender.count(Name::OtlpItems, Outcome::Dropped.name(), dropped);
        if batch.is_empty() {
            queue.news.notified().await;
            // What comes together goes together.
            sleep(GATHERING).await;
            continue;
        }
        let message = match sender.signal {
            Signal::Traces => events::spans(&resources.borrow(), &batch, span_id).encode_to_vec(),
            _ => events::logs(&resources.borrow(), &batch, unix_ns()).encode_to_vec(),
        };
        let count = batch.len() as u64;
        drop(batch);
        sender.send(message, count, until).await;
    }
}

/// A new id; without chance it is none, and the span is refused.
fn span_id() -> [u8; 8] {
    let mut id = [0; 8];
    let _ = rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty());
    id
}

/// What has become of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Sent,
    Rejected,
    /// Rejected for its size.
    TooLarge,
    Dropped,
}

impl Outcome {
    const fn name(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Rejected | Self::TooLarge => "rejected",
            Self::Dropped => "dropped",
        }
    }
}

/// The way of one signal to its receiver.
#[derive(Debug)]
struct Sender {
    signal: Signal,
    client: Client,
    pages: Rc<RefCell<Pages>>,
    /// When the receiver wants the next request at the earliest.
    not_before: Cell<Instant>,
    /// The last request has failed, and that was told.
    fails: Cell<bool>,
}

impl Sender {
    fn new(signal: Signal, client: Client, pages: Rc<RefCell<Pages>>) -> Self {
        Self {
            signal,
            client,
            pages,
            not_before: Cell::new(Instant::now()),
            fails: Cell::new(false),
        }
    }

    /// Sends a batch of so many items, again and again until it is taken, refused, or its time is over.
    async fn send(&self, message: Vec<u8>, count: u64, until: Instant) -> Outcome {
        let (outcome, rejected) = self.try_until(message, until).await;
        self.count(
            Name::OtlpItems,
            outcome.name(),
            count.saturating_sub(rejected),
        );
        self.count(
            Name::OtlpItems,
            Outcome::Rejected.name(),
            rejected.min(count),
        );
        outcome
    }

    async fn try_until(&self, message: Vec<u8>, until: Instant) -> (Outcome, u64) {
        let body = match self.client.to.gzip {
            true => compressed(&message),
            false => Ok(message),
        };
        let Ok(body) = body.map(Bytes::from) else {
            return (Outcome::Dropped, 0);
        };
        let mut pause = FIRST_PAUSE;
        loop {
            let (why, asked) = match self.client.post(body.clone()).await {
                Answer::Taken(rejected) => {
                    self.count(Name::OtlpRequests, "ok", 1);
                    if self.fails.replace(false) {
                        self.say("is taken again");
                    }
                    return (Outcome::Sent, rejected);
                }
                Answer::Refused(why) => return (self.refused(&why, Outcome::Rejected), 0),
                Answer::TooLarge(why) => return (self.refused(&why, Outcome::TooLarge), 0),
                Answer::Later(why, asked) => (why, asked),
            };
            self.failed(&why);
            let now = Instant::now();
            let next = now + until_next(pause, asked);
            pause = (pause * 2).min(LONGEST_PAUSE);
            if asked.is_some() {
                self.not_before.set(next);
            }
            if next >= until {
                self.count(Name::OtlpRequests, "failed", 1);
                return (Outcome::Dropped, 0);
            }
            self.count(Name::OtlpRequests, "retried", 1);
            sleep(next - now).await;
        }
    }

    fn refused(&self, why: &str, outcome: Outcome) -> Outcome {
        self.count(Name::OtlpRequests, "failed", 1);
        self.failed(why);
        outcome
    }

    fn count(&self, of: Name, outcome: &'static str, count: u64) {
        self.pages
            .borrow_mut()
            .pushed(of, self.signal, outcome, count);
    }

    /// Says why it fails, once until it does not any more.
    fn failed(&self, why: &str) {
        if !self.fails.replace(true) {
            self.say(&format!("is not taken: {why}"));
        }
    }

    fn say(&self, what: &str) {
        let text = format!(
            "the push of {} to {} {what}",
            self.signal.name(),
            self.client.to.endpoint
        );
        let text = crate::escape::escape(&text);
        let _ = writeln!(io::stderr(), "concmon-bpf: {text}");
    }
}

/// Until the next try: this pause, or what the receiver asks for where that is longer; some more or less, so that not
/// all hosts come at once, but never earlier than is asked.
fn until_next(pause: Duration, asked: Option<Duration>) -> Duration {
    let chance = chance();
    let asked = asked.unwrap_or_default().mul_f64(1.0 + 0.2 * chance);
    asked.max(pause.mul_f64(0.8 + 0.4 * chance))
}

/// From 0 to 1.
fn chance() -> f64 {
    let mut byte = [0; 1];
    // Without chance it is the mean.
    let chance = rustix::rand::getrandom(&mut byte, rustix::rand::GetRandomFlags::empty());
    chance.map_or(0.5, |_| f64::from(byte[0]) / 255.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::events::{Held, What};

    fn event(summary: usize) -> Rc<Event> {
        Rc::new(Event {
            service: "shop".to_owned(),
            pid: 7,
            at_unix_ns: 1,
            duration_ns: 2,
            what: What::Finding(Held {
                rule: "gil-contention".to_owned(),
                severity: "info".to_owned(),
                summary: "x".repeat(summary),
                raised: true,
            }),
        })
    }

    /// Nobody takes anything: the newest stay, within bounds of number and size.
    #[test]
    fn what_waits_for_a_receiver_is_bounded() {
        let queue = Queue::default();
        let now = Instant::now();
        let dropped: u64 = (0..MAX_QUEUED + 10).map(|_| queue.add(event(1), now)).sum();
        assert_eq!(dropped, 10);
        let dropped: u64 = (0..10)
            .map(|_| queue.add(event(MAX_QUEUED_BYTES / 4), now))
            .sum();
        let waiting = queue.waiting.borrow().events.len();
        assert!(waiting <= 4 && waiting as u64 + dropped == MAX_QUEUED as u64 + 10);
        assert!(queue.waiting.borrow().bytes <= MAX_QUEUED_BYTES);
        assert_eq!(queue.batch(now).0.len(), waiting);
        let left = queue.waiting.borrow().bytes;
        assert_eq!((left, queue.batch(now).0.len()), (0, 0));
    }

    /// By when they came, however long they wait for what went before them.
    #[test]
    fn events_are_given_up_after_their_time() {
        let queue = Queue::default();
        let begin = Instant::now();
        for _ in 0..3 {
            queue.add(event(1), begin);
        }
        let later = begin + KEPT - BATCH_SPAN;
        queue.add(event(1), later);
        let now = later + BATCH_SPAN / 2;
        queue.add(event(1), now);
        let (batch, until, dropped) = queue.batch(now);
        assert_eq!((batch.len(), until, dropped), (3, begin + KEPT, 0));
        let (batch, until, dropped) = queue.batch(now);
        assert_eq!((batch.len(), until, dropped), (2, later + KEPT, 0));
        queue.add(event(1), now);
        let now = now + KEPT;
        queue.add(event(1), now);
        let (batch, until, dropped) = queue.batch(now);
        assert_eq!((batch.len(), until, dropped), (1, now + KEPT, 1));
    }

    #[test]
    fn pauses_are_about_as_long_as_they_should_be() {
        let (zero, ten) = (Duration::ZERO, Duration::from_secs(10));
        for (asked, low, high) in [
            (None, 0.8, 1.2),
            // Nobody is to be asked without end because the receiver says "now".
            (Some(zero), 0.8, 1.2),
            (Some(ten), 10.0, 12.0),
        ] {
            let pauses = (0..100).map(|_| until_next(FIRST_PAUSE, asked).as_secs_f64());
            let pauses: Vec<f64> = pauses.collect();
            assert!(
                pauses.iter().all(|pause| (low..=high).contains(pause)),
                "{asked:?}: {pauses:?}"
            );
            assert!(pauses.iter().any(|pause| *pause != pauses[0]), "{asked:?}");
        }
    }
}
