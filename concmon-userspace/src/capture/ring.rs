//! The last stretch of a recording in bounded memory, to be written out when something happens.

use std::{cell::RefCell, collections::VecDeque, fs::File, io, rc::Rc};

use super::{
    disk::DiskRing,
    encode::Sealed,
    format::HEAD_BYTES,
    header::Header,
    write::{Appended, FileStore, Store, Target},
};

/// A ring of chunks. Clones are the same ring: one takes chunks in, another writes them out.
#[derive(Clone, Debug)]
pub struct Ring(Rc<RefCell<Inner>>);

#[derive(Debug)]
struct Inner {
    header: Option<Header>,
    span_ns: u64,
    most_bytes: usize,
    chunks: VecDeque<Sealed>,
    bytes: usize,
    /// Of those, what came with the last key and since, bytes.
    stretch: usize,
    /// Nothing was let go yet: it begins with the watch.
    whole: bool,
    /// A copy that outlives this process.
    mirror: Option<DiskRing>,
    /// What is being written out; further chunks go there, too.
    dump: Option<FileStore>,
    /// A replay of that has where to begin.
    dump_begins: bool,
    dump_failure: Option<io::Error>,
}

impl Ring {
    /// One that keeps what arrived in the last `span_ns`, and in all at most so many bytes.
    pub fn new(span_ns: u64, most_bytes: usize) -> Self {
        Self(Rc::new(RefCell::new(Inner {
            header: None,
            span_ns,
            most_bytes,
            chunks: VecDeque::new(),
            bytes: 0,
            stretch: 0,
            whole: true,
            mirror: None,
            dump: None,
            dump_begins: false,
            dump_failure: None,
        })))
    }

    /// Keeps it in a file, too, from its beginning on.
    pub fn mirror(&self, mirror: DiskRing) {
        self.0.borrow_mut().mirror = Some(mirror);
    }

    /// Writes out what there is, and from now on what comes, until [`Ring::close`]. `service` is
    /// whose flight recorder this is.
    ///
    /// # Errors
    /// What the file says, or nothing was kept yet. The ring stays as it is.
    pub fn dump(&self, file: File, service: &str, reason: &str) -> io::Result<()> {
        let mut ring = self.0.borrow_mut();
        let from = ring.first(0);
        let file = FileStore::new(file);
        ring.dump = Some(ring.begin(file, Some(service), reason, from)?);
        ring.dump_begins = from.is_some();
        ring.dump_failure = None;
        Ok(())
    }

    /// What there is of the time since `since_ns`, and what is needed to read it, as a capture of its own.
    ///
    /// # Errors
    /// There is no memory for it; or no window fits in the ring.
    pub fn copy(&self, reason: &str, since_ns: u64, at_ns: u64) -> io::Result<Vec<u8>> {
        let ring = self.0.borrow();
        let from = ring.first(since_ns).ok_or_else(nothing_to_read)?;
        let chunks = ring.chunks.range(from..);
        let mut bytes = Vec::new();
        bytes
            .try_reserve(chunks.map(|chunk| chunk.body.len() + HEAD_BYTES).sum())
            .map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        let mut store = ring.begin(Appended::to(bytes), None, reason, Some(from))?;
        store.end(at_ns)?;
        Ok(store.into_target())
    }

    /// From now on, it keeps at most so many bytes.
    pub fn set_most_bytes(&self, most_bytes: usize) {
        let mut ring = self.0.borrow_mut();
        ring.most_bytes = most_bytes;
        ring.trim();
    }

    /// It has taken in so much since the last window ended that the next one had better end before that is let go.
    pub fn needs_window(&self) -> bool {
        let ring = self.0.borrow();
        ring.stretch > ring.most_bytes / 2
    }

    /// Ends the file that is being written, and says how long it is.
    ///
    /// # Errors
    /// What the file says; or there is nothing in it that can be read.
    pub fn close(&self, at_ns: u64) -> io::Result<u64> {
        let mut ring = self.0.borrow_mut();
        let dump = ring.dump.take();
        if let Some(error) = ring.dump_failure.take() {
            return Err(error);
        }
        let Some(mut dump) = dump else {
            return Ok(0);
        };
        if !ring.dump_begins {
            return Err(nothing_to_read());
        }
        dump.end(at_ns)?;
        Ok(dump.bytes())
    }
}

impl Store for Ring {
    fn begin(&mut self, header: &Header) -> io::Result<()> {
        let mut ring = self.0.borrow_mut();
        ring.header = Some(header.clone());
        match &mut ring.mirror {
            Some(mirror) => mirror.begin(header),
            None => Ok(()),
        }
    }

    fn chunk(&mut self, chunk: Sealed) -> io::Result<()> {
        let mut ring = self.0.borrow_mut();
        ring.dump_begins |= chunk.head.key;
        if let Some(dump) = &mut ring.dump
            && let Err(error) = dump.chunk(chunk.clone())
        {
            // The ring goes on.
            ring.dump = None;
            ring.dump_failure = Some(error);
        }
        let mirrored = match &mut ring.mirror {
            Some(mirror) => mirror.chunk(&chunk),
            None => Ok(()),
        };
        ring.take(chunk);
        mirrored
    }

    fn end(&mut self, _at_ns: u64) -> io::Result<()> {
        Ok(())
    }

    fn bytes(&self) -> u64 {
        self.0.borrow().bytes as u64
    }
}

/// Why what is kept is of no use.
fn nothing_to_read() -> io::Error {
    io::Error::other(
        "nothing that can be read is kept: what arrives between two windows takes more memory than there is",
    )
}

impl Inner {
    /// Where a replay of what is kept can begin, at the last key before `since_ns`; `None`: nowhere.
    fn first(&self, since_ns: u64) -> Option<usize> {
        // Only facts of a tick tell who is who.
        let mut keys = self.chunks.iter().enumerate();
        let first = keys.by_ref().find(|(_, chunk)| chunk.head.key);
        let mut later = keys.filter(|(_, chunk)| chunk.head.key && chunk.head.from_ns <= since_ns);
        let joins = self.header.as_ref().is_some_and(|header| header.joins);
        match self.whole && !joins && since_ns == 0 {
            true => Some(0),
            false => later.next_back().or(first).map(|(at, _)| at),
        }
    }

    /// Begins a capture with what is kept from there on.
    fn begin<T: Target>(
        &self,
        mut store: Appended<T>,
        service: Option<&str>,
        reason: &str,
        from: Option<usize>,
    ) -> io::Result<Appended<T>> {
        let Some(header) = self.header.clone() else {
            return Err(io::Error::other("nothing was kept yet"));
        };
        let from = from.unwrap_or(self.chunks.len());
        store.begin(&Header {
            joins: header.joins || !self.whole || from > 0,
            reason: Some(reason.to_owned()),
            flight: service.map(str::to_owned),
            ..header
        })?;
        for chunk in self.chunks.range(from..) {
            store.chunk(chunk.clone())?;
        }
        Ok(store)
    }

    fn take(&mut self, chunk: Sealed) {
        if chunk.head.key {
            self.stretch = 0;
        }
        self.stretch += chunk.body.len();
        self.bytes += chunk.body.len();
        self.chunks.push_back(chunk);
        self.trim();
    }

    fn trim(&mut self) {
        let Some(last) = self.chunks.back() else {
            return;
        };
        let since_ns = last.head.to_ns.saturating_sub(self.span_ns);
        loop {
            // A stretch from one tick to the next is let go as a whole.
            let next = self.chunks.iter().skip(1).position(|chunk| chunk.head.key);
            let old = next.is_some_and(|next| self.chunks[next + 1].head.from_ns <= since_ns);
            let much = self.bytes > self.most_bytes && self.chunks.len() > 1;
            if !old && !much {
                break;
            }
            for _ in 0..=next.unwrap_or(0) {
                if let Some(chunk) = self.chunks.pop_front() {
                    self.bytes -= chunk.body.len();
                }
            }
            self.whole = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::capture::{Encoder, Input, Item, Reader, tests::header};

    fn chunk(at_ns: u64, key: bool) -> Sealed {
        let mut encoder = Encoder::default();
        encoder.put(&Input::Release { until_ns: at_ns });
        encoder.seal(at_ns, at_ns + 1, key)
    }

    fn ring(most_bytes: usize) -> Ring {
        let mut ring = Ring::new(u64::MAX, most_bytes);
        let header = Header {
            joins: true,
            ..header()
        };
        ring.begin(&header).expect("a header");
        ring
    }

    fn file() -> File {
        tempfile::tempfile().expect("a file")
    }

    #[test]
    fn what_cannot_be_read_is_not_handed_out() {
        let bytes = chunk(0, false).body.len();
        let mut ring = ring(2 * bytes);
        ring.chunk(chunk(0, true)).expect("room");
        assert!(!ring.needs_window());
        let copy = ring.copy("test", 0, 1).expect("it has a key");
        let mut whole = Reader::embedded(Cursor::new(copy)).expect("a capture");
        assert_eq!(whole.header().reason.as_deref(), Some("test"));
        assert!(matches!(whole.item(), Ok(Some(Item::Chunk(_)))));
        assert!(matches!(whole.item(), Ok(Some(Item::End))));
        ring.chunk(chunk(1, false)).expect("room");
        assert!(ring.needs_window(), "before the key goes");
        ring.copy("test", 0, 2).expect("it has a key");
        ring.chunk(chunk(2, false)).expect("room");
        let refused = ring.copy("test", 0, 3);
        assert!(refused.is_err(), "the key is gone");
        // A file that has none either when it is ended.
        ring.dump(file(), "service", "test").expect("a file");
        assert!(ring.close(3).is_err());
        ring.dump(file(), "service", "test").expect("a file");
        ring.chunk(chunk(4, true)).expect("room");
        assert!(ring.close(5).expect("it has a key") > 0);
        assert!(!ring.needs_window());
    }
}
