//! An array of arrays: chunks of elements that are added before they are needed, and taken away once they
//! are empty, while kernel programs use the others.
//!
//! Programs take numbers of free elements from a queue. It is kept filled to what may be taken before it is
//! looked at again, with the lowest numbers; all other free ones are known here alone. So what is used
//! lies together at the beginning, and the chunks behind it become empty.
//!
//! To put a chunk in its place, or another one instead, takes the kernel a grace period, tens of milliseconds: a
//! thread waits for that ([`Helper`]). Meanwhile no number leads there.

use std::{
    collections::BTreeSet,
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
};

use aya::{
    Pod,
    maps::{Array, ArrayOfMaps, Map, MapData, MapError, Queue},
};
use aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_ARRAY;

use crate::source::{object::Wire, shared::SharedArray};

/// Chunks that come or go at one time.
const MOST_UNDER_WAY: usize = 16;

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

type Job = Box<dyn FnOnce() + Send>;

/// A thread that waits in the kernel instead of who asks.
#[derive(Clone, Debug)]
pub(super) struct Helper(mpsc::Sender<Job>);

impl Helper {
    /// Starts it, with the rights of the calling thread. It ends when nobody can ask it any more.
    ///
    /// # Errors
    /// There can be no thread.
    pub(super) fn start() -> io::Result<Self> {
        let (sender, jobs) = mpsc::channel::<Job>();
        let work = move || jobs.into_iter().for_each(|job| job());
        let builder = thread::Builder::new().name("room".to_owned());
        builder.spawn(work).map(|_| Self(sender))
    }
}

/// A chunk; how it is reached by calls.
struct Chunk<T: Pod>(Option<(Arc<Array<MapData, T>>, OwnedFd)>);

/// What is at an index.
enum Place<T: Pod> {
    Empty,
    /// It is being put there.
    Coming(Chunk<T>),
    There(Chunk<T>),
    /// It is being taken away.
    Going(Chunk<T>),
}

/// What the kernel said when a chunk was put in its place, or taken away from there.
type Done = (usize, Result<(), MapError>);

type Outer<T> = ArrayOfMaps<MapData, Array<MapData, Wire<T>>>;

/// Values of `T` by number, in chunks. Number 0 is never given out.
pub(super) struct Chunks<T>
where
    Wire<T>: Pod,
{
    outer: Arc<Mutex<Outer<T>>>,
    queue: Queue<MapData, u32>,
    shape: Shape,
    /// By index.
    places: Vec<Place<Wire<T>>>,
    /// `None`: whoever asks waits.
    helper: Option<Helper>,
    done: (mpsc::Sender<Done>, mpsc::Receiver<Done>),
    /// Chunks that come or go.
    under_way: usize,
    /// Free numbers that are not in the queue.
    reserve: BTreeSet<u32>,
    /// Chunks of which nothing was in use when that was looked at last: no program is in them any more.
    unused: BTreeSet<usize>,
    /// Stands where a chunk was taken away. Nobody has a number that leads there.
    void: Option<Arc<Array<MapData, Wire<T>>>>,
    /// There can be no more.
    full: bool,
}

/// A chunk comes, or has gone.
pub(super) enum Change<'a> {
    /// The array with this index, behind this descriptor.
    Added(usize, BorrowedFd<'a>),
    Gone(usize),
}

impl<T> Chunks<T>
where
    T: Send + Sync + 'static,
    Wire<T>: Pod,
{
    pub(super) fn new(
        outer: ArrayOfMaps<MapData, Array<MapData, Wire<T>>>,
        queue: Queue<MapData, u32>,
        shape: Shape,
    ) -> Self {
        Self {
            outer: Arc::new(Mutex::new(outer)),
            queue,
            shape,
            places: Vec::new(),
            helper: None,
            done: mpsc::channel(),
            under_way: 0,
            reserve: BTreeSet::new(),
            unused: BTreeSet::new(),
            void: None,
            full: false,
        }
    }

    /// From now on, this waits for the kernel, but for what is needed at once.
    pub(super) fn set_helper(&mut self, helper: Helper) {
        self.helper = Some(helper);
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
        let places = self.places.iter().enumerate();
        places.filter_map(|(index, place)| matches!(place, Place::There(_)).then_some(index))
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

    /// Fills the queue; `used` elements are in use, and so many more are `coming` at once: for these there is room when
    /// this returns, and for whatever else may be needed, soon after. `tell` hears of chunks that are added.
    ///
    /// # Errors
    /// The kernel has no memory for one more, or an array cannot be changed. What is there stays usable.
    pub(super) fn fill(
        &mut self,
        used: u64,
        coming: u64,
        mut tell: impl FnMut(Change<'_>) -> Result<(), MapError>,
    ) -> Result<(), MapError> {
        self.take_done(false, &mut tell)?;
        let mut waiting = self.waiting(used);
        if coming > 0 || self.helper.is_none() {
            let needed = coming + self.shape.per_chunk as u64;
            waiting = self.push(waiting, needed, true, &mut tell)?;
        }
        let wanted = coming + self.wanted(used + coming);
        // Now and then, not one for one.
        if self.helper.is_some() && waiting < wanted - wanted / 8 {
            self.push(waiting, wanted, false, &mut tell)?;
        }
        Ok(())
    }

    /// Fills the queue, in which so many are `waiting`, to what is `wanted`: at once, or as far as there is room, while
    /// more of it is on its way. Gives how many wait then.
    fn push(
        &mut self,
        mut waiting: u64,
        wanted: u64,
        at_once: bool,
        tell: &mut impl FnMut(Change<'_>) -> Result<(), MapError>,
    ) -> Result<u64, MapError> {
        while waiting < wanted {
            // It leaves the reserve when it is in the queue, not before.
            if let Some(&number) = self.reserve.first() {
                self.queue.push(number, 0)?;
                self.reserve.remove(&number);
                waiting += 1;
                continue;
            }
            let on_their_way = (self.under_way * self.shape.per_chunk) as u64;
            let is_enough = waiting + on_their_way >= wanted;
            if !is_enough && (at_once || self.under_way < MOST_UNDER_WAY) {
                if !self.grow(at_once, tell)? {
                    break;
                }
            } else if !at_once {
                break;
            }
            self.take_done(at_once, tell)?;
        }
        Ok(waiting)
    }

    /// Adds a chunk, the first that there is room for; `false`: there is none.
    fn grow(
        &mut self,
        at_once: bool,
        tell: &mut impl FnMut(Change<'_>) -> Result<(), MapError>,
    ) -> Result<bool, MapError> {
        let mut places = self.places.iter();
        let gap = places.position(|place| matches!(place, Place::Empty));
        let index = gap.unwrap_or(self.places.len());
        if index >= self.shape.most {
            self.full = true;
            return Ok(false);
        }
        let data = self.array()?;
        let fd = data.fd().as_fd();
        let kept = match self.shape.by_calls {
            true => Some(fd.try_clone_to_owned().map_err(MapError::IoError)?),
            false => None,
        };
        tell(Change::Added(index, fd))?;
        let array = Arc::new(Array::try_from(Map::Array(data))?);
        let chunk = Chunk(kept.map(|fd| (Arc::clone(&array), fd)));
        if index == self.places.len() {
            self.places.push(Place::Empty);
        }
        self.places[index] = Place::Coming(chunk);
        self.put(index, array, at_once);
        Ok(true)
    }

    /// Puts an array in a place, by the helper, or at once.
    fn put(&mut self, index: usize, array: Arc<Array<MapData, Wire<T>>>, at_once: bool) {
        self.under_way += 1;
        let (outer, done) = (Arc::clone(&self.outer), self.done.0.clone());
        let job = move || {
            let mut outer = outer.lock().unwrap_or_else(PoisonError::into_inner);
            let set = outer.set(index as u32, &*array, 0);
            drop((outer, array));
            // Nobody takes it over at the end of a watch.
            let _ = done.send((index, set));
        };
        match self.helper.as_ref().filter(|_| !at_once) {
            None => job(),
            Some(Helper(jobs)) => {
                if let Err(mpsc::SendError(job)) = jobs.send(Box::new(job)) {
                    job();
                }
            }
        }
    }

    /// Takes over what the kernel has done; with `wait`, something at least, where it is under way.
    fn take_done(
        &mut self,
        mut wait: bool,
        tell: &mut impl FnMut(Change<'_>) -> Result<(), MapError>,
    ) -> Result<(), MapError> {
        let mut taken = Ok(());
        while self.under_way > 0 {
            let next = match std::mem::take(&mut wait) {
                true => self.done.1.recv().ok(),
                false => self.done.1.try_recv().ok(),
            };
            let Some((index, set)) = next else { break };
            self.under_way -= 1;
            let numbers = self.numbers(index);
            let (place, told) = match (
                std::mem::replace(&mut self.places[index], Place::Empty),
                &set,
            ) {
                (Place::Coming(chunk), Ok(())) => {
                    self.reserve.extend(numbers.start.max(1)..numbers.end);
                    (Place::There(chunk), Ok(()))
                }
                // It stays as it was.
                (Place::Going(chunk), Err(_)) => {
                    self.reserve.extend(numbers);
                    (Place::There(chunk), Ok(()))
                }
                _ => {
                    self.full = false;
                    (Place::Empty, tell(Change::Gone(index)))
                }
            };
            self.places[index] = place;
            taken = taken.and(set).and(told);
        }
        while matches!(self.places.last(), Some(Place::Empty)) {
            self.places.pop();
        }
        taken
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
        let Some(Place::There(Chunk(Some((array, _))))) = self.places.get(index) else {
            return Err(MapError::KeyNotFound);
        };
        array.get(&element, 0).map(|Wire(value)| value)
    }

    /// Maps the chunk of an element; gives its place there, too.
    pub(super) fn mapped(&self, number: u32) -> io::Result<(SharedArray<T>, usize)> {
        let (index, element) = self.split(number);
        let Some(Place::There(Chunk(Some((_, fd))))) = self.places.get(index) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let array = SharedArray::new(fd.as_fd(), self.shape.per_chunk)?;
        Ok((array, element as usize))
    }

    /// Writes an element.
    pub(super) fn set(&mut self, number: u32, value: T) -> Result<(), MapError> {
        let (index, element) = self.split(number);
        let Some(Place::There(Chunk(Some((array, _))))) = self.places.get_mut(index) else {
            return Err(MapError::KeyNotFound);
        };
        // Whoever has put it in its place has let go of it.
        let array = Arc::get_mut(array).ok_or(MapError::KeyNotFound)?;
        array.set(element, Wire(value), 0)
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
        self.take_done(false, &mut tell)?;
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
            if let Some(&number) = self.reserve.first() {
                self.queue.push(number, 0)?;
                self.reserve.remove(&number);
            }
        }
        let unused: BTreeSet<usize> = self
            .living()
            .filter(|&index| {
                index > 0 && self.reserve.range(self.numbers(index)).count() == self.shape.per_chunk
            })
            .collect();
        let gone: Vec<usize> = unused.intersection(&self.unused).copied().collect();
        let most = most.min(MOST_UNDER_WAY.saturating_sub(self.under_way));
        for index in gone.into_iter().rev().take(most) {
            self.take_away(index)?;
        }
        self.unused = unused;
        self.take_done(false, &mut tell)
    }

    fn numbers(&self, index: usize) -> std::ops::Range<u32> {
        let first = (index * self.shape.per_chunk) as u32;
        first..first + self.shape.per_chunk as u32
    }

    fn take_away(&mut self, index: usize) -> Result<(), MapError> {
        let void = match &self.void {
            Some(void) => Arc::clone(void),
            None => Arc::new(Array::try_from(Map::Array(self.array()?))?),
        };
        self.void = Some(Arc::clone(&void));
        for number in self.numbers(index) {
            self.reserve.remove(&number);
        }
        let place = std::mem::replace(&mut self.places[index], Place::Empty);
        if let Place::There(chunk) = place {
            self.places[index] = Place::Going(chunk);
            self.put(index, void, false);
        }
        self.full = false;
        Ok(())
    }
}
