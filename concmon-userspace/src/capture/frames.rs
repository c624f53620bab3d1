//! Frames one behind the other, and after damage the next whole one.

use std::io::{self, Read};

use super::format::{HEAD_BYTES, Head, SYNC};

/// Bytes read at a time.
const READ_BYTES: usize = 1 << 20;

/// What comes next in a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next<'a> {
    Frame {
        head: Head,
        body: &'a [u8],
    },
    /// So many bytes belong to no whole frame.
    Damage(u64),
    End,
}

/// Reads frames. It holds one frame at a time.
#[derive(Debug)]
pub(super) struct Frames<R> {
    inner: R,
    buffer: Vec<u8>,
    start: usize,
    ended: bool,
    /// Bytes before the buffer.
    drained: u64,
}

impl<R: Read> Frames<R> {
    /// `inner` stands behind the preamble.
    pub(super) fn new(inner: R) -> Self {
        Self {
            inner,
            buffer: Vec::new(),
            start: 0,
            ended: false,
            drained: 0,
        }
    }

    /// What is read from; its position is somewhere ahead.
    pub(super) fn inner(&mut self) -> &mut R {
        &mut self.inner
    }

    /// How far it has come, in bytes.
    pub(super) fn passed(&self) -> u64 {
        self.drained + self.start as u64
    }

    pub(super) fn next(&mut self) -> io::Result<Next<'_>> {
        let mut damage = 0;
        loop {
            self.fill(HEAD_BYTES)?;
            if self.rest().is_empty() {
                return Ok(if damage > 0 {
                    Next::Damage(damage)
                } else {
                    Next::End
                });
            }
            let found = Head::parse(self.rest());
            if let Some(head) = found {
                let whole = HEAD_BYTES + head.length as usize;
                self.fill(whole)?;
                let body = self.rest().get(HEAD_BYTES..whole);
                if body.is_some_and(|body| crc32fast::hash(body) == head.body_crc) {
                    if damage > 0 {
                        return Ok(Next::Damage(damage));
                    }
                    let begin = self.start + HEAD_BYTES;
                    self.start += whole;
                    let body = &self.buffer[begin..self.start];
                    return Ok(Next::Frame { head, body });
                }
            }
            damage += self.skip() as u64;
        }
    }

    fn rest(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// Goes on to the next sync marker that is in the buffer, or to where one may begin.
    fn skip(&mut self) -> usize {
        let rest = &self.rest()[1..];
        let keep = if self.ended { 0 } else { SYNC.len() - 1 };
        let by = 1 + rest
            .windows(SYNC.len())
            .position(|window| window == SYNC)
            .unwrap_or(rest.len().saturating_sub(keep));
        self.start += by;
        by
    }

    /// Tries to have so many bytes.
    fn fill(&mut self, count: usize) -> io::Result<()> {
        if self.rest().len() >= count || self.ended {
            return Ok(());
        }
        self.drained += self.start as u64;
        self.buffer.drain(..self.start);
        self.start = 0;
        while self.buffer.len() < count && !self.ended {
            let want = READ_BYTES.max(count - self.buffer.len());
            let read = self
                .inner
                .by_ref()
                .take(want as u64)
                .read_to_end(&mut self.buffer)?;
            self.ended = read < want;
        }
        Ok(())
    }
}
