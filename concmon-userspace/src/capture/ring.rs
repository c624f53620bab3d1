//! The last stretch of a recording in bounded memory, to be written out when something happens.

use std::{cell::RefCell, collections::VecDeque, fs::File, io, rc::Rc};

use super::{
    disk::DiskRing,
    encode::Sealed,
    header::Header,
    write::{FileStore, Store},
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
    /// Nothing was let go yet: it begins with the watch.
    whole: bool,
    /// A copy that outlives this process.
    mirror: Option<DiskRing>,
    /// What is being written out; further chunks go there, too.
    dump: Option<FileStore>,
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
            whole: true,
            mirror: None,
            dump: None,
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
        ring.dump = Some(ring.begin(file, Some(service), reason, 0)?);
        ring.dump_failure = None;
        Ok(())
    }

    /// Writes out what there is of the time since `since_ns`, and what is needed to read it.
    ///
    /// # Errors
    /// As [`Ring::dump`].
    pub fn copy(&self, file: File, reason: &str, since_ns: u64, at_ns: u64) -> io::Result<()> {
        let mut store = self.0.borrow().begin(file, None, reason, since_ns)?;
        store.end(at_ns)
    }

    /// From now on, it keeps at most so many bytes.
    pub fn set_most_bytes(&self, most_bytes: usize) {
        let mut ring = self.0.borrow_mut();
        ring.most_bytes = most_bytes;
        ring.trim();
    }

    /// Ends the file that is being written, and says how long it is.
    ///
    /// # Errors
    /// What the file says.
    pub fn close(&self, at_ns: u64) -> io::Result<u64> {
        let mut ring = self.0.borrow_mut();
        let dump = ring.dump.take();
        if let Some(error) = ring.dump_failure.take() {
            return Err(error);
        }
        let Some(mut dump) = dump else {
            return Ok(0);
        };
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

impl Inner {
    /// A file with what is kept, from the last key before `since_ns` on.
    fn begin(
        &self,
        file: File,
        service: Option<&str>,
        reason: &str,
        since_ns: u64,
    ) -> io::Result<FileStore> {
        let Some(header) = self.header.clone() else {
            return Err(io::Error::other("nothing was kept yet"));
        };
        // Only facts of a tick tell who is who.
        let mut keys = self.chunks.iter().enumerate();
        let first = keys.by_ref().find(|(_, chunk)| chunk.head.key);
        let mut later = keys.filter(|(_, chunk)| chunk.head.key && chunk.head.from_ns <= since_ns);
        let from = match later.next_back().or(first) {
            _ if self.whole && !header.joins && since_ns == 0 => 0,
            Some((at, _)) => at,
            None => self.chunks.len(),
        };
        let mut store = FileStore::new(file);
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
