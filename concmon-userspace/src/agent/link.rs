//! The collector's end of the socket to the exporter. It never waits for the exporter: what that has not taken
//! when there is something newer is dropped, but for settings, for a message that is half sent, and for events within
//! bounds. Where there is a token, it takes the exporter's questions, a few at a time.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, VecDeque},
    io, mem,
    rc::Rc,
    sync::Arc,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot},
    task::AbortHandle,
};

use super::{
    debug::{self, Asker, Reply},
    events::{Event, What},
    wire::{self, Ask, Message, Samples, Settings},
};

/// Why the agent ends then.
pub(crate) const EXPORTER_ENDED: &str = "the exporter has ended";

const MUST_NOT: &str = "the exporter has said something, which it must not";

/// Replies that the exporter has asked for and not taken, at most.
const MAX_OWED: usize = 4;
/// Refusals of more that it has not taken, at most.
const MAX_REFUSALS: usize = 16;
/// Events that wait, at most, and about how many bytes they take.
const MAX_WAITING: usize = 1_024;
const MAX_WAITING_BYTES: usize = 4 << 20;

/// What is to be sent.
#[derive(Debug, Default)]
struct Waiting {
    settings: Option<Vec<u8>>,
    samples: Option<Vec<u8>>,
    /// Each until it is sent counts as owed.
    replies: VecDeque<(Vec<u8>, OwnedSemaphorePermit)>,
    /// Findings begin and end, and are told once: they go first.
    findings: VecDeque<Event>,
    steps: VecDeque<Event>,
    /// Of both.
    bytes: usize,
    /// Events that were lost since this was asked last.
    lost: u64,
}

impl Waiting {
    fn next(&mut self) -> Option<io::Result<Vec<u8>>> {
        let frame = self.settings.take().or_else(|| self.samples.take());
        if let Some(frame) = frame.or_else(|| Some(self.replies.pop_front()?.0)) {
            return Some(Ok(frame));
        }
        let mut bytes = 0;
        let mut events = Vec::new();
        while events.len() < wire::MAX_EVENTS {
            let first = self.findings.front().or_else(|| self.steps.front());
            let Some(size) = first.map(Event::size) else {
                break;
            };
            bytes += size;
            // One goes in any case.
            if bytes > wire::MAX_EVENT_BYTES && !events.is_empty() {
                break;
            }
            let next = self.findings.pop_front();
            events.extend(next.or_else(|| self.steps.pop_front()));
            self.bytes -= size;
        }
        let count = events.len() as u64;
        let frame = (count > 0).then(|| wire::frame(&Message::Events(events)))?;
        self.lost += if frame.is_err() { count } else { 0 };
        Some(frame)
    }

    /// Adds events; where there is no room, older ones go, and steps first.
    fn add(&mut self, events: Vec<Event>) {
        for event in events {
            self.bytes += event.size();
            match &event.what {
                What::Finding(_) => self.findings.push_back(event),
                What::Stall(_) | What::Hang(_) => self.steps.push_back(event),
            }
        }
        while self.findings.len() + self.steps.len() > MAX_WAITING || self.bytes > MAX_WAITING_BYTES
        {
            let oldest = self.steps.pop_front();
            let Some(oldest) = oldest.or_else(|| self.findings.pop_front()) else {
                break;
            };
            self.bytes -= oldest.size();
            self.lost += 1;
        }
    }
}

/// The way to the exporter.
#[derive(Debug)]
pub(super) struct Link {
    waiting: Rc<RefCell<Waiting>>,
    news: Rc<Notify>,
    may_ask: Rc<Cell<MayAsk>>,
    broken: oneshot::Receiver<&'static str>,
}

/// Whether the exporter may ask anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MayAsk {
    /// There never was a token: whatever it says is wrong.
    Never,
    /// There is none any more, which it may not have known when it asked.
    NotNow,
    Now,
}

impl MayAsk {
    const fn with(self, has_token: bool) -> Self {
        match (has_token, self) {
            (true, _) => MayAsk::Now,
            (false, MayAsk::Never) => MayAsk::Never,
            (false, _) => MayAsk::NotNow,
        }
    }
}

impl Link {
    /// What is asked goes to `asker`, where there is a token.
    ///
    /// # Errors
    /// The socket cannot be waited for.
    pub(super) fn new(
        socket: std::os::unix::net::UnixStream,
        asker: Asker,
        has_token: bool,
    ) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let (reader, writer) = UnixStream::from_std(socket)?.into_split();
        let waiting = Rc::<RefCell<Waiting>>::default();
        let news = Rc::new(Notify::new());
        tokio::task::spawn_local(send_all(writer, Rc::clone(&waiting), Rc::clone(&news)));
        let may_ask = Rc::new(Cell::new(MayAsk::Never.with(has_token)));
        let desk = Desk {
            asker,
            may_ask: Rc::clone(&may_ask),
            waiting: Rc::clone(&waiting),
            news: Rc::clone(&news),
        };
        let (breaks, broken) = oneshot::channel();
        tokio::task::spawn_local(async move {
            let reason = desk.take_questions(reader).await;
            let _ = breaks.send(reason);
        });
        Ok(Self {
            waiting,
            news,
            may_ask,
            broken,
        })
    }

    /// Sends settings as soon as the exporter takes them, before all else.
    ///
    /// # Errors
    /// They are too long to be sent.
    pub(super) fn settings(&self, settings: Settings) -> io::Result<()> {
        self.may_ask
            .set(self.may_ask.get().with(settings.token.is_some()));
        let frame = wire::frame(&Message::Settings(settings))?;
        self.waiting.borrow_mut().settings = Some(frame);
        self.news.notify_one();
        Ok(())
    }

    /// Sends samples as soon as the exporter takes them; `false`: the samples before were not taken.
    ///
    /// # Errors
    /// They are too long to be sent.
    pub(super) fn samples(&self, samples: Samples) -> io::Result<bool> {
        let frame = wire::frame(&Message::Samples(samples))?;
        let before = self.waiting.borrow_mut().samples.replace(frame);
        self.news.notify_one();
        Ok(before.is_none())
    }

    /// Findings that there is room for.
    pub(super) fn room(&self) -> usize {
        MAX_WAITING.saturating_sub(self.waiting.borrow().findings.len())
    }

    /// Sends events as soon as the exporter takes them; gives how many were lost since the last ones, most of them
    /// older ones that there was no room for.
    pub(super) fn events(&self, events: Vec<Event>) -> u64 {
        let mut waiting = self.waiting.borrow_mut();
        waiting.add(events);
        self.news.notify_one();
        mem::take(&mut waiting.lost)
    }

    /// Waits until the exporter is gone, or says what it must not.
    pub(super) async fn broken(&mut self) -> &'static str {
        (&mut self.broken).await.unwrap_or(EXPORTER_ENDED)
    }
}

/// Where the exporter's questions arrive.
#[derive(Clone)]
struct Desk {
    asker: Asker,
    may_ask: Rc<Cell<MayAsk>>,
    waiting: Rc<RefCell<Waiting>>,
    news: Rc<Notify>,
}

impl Desk {
    /// Takes questions until the end, and says why that came.
    async fn take_questions(self, mut reader: OwnedReadHalf) -> &'static str {
        let owed = Arc::new(Semaphore::new(MAX_OWED));
        let refusals = Arc::new(Semaphore::new(MAX_REFUSALS));
        let mut asked = BTreeMap::<u32, AbortHandle>::new();
        loop {
            let mut head = [0; wire::HEAD];
            match reader.read(&mut head[..1]).await {
                Ok(1..) if self.may_ask.get() == MayAsk::Never => return MUST_NOT,
                Ok(1..) => {}
                Ok(0) | Err(_) => return EXPORTER_ENDED,
            }
            if reader.read_exact(&mut head[1..]).await.is_err() {
                return EXPORTER_ENDED;
            }
            let Ok(length) = wire::length(head, wire::MAX_ASK) else {
                return MUST_NOT;
            };
            let mut body = vec![0; length];
            if reader.read_exact(&mut body).await.is_err() {
                return EXPORTER_ENDED;
            }
            let Ok(Ask { number, question }) = wire::parse_ask(&body) else {
                return MUST_NOT;
            };
            asked.retain(|_, under_way| !under_way.is_finished());
            let Some(question) = question else {
                // Who answers notices that nobody waits.
                if let Some(under_way) = asked.remove(&number) {
                    under_way.abort();
                }
                continue;
            };
            let Ok(one) = Arc::clone(&owed).try_acquire_owned() else {
                let Ok(one) = Arc::clone(&refusals).acquire_owned().await else {
                    return EXPORTER_ENDED;
                };
                self.reply(number, Reply::busy(), one);
                continue;
            };
            let desk = self.clone();
            let answered = tokio::task::spawn_local(async move {
                let reply = match desk.may_ask.get() {
                    MayAsk::Now => debug::ask(&desk.asker, question).await,
                    MayAsk::NotNow | MayAsk::Never => Reply::gone(),
                };
                desk.reply(number, reply, one);
            });
            asked.insert(number, answered.abort_handle());
        }
    }

    fn reply(&self, number: u32, reply: Reply, owed: OwnedSemaphorePermit) {
        let frame = wire::frame(&Message::Reply { number, reply });
        let frame = frame.or_else(|_| {
            let reply = Reply::too_long();
            wire::frame(&Message::Reply { number, reply })
        });
        if let Ok(frame) = frame {
            self.waiting.borrow_mut().replies.push_back((frame, owed));
            self.news.notify_one();
        }
    }
}

async fn send_all(mut writer: OwnedWriteHalf, waiting: Rc<RefCell<Waiting>>, news: Rc<Notify>) {
    loop {
        let next = waiting.borrow_mut().next();
        match next {
            None => news.notified().await,
            Some(Err(error)) => log::warn!("events are not handed on: {error}"),
            Some(Ok(frame)) => {
                // Then it is gone, which the reader notices.
                if writer.write_all(&frame).await.is_err() {
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::events::{Held, Place, Step};

    fn event(what: What) -> Event {
        Event {
            service: "shop".to_owned(),
            pid: 7,
            at_unix_ns: 1,
            duration_ns: 2,
            what,
        }
    }

    fn finding() -> Event {
        event(What::Finding(Held {
            rule: "gil-contention".to_owned(),
            severity: "info".to_owned(),
            summary: String::new(),
            raised: true,
        }))
    }

    fn stall(bytes: usize) -> Event {
        let place = Place {
            function: "f".repeat(bytes),
            file: String::new(),
            line: 1,
        };
        event(What::Stall(Step {
            cause: "io".to_owned(),
            kind: "asyncio".to_owned(),
            task: None,
            coroutine: None,
            stack: vec![place],
            trace: None,
            context: BTreeMap::new(),
            delayed: None,
        }))
    }

    /// As the exporter would read it.
    fn read(frame: io::Result<Vec<u8>>) -> Vec<Event> {
        let frame = frame.expect("it is short enough");
        match wire::parse(&frame[wire::HEAD..]).expect("a message") {
            Message::Events(events) => events,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_question_too_many_is_refused_and_one_can_be_given_up() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .expect("a runtime");
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("sockets");
            let (asker, mut questions) = tokio::sync::mpsc::channel(debug::MAX_WAITING);
            let _link = Link::new(ours, asker, true).expect("a link");
            theirs.set_nonblocking(true).expect("a socket");
            let mut theirs = UnixStream::from_std(theirs).expect("a socket");
            let ask = |number, question| wire::frame(&Ask { number, question }).expect("short");
            let mut waiting = Vec::new();
            for number in 0..=MAX_OWED as u32 {
                let frame = ask(number, Some(debug::Question::Targets));
                theirs.write_all(&frame).await.expect("it listens");
            }
            let mut head = [0; wire::HEAD];
            theirs.read_exact(&mut head).await.expect("a refusal");
            let length = wire::length(head, wire::MAX_BODY).expect("a length");
            let mut body = vec![0; length];
            theirs.read_exact(&mut body).await.expect("a refusal");
            let Ok(Message::Reply { number, reply }) = wire::parse(&body) else {
                panic!("no reply");
            };
            assert_eq!((number, reply), (MAX_OWED as u32, Reply::busy()));
            for _ in 0..MAX_OWED {
                waiting.push(questions.recv().await.expect("a question").reply);
            }
            theirs.write_all(&ask(1, None)).await.expect("it listens");
            waiting[1].closed().await;
            assert!([0, 2, 3].iter().all(|other| !waiting[*other].is_closed()));
        });
    }

    #[test]
    fn what_waits_for_the_exporter_is_bounded_by_number_and_bytes() {
        for (count, bytes) in [(2 * MAX_WAITING, 1), (500, 100_000)] {
            let mut waiting = Waiting::default();
            waiting.add(vec![finding()]);
            waiting.add((0..count).map(|_| stall(bytes)).collect());
            let there = waiting.findings.len() + waiting.steps.len();
            assert!(there <= MAX_WAITING && waiting.bytes <= MAX_WAITING_BYTES);
            assert_eq!(waiting.lost as usize + there, 1 + count);
            let mut came = Vec::new();
            while let Some(frame) = waiting.next() {
                came.push(read(frame));
            }
            assert!(came.iter().all(|events| events.len() <= wire::MAX_EVENTS));
            let came = came.concat();
            assert_eq!((came.len(), waiting.bytes), (there, 0));
            assert!(matches!(came[0].what, What::Finding(_)), "it goes first");
        }
    }

    #[test]
    fn events_that_fit_no_message_are_counted() {
        let mut waiting = Waiting::default();
        waiting.add(vec![stall(1)]);
        // Past the bound of what waits: made by hand.
        let long = stall(wire::MAX_BODY + 1);
        waiting.bytes += long.size();
        waiting.steps.push_front(long);
        assert!(waiting.next().is_some_and(|frame| frame.is_err()));
        assert_eq!(waiting.lost, 1);
        assert_eq!(waiting.next().map(read).map(|events| events.len()), Some(1));
        assert!(waiting.next().is_none());
    }
}
