//! Which programs, maps and links are in the kernel, and which of them a process holds.

use std::collections::BTreeSet;

use anyhow::{Context, Result};

// `enum bpf_cmd` of the kernel's `include/uapi/linux/bpf.h`.
const BPF_PROG_GET_NEXT_ID: i64 = 11;
const BPF_MAP_GET_NEXT_ID: i64 = 12;
const BPF_LINK_GET_NEXT_ID: i64 = 31;

/// The part of `union bpf_attr` that the GET_NEXT_ID commands use.
#[repr(C)]
#[derive(Default)]
struct NextId {
    start_id: u32,
    next_id: u32,
    open_flags: u32,
}

/// Ids of all programs in the kernel.
///
/// # Errors
/// When the bpf system call is not there or not allowed.
pub fn programs() -> Result<BTreeSet<u32>> {
    ids(BPF_PROG_GET_NEXT_ID).context("listing programs")
}

/// Ids of all maps in the kernel.
///
/// # Errors
/// As [`programs`].
pub fn maps() -> Result<BTreeSet<u32>> {
    ids(BPF_MAP_GET_NEXT_ID).context("listing maps")
}

/// Ids of all links in the kernel.
///
/// # Errors
/// As [`programs`].
pub fn links() -> Result<BTreeSet<u32>> {
    ids(BPF_LINK_GET_NEXT_ID).context("listing links")
}

fn ids(command: i64) -> Result<BTreeSet<u32>> {
    let mut found = BTreeSet::new();
    let mut attr = NextId::default();
    loop {
        // SAFETY: the pointer and the size are those of `attr`, which lives through the call.
        let result = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                command,
                &mut attr as *mut NextId,
                std::mem::size_of::<NextId>(),
            )
        };
        if result == 0 {
            found.insert(attr.next_id);
            attr.start_id = attr.next_id;
            continue;
        }
        let error = std::io::Error::last_os_error();
        return match error.raw_os_error() {
            Some(libc::ENOENT) => Ok(found),
            _ => Err(error.into()),
        };
    }
}

/// Kernel objects, by kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Objects {
    pub programs: BTreeSet<u32>,
    pub maps: BTreeSet<u32>,
    pub links: BTreeSet<u32>,
}

impl Objects {
    /// What a process holds by its file descriptors.
    ///
    /// # Errors
    /// When the process is gone or not ours to look at.
    pub fn held_by(pid: u32) -> Result<Self> {
        let mut held = Self::default();
        let folder = format!("/proc/{pid}/fdinfo");
        for entry in std::fs::read_dir(&folder).with_context(|| folder.clone())? {
            // A descriptor may be closed in the meantime.
            let Ok(text) = std::fs::read_to_string(entry?.path()) else {
                continue;
            };
            for line in text.lines() {
                let Some((key, value)) = line.split_once(':') else {
                    continue;
                };
                let Ok(id) = value.trim().parse() else {
                    continue;
                };
                match key {
                    "prog_id" => held.programs.insert(id),
                    "map_id" => held.maps.insert(id),
                    "link_id" => held.links.insert(id),
                    _ => false,
                };
            }
        }
        Ok(held)
    }

    /// Those of these objects that are still in the kernel.
    ///
    /// # Errors
    /// When the kernel's objects cannot be listed.
    pub fn still_there(&self) -> Result<Self> {
        Ok(Self {
            programs: &self.programs & &programs()?,
            maps: &self.maps & &maps()?,
            links: &self.links & &links()?,
        })
    }

    pub fn is_empty(&self) -> bool {
        self.programs.is_empty() && self.maps.is_empty() && self.links.is_empty()
    }
}
