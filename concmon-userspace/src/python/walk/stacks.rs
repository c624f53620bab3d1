//! Stacks of threads: which Python functions each one is in.

use super::frames::{Head, Piece, Walk, WalkState, head_len};
use super::outer_part::outer_part;
use super::thread_states::ThreadRecord;
use crate::python::layout::{FrameRoot, GeneratorFrame};
use crate::python::memory::addresses::{AddressMap, AddressSet};
use crate::python::memory::{Batch, at, word};
use crate::python::objects::Reader;
use crate::python::objects::code::CodeCache;

pub(crate) use super::frames::{Stack, StackFrame};

/// How many stacks are read together, and how many frames of all threads are kept.
const THREADS_AT_ONCE: usize = 256;
const MAX_FRAMES: usize = 1 << 18;
/// How often a stack that changes while it is read is read in all. A recursion of 900 frames that goes on meanwhile tears
/// six attempts of seven up to 3.10, where a frame that has returned says nothing more.
const MAX_TRIES: usize = 64;
/// After so many attempts, the outer part of it is enough.
const WHOLE_TRIES: usize = 8;
/// A chunk of the stack of frames begins with its predecessor, its size and its end.
const CHUNK_HEADER: u64 = 24;
/// The usual size of a chunk, and the most that is read of one, bytes.
const CHUNK_BYTES: u64 = 16 << 10;
const MAX_CHUNK_BYTES: u64 = 256 << 10;
/// A thread that goes on may have grown its stack since its end was read, bytes.
const GROWTH_BYTES: u64 = 512;
/// Places of frames that are remembered from one attempt to the next.
const MAX_KNOWN: usize = 1024;

/// The stack of each thread, of at most `depth` frames; of fewer where there are very many threads.
pub(crate) fn stacks(
    reader: &mut Reader<'_>,
    codes: &mut CodeCache,
    threads: &[ThreadRecord],
    depth: usize,
) -> Vec<Stack> {
    let depth = depth.min(MAX_FRAMES / threads.len().max(1));
    threads
        .chunks(THREADS_AT_ONCE)
        .flat_map(|threads| together(reader, codes, threads, depth))
        .collect()
}

/// Reads some stacks together.
fn together(
    reader: &mut Reader<'_>,
    codes: &mut CodeCache,
    threads: &[ThreadRecord],
    depth: usize,
) -> Vec<Stack> {
    let mut stacks = vec![Stack::TORN; threads.len()];
    let mut known = vec![Vec::new(); threads.len()];
    let mut open: Vec<usize> = (0..threads.len()).collect();
    for tries in 0..MAX_TRIES {
        if open.is_empty() || reader.is_over() {
            break;
        }
        let wanted: Vec<Wanted> = open
            .iter()
            .map(|slot| Wanted {
                thread: threads[*slot].address,
                known: std::mem::take(&mut known[*slot]),
            })
            .collect();
        let mut found = Vec::with_capacity(open.len());
        let taken = (tries >= WHOLE_TRIES).then(|| {
            let frames = stacks.iter().flat_map(|stack: &Stack| &stack.frames);
            frames.map(|frame| frame.address).collect()
        });
        let read = read_once(reader, wanted, depth, taken.as_ref());
        for (slot, (stack, met)) in open.iter().zip(read) {
            found.push(stack);
            known[*slot] = met;
        }
        let read = |stack: &Option<Stack>| stack.clone().unwrap_or_default().frames;
        codes.load(
            reader,
            found.iter().flat_map(read).map(|frame| frame.position.code),
        );
        let mut again = Vec::new();
        for (slot, stack) in open.into_iter().zip(found) {
            match stack {
                Some(mut stack) if stack.is_known(codes) => {
                    let frames = &mut stack.frames;
                    frames.retain(|frame| !codes.is_shim(frame.position.code));
                    stacks[slot] = stack;
                }
                _ => again.push(slot),
            }
        }
        open = again;
    }
    reader.failed += open.len() as u64;
    stacks
}

/// Which of these stacks still end where they did.
pub(crate) fn stand_still(
    reader: &mut Reader<'_>,
    threads: &[ThreadRecord],
    stacks: &[Stack],
) -> Vec<bool> {
    let wanted = threads.iter().map(|thread| Wanted {
        thread: thread.address,
        known: Vec::new(),
    });
    let places = places(reader, wanted.collect());
    places
        .into_iter()
        .zip(stacks)
        .map(|(place, stack)| {
            let now = place.and_then(|place| place.roots.last().copied());
            now.is_some_and(|(_, innermost)| innermost != 0 && innermost == stack.innermost)
        })
        .collect()
}

/// A thread whose stack is to be read.
struct Wanted {
    /// Its thread state.
    thread: u64,
    /// Where frames outside of the chunk were when it was tried before: they are often there again.
    known: Vec<u64>,
}

/// Where a thread's stack is to be found.
struct Place {
    /// Addresses of the words that lead to the innermost frame, and what they held; the last one
    /// holds the frame's address.
    roots: Vec<(u64, u64)>,
    chunk: u64,
    chunk_len: usize,
    /// Where else frames may be.
    known: Vec<u64>,
}

impl Place {
    /// Adds what is read of it in one go: its frames, the words that lead to them, its frames.
    fn push(&self, batch: &mut Batch, frame_len: usize) -> Areas {
        let before = self.push_frames(batch, frame_len);
        let roots = self.push_roots(batch);
        let after = self.push_frames(batch, frame_len);
        Areas {
            before,
            roots,
            after,
        }
    }

    fn push_frames(&self, batch: &mut Batch, frame_len: usize) -> usize {
        let first = batch.push(self.chunk, self.chunk_len);
        for frame in &self.known {
            batch.push(*frame, frame_len);
        }
        first
    }

    fn push_roots(&self, batch: &mut Batch) -> usize {
        let first = batch.len();
        for (address, _) in &self.roots {
            batch.push(*address, 8);
        }
        first
    }

    /// The frames that were read from area `first` on.
    fn piece<'b>(&self, batch: &'b Batch, first: usize) -> Piece<'b> {
        let others = self.known.iter().enumerate();
        Piece {
            chunk: self.chunk,
            bytes: batch.prefix(first),
            others: others
                .map(|(index, frame)| (*frame, batch.prefix(first + 1 + index)))
                .collect(),
        }
    }

    /// The innermost frame by the words read from area `first` on, if the way to it is the same.
    fn innermost(&self, batch: &Batch, first: usize) -> Option<u64> {
        let mut found = self
            .roots
            .iter()
            .enumerate()
            .map(|(index, (_, value))| Some((word(batch.whole(first + index)?, 0)?, *value)));
        let (innermost, _) = found.next_back()??;
        found
            .all(|root| root.is_some_and(|(found, expected)| found == expected))
            .then_some(innermost)
    }
}

/// Where in a batch things are: the numbers of their first areas.
struct Areas {
    before: usize,
    roots: usize,
    after: usize,
}

/// One attempt: each stack, if it could be read, and where its frames were.
///
/// A thread goes on while it is read. So what its frames are is read twice, and what its innermost
/// frame is in between, all in one system call. Frames that are the same both times were on the
/// stack in between; from the first one on that is not, inwards, they were not all the time: in the
/// moment when it returned, the rest was the stack.
fn read_once(
    reader: &mut Reader<'_>,
    wanted: Vec<Wanted>,
    depth: usize,
    taken: Option<&AddressSet>,
) -> Vec<(Option<Stack>, Vec<u64>)> {
    let places = places(reader, wanted);
    let len = head_len(&reader.walk);
    let mut batch = Batch::new();
    let areas: Vec<Option<Areas>> = places
        .iter()
        .map(|place| Some(place.as_ref()?.push(&mut batch, len)))
        .collect();
    reader.fetch_in_order(&mut batch);
    let places: Vec<Option<(Place, Areas)>> = places
        .into_iter()
        .zip(areas)
        .map(|(place, areas)| place.zip(areas))
        .collect();
    let mut walks: Vec<Walk> = places
        .iter()
        .map(|place| {
            let innermost = place
                .as_ref()
                .and_then(|(place, areas)| place.innermost(&batch, areas.roots));
            Walk::from(innermost)
        })
        .collect();
    let pieces: Vec<Option<(Piece<'_>, Piece<'_>)>> = places
        .iter()
        .map(|place| {
            let (place, areas) = place.as_ref()?;
            let piece = |first| place.piece(&batch, first);
            Some((piece(areas.before), piece(areas.after)))
        })
        .collect();
    walk_all(reader, &mut walks, &pieces, depth);
    for (walk, pieces) in walks.iter_mut().zip(&pieces) {
        if let Some((before, _)) = pieces
            && walk.outside.is_empty()
        {
            walk.keep_lasting(&reader.walk, before);
        }
    }
    confirm(reader, &places, &mut walks);
    for ((walk, pieces), place) in walks.iter_mut().zip(&pieces).zip(&places) {
        if let Some(((before, after), (place, _))) = pieces.as_ref().zip(place.as_ref())
            && let Some(taken) = taken
            && walk.state == WalkState::Torn
            && walk.innermost != 0
            && let Some(steps) = outer_part(&reader.walk, (before, after), &place.known)
            // Over frames that are no more, a walk may come into the stack of another thread.
            && !steps.iter().any(|step| taken.contains(&step.address))
        {
            walk.be_part(steps, depth);
        }
    }
    forget_doubles(&mut walks);
    walks
        .into_iter()
        .zip(places)
        .map(|(walk, place)| {
            let mut known = place.map_or(Vec::new(), |(place, _)| place.known);
            known.extend(walk.outside.iter().map(|(address, _)| *address));
            // The latest are the likeliest to be there again.
            known.drain(..known.len().saturating_sub(MAX_KNOWN));
            (walk.stack(), known)
        })
        .collect()
}

/// Walks all stacks to their ends; frames that are not in the pieces are read on the way.
fn walk_all(
    reader: &mut Reader<'_>,
    walks: &mut [Walk],
    pieces: &[Option<(Piece<'_>, Piece<'_>)>],
    depth: usize,
) {
    let len = head_len(&reader.walk);
    loop {
        for (walk, pieces) in walks.iter_mut().zip(pieces) {
            if let Some((before, after)) = pieces {
                walk.through(&reader.walk, (before, after), depth);
            }
        }
        let open: Vec<usize> = (0..walks.len())
            .filter(|slot| walks[*slot].state == WalkState::Open)
            .collect();
        if open.is_empty() {
            break;
        }
        let mut outside = Batch::new();
        for slot in &open {
            outside.push(walks[*slot].next, len);
        }
        reader.fetch(&mut outside);
        for (index, slot) in open.into_iter().enumerate() {
            let frame = outside.prefix(index);
            let walk = &mut walks[slot];
            walk.outside.push((walk.next, frame.to_vec()));
            walk.step(&reader.walk, frame);
        }
    }
}

/// Stacks of which frames were read on the way hold when nothing has moved since.
fn confirm(reader: &mut Reader<'_>, places: &[Option<(Place, Areas)>], walks: &mut [Walk]) {
    let len = head_len(&reader.walk);
    let mut batch = Batch::new();
    let mut firsts = Vec::with_capacity(walks.len());
    for (walk, place) in walks.iter().zip(places) {
        firsts.push(batch.len());
        if let Some((place, _)) = place
            && !walk.outside.is_empty()
        {
            for (address, _) in &walk.outside {
                batch.push(*address, len);
            }
            place.push_roots(&mut batch);
        }
    }
    if batch.is_empty() {
        return;
    }
    reader.fetch_in_order(&mut batch);
    for ((walk, place), first) in walks.iter_mut().zip(places).zip(firsts) {
        let Some((place, _)) = place else { continue };
        if walk.outside.is_empty() {
            continue;
        }
        let frames = walk.outside.iter().enumerate();
        let same = frames.fold(true, |same, (index, (_, bytes))| {
            let now = Head::of(&reader.walk, batch.prefix(first + index));
            let before = Head::of(&reader.walk, bytes);
            same && now
                .zip(before)
                .is_some_and(|(now, before)| now.is_same_frame(&before))
        });
        let same = same && walk.steps.iter().all(|step| !step.gone);
        let roots = first + walk.outside.len();
        if !same || place.innermost(&batch, roots) != Some(walk.innermost) {
            walk.state = WalkState::Torn;
        }
    }
}

/// A frame that returned may have become one of another thread, whose stack follows it then.
fn forget_doubles(walks: &mut [Walk]) {
    let mut outermost: AddressMap<u32> = AddressMap::default();
    for step in walks.iter().filter_map(|walk| walk.steps.last()) {
        *outermost.entry(step.address).or_default() += 1;
    }
    for walk in walks {
        let last = walk.steps.last().map(|step| step.address);
        let walks = last.and_then(|last| outermost.get(&last));
        if walks.is_some_and(|walks| *walks > 1) {
            walk.state = WalkState::Torn;
        }
    }
}

/// Where each thread's stack is right now.
fn places(reader: &mut Reader<'_>, wanted: Vec<Wanted>) -> Vec<Option<Place>> {
    let fields = reader.walk.thread;
    let threads: Vec<u64> = wanted.iter().map(|wanted| wanted.thread).collect();
    let mut batch = Batch::new();
    for thread in &threads {
        let (FrameRoot::Field(root) | FrameRoot::Indirect { pointer: root, .. }) = fields.frame;
        batch.push(at(*thread, root), 8);
        batch.push(at(*thread, fields.chunk.unwrap_or(0)), 16);
    }
    reader.fetch(&mut batch);
    let roots: Vec<Option<u64>> = (0..threads.len())
        .map(|slot| word(batch.whole(2 * slot)?, 0))
        .collect();
    let mut frames = Batch::new();
    for root in &roots {
        match fields.frame {
            FrameRoot::Field(_) => frames.push(0, 0),
            FrameRoot::Indirect { frame, .. } => frames.push(at(root.unwrap_or(0), frame), 8),
        };
    }
    reader.fetch(&mut frames);
    wanted
        .into_iter()
        .enumerate()
        .map(|(slot, Wanted { thread, known })| {
            let root = roots[slot]?;
            let chunk = batch.whole(2 * slot + 1)?;
            let (chunk, top) = match fields.chunk {
                Some(_) => (word(chunk, 0)?, word(chunk, 8)?),
                None => (0, 0),
            };
            let used = top.wrapping_sub(chunk);
            let chunk_len = match used {
                _ if chunk == 0 => 0,
                CHUNK_HEADER..=MAX_CHUNK_BYTES => used + GROWTH_BYTES,
                _ => CHUNK_BYTES,
            };
            let roots = match fields.frame {
                FrameRoot::Field(offset) => vec![(at(thread, offset), root)],
                FrameRoot::Indirect { pointer, frame } => vec![
                    (at(thread, pointer), root),
                    (at(root, frame), word(frames.whole(slot)?, 0)?),
                ],
            };
            Some(Place {
                roots,
                chunk,
                chunk_len: chunk_len as usize,
                known,
            })
        })
        .collect()
}

/// The frames of a stack that belong to a running coroutine, its own the first: the places where
/// it is right now. `None`: it is not on this stack.
pub(crate) fn below(
    reader: &mut Reader<'_>,
    stack: &Stack,
    coroutine: u64,
) -> Option<Vec<StackFrame>> {
    let frame = match reader.walk.generator.frame {
        GeneratorFrame::Inside(frame) => at(coroutine, frame),
        GeneratorFrame::Object { pointer, .. } => reader.pointer(at(coroutine, pointer)).ok()?,
    };
    let outermost = stack
        .frames
        .iter()
        .position(|found| found.address == frame)?;
    Some(stack.frames[..=outermost].iter().rev().copied().collect())
}
