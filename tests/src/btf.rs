//! Spoils a copy of the kernel's BTF: moves one member of one struct.

use anyhow::{Context, Result, bail, ensure};

/// `BTF_MAGIC` of the kernel's `include/uapi/linux/btf.h`.
const MAGIC: u16 = 0xeb9f;
const KIND_STRUCT: u32 = 4;

/// Moves member `member` of struct `name` by `bytes` in raw BTF.
///
/// # Errors
/// When the data is no BTF, or has no such member.
pub fn move_member(btf: &mut [u8], name: &str, member: &str, bytes: u32) -> Result<()> {
    ensure!(
        btf.len() >= 24 && u16::from_ne_bytes([btf[0], btf[1]]) == MAGIC,
        "no BTF in this machine's byte order"
    );
    let header_len = word(btf, 4)? as usize;
    let types = header_len + word(btf, 8)? as usize;
    let types_end = types + word(btf, 12)? as usize;
    let strings = header_len + word(btf, 16)? as usize;

    let mut at = types;
    while at < types_end {
        let info = word(btf, at + 4)?;
        let kind = info >> 24 & 0x1f;
        let entries = (info & 0xffff) as usize;
        let body = at + 12;
        if kind == KIND_STRUCT && is(btf, strings, word(btf, at)?, name) {
            for i in 0..entries {
                let entry = body + i * 12;
                if is(btf, strings, word(btf, entry)?, member) {
                    // Bits from the start of the struct in the low 24 bits.
                    let moved = word(btf, entry + 8)? + bytes * 8;
                    btf[entry + 8..entry + 12].copy_from_slice(&moved.to_ne_bytes());
                    return Ok(());
                }
            }
        }
        at = body + body_len(kind, entries)?;
    }
    bail!("BTF has no {name}.{member}")
}

/// Bytes after the common 12 of a type, by kind (`include/uapi/linux/btf.h`).
fn body_len(kind: u32, entries: usize) -> Result<usize> {
    Ok(match kind {
        // int, var, decl_tag
        1 | 14 | 17 => 4,
        // pointer, forward, typedef, volatile, const, restrict, function, float, type_tag
        2 | 7..=12 | 16 | 18 => 0,
        // array
        3 => 12,
        // struct, union, data section, 64-bit enum
        4 | 5 | 15 | 19 => 12 * entries,
        // enum, function prototype
        6 | 13 => 8 * entries,
        _ => bail!("BTF kind {kind} is not known"),
    })
}

fn word(btf: &[u8], at: usize) -> Result<u32> {
    let bytes = btf.get(at..at + 4).context("BTF is cut off")?;
    Ok(u32::from_ne_bytes(bytes.try_into()?))
}

fn is(btf: &[u8], strings: usize, name_offset: u32, name: &str) -> bool {
    let at = strings + name_offset as usize;
    btf.get(at..at + name.len() + 1)
        .is_some_and(|bytes| bytes.split_last() == Some((&0, name.as_bytes())))
}
