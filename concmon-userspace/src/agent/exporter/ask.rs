//! Questions that only the collector can answer: each goes to it with a number, by which the reply is known.

use std::{cell::RefCell, collections::BTreeMap, io, rc::Rc};

use tokio::{
    io::AsyncWriteExt as _,
    net::unix::OwnedWriteHalf,
    sync::{mpsc, oneshot},
};

use crate::agent::{
    debug::{MAX_WAITING, Question, Reply},
    wire::{self, Ask},
};

/// The way to the collector. Clones are the same one.
#[derive(Clone, Debug)]
pub(super) struct Line(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    frames: mpsc::Sender<Vec<u8>>,
    asked: RefCell<Asked>,
}

/// The end of waiting for a reply, which the collector is told of where none has come.
struct GivenUp<'a>(&'a Inner, u32);

impl Drop for GivenUp<'_> {
    fn drop(&mut self) {
        let Self(line, number) = *self;
        if line.asked.borrow_mut().waiting.remove(&number).is_some()
            && let Ok(frame) = wire::frame(&Ask {
                number,
                question: None,
            })
        {
            // Where that finds no room, it is answered all the same.
            let _ = line.frames.try_send(frame);
        }
    }
}

/// Who waits for a reply.
#[derive(Debug, Default)]
struct Asked {
    last: u32,
    waiting: BTreeMap<u32, oneshot::Sender<Reply>>,
}

impl Line {
    /// `writer` leads to the collector.
    pub(super) fn begin(writer: OwnedWriteHalf) -> Self {
        let (frames, waiting) = mpsc::channel(MAX_WAITING);
        tokio::task::spawn_local(write(writer, waiting));
        Self(Rc::new(Inner {
            frames,
            asked: RefCell::default(),
        }))
    }

    /// Asks, and waits for the reply.
    pub(super) async fn ask(&self, question: Question) -> Reply {
        let (reply, replied) = oneshot::channel();
        let Some((number, frame)) = self.add(question, reply) else {
            return Reply::busy();
        };
        let _given_up = GivenUp(&self.0, number);
        if self.0.frames.try_send(frame).is_err() {
            return Reply::busy();
        }
        replied.await.unwrap_or_else(|_| Reply::busy())
    }

    fn add(&self, question: Question, reply: oneshot::Sender<Reply>) -> Option<(u32, Vec<u8>)> {
        let mut asked = self.0.asked.borrow_mut();
        if asked.waiting.len() >= MAX_WAITING {
            return None;
        }
        asked.last = asked.last.wrapping_add(1);
        let number = asked.last;
        let question = Some(question);
        let frame = wire::frame(&Ask { number, question }).ok()?;
        asked.waiting.insert(number, reply);
        Some((number, frame))
    }

    /// The collector has answered.
    pub(super) fn replied(&self, number: u32, reply: Reply) {
        let waiting = self.0.asked.borrow_mut().waiting.remove(&number);
        if let Some(waiting) = waiting {
            let _ = waiting.send(reply);
        }
    }
}

async fn write(mut writer: OwnedWriteHalf, mut frames: mpsc::Receiver<Vec<u8>>) -> io::Result<()> {
    while let Some(frame) = frames.recv().await {
        // Then the collector is gone, which the reader notices.
        writer.write_all(&frame).await?;
    }
    Ok(())
}
