//! The embedded kernel object, and the one change that kernels without task storage need.

use thiserror::Error;

/// The kernel programs, compiled from `concmon-ebpf` and committed beside its source.
const PREBUILT: &[u8] = include_bytes!("../../../concmon-ebpf/prebuilt/concmon-ebpf.o");

/// `BPF_MAP_TYPE_TASK_STORAGE` and `BPF_MAP_TYPE_HASH` (include/uapi/linux/bpf.h).
const TASK_STORAGE: u32 = 29;
const HASH: u32 = 1;

/// What BTF begins with (`include/uapi/linux/btf.h`).
const BTF_MAGIC: u16 = 0xeb9f;

/// The embedded object is not what this program was built with.
#[derive(Debug, Error)]
#[error("the embedded kernel object has no usable definition of the map THREADS ({0})")]
pub(super) struct ObjectError(&'static str);

/// The object as built: threads are found through task storage.
pub(super) fn with_task_storage() -> Vec<u8> {
    PREBUILT.to_vec()
}

/// The same object with `THREADS` as a preallocated hash map, keyed by thread id.
///
/// A BTF map definition has its type and flags as lengths of arrays; those two are changed.
pub(super) fn with_thread_hash() -> Result<Vec<u8>, ObjectError> {
    let mut bytes = PREBUILT.to_vec();
    let (start, length) = {
        use object::{Object as _, ObjectSection as _};
        let file = object::File::parse(PREBUILT).map_err(|_| ObjectError("not an ELF file"))?;
        let section = file.section_by_name(".BTF").ok_or(ObjectError("no .BTF"))?;
        let (start, length) = section.file_range().ok_or(ObjectError("an empty .BTF"))?;
        (start as usize, length as usize)
    };
    let btf = bytes
        .get_mut(start..start.saturating_add(length))
        .ok_or(ObjectError("a .BTF outside the file"))?;
    let members = map_members(btf, b"THREADS")?;
    set_length(btf, &members, b"type", TASK_STORAGE, HASH)?;
    set_length(btf, &members, b"map_flags", 1, 0)?;
    Ok(bytes)
}

/// Where each type starts, the string section, and the members `(name offset, type)` of the map.
struct MapMembers {
    types: Vec<usize>,
    strings: usize,
    members: Vec<(u32, u32)>,
}

fn word(bytes: &[u8], at: usize) -> Result<u32, ObjectError> {
    let slice = bytes
        .get(at..at.saturating_add(4))
        .ok_or(ObjectError("a cut .BTF"))?;
    Ok(u32::from_le_bytes([slice[0], slice[1], slice[2], slice[3]]))
}

fn named(btf: &[u8], strings: usize, offset: u32, name: &[u8]) -> bool {
    btf.get(strings.saturating_add(offset as usize)..)
        .is_some_and(|rest| rest.starts_with(name) && rest.get(name.len()) == Some(&0))
}

/// Bytes that follow the 12-byte head of a type, by kind (include/uapi/linux/btf.h).
fn tail_len(kind: u32, vlen: usize) -> Result<usize, ObjectError> {
    Ok(match kind {
        1 | 14 | 17 => 4,
        2 | 7..=12 | 16 | 18 => 0,
        3 => 12,
        4 | 5 | 15 | 19 => 12 * vlen,
        6 | 13 => 8 * vlen,
        _ => return Err(ObjectError("an unknown BTF kind")),
    })
}

fn map_members(btf: &[u8], name: &[u8]) -> Result<MapMembers, ObjectError> {
    if word(btf, 0)? & 0xffff != u32::from(BTF_MAGIC) {
        return Err(ObjectError("no BTF magic"));
    }
    let header = word(btf, 4)? as usize;
    let mut at = header + word(btf, 8)? as usize;
    let end = at + word(btf, 12)? as usize;
    let strings = header + word(btf, 16)? as usize;
    let mut types = vec![0];
    let mut map_type = None;
    while at < end {
        types.push(at);
        let info = word(btf, at + 4)?;
        let kind = (info >> 24) & 0x1f;
        if kind == 14 && named(btf, strings, word(btf, at)?, name) {
            map_type = Some(word(btf, at + 8)?);
        }
        at += 12 + tail_len(kind, (info & 0xffff) as usize)?;
    }
    let position = map_type
        .and_then(|id| types.get(id as usize).copied())
        .ok_or(ObjectError("no such variable"))?;
    let count = (word(btf, position + 4)? & 0xffff) as usize;
    let members = (0..count)
        .map(|index| {
            let member = position + 12 + 12 * index;
            Ok((word(btf, member)?, word(btf, member + 4)?))
        })
        .collect::<Result<_, ObjectError>>()?;
    Ok(MapMembers {
        types,
        strings,
        members,
    })
}

/// Changes the array length behind the pointer that is the map's member `name`.
fn set_length(
    btf: &mut [u8],
    map: &MapMembers,
    name: &[u8],
    from: u32,
    to: u32,
) -> Result<(), ObjectError> {
    let find = |id: u32| {
        map.types
            .get(id as usize)
            .copied()
            .ok_or(ObjectError("no such type"))
    };
    let (_, pointer) = *map
        .members
        .iter()
        .find(|(offset, _)| named(btf, map.strings, *offset, name))
        .ok_or(ObjectError("a missing member"))?;
    let array = find(word(btf, find(pointer)? + 8)?)?;
    let length_at = array + 12 + 8;
    if word(btf, length_at)? != from {
        return Err(ObjectError("an unexpected value"));
    }
    btf[length_at..length_at + 4].copy_from_slice(&to.to_le_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thread_hash_changes_two_words_only() {
        let (storage, hash) = (with_task_storage(), with_thread_hash().expect("the object"));
        assert_eq!(storage.len(), hash.len());
        let changed = storage.iter().zip(&hash).filter(|(a, b)| a != b).count();
        assert_eq!(
            changed, 2,
            "map type 29 -> 1 and flags 1 -> 0, one byte each"
        );
    }
}
