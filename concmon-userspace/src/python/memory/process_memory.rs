//! The memory of a living process: many areas with one system call.

use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use super::{Area, Batch, Memory, PAGE, ReadCost, ReadError, can_read};
use crate::event::{Pid, Tid};
use crate::procfs::{now, shown};

/// How many remote areas one system call takes (`UIO_MAXIOV` of `linux/uio.h`).
const MAX_AREAS: usize = 1024;
/// The most that one system call brings, bytes: it is still in the CPU's cache when areas are taken
/// out of it. A longer area is read by itself.
const MAX_CALL_BYTES: usize = 1 << 18;
/// Areas with no more bytes than this between them are read as one.
const MAX_GAP_BYTES: u64 = 2048;

/// A living process, read with `process_vm_readv`.
#[derive(Debug)]
pub(crate) struct ProcessMemory {
    pid: Pid,
    /// The thread that is asked: the first one, as long as that lives.
    asked: AtomicI32,
    calls: AtomicU64,
    bytes: AtomicU64,
}

impl ProcessMemory {
    pub(crate) fn new(pid: Pid) -> Self {
        Self {
            pid,
            asked: AtomicI32::new(number(shown::shown_by(pid))),
            calls: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        }
    }

    /// Fills `into` from `address` without a batch.
    pub(crate) fn read_plain(&self, address: u64, into: &mut [u8]) -> Result<(), ReadError> {
        let len = into.len();
        match self.readv(into, &[remote(address, len)]) {
            Ok(arrived) if arrived == len => Ok(()),
            Ok(_) | Err(libc::EFAULT) => Err(ReadError::Unmapped { address, len }),
            Err(error) => Err(os_error(error)),
        }
    }

    /// `remote` into consecutive bytes of `local`. How many bytes arrived.
    fn readv(&self, local: &mut [u8], remote: &[libc::iovec]) -> Result<usize, i32> {
        let asked = self.asked.load(Ordering::Relaxed);
        let got = self.call(asked, local, remote);
        // The number of a thread that has ended may be another process's by now; that of a process is looked after.
        let is_own = || asked == number(self.pid) || is_thread(self.pid, asked);
        if got != Err(libc::ESRCH) && is_own() {
            return got;
        }
        // The thread that was asked has ended; others may live on.
        let other = number(shown::shown_by(self.pid));
        if other == asked {
            return got;
        }
        self.asked.store(other, Ordering::Relaxed);
        self.call(other, local, remote)
    }

    /// One system call.
    fn call(
        &self,
        thread: libc::pid_t,
        local: &mut [u8],
        remote: &[libc::iovec],
    ) -> Result<usize, i32> {
        let into = libc::iovec {
            iov_base: local.as_mut_ptr().cast(),
            iov_len: local.len(),
        };
        // SAFETY: `into` describes exactly `local`, which is borrowed mutably for the call; the
        // kernel writes at most `iov_len` bytes there. Remote addresses belong to another process.
        let got = unsafe {
            libc::process_vm_readv(thread, &into, 1, remote.as_ptr(), remote.len() as u64, 0)
        };
        self.calls.fetch_add(1, Ordering::Relaxed);
        let bytes = u64::try_from(got).unwrap_or(0);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        usize::try_from(got).map_err(|_| {
            std::io::Error::last_os_error()
                .raw_os_error()
                .unwrap_or(libc::EIO)
        })
    }
}

fn is_thread(pid: Pid, thread: libc::pid_t) -> bool {
    u32::try_from(thread).is_ok_and(|thread| now::has_thread(pid, Tid(thread)))
}

fn number(thread: Pid) -> libc::pid_t {
    libc::pid_t::try_from(thread.0).unwrap_or(libc::pid_t::MAX)
}

/// Areas that lie close together in the process, read as one piece.
struct Run {
    address: u64,
    len: usize,
    /// Which of the sorted areas are in it.
    areas: std::ops::Range<usize>,
}

/// Joins sorted areas. An area costs the kernel a page-table walk; bytes between two areas cost
/// far less, and objects of one kind lie next to each other.
fn join(sorted: &[Area]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (index, area) in sorted.iter().enumerate() {
        if let Some(run) = runs.last_mut() {
            let len = (area.address - run.address) as usize + area.len;
            let gap = area.address.saturating_sub(run.address + run.len as u64);
            if gap <= MAX_GAP_BYTES && len <= MAX_CALL_BYTES {
                run.len = run.len.max(len);
                run.areas.end = index + 1;
                continue;
            }
        }
        runs.push(Run {
            address: area.address,
            len: area.len,
            areas: index..index + 1,
        });
    }
    runs
}

fn remote(address: u64, len: usize) -> libc::iovec {
    libc::iovec {
        iov_base: address as *mut libc::c_void,
        iov_len: len,
    }
}

impl Memory for ProcessMemory {
    fn cost(&self) -> ReadCost {
        ReadCost {
            calls: self.calls.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }

    fn read_batch(&self, batch: &mut Batch) -> Result<(), ReadError> {
        self.read_batch_until(batch, &|| false)
    }

    fn read_batch_until(
        &self,
        batch: &mut Batch,
        is_over: &dyn Fn() -> bool,
    ) -> Result<(), ReadError> {
        batch.bytes = vec![0; batch.size];
        // Most have one area, and need no order.
        if let [area] = batch.areas[..] {
            return match area.len {
                0 => Ok(()),
                _ if is_over() => Err(ReadError::Over),
                _ => self.read_alone(batch, 0),
            };
        }
        let mut order: Vec<usize> = (0..batch.areas.len())
            .filter(|index| batch.areas[*index].len > 0)
            .collect();
        order.sort_unstable_by_key(|index| batch.areas[*index].address);
        let sorted: Vec<Area> = order.iter().map(|index| batch.areas[*index]).collect();
        let runs = join(&sorted);
        let mut next = 0;
        let mut buffer = Vec::new();
        while next < runs.len() {
            if is_over() {
                return Err(ReadError::Over);
            }
            // Gaps count here: together they may be much longer than what was asked for.
            let (mut end, mut len) = (next + 1, runs[next].len);
            while end < runs.len()
                && end - next < MAX_AREAS
                && len + runs[end].len <= MAX_CALL_BYTES
            {
                len += runs[end].len;
                end += 1;
            }
            let call = &runs[next..end];
            if buffer.len() < len {
                buffer.resize(len, 0);
            }
            let areas: Vec<libc::iovec> = call
                .iter()
                .map(|run| remote(run.address, run.len))
                .collect();
            let arrived = match self.readv(&mut buffer[..len], &areas) {
                Ok(arrived) => arrived,
                Err(libc::EFAULT) => 0,
                Err(error) => return Err(os_error(error)),
            };
            let mut start = 0;
            for run in call {
                if start + run.len > arrived {
                    // It ends in memory that cannot be read: each area for itself, then go on.
                    for index in &order[run.areas.clone()] {
                        self.read_alone(batch, *index)?;
                    }
                    next += 1;
                    break;
                }
                for index in &order[run.areas.clone()] {
                    let area = &mut batch.areas[*index];
                    let from = start + (area.address - run.address) as usize;
                    batch.bytes[area.offset..area.offset + area.len]
                        .copy_from_slice(&buffer[from..from + area.len]);
                    area.got = area.len;
                }
                start += run.len;
                next += 1;
            }
        }
        Ok(())
    }

    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), ReadError> {
        match can_read(address, into.len()) {
            true => self.read_plain(address, into),
            false => Err(ReadError::Unmapped {
                address,
                len: into.len(),
            }),
        }
    }

    fn read_in_order(&self, batch: &mut Batch) -> Result<(), ReadError> {
        batch.bytes.resize(batch.size, 0);
        let order: Vec<usize> = (0..batch.areas.len())
            .filter(|index| batch.areas[*index].len > 0)
            .collect();
        for call in order.chunks(MAX_AREAS) {
            let areas: Vec<libc::iovec> = call
                .iter()
                .map(|index| remote(batch.areas[*index].address, batch.areas[*index].len))
                .collect();
            // The bytes of areas that follow one another do so, too.
            let first = batch.areas[call[0]];
            let last = batch.areas[call[call.len() - 1]];
            let local = &mut batch.bytes[first.offset..last.offset + last.len];
            let mut arrived = match self.readv(local, &areas) {
                Ok(arrived) => arrived,
                Err(libc::EFAULT) => 0,
                Err(error) => return Err(os_error(error)),
            };
            for index in call {
                let area = &mut batch.areas[*index];
                if arrived >= area.len {
                    area.got = area.len;
                    arrived -= area.len;
                } else {
                    // What follows an area that cannot be read did not arrive: no order is kept.
                    arrived = 0;
                    self.read_alone(batch, *index)?;
                }
            }
        }
        Ok(())
    }
}

fn os_error(number: i32) -> ReadError {
    match number {
        libc::ESRCH => ReadError::Gone,
        libc::EPERM => ReadError::NoPermission,
        number => ReadError::Os(number),
    }
}

impl ProcessMemory {
    /// Reads one area; one that runs into memory that cannot be read, up to the end of its first
    /// page.
    fn read_alone(&self, batch: &mut Batch, index: usize) -> Result<(), ReadError> {
        let Area {
            address,
            offset,
            len,
            ..
        } = batch.areas[index];
        let in_first_page = len.min((PAGE - address % PAGE) as usize);
        for len in [len, in_first_page] {
            let local = &mut batch.bytes[offset..offset + len];
            match self.readv(local, &[remote(address, len)]) {
                Ok(got) if got >= in_first_page => {
                    batch.areas[index].got = got;
                    break;
                }
                Ok(_) | Err(libc::EFAULT) => {}
                Err(error) => return Err(os_error(error)),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{MAX_READ_BYTES, word};
    use super::*;

    fn own() -> ProcessMemory {
        ProcessMemory::new(Pid(std::process::id()))
    }

    #[test]
    fn a_batch_longer_than_one_system_call_arrives_whole() {
        let source: Vec<u64> = (0..5000).collect();
        let mut batch = Batch::new();
        for value in &source {
            batch.push(std::ptr::from_ref(value) as u64, 8);
        }
        own().read_batch(&mut batch).unwrap();
        for (index, value) in source.iter().enumerate() {
            assert_eq!(word(batch.whole(index).unwrap(), 0), Some(*value));
        }
    }

    #[test]
    fn what_cannot_be_read_does_not_hide_its_neighbours() {
        let (a, b) = (1u64, 2u64);
        let mut batch = Batch::new();
        batch.push(std::ptr::from_ref(&a) as u64, 8);
        batch.push(0x10000, 8);
        batch.push(8, 8);
        batch.push(std::ptr::from_ref(&b) as u64, 8);
        batch.push(0x10000, MAX_READ_BYTES + 1);
        own().read_batch(&mut batch).unwrap();
        assert_eq!(word(batch.whole(0).unwrap(), 0), Some(1));
        assert_eq!(batch.whole(1), None);
        assert_eq!(batch.whole(2), None);
        assert_eq!(word(batch.whole(3).unwrap(), 0), Some(2));
        assert_eq!(batch.whole(4), None);
    }

    #[test]
    fn an_area_that_runs_into_a_hole_keeps_its_first_page() {
        let len = 2 * PAGE as usize;
        // SAFETY: a fresh private mapping of two pages, of which the second is unmapped at once;
        // only the first is written to, within its bounds.
        let start = unsafe {
            let start = libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            assert_ne!(start, libc::MAP_FAILED);
            libc::munmap(start.add(PAGE as usize), PAGE as usize);
            std::ptr::write_bytes(start.cast::<u8>(), 7, PAGE as usize);
            start as u64
        };
        let after = 9u64;
        let mut batch = Batch::new();
        batch.push(start + PAGE - 100, 240);
        batch.push(std::ptr::from_ref(&after) as u64, 8);
        own().read_batch(&mut batch).unwrap();
        assert_eq!(batch.whole(0), None);
        assert_eq!(batch.prefix(0), [7; 100]);
        assert_eq!(word(batch.whole(1).unwrap(), 0), Some(9));
    }

    #[test]
    fn a_process_that_does_not_exist_is_gone() {
        let none = ProcessMemory::new(Pid(u32::MAX));
        assert_eq!(none.read_u64(0x10000), Err(ReadError::Gone));
    }
}
