//! Frames one behind the other, and after damage the next whole one.

use std::{
    io::{self, Read, Seek, SeekFrom},
    sync::LazyLock,
};

use memchr::memmem::Finder;

use super::format::{HEAD_BYTES, Head, MAX_BODY_BYTES, SYNC};

/// Bytes read at a time.
const READ_BYTES: usize = 1 << 20;
/// Bytes that may be checked in vain for each one that is passed, in the long run. Frames do not
/// overlap, so whoever damages a file by chance needs one; heads within bodies, each of which claims
/// what is behind it, can need any number.
const VAIN: usize = 8;
/// What may be checked in vain at once.
const MOST_VAIN: usize = 2 * MAX_BODY_BYTES;

static MARKER: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(&SYNC));

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
    /// How much may be checked in vain.
    vain: usize,
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
            vain: MOST_VAIN,
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
            if let Some(head) = found
                && head.length as usize <= self.vain
            {
                let whole = HEAD_BYTES + head.length as usize;
                self.fill(whole)?;
                if let Some(body) = self.rest().get(HEAD_BYTES..whole) {
                    if crc32fast::hash(body) == head.body_crc {
                        if damage > 0 {
                            return Ok(Next::Damage(damage));
                        }
                        let begin = self.start + HEAD_BYTES;
                        self.start += whole;
                        let body = &self.buffer[begin..self.start];
                        return Ok(Next::Frame { head, body });
                    }
                    self.vain -= head.length as usize;
                }
            }
            let skipped = self.skip();
            damage += skipped as u64;
            let earned = skipped.saturating_mul(VAIN);
            self.vain = MOST_VAIN.min(self.vain.saturating_add(earned));
        }
    }

    fn rest(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// Goes on to the next sync marker that is in the buffer, or to where one may begin.
    fn skip(&mut self) -> usize {
        let rest = &self.rest()[1..];
        let keep = if self.ended { 0 } else { SYNC.len() - 1 };
        let by = 1 + MARKER.find(rest).unwrap_or(rest.len().saturating_sub(keep));
        self.start += by;
        by
    }

    /// Tries to have so many bytes.
    fn fill(&mut self, count: usize) -> io::Result<()> {
        if self.rest().len() >= count || self.ended {
            return Ok(());
        }
        // What is moved is less than what was passed.
        if self.start >= self.buffer.len() / 2 {
            self.drained += self.start as u64;
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        while self.rest().len() < count && !self.ended {
            let want = READ_BYTES.max(count - self.rest().len());
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

impl<R: Read + Seek> Frames<R> {
    /// Goes on with the frame that begins at an offset of what is read from.
    pub(super) fn seek(&mut self, offset: u64) -> io::Result<()> {
        self.inner.seek(SeekFrom::Start(offset))?;
        self.buffer.clear();
        (self.start, self.drained, self.ended) = (0, 0, false);
        Ok(())
    }
}
