//! The collector's end of the socket to the exporter. It never waits for the exporter: what that has not taken
//! when there is something newer is dropped, but for settings, and for a message that is half sent.

use std::{cell::RefCell, io, rc::Rc};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::Notify,
};

use super::wire::{self, Message};

/// Why the agent ends then.
pub(crate) const EXPORTER_ENDED: &str = "the exporter has ended";

/// What is to be sent.
#[derive(Debug, Default)]
struct Waiting {
    settings: Option<Vec<u8>>,
    samples: Option<Vec<u8>>,
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

    /// Sends as soon as the exporter takes it; `false`: the samples before were not taken.
    ///
    /// # Errors
    /// It is too long to be sent.
    pub(super) fn send(&self, message: &Message) -> io::Result<bool> {
        let frame = wire::frame(message)?;
        let mut waiting = self.waiting.borrow_mut();
        let before = match message {
            Message::Settings(_) => {
                waiting.settings = Some(frame);
                None
            }
            Message::Samples(_) => waiting.samples.replace(frame),
        };
        self.news.notify_one();
        Ok(before.is_none())
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
        let next = {
            let mut waiting = waiting.borrow_mut();
            waiting.settings.take().or_else(|| waiting.samples.take())
        };
        match next {
            None => news.notified().await,
            Some(frame) => {
                // Then it is gone, which the reader notices.
                if writer.write_all(&frame).await.is_err() {
                    return;
                }
            }
        }
    }
}
