//! The collector's end of the socket to the exporter. It never waits for the exporter: what that has not taken
//! when there is something newer is dropped, but for settings, for a message that is half sent, and for a number of
//! events.

use std::{cell::RefCell, collections::VecDeque, io, rc::Rc};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::Notify,
};

use super::{
    events::Event,
    wire::{self, Message, Samples, Settings},
};

/// Why the agent ends then.
pub(crate) const EXPORTER_ENDED: &str = "the exporter has ended";

/// Events that wait, at most.
const MAX_WAITING: usize = 1_024;

/// What is to be sent.
#[derive(Debug, Default)]
struct Waiting {
    settings: Option<Vec<u8>>,
    samples: Option<Vec<u8>>,
    events: VecDeque<Event>,
}

impl Waiting {
    fn next(&mut self) -> Option<io::Result<Vec<u8>>> {
        if let Some(frame) = self.settings.take().or_else(|| self.samples.take()) {
            return Some(Ok(frame));
        }
        let count = self.events.len().min(wire::MAX_EVENTS);
        let events: Vec<Event> = self.events.drain(..count).collect();
        (count > 0).then(|| wire::frame(&Message::Events(events)))
    }
}

/// The way to the exporter.
#[derive(Debug)]
pub(super) struct Link {
    waiting: Rc<RefCell<Waiting>>,
    news: Rc<Notify>,
    reader: OwnedReadHalf,
}

impl Link {
    /// # Errors
    /// The socket cannot be waited for.
    pub(super) fn new(socket: std::os::unix::net::UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let (reader, writer) = UnixStream::from_std(socket)?.into_split();
        let waiting = Rc::<RefCell<Waiting>>::default();
        let news = Rc::new(Notify::new());
        tokio::task::spawn_local(send_all(writer, Rc::clone(&waiting), Rc::clone(&news)));
        Ok(Self {
            waiting,
            news,
            reader,
        })
    }

    /// Sends settings as soon as the exporter takes them, before all else.
    ///
    /// # Errors
    /// They are too long to be sent.
    pub(super) fn settings(&self, settings: Settings) -> io::Result<()> {
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

    /// Sends events as soon as the exporter takes them; gives how many older ones there was no room for.
    pub(super) fn events(&self, events: Vec<Event>) -> u64 {
        let mut waiting = self.waiting.borrow_mut();
        waiting.events.extend(events);
        let lost = waiting.events.len().saturating_sub(MAX_WAITING);
        waiting.events.drain(..lost);
        self.news.notify_one();
        lost as u64
    }

    /// Waits until the exporter is gone, or says something, which it must not.
    pub(super) async fn broken(&mut self) -> &'static str {
        match self.reader.read(&mut [0]).await {
            Ok(1..) => "the exporter has said something, which it must not",
            Ok(0) | Err(_) => EXPORTER_ENDED,
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
