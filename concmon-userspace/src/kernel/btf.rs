//! A small reader of raw BTF: where a struct member lies, and how many arguments a tracepoint has.
//!
//! The bytes are untrusted: every read is checked, every walk is bounded, nothing panics. The
//! format is that of the kernel's `Documentation/bpf/btf.rst` and `include/uapi/linux/btf.h`.

use std::fmt;

/// Type records between two entries of the position index: a lookup by id walks at most so many.
const STRIDE: usize = 64;
/// Nested anonymous structs, and chains of typedefs and qualifiers, are followed so far.
const MAX_DEPTH: u32 = 32;
/// Members looked at for one path, over all nested anonymous structs.
const MAX_MEMBERS: u32 = 20_000;

const KIND_INT: u8 = 1;
const KIND_PTR: u8 = 2;
const KIND_ARRAY: u8 = 3;
const KIND_STRUCT: u8 = 4;
const KIND_UNION: u8 = 5;
const KIND_ENUM: u8 = 6;
const KIND_FWD: u8 = 7;
const KIND_TYPEDEF: u8 = 8;
const KIND_VOLATILE: u8 = 9;
const KIND_CONST: u8 = 10;
const KIND_RESTRICT: u8 = 11;
const KIND_FUNC: u8 = 12;
const KIND_FUNC_PROTO: u8 = 13;
const KIND_VAR: u8 = 14;
const KIND_DATASEC: u8 = 15;
const KIND_FLOAT: u8 = 16;
const KIND_DECL_TAG: u8 = 17;
const KIND_TYPE_TAG: u8 = 18;
const KIND_ENUM64: u8 = 19;

/// Why bytes are not BTF that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BtfError {
    #[error("not little-endian BTF (magic number missing)")]
    Magic,
    #[error("BTF of version {0}; version 1 is known")]
    Version(u8),
    #[error("BTF header points outside of its {0} bytes")]
    Header(usize),
    #[error("type record at byte {0} is cut off")]
    Truncated(usize),
    #[error("type record at byte {at} is of unknown kind {kind}")]
    Kind { kind: u8, at: usize },
}

/// Why a member has no byte offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldError {
    NoStruct,
    NoMember,
    Bitfield,
    /// Several structs of that name, and they disagree.
    Ambiguous,
    /// Nested beyond every reasonable bound, or damaged.
    Malformed,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FieldError::NoStruct => "there is no such struct",
            FieldError::NoMember => "the struct has no such member",
            FieldError::Bitfield => "the member is a bit field",
            FieldError::Ambiguous => "several structs of that name disagree about it",
            FieldError::Malformed => "its type description is damaged",
        })
    }
}

/// Where a member lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Bytes from the beginning of the outermost struct.
    pub offset: u32,
    /// Its size in bytes; `None` for what has none (a function, a forward declaration).
    pub size: Option<u32>,
}

/// BTF bytes whose type records were checked to lie where they should.
pub struct Btf<'a> {
    /// The type section, by words: every record begins at one.
    types: &'a [[u8; 4]],
    strings: &'a [u8],
    /// Which word of `types` every [`STRIDE`]th type record begins at.
    index: Vec<u32>,
    count: u32,
}

#[derive(Clone, Copy)]
struct Type {
    /// The word of the type section that its record begins at.
    at: usize,
    name: u32,
    vlen: u32,
    kind: u8,
    kind_flag: bool,
    /// A size in bytes or the id of another type, by kind.
    size_or_type: u32,
}

struct Member {
    type_id: u32,
    bit_offset: u64,
    bitfield: bool,
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(word.try_into().ok()?))
}

/// Words of the beginning that all records have.
const COMMON: usize = 3;

/// Words that follow the common ones of a record.
fn tail_words(kind: u8, vlen: u32) -> Option<usize> {
    let vlen = vlen as usize;
    Some(match kind {
        KIND_INT | KIND_VAR | KIND_DECL_TAG => 1,
        KIND_ARRAY => 3,
        KIND_STRUCT | KIND_UNION | KIND_DATASEC | KIND_ENUM64 => 3 * vlen,
        KIND_ENUM | KIND_FUNC_PROTO => 2 * vlen,
        KIND_PTR | KIND_FWD | KIND_TYPEDEF | KIND_VOLATILE | KIND_CONST | KIND_RESTRICT
        | KIND_FUNC | KIND_FLOAT | KIND_TYPE_TAG => 0,
        _ => return None,
    })
}

impl<'a> Btf<'a> {
    /// Checks `bytes` in one pass and remembers where every 64th type lies.
    ///
    /// # Errors
    /// [`BtfError`] says what is wrong and where.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BtfError> {
        let outside = BtfError::Header(bytes.len());
        let [0x9f, 0xeb, version, _flags, header @ ..] = bytes else {
            return Err(BtfError::Magic);
        };
        if *version != 1 {
            return Err(BtfError::Version(*version));
        }
        let word = |i: usize| u32_at(header, 4 * i).map(|w| w as usize).ok_or(outside);
        let base = word(0)?;
        let section = |offset: usize, len: usize| {
            let start = base.checked_add(offset)?;
            bytes.get(start..start.checked_add(len)?)
        };
        let (types, rest) = section(word(1)?, word(2)?).ok_or(outside)?.as_chunks();
        if !rest.is_empty() {
            return Err(BtfError::Truncated(4 * types.len()));
        }
        let strings = section(word(3)?, word(4)?).ok_or(outside)?;

        let mut btf = Btf {
            types,
            strings,
            index: Vec::new(),
            count: 0,
        };
        let mut at = 0;
        while at < types.len() {
            if (btf.count as usize).is_multiple_of(STRIDE) {
                btf.index.push(at as u32);
            }
            at = btf.record(at)?.1;
            btf.count += 1;
        }
        Ok(btf)
    }

    /// The record at word `at` of the type section, and where the next one begins.
    fn record(&self, at: usize) -> Result<(Type, usize), BtfError> {
        let cut = BtfError::Truncated(4 * at);
        let [name, info, size_or_type, ..] = self.types.get(at..).ok_or(cut)? else {
            return Err(cut);
        };
        let (name, info) = (u32::from_le_bytes(*name), u32::from_le_bytes(*info));
        let size_or_type = u32::from_le_bytes(*size_or_type);
        let kind = (info >> 24 & 0x1f) as u8;
        let vlen = info & 0xffff;
        let tail = tail_words(kind, vlen).ok_or(BtfError::Kind { kind, at: 4 * at })?;
        let end = at + COMMON + tail;
        if end > self.types.len() {
            return Err(cut);
        }
        let kind_flag = info >> 31 == 1;
        Ok((
            Type {
                at,
                name,
                vlen,
                kind,
                kind_flag,
                size_or_type,
            },
            end,
        ))
    }

    fn all(&self) -> impl Iterator<Item = Type> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let (found, next) = self.record(at).ok()?;
            at = next;
            Some(found)
        })
    }

    fn by_id(&self, id: u32) -> Option<Type> {
        let ordinal = id.checked_sub(1)? as usize;
        let mut at = *self.index.get(ordinal / STRIDE)? as usize;
        for _ in 0..ordinal % STRIDE {
            at = self.record(at).ok()?.1;
        }
        Some(self.record(at).ok()?.0)
    }

    /// The type with this id, behind typedefs and qualifiers.
    fn stripped(&self, mut id: u32) -> Option<Type> {
        for _ in 0..MAX_DEPTH {
            let found = self.by_id(id)?;
            match found.kind {
                KIND_TYPEDEF | KIND_VOLATILE | KIND_CONST | KIND_RESTRICT | KIND_TYPE_TAG => {
                    id = found.size_or_type;
                }
                _ => return Some(found),
            }
        }
        None
    }

    fn is_named(&self, name_offset: u32, name: &str) -> bool {
        self.strings
            .get(name_offset as usize..)
            .and_then(|s| s.strip_prefix(name.as_bytes()))
            .is_some_and(|rest| rest.first() == Some(&0))
    }

    fn word(&self, found: Type, i: usize) -> Option<u32> {
        let word = self.types.get(found.at + COMMON + i)?;
        Some(u32::from_le_bytes(*word))
    }

    fn size_of(&self, id: u32) -> Option<u32> {
        let (mut id, mut factor) = (id, 1u32);
        for _ in 0..MAX_DEPTH {
            let found = self.stripped(id)?;
            let size = match found.kind {
                KIND_INT | KIND_STRUCT | KIND_UNION | KIND_ENUM | KIND_ENUM64 | KIND_FLOAT => {
                    found.size_or_type
                }
                // Every kernel that concmon knows is a 64-bit one.
                KIND_PTR => 8,
                KIND_ARRAY => {
                    id = self.word(found, 0)?;
                    factor = factor.checked_mul(self.word(found, 2)?)?;
                    continue;
                }
                _ => return None,
            };
            return factor.checked_mul(size);
        }
        None
    }

    /// The member `name` of `outer`, looked for in its anonymous members too.
    fn member(
        &self,
        outer: Type,
        name: &str,
        depth: u32,
        budget: &mut u32,
    ) -> Result<Option<Member>, FieldError> {
        if depth == 0 {
            return Err(FieldError::Malformed);
        }
        for i in 0..outer.vlen as usize {
            *budget = budget.checked_sub(1).ok_or(FieldError::Malformed)?;
            let word = |part| self.word(outer, 3 * i + part).ok_or(FieldError::Malformed);
            let (name_offset, type_id, place) = (word(0)?, word(1)?, word(2)?);
            let (bit_offset, bits) = if outer.kind_flag {
                (u64::from(place & 0xff_ffff), place >> 24)
            } else {
                (u64::from(place), 0)
            };
            if self.is_named(name_offset, name) {
                return Ok(Some(Member {
                    type_id,
                    bit_offset,
                    bitfield: bits != 0,
                }));
            }
            if !self.is_named(name_offset, "") {
                continue;
            }
            let Some(inner) = self.stripped(type_id) else {
                continue;
            };
            if !matches!(inner.kind, KIND_STRUCT | KIND_UNION) {
                continue;
            }
            if let Some(mut found) = self.member(inner, name, depth - 1, budget)? {
                found.bit_offset += bit_offset;
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn resolve(&self, outer: Type, path: &str) -> Result<Field, FieldError> {
        let mut outer = outer;
        let mut bits = 0u64;
        let mut budget = MAX_MEMBERS;
        let mut segments = path.split('.').peekable();
        loop {
            let segment = segments.next().ok_or(FieldError::NoMember)?;
            let (name, subscripts) = segment.split_at(segment.find('[').unwrap_or(segment.len()));
            if name.is_empty() {
                return Err(FieldError::NoMember);
            }
            let Member {
                mut type_id,
                bit_offset,
                bitfield,
            } = self
                .member(outer, name, MAX_DEPTH, &mut budget)?
                .ok_or(FieldError::NoMember)?;
            bits += bit_offset;
            for subscript in subscripts.split_inclusive(']') {
                let element = subscript
                    .strip_prefix('[')
                    .and_then(|s| s.strip_suffix(']'))
                    .and_then(|s| s.parse::<u32>().ok())
                    .ok_or(FieldError::NoMember)?;
                let array = self.stripped(type_id).ok_or(FieldError::Malformed)?;
                if array.kind != KIND_ARRAY || Some(element) >= self.word(array, 2) {
                    return Err(FieldError::NoMember);
                }
                type_id = self.word(array, 0).ok_or(FieldError::Malformed)?;
                let size = self.size_of(type_id).ok_or(FieldError::Malformed)?;
                bits += u64::from(element) * u64::from(size) * 8;
            }
            let inner = self.stripped(type_id);
            if segments.peek().is_some() {
                outer = inner
                    .filter(|t| matches!(t.kind, KIND_STRUCT | KIND_UNION))
                    .ok_or(FieldError::NoMember)?;
                continue;
            }
            // An integer narrower than its own size is a bit field of the older encoding.
            let narrow = inner.filter(|t| t.kind == KIND_INT).is_some_and(|t| {
                let encoding = self.word(t, 0).unwrap_or(0);
                u64::from(encoding & 0xff) != u64::from(t.size_or_type) * 8
                    || encoding >> 16 & 0xff != 0
            });
            if bitfield || narrow || !bits.is_multiple_of(8) {
                return Err(FieldError::Bitfield);
            }
            let offset = u32::try_from(bits / 8).map_err(|_| FieldError::Malformed)?;
            return Ok(Field {
                offset,
                size: self.size_of(type_id),
            });
        }
    }

    /// The structs (or unions) of these names, found in one pass over the types.
    pub fn structs<const N: usize>(&self, names: [&str; N]) -> [Struct<'_>; N] {
        let mut found = [const { Vec::new() }; N];
        for this in self.all() {
            if !matches!(this.kind, KIND_STRUCT | KIND_UNION) {
                continue;
            }
            for (list, name) in found.iter_mut().zip(names) {
                if self.is_named(this.name, name) {
                    list.push(this);
                }
            }
        }
        found.map(|definitions| Struct {
            btf: self,
            definitions,
        })
    }

    /// [`Struct::field`] of one struct.
    ///
    /// # Errors
    /// As there.
    pub fn field(&self, outer: &str, path: &str) -> Result<Field, FieldError> {
        let [found] = self.structs([outer]);
        found.field(path)
    }

    /// [`Btf::field`]'s offset in bytes; `None` for whatever reason it has none.
    pub fn offset_of(&self, outer: &str, path: &str) -> Option<u32> {
        self.field(outer, path).ok().map(|f| f.offset)
    }

    /// How many arguments the tracepoint `name` (such as `sched_switch`) has, the leading
    /// `void *` of its `btf_trace_` typedef counted too; `None` when there is no such tracepoint.
    pub fn tracepoint_args(&self, name: &str) -> Option<u32> {
        let typedef = format!("btf_trace_{name}");
        let found = self
            .all()
            .find(|t| t.kind == KIND_TYPEDEF && self.is_named(t.name, &typedef))?;
        let pointer = self
            .stripped(found.size_or_type)
            .filter(|t| t.kind == KIND_PTR)?;
        let proto = self.stripped(pointer.size_or_type)?;
        (proto.kind == KIND_FUNC_PROTO).then_some(proto.vlen)
    }
}

/// All definitions of one struct name; the kernel's BTF may hold several.
pub struct Struct<'a> {
    btf: &'a Btf<'a>,
    definitions: Vec<Type>,
}

impl Struct<'_> {
    /// Where the member `path` lies.
    ///
    /// A path goes through embedded structs (`se.sum_exec_runtime`) and array elements
    /// (`regs[1]`), not through pointers; anonymous members are looked into.
    ///
    /// # Errors
    /// [`FieldError`]; a bit field has no byte offset and is refused.
    pub fn field(&self, path: &str) -> Result<Field, FieldError> {
        let mut answers = self.definitions.iter().map(|t| self.btf.resolve(*t, path));
        let first = answers.next().unwrap_or(Err(FieldError::NoStruct));
        if answers.all(|other| other == first) {
            first
        } else {
            Err(FieldError::Ambiguous)
        }
    }
}

#[cfg(test)]
pub(super) mod builder;
#[cfg(test)]
mod tests;
