//! An array of arrays: chunks of elements that are added before they are needed, and taken away once they
//! are empty, while kernel programs use the others.
//!
//! Programs take numbers of free elements from a queue. It is kept filled to what may be taken before it is
//! looked at again, with the lowest numbers; all other free ones are known here alone. So what is used
//! lies together at the beginning, and the chunks behind it become empty.

use std::{
    collections::BTreeSet,
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use aya::{
    Pod,
    maps::{Array, ArrayOfMaps, Map, MapData, MapError, Queue},
};
use aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_ARRAY;

use crate::source::{object::Wire, shared::SharedArray};

/// Chunks that are added or taken away at one time, while records wait.
const CHUNKS_AT_ONCE: usize = 3;

/// What chunks are like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// Elements in a chunk.
    pub(super) per_chunk: usize,
    /// Chunks that there can be.
    pub(super) most: usize,
    /// Flags of each array (`BPF_F_*`).
    pub(super) flags: u32,
    /// Free elements that are always at hand, at least.
    pub(super) ready: u64,
    /// Elements are read and written by calls; else user space has them mapped, and no descriptor is kept.
    pub(super) by_calls: bool,
}

/// A chunk that is there; how it is reached by calls.
struct Chunk<T: Pod>(Option<(Array<MapData, T>, OwnedFd)>);

/// Values of `T` by number, in chunks. Number 0 is never given out.
pub(super) struct Chunks<T>
where
    Wire<T>: Pod,
{
    outer: ArrayOfMaps<MapData, Array<MapData, Wire<T>>>,
    queue: Queue<MapData, u32>,
    shape: Shape,
    /// By index; `None`: it has been taken away.
    chunks: Vec<Option<Chunk<Wire<T>>>>,
    /// Free numbers that are not in the queue.
    reserve: BTreeSet<u32>,
    /// Chunks of which nothing was in use when that was looked at last: no program is in them any more.
    unused: BTreeSet<usize>,
    /// Stands where a chunk was taken away. Nobody has a number that leads there.
    void: Option<Array<MapData, Wire<T>>>,
    /// There can be no more.
    full: bool,
}

/// A chunk has come or gone.
pub(super) enum Change<'a> {
    /// The array with this index, behind this descriptor.
    Added(usize, BorrowedFd<'a>),
    Gone(usize),
}

impl<T> Chunks<T>
where
    Wire<T>: Pod,
{
    pub(super) fn new(
        outer: ArrayOfMaps<MapData, Array<MapData, Wire<T>>>,
        queue: Queue<MapData, u32>,
        shape: Shape,
    ) -> Self {
        Self {
            outer,
            queue,
            shape,
            chunks: Vec::new(),
            reserve: BTreeSet::new(),
            unused: BTreeSet::new(),
            void: None,
            full: false,
        }
    }

    /// Elements that there is room for.
    pub(super) fn room(&self) -> u64 {
        (self.living().count() * self.shape.per_chunk) as u64
    }

    /// Whether no more can be added.
    pub(super) fn is_full(&self) -> bool {
        self.full
    }

    fn living(&self) -> impl Iterator<Item = usize> {
        let chunks = self.chunks.iter().enumerate();
        chunks.filter_map(|(index, chunk)| chunk.is_some().then_some(index))
    }

    /// How many numbers wait in the queue, with `used` of all in use. Programs may take more meanwhile.
    fn waiting(&self, used: u64) -> u64 {
        // Number 0 is neither.
        let known = (self.room() as usize).saturating_sub(1 + self.reserve.len());
        (known as u64).saturating_sub(used)
    }

    fn wanted(&self, used: u64) -> u64 {
        self.shape.ready.max(used / 4)
    }

    /// Fills the queue; `used` elements are in use, and so many more are `coming` at once. `tell` hears of chunks
    /// that are added.
    ///
    /// # Errors
    /// The kernel has no memory for one more, or an array cannot be changed. What is there stays usable.
    pub(super) fn fill(
        &mut self,
        used: u64,
        coming: u64,
        mut tell: impl FnMut(Change<'_>) -> Result<(), MapError>,
    ) -> Result<(), MapError> {
        let waiting = self.waiting(used);
        let wanted = coming + self.wanted(used + coming);
        // Now and then, not one for one.
        if waiting >= wanted - wanted / 8 {
            return Ok(());
        }
        let mut chunks = if coming > 0 {
            usize::MAX
        } else {
            CHUNKS_AT_ONCE
        };
        for _ in waiting..wanted {
            if self.reserve.is_empty() {
                if chunks == 0 || !self.grow(&mut tell)? {
                    break;
                }
                chunks -= 1;
            }
            if let Some(number) = self.reserve.pop_first() {
                self.queue.push(number, 0)?;
            }
        }
        Ok(())
    }

    /// Adds a chunk, the first that there is room for; `false`: there is none.
    fn grow(
        &mut self,
        tell: &mut impl FnMut(Change<'_>) -> Result<(), MapError>,
    ) -> Result<bool, MapError> {
        let gap = self.chunks.iter().position(Option::is_none);
        let index = gap.unwrap_or(self.chunks.len());
        if index >= self.shape.most {
            self.full = true;
            return Ok(false);
        }
        let data = self.array()?;
        let fd = data.fd().as_fd();
        let told = tell(Change::Added(index, fd));
        let fd = fd.try_clone_to_owned().map_err(MapError::IoError);
        let array = Array::try_from(Map::Array(data))?;
        told?;
        self.outer.set(index as u32, &array, 0)?;
        let by_calls = self.shape.by_calls;
        let chunk = Chunk(by_calls.then_some((array, fd?)));
        if index == self.chunks.len() {
            self.chunks.push(None);
        }
        self.chunks[index] = Some(chunk);
        let first = index * self.shape.per_chunk;
        let numbers = first.max(1)..first + self.shape.per_chunk;
        self.reserve.extend(numbers.map(|number| number as u32));
        Ok(true)
    }

    fn array(&self) -> Result<MapData, MapError> {
        let array = aya_obj::Map::new_from_params(
            BPF_MAP_TYPE_ARRAY as u32,
            size_of::<u32>() as u32,
            size_of::<T>() as u32,
            self.shape.per_chunk as u32,
            self.shape.flags,
        );
        MapData::create(array, "chunk", None)
    }

    /// The element with this number is free, and all zero.
    pub(super) fn give_back(&mut self, number: u32) {
        self.reserve.insert(number);
    }

    /// Reads an element.
    pub(super) fn get(&self, number: u32) -> Result<T, MapError> {
        let (index, element) = self.split(number);
        let Some(Some(Chunk(Some((array, _))))) = self.chunks.get(index) else {
            return Err(MapError::KeyNotFound);
        };
        array.get(&element, 0).map(|Wire(value)| value)
    }

    /// Maps the chunk of an element; gives its place there, too.
    pub(super) fn mapped(&self, number: u32) -> io::Result<(SharedArray<T>, usize)> {
        let (index, element) = self.split(number);
        let Some(Some(Chunk(Some((_, fd))))) = self.chunks.get(index) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let array = SharedArray::new(fd.as_fd(), self.shape.per_chunk)?;
        Ok((array, element as usize))
    }

    /// Writes an element.
    pub(super) fn set(&mut self, number: u32, value: T) -> Result<(), MapError> {
        let (index, element) = self.split(number);
        match self.chunks.get_mut(index) {
            Some(Some(Chunk(Some((array, _))))) => array.set(element, Wire(value), 0),
            _ => Err(MapError::KeyNotFound),
        }
    }

    fn split(&self, number: u32) -> (usize, u32) {
        let number = number as usize;
        let element = number % self.shape.per_chunk;
        (number / self.shape.per_chunk, element as u32)
    }

    /// Takes away chunks that have been without use since this was called last, but for as many as may be
    /// needed soon.
    ///
    /// # Errors
    /// A map cannot be changed: what is left stays usable.
    pub(super) fn shrink(
        &mut self,
        used: u64,
        mut tell: impl FnMut(Change<'_>) -> Result<(), MapError>,
    ) -> Result<(), MapError> {
        let (waiting, wanted) = (self.waiting(used), self.wanted(used));
        let kept = wanted + self.shape.per_chunk as u64;
        let spare = (self.reserve.len() as u64 + waiting).saturating_sub(kept);
        let most = spare as usize / self.shape.per_chunk;
        if most == 0 {
            self.unused.clear();
            return Ok(());
        }
        // What waits may be of the last chunks: lower numbers come in their place.
        for _ in 0..waiting {
            match self.queue.pop(0) {
                Ok(number) => self.reserve.insert(number),
                Err(_) => break,
            };
            if let Some(number) = self.reserve.pop_first() {
                self.queue.push(number, 0)?;
            }
        }
        let unused: BTreeSet<usize> = self
            .living()
            .filter(|&index| {
                index > 0 && self.reserve.range(self.numbers(index)).count() == self.shape.per_chunk
            })
            .collect();
        let gone: Vec<usize> = unused.intersection(&self.unused).copied().collect();
        for index in gone.into_iter().rev().take(most.min(CHUNKS_AT_ONCE)) {
            self.take_away(index)?;
            tell(Change::Gone(index))?;
        }
        self.unused = unused;
        Ok(())
    }

    fn numbers(&self, index: usize) -> std::ops::Range<u32> {
        let first = (index * self.shape.per_chunk) as u32;
        first..first + self.shape.per_chunk as u32
    }

    fn take_away(&mut self, index: usize) -> Result<(), MapError> {
        let void = match self.void.take() {
            Some(void) => void,
            None => Array::try_from(Map::Array(self.array()?))?,
        };
        let set = self.outer.set(index as u32, &void, 0);
        self.void = Some(void);
        set?;
        for number in self.numbers(index) {
            self.reserve.remove(&number);
        }
        self.chunks[index] = None;
        while self.chunks.last().is_some_and(Option::is_none) {
            self.chunks.pop();
        }
        self.full = false;
        Ok(())
    }
}
