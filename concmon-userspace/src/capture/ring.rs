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
        let Some(header) = ring.header.clone() else {
            return Err(io::Error::other("nothing was kept yet"));
        };
        let mut store = FileStore::new(file);
        store.begin(&Header {
            joins: !ring.whole,
            reason: Some(reason.to_owned()),
            flight: Some(service.to_owned()),
            ..header
        })?;
        let from = match ring.whole {
            true => 0,
            // Only facts of a tick tell who is who.
            false => {
                let key = ring.chunks.iter().position(|chunk| chunk.head.key);
                key.unwrap_or(ring.chunks.len())
            }
        };
        for chunk in ring.chunks.range(from..) {
            store.chunk(chunk.clone())?;
        }
        ring.dump = Some(store);
        ring.dump_failure = None;
        Ok(())
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
    fn take(&mut self, chunk: Sealed) {
        let since_ns = chunk.head.to_ns.saturating_sub(self.span_ns);
        self.bytes += chunk.body.len();
        self.chunks.push_back(chunk);
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
