//! Kernel arrays that user space reads and writes in place, through a shared mapping.

use std::{
    cell::Cell,
    io,
    marker::PhantomData,
    os::fd::{BorrowedFd, OwnedFd},
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering, fence},
};

use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

use concmon_ebpf::{
    Control, Ledger, SLOTS_PER_PAGE, SlotPage, cause, ledger_flags, slice_flags, state,
};

use crate::{
    decode::ledger::{heal, is_whole},
    event::{Cause, StepWait},
};

/// How much of an array is mapped at a time, bytes: a multiple of every size of pages. The kernel puts all of
/// a mapping in place at once, so that what nobody uses would count as the tool's memory.
const PART_BYTES: usize = 1 << 20;

/// A BPF array of `len` values of `T`, mapped as far as it is used. Values may change at any time.
#[derive(Debug)]
pub(super) struct SharedArray<T> {
    /// `None`: all of it is mapped.
    map: Option<OwnedFd>,
    /// Of the range that is reserved for the whole array.
    base: NonNull<T>,
    len: usize,
    bytes: usize,
    /// How much is mapped, from the beginning, bytes.
    mapped_bytes: Cell<usize>,
    owns: PhantomData<T>,
}

impl<T> SharedArray<T> {
    /// Maps the array behind `map`, which was created with `BPF_F_MMAPABLE`.
    ///
    /// `size_of::<T>()` is a multiple of 8, so values lie as close as in a Rust slice.
    pub(super) fn new(map: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        const { assert!(size_of::<T>().is_multiple_of(8)) };
        let bytes = size_of::<T>()
            .checked_mul(len)
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let map = map.try_clone_to_owned()?;
        // SAFETY: a fresh mapping, which nothing can be read from or written to.
        let base = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                bytes,
                ProtFlags::empty(),
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )?
        };
        let mut array = Self {
            map: Some(map),
            base: NonNull::new(base.cast()).ok_or_else(|| io::Error::from(io::ErrorKind::Other))?,
            len,
            bytes,
            mapped_bytes: Cell::new(0),
            owns: PhantomData,
        };
        array.map_up_to(bytes.min(PART_BYTES))?;
        if array.mapped_bytes.get() == bytes {
            array.map = None;
        }
        Ok(array)
    }

    /// Maps what is not mapped of the first `bytes`.
    fn map_up_to(&self, bytes: usize) -> io::Result<()> {
        let from = self.mapped_bytes.get();
        let to = bytes.next_multiple_of(PART_BYTES).min(self.bytes);
        let Some(map) = self.map.as_ref().filter(|_| to > from) else {
            return Ok(());
        };
        // SAFETY: replaces a part of the range reserved in `new`, where nothing is yet; the kernel checks
        // the permission.
        unsafe {
            mmap(
                self.base.as_ptr().byte_add(from).cast(),
                to - from,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::FIXED,
                map,
                from as u64,
            )?;
        }
        self.mapped_bytes.set(to);
        Ok(())
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Where value `index` is. It is valid for as long as the array is; its content may change at any
    /// time.
    pub(super) fn pointer(&self, index: usize) -> *const T {
        self.at(index)
    }

    fn at(&self, index: usize) -> *mut T {
        assert!(index < self.len, "index inside the array");
        if (index + 1) * size_of::<T>() > self.mapped_bytes.get() {
            let mapped = self.map_up_to((index + 1) * size_of::<T>());
            // Its pages are there: only the kernel's own memory could be at an end.
            mapped.expect("a part of an array that is there can be mapped");
        }
        // SAFETY: checked against the length of the array, and mapped.
        unsafe { self.base.as_ptr().add(index) }
    }
}

impl<T> Drop for SharedArray<T> {
    fn drop(&mut self) {
        // SAFETY: the range reserved in `new`, unmapped once.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

/// What an account says first.
#[derive(Clone, Copy, Debug, Default)]
pub struct LedgerHead {
    /// It grows with each change.
    pub seq: u32,
    pub tid: u32,
    /// The process of its thread.
    pub tgid: u32,
    /// [`state`].
    pub state: u8,
    /// When the open stretch began, ns.
    pub since_ns: u64,
    /// What the thread is blocked for ([`cause`]), and what records will say of it ([`slice_flags`]).
    pub cause: u8,
    pub wait_flags: u8,
    /// When it last left a CPU, and was last woken, ns.
    pub off_ns: u64,
    pub waking_ns: u64,
    /// When the block ended that it was in last, ns; 0: it is in one, or was preempted since.
    pub wake_ns: u64,
    /// When the account began, ns; `None`: with the thread.
    pub seeded_ns: Option<u64>,
    /// How long it was blocked in selectors, ns, up to `since_ns`.
    pub polled_ns: u64,
}

impl LedgerHead {
    /// Its thread has not ended.
    pub fn lives(&self) -> bool {
        !matches!(self.state, state::DEAD | state::FREE)
    }

    /// What it is blocked for; `None`: it is not, or has been woken.
    pub fn blocked(&self) -> Option<Cause> {
        let is_blocked = self.state == state::BLOCKED && self.waking_ns <= self.since_ns;
        is_blocked.then(|| Cause::from_wire(self.cause)).flatten()
    }

    /// Its last block, or the one that it is in at `read_ns`; `None`: it was preempted since.
    pub fn wait(&self, read_ns: u64) -> Option<StepWait> {
        let to_ns = match self.state {
            state::BLOCKED if self.waking_ns > self.since_ns => self.waking_ns,
            state::BLOCKED => read_ns,
            // It waits for a CPU from its wakeup on.
            _ if self.wake_ns > self.off_ns => self.wake_ns.min(self.since_ns),
            _ => self.since_ns,
        };
        let cause = Cause::from_wire(self.cause)?;
        let is_block = self.wait_flags & slice_flags::BLOCKED != 0 && self.off_ns < to_ns;
        is_block.then_some(StepWait {
            from_ns: self.off_ns,
            to_ns,
            cause,
        })
    }

    /// It waits on a queue of events: what loops do when they are idle.
    pub fn is_idle(&self) -> bool {
        self.blocked() == Some(Cause::Poll) && self.wait_flags & slice_flags::QUEUE != 0
    }
}

/// How often a torn read of one account is repeated before it is given up for this time.
pub(super) const TRIES: usize = 64;

impl SharedArray<Ledger> {
    pub(super) fn state(&self, slot: usize) -> u8 {
        // SAFETY: inside the mapping; a byte is read in one piece.
        unsafe { (&raw const (*self.at(slot)).state).read_volatile() }
    }

    /// The process of the thread in a slot.
    pub(super) fn tgid(&self, slot: usize) -> u32 {
        // SAFETY: inside the mapping; a word is read in one piece.
        unsafe { (&raw const (*self.at(slot)).tgid).read_volatile() }
    }

    /// Whether a thread ever had this slot since it was last freed.
    pub(super) fn is_used(&self, slot: usize) -> bool {
        self.state(slot) != state::FREE
    }

    /// Whose the account in a slot is, its state, and since when: the head of an account, in one piece. `None`
    /// when that did not succeed.
    pub(super) fn head(&self, slot: usize) -> Option<LedgerHead> {
        let ledger = self.at(slot);
        for _ in 0..TRIES {
            // SAFETY: inside the mapping. Kernel programs write concurrently; what is read is used only
            // when the sequence number shows that they did not.
            let (before, head, after) = unsafe {
                let before = (&raw const (*ledger).seq).read_volatile();
                fence(Ordering::Acquire);
                let head = LedgerHead {
                    seq: before,
                    tid: (&raw const (*ledger).tid).read_volatile(),
                    tgid: (&raw const (*ledger).tgid).read_volatile(),
                    state: (&raw const (*ledger).state).read_volatile(),
                    since_ns: (&raw const (*ledger).since_ns).read_volatile(),
                    cause: (&raw const (*ledger).cause).read_volatile(),
                    wait_flags: (&raw const (*ledger).wait_flags).read_volatile(),
                    off_ns: (&raw const (*ledger).off_ns).read_volatile(),
                    waking_ns: (&raw const (*ledger).waking_ns).read_volatile(),
                    wake_ns: (&raw const (*ledger).wake_ns).read_volatile(),
                    seeded_ns: {
                        let flags = (&raw const (*ledger).flags).read_volatile();
                        let start_ns = (&raw const (*ledger).start_ns).read_volatile();
                        (flags & ledger_flags::SEEDED != 0).then_some(start_ns)
                    },
                    polled_ns: (&raw const (*ledger).blocked_ns[cause::POLL as usize])
                        .read_volatile(),
                };
                fence(Ordering::Acquire);
                (before, head, (&raw const (*ledger).seq).read_volatile())
            };
            if before == after && before.is_multiple_of(2) {
                return Some(head);
            }
            std::hint::spin_loop();
        }
        None
    }

    /// Which histograms the account in `slot` has.
    pub(super) fn hists(&self, slot: usize) -> u32 {
        // SAFETY: inside the mapping; a word is read in one piece.
        unsafe { (&raw const (*self.at(slot)).hists).read_volatile() }
    }

    /// Copies one account in one piece, with what `more` reads that belongs to it: the sequence number is
    /// even and the same before and after, and the columns sum to what they cover. `None` when that did
    /// not succeed in so many `tries`.
    ///
    /// An account whose columns stay wrong was broken for good by two writers at once: it is
    /// healed in the copy, and the last value is `true`.
    pub(super) fn read_with<T>(
        &self,
        slot: usize,
        tries: usize,
        more: impl Fn(&Ledger) -> T,
    ) -> Option<(Ledger, T, bool)> {
        let ledger = self.at(slot);
        let mut broken = None;
        for _ in 0..tries {
            // SAFETY: inside the mapping. Kernel programs write concurrently; the copy is used
            // only when the sequence number shows that they did not.
            let (before, copy) = unsafe {
                let before = (&raw const (*ledger).seq).read_volatile();
                fence(Ordering::Acquire);
                (before, ledger.read_volatile())
            };
            if before.is_multiple_of(2) {
                let found = more(&copy);
                fence(Ordering::Acquire);
                // SAFETY: as above.
                let after = unsafe { (&raw const (*ledger).seq).read_volatile() };
                if before == after && is_whole(&copy) {
                    return Some((copy, found, false));
                }
                if before == after {
                    broken = Some((copy, found));
                }
            }
            std::hint::spin_loop();
        }
        broken.map(|(mut copy, found)| {
            heal(&mut copy);
            (copy, found, true)
        })
    }

    /// Tells the thread in `slot`, if it is still one of process `tgid`, where its GILs are.
    pub(super) fn set_gils(&self, slot: usize, tgid: u32, gils: &[u64; concmon_ebpf::MAX_GILS]) {
        let ledger = self.at(slot);
        // SAFETY: inside the mapping; kernel programs only read these words.
        unsafe {
            if (&raw const (*ledger).tgid).read_volatile() == tgid {
                (&raw mut (*ledger).gils).write_volatile(*gils);
            }
        }
    }

    /// Tells the thread in `slot`, if it is still one of process `tgid`, which state it has in another interpreter.
    pub(super) fn set_thread_state(&self, slot: usize, tgid: u32, thread_state: u64) {
        let ledger = self.at(slot);
        // SAFETY: inside the mapping; kernel programs only read this word of a living thread.
        unsafe {
            if (&raw const (*ledger).tgid).read_volatile() == tgid {
                (&raw mut (*ledger).thread_state).write_volatile(thread_state);
            }
        }
    }

    /// Says how often the thread in `slot`, if it is still one of process `tgid`, gives a stack.
    pub(super) fn set_stack_interval(&self, slot: usize, tgid: u32, interval_ns: u64) {
        if slot >= self.len {
            return;
        }
        let ledger = self.at(slot);
        // SAFETY: inside the mapping; kernel programs only read this word.
        unsafe {
            if (&raw const (*ledger).tgid).read_volatile() == tgid {
                (&raw mut (*ledger).stack_interval_ns).write_volatile(interval_ns);
            }
        }
    }

    /// Says whether of the thread in `slot`, if it is still one of process `tgid`, sums are enough.
    pub(super) fn set_sums_only(&self, slot: usize, tgid: u32, sums_only: bool) {
        if slot >= self.len {
            return;
        }
        let ledger = self.at(slot);
        // SAFETY: inside the mapping; kernel programs only read this byte of a living thread.
        unsafe {
            let field = &raw mut (*ledger).sums_only;
            // The line that it is in is the kernel side's, which is left alone where nothing changes.
            if (&raw const (*ledger).tgid).read_volatile() == tgid
                && field.read_volatile() != u8::from(sums_only)
            {
                field.write_volatile(u8::from(sums_only));
            }
        }
    }

    /// The same as `set_stack_interval` for whoever is in `slot`, where it was `from_ns`.
    pub(super) fn change_stack_interval(&self, slot: usize, from_ns: u64, to_ns: u64) {
        let ledger = self.at(slot);
        // SAFETY: as above.
        unsafe {
            let interval = &raw mut (*ledger).stack_interval_ns;
            if interval.read_volatile() == from_ns {
                interval.write_volatile(to_ns);
            }
        }
    }

    /// Empties a dead thread's account, for the next thread.
    pub(super) fn clear(&self, slot: usize) {
        // SAFETY: inside the mapping; no program writes a dead thread's account, and all-zero
        // bytes are a valid one.
        unsafe { self.at(slot).write_bytes(0, 1) };
        fence(Ordering::Release);
    }
}

impl SharedArray<Control> {
    /// Slots in use.
    pub(super) fn slots_used(&self) -> u64 {
        // SAFETY: see `counter`.
        unsafe { self.counter(|control| &raw mut (*control).slots_used) }.load(Ordering::Relaxed)
    }

    /// Sets of histograms in use.
    pub(super) fn hists_used(&self) -> u64 {
        // SAFETY: see `counter`.
        unsafe { self.counter(|control| &raw mut (*control).hists_used) }.load(Ordering::Relaxed)
    }

    /// A slot was given back.
    pub(super) fn slot_freed(&self) {
        // SAFETY: see `counter`.
        unsafe { self.counter(|control| &raw mut (*control).slots_used) }
            .fetch_sub(1, Ordering::Relaxed);
    }

    /// A set of histograms was given back.
    pub(super) fn hists_freed(&self) {
        // SAFETY: see `counter`.
        unsafe { self.counter(|control| &raw mut (*control).hists_used) }
            .fetch_sub(1, Ordering::Relaxed);
    }

    /// Says how many slots may be in use before ended threads are folded.
    pub(super) fn set_fold_above(&self, slots: u64) {
        // SAFETY: see `counter`.
        unsafe { self.counter(|control| &raw mut (*control).fold_above) }
            .store(slots, Ordering::Relaxed);
    }

    /// Says since when switches are not told, on purpose, ns; 0: they are.
    pub(super) fn set_detached(&self, since_ns: u64) {
        // SAFETY: see `counter`.
        unsafe { self.counter(|control| &raw mut (*control).detached_ns) }
            .store(since_ns, Ordering::Relaxed);
    }

    /// One field of the control block.
    ///
    /// # Safety
    /// `field` gives the address of a field of its argument.
    unsafe fn counter(&self, field: impl Fn(*mut Control) -> *mut u64) -> &AtomicU64 {
        // SAFETY: aligned, inside the mapping, and changed atomically by all who change it.
        unsafe { AtomicU64::from_ptr(field(self.at(0))) }
    }
}

impl SharedArray<SlotPage> {
    /// The slot of thread `tid`; `None`: it is not watched.
    pub(super) fn slot_of(&self, tid: u32) -> Option<usize> {
        let (page, element) = (tid as usize / SLOTS_PER_PAGE, tid as usize % SLOTS_PER_PAGE);
        if page >= self.len {
            return None;
        }
        // SAFETY: inside the mapping; read in one piece.
        let slot = unsafe { self.at(page).cast::<u32>().add(element).read_volatile() };
        (slot != 0).then_some(slot as usize)
    }

    /// Unties whoever is tied to `slot`, whose thread is gone: a search of all ids, for when its own is not known.
    pub(super) fn untie_all(&self, slot: usize) {
        let tids = self.len * SLOTS_PER_PAGE;
        for tid in 0..u32::try_from(tids).unwrap_or(u32::MAX) {
            self.untie(tid, slot);
        }
    }

    /// Unties thread `tid` from `slot`, if it still is tied to it.
    pub(super) fn untie(&self, tid: u32, slot: usize) {
        let (page, element) = (tid as usize / SLOTS_PER_PAGE, tid as usize % SLOTS_PER_PAGE);
        if page >= self.len {
            return;
        }
        // SAFETY: inside the mapping; kernel programs write this cell only while the thread is
        // born or ends, and it is gone.
        unsafe {
            let cell = self.at(page).cast::<u32>().add(element);
            if cell.read_volatile() as usize == slot {
                cell.write_volatile(0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_with_its_wakeup() {
        let wait = |state: u8, since_ns, waking_ns, wake_ns, wait_flags| {
            let head = LedgerHead {
                state,
                since_ns,
                cause: cause::LOCK,
                wait_flags,
                off_ns: 100,
                waking_ns,
                wake_ns,
                ..LedgerHead::default()
            };
            head.wait(900).map(|wait| (wait.from_ns, wait.to_ns))
        };
        let block = slice_flags::BLOCKED;
        assert_eq!(wait(state::BLOCKED, 100, 0, 0, block), Some((100, 900)));
        assert_eq!(wait(state::BLOCKED, 100, 300, 0, block), Some((100, 300)));
        // It was given a CPU later than it was woken.
        assert_eq!(wait(state::RUNNING, 700, 0, 300, block), Some((100, 300)));
        assert_eq!(wait(state::RUNNING, 700, 0, 0, block), Some((100, 700)));
        assert_eq!(wait(state::PREEMPTED, 100, 0, 0, 0), None);
    }
}
