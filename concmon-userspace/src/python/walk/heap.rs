//! A search of the heap for futures that failed: what is in no list of the interpreter's, but still
//! kept by somebody.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::event::{FutureKind, Pid, PyFailures, PyHeapScan};
use crate::procfs::maps::{self, Mapping};
use crate::python::layout::FutureFlags;
use crate::python::memory::addresses::AddressMap;
use crate::python::memory::{Batch, byte, int, word};
use crate::python::objects::{OBJECT_TYPE, Reader, flags};

const PAGE: u64 = 4096;
/// Processes with more in memory than this are not searched, bytes.
const MAX_RESIDENT_BYTES: u64 = 1 << 30;
/// What is read at once, bytes.
const CHUNK_BYTES: u64 = 1 << 20;
/// Objects that are looked at.
const MAX_CANDIDATES: usize = 1 << 18;
/// Bit of an entry of `/proc/PID/pagemap`: the page is in memory.
const PRESENT: u64 = 1 << 63;
/// `fut_state` of a future that is done and was not cancelled.
const FINISHED: i32 = 2;
/// No object has more references, unless it lives for ever or is none.
const MAX_REFERENCES: u64 = 1 << 24;

/// The types that are searched for: module, name.
const TYPES: &[(&str, &str, FutureKind)] = &[
    ("_asyncio", "Future", FutureKind::Future),
    ("_asyncio", "Task", FutureKind::Task),
    ("concurrent.futures._base", "Future", FutureKind::Concurrent),
];

/// Searches the memory of a process. `modules` is its `sys.modules`; `None` where there is none of
/// the types.
pub(crate) fn scan(
    reader: &mut Reader<'_>,
    pid: Pid,
    mappings: &[Mapping],
    modules: u64,
) -> Option<PyHeapScan> {
    let types: AddressMap<FutureKind> = TYPES
        .iter()
        .filter_map(|(module, name, kind)| Some((class(reader, modules, module, name)?, *kind)))
        .collect();
    if types.is_empty() {
        return None;
    }
    let mut scan = PyHeapScan::default();
    let runs = match resident(pid, mappings) {
        Ok(runs) => runs,
        Err(error) => {
            scan.skipped = Some(format!(
                "{} could not be read: {error}",
                maps::pagemap_path(pid)
            ));
            return Some(scan);
        }
    };
    let resident: u64 = runs.iter().map(|(_, len)| len).sum();
    if resident > MAX_RESIDENT_BYTES {
        let reason = format!("{} MiB are more than are searched", resident >> 20);
        scan.skipped = Some(reason);
        return Some(scan);
    }
    let candidates = candidates(reader, &runs, &types, &mut scan);
    let mut failures: BTreeMap<(FutureKind, String, Option<bool>), u64> = BTreeMap::new();
    let mut names = AddressMap::default();
    for (kind, exception, retrieved) in failed(reader, &candidates, &types) {
        let name = exception_name(reader, exception, &mut names);
        if let Some(name) = name {
            *failures.entry((kind, name, retrieved)).or_default() += 1;
        }
    }
    scan.failures = failures
        .into_iter()
        .map(|((kind, exception, retrieved), count)| PyFailures {
            kind,
            exception,
            retrieved,
            count,
        })
        .collect();
    Some(scan)
}

fn class(reader: &mut Reader<'_>, modules: u64, module: &str, name: &str) -> Option<u64> {
    let module = reader.dict_values(modules, &[module])?[0]?;
    let dict = reader.module_dict(module)?;
    let class = reader.dict_values(dict, &[name])?[0]?;
    reader.load_types([class]);
    reader.type_info(class).is_some().then_some(class)
}

/// What of the writable private memory is in memory right now: addresses and lengths. Pages that
/// are not would be brought in by reading them.
fn resident(pid: Pid, mappings: &[Mapping]) -> std::io::Result<Vec<(u64, u64)>> {
    let pagemap = File::open(maps::pagemap_path(pid))?;
    let mut runs: Vec<(u64, u64)> = Vec::new();
    let is_heap = |mapping: &&Mapping| {
        mapping.readable
            && mapping.writable
            && (mapping.path.is_empty()
                || mapping.path == "[heap]"
                || mapping.path.starts_with("[anon"))
    };
    for mapping in mappings.iter().filter(is_heap) {
        let mut at = mapping.start;
        while at < mapping.end {
            let pages = ((mapping.end - at) / PAGE).min(CHUNK_BYTES / 8);
            let mut entries = vec![0; pages as usize * 8];
            let read = pagemap.read_at(&mut entries, at / PAGE * 8)?;
            if read < 8 {
                break;
            }
            for entry in entries[..read / 8 * 8].chunks_exact(8) {
                if word(entry, 0).is_some_and(|entry| entry & PRESENT != 0) {
                    match runs.last_mut() {
                        Some((start, len)) if *start + *len == at && *len < CHUNK_BYTES => {
                            *len += PAGE;
                        }
                        _ => runs.push((at, PAGE)),
                    }
                }
                at += PAGE;
            }
        }
    }
    Ok(runs)
}

/// Addresses of what may be objects of the types: 8 bytes before each pointer to one.
fn candidates(
    reader: &mut Reader<'_>,
    runs: &[(u64, u64)],
    types: &AddressMap<FutureKind>,
    scan: &mut PyHeapScan,
) -> Vec<(u64, FutureKind)> {
    let mut found = Vec::new();
    let wanted: BTreeSet<u64> = types.keys().copied().collect();
    let (Some(first), Some(last)) = (wanted.first().copied(), wanted.last().copied()) else {
        return found;
    };
    for (start, len) in runs {
        let mut batch = Batch::new();
        batch.push(*start, *len as usize);
        reader.fetch(&mut batch);
        let bytes = batch.prefix(0);
        scan.bytes += bytes.len() as u64;
        for (index, chunk) in bytes.chunks_exact(8).enumerate() {
            let value = word(chunk, 0).unwrap_or(0);
            if value < first || value > last {
                continue;
            }
            if let Some(kind) = types.get(&value) {
                let address = start + index as u64 * 8;
                found.push((address.wrapping_sub(u64::from(OBJECT_TYPE)), *kind));
                if found.len() >= MAX_CANDIDATES {
                    scan.skipped = Some("there are more futures than are looked at".to_owned());
                    return found;
                }
            }
        }
    }
    found
}

/// The candidates that are futures which ended with an exception: kind, the exception, whether
/// somebody asked for it.
fn failed(
    reader: &mut Reader<'_>,
    candidates: &[(u64, FutureKind)],
    types: &AddressMap<FutureKind>,
) -> Vec<(FutureKind, u64, Option<bool>)> {
    let fields = reader.walk.task;
    let mut batch = Batch::new();
    for (address, _) in candidates {
        batch.push(*address, fields.future_size as usize);
    }
    reader.fetch(&mut batch);
    let mut found = Vec::new();
    let mut concurrent = Vec::new();
    for (slot, (address, kind)) in candidates.iter().enumerate() {
        let bytes = batch.prefix(slot);
        let is_alive = word(bytes, 0).is_some_and(|count| (1..MAX_REFERENCES).contains(&count));
        let of_type = word(bytes, OBJECT_TYPE).and_then(|class| types.get(&class));
        if !is_alive || of_type != Some(kind) {
            continue;
        }
        if *kind == FutureKind::Concurrent {
            concurrent.push(*address);
        } else if let Some((exception, retrieved)) = native(fields.flags, fields, bytes) {
            found.push((*kind, exception, Some(retrieved)));
        }
    }
    // Whether the result of one of these was ever asked for, nothing tells.
    let attributes = reader.attributes(&concurrent, &["_state", "_exception"]);
    let states = attributes.iter().flatten().filter_map(|found| found[0]);
    reader.load_texts(states.collect::<Vec<_>>());
    for attributes in attributes.into_iter().flatten() {
        let finished = attributes[0].and_then(|state| reader.text(state));
        if finished.is_some_and(|state| &**state == "FINISHED")
            && let Some(exception) = attributes[1]
        {
            found.push((FutureKind::Concurrent, exception, None));
        }
    }
    found
}

fn native(
    shape: FutureFlags,
    fields: crate::python::layout::TaskLayout,
    bytes: &[u8],
) -> Option<(u64, bool)> {
    let exception = word(bytes, fields.exception)?;
    (int(bytes, fields.state)? == FINISHED && exception != 0).then_some(())?;
    let unretrieved = match shape {
        FutureFlags::Integers { unretrieved, .. } => int(bytes, unretrieved)? != 0,
        FutureFlags::Bits(place) => byte(bytes, place)? & 1 != 0,
    };
    Some((exception, !unretrieved))
}

/// The class of an exception; `None` for what is none.
fn exception_name(
    reader: &mut Reader<'_>,
    exception: u64,
    names: &mut AddressMap<Option<String>>,
) -> Option<String> {
    let info = reader.types_of(&[exception]).pop()??;
    (info.flags & flags::EXCEPTION_SUBCLASS != 0).then_some(())?;
    let class = reader.classes_of(&[exception]).pop()??;
    if let Some(known) = names.get(&class) {
        return known.clone();
    }
    let name = reader.type_name(class);
    let name = name.map(|name| name.strip_prefix("builtins.").unwrap_or(&name).to_owned());
    names.insert(class, name.clone());
    name
}
