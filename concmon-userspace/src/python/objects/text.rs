//! Strings and numbers.

use std::sync::Arc;

use super::{Kind, OBJECT_TYPE, Reader};
use crate::python::layout::{IntegerShape, WalkLayout};
use crate::python::memory::{Batch, at, int, plausible, word};

/// The longest string that is taken over as a whole, characters. Of a longer one both ends are, so that a path keeps its
/// base name, and how much is between them.
pub const MAX_TEXT_CHARS: usize = 512;
/// Characters of each end.
const END_CHARS: usize = MAX_TEXT_CHARS / 2;
/// First read of a string: header and a short content together.
const TEXT_FIRST_BYTES: usize = 128;
/// The same where there are many, and most are short.
const LABEL_FIRST_BYTES: usize = 80;

/// A name that may be but a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Label {
    Text(Arc<str>),
    Number(i64),
}

impl Reader<'_> {
    /// Makes the strings at these addresses known.
    pub(crate) fn load_texts(&mut self, addresses: impl IntoIterator<Item = u64>) {
        let mut wanted: Vec<u64> = addresses
            .into_iter()
            .filter(|address| plausible(*address) && self.text(*address).is_none())
            .collect();
        wanted.sort_unstable();
        wanted.dedup();
        if wanted.is_empty() {
            return;
        }
        let mut batch = Batch::new();
        for address in &wanted {
            batch.push(*address, TEXT_FIRST_BYTES);
        }
        self.fetch(&mut batch);
        self.load_types((0..wanted.len()).filter_map(|i| word(batch.prefix(i), OBJECT_TYPE)));
        let mut longer = Batch::new();
        let mut waiting = Vec::new();
        for (index, address) in wanted.iter().enumerate() {
            let bytes = batch.prefix(index);
            let text = match (self.kind(bytes), TextPlace::of(&self.walk, *address, bytes)) {
                (Some(Kind::Text), Some(place)) => {
                    if let Some(inside) = place.inside(*address, bytes) {
                        Some(place.decode(inside))
                    } else {
                        waiting.push((*address, place, place.push(&mut longer)));
                        continue;
                    }
                }
                _ => None,
            };
            self.keep_text(*address, text);
        }
        if !longer.is_empty() {
            self.fetch(&mut longer);
        }
        for (address, place, index) in waiting {
            let text = place.decode_pushed(&longer, index);
            self.keep_text(address, text);
        }
    }

    fn keep_text(&mut self, address: u64, text: Option<Arc<str>>) {
        self.forget_texts([address]);
        if self.may_keep(text_cost(text.as_deref())) {
            self.texts.insert(address, text);
        }
    }

    /// Makes the strings at these addresses unknown again.
    pub(crate) fn forget_texts(&mut self, addresses: impl IntoIterator<Item = u64>) {
        for address in addresses {
            if let Some(text) = self.texts.remove(&address) {
                self.give_back(text_cost(text.as_deref()));
            }
        }
    }

    /// The strings and numbers at these addresses, read now; `None` for what is neither.
    pub(crate) fn labels(&mut self, addresses: &[u64]) -> Vec<Option<Label>> {
        let mut batch = Batch::new();
        for address in addresses {
            batch.push(*address, LABEL_FIRST_BYTES);
        }
        self.fetch(&mut batch);
        self.load_types((0..batch.len()).filter_map(|i| word(batch.prefix(i), OBJECT_TYPE)));
        let mut longer = Batch::new();
        let mut waiting = Vec::new();
        let mut labels: Vec<Option<Label>> = addresses
            .iter()
            .enumerate()
            .map(|(slot, address)| {
                let bytes = batch.prefix(slot);
                match self.kind(bytes)? {
                    Kind::Integer => decode_integer(self.walk.integer, bytes).map(Label::Number),
                    Kind::Text => {
                        let place = TextPlace::of(&self.walk, *address, bytes)?;
                        if let Some(inside) = place.inside(*address, bytes) {
                            return Some(Label::Text(place.decode(inside)));
                        }
                        waiting.push((slot, place, place.push(&mut longer)));
                        None
                    }
                    _ => None,
                }
            })
            .collect();
        if !longer.is_empty() {
            self.fetch(&mut longer);
        }
        for (slot, place, index) in waiting {
            labels[slot] = place.decode_pushed(&longer, index).map(Label::Text);
        }
        labels
    }

    /// A string that was loaded.
    pub(crate) fn text(&self, address: u64) -> Option<&Arc<str>> {
        self.texts.get(&address)?.as_ref()
    }

    /// Reads one string.
    pub(crate) fn read_text(&mut self, address: u64) -> Option<Arc<str>> {
        self.load_texts([address]);
        self.text(address).cloned()
    }

    /// The integers at these addresses; `None` for what is none or does not fit.
    pub(crate) fn integers(&mut self, addresses: &[u64]) -> Vec<Option<i64>> {
        let (IntegerShape::SignedSize { digits, .. } | IntegerShape::Tag { digits, .. }) =
            self.walk.integer;
        let mut batch = Batch::new();
        for address in addresses {
            batch.push(*address, digits as usize + 12);
        }
        self.fetch(&mut batch);
        self.load_types((0..addresses.len()).filter_map(|i| word(batch.prefix(i), OBJECT_TYPE)));
        (0..addresses.len())
            .map(|index| {
                let bytes = batch.prefix(index);
                (self.kind(bytes) == Some(Kind::Integer))
                    .then(|| decode_integer(self.walk.integer, bytes))?
            })
            .collect()
    }

    /// The sign and the size of each integer of up to 128 bits.
    pub(crate) fn longs(&mut self, addresses: &[u64]) -> Vec<Option<(bool, u128)>> {
        let (IntegerShape::SignedSize { digits, .. } | IntegerShape::Tag { digits, .. }) =
            self.walk.integer;
        let mut batch = Batch::new();
        for address in addresses {
            batch.push(*address, digits as usize + MAX_DIGITS as usize * 4);
        }
        self.fetch(&mut batch);
        self.load_types((0..batch.len()).filter_map(|i| word(batch.prefix(i), OBJECT_TYPE)));
        (0..batch.len())
            .map(|slot| {
                let bytes = batch.prefix(slot);
                (self.kind(bytes)? == Kind::Integer)
                    .then(|| decode_long(self.walk.integer, bytes))?
            })
            .collect()
    }

    /// Reads one number: a float, or an integer.
    pub(crate) fn read_number(&mut self, address: u64) -> Option<f64> {
        self.numbers(&[address]).pop()?
    }

    /// Reads numbers: floats, or integers; `None` for what is none.
    pub(crate) fn numbers(&mut self, addresses: &[u64]) -> Vec<Option<f64>> {
        let place = self.walk.containers.float_value;
        let mut batch = Batch::new();
        for address in addresses {
            batch.push(*address, place as usize + 8);
        }
        self.fetch(&mut batch);
        self.load_types((0..addresses.len()).filter_map(|i| word(batch.prefix(i), OBJECT_TYPE)));
        let kinds: Vec<Option<Kind>> = (0..addresses.len())
            .map(|index| self.kind(batch.prefix(index)))
            .collect();
        let whole = addresses.iter().zip(&kinds);
        let whole: Vec<u64> = whole
            .filter(|(_, kind)| **kind == Some(Kind::Integer))
            .map(|(address, _)| *address)
            .collect();
        let mut whole = self.integers(&whole).into_iter();
        kinds
            .into_iter()
            .enumerate()
            .map(|(index, kind)| match kind? {
                Kind::Float => word(batch.prefix(index), place).map(f64::from_bits),
                Kind::Integer => whole.next()?.map(|value| value as f64),
                _ => None,
            })
            .collect()
    }
}

/// What a string costs to keep, bytes: itself, and a copy where it is a name.
fn text_cost(text: Option<&str>) -> usize {
    const ENTRY_BYTES: usize = 48;
    ENTRY_BYTES + text.map_or(0, |text| 2 * text.len())
}

/// Where the characters of a string are, and how they are kept.
#[derive(Clone, Copy)]
struct TextPlace {
    address: u64,
    chars: usize,
    /// Bytes per character: 1, 2 or 4.
    width: usize,
}

impl TextPlace {
    fn of(walk: &WalkLayout, address: u64, bytes: &[u8]) -> Option<Self> {
        // Bits of `state` (`Include/cpython/unicodeobject.h`): kind 2 to 4, compact 5, ascii 6.
        const COMPACT: i32 = 1 << 5;
        const ASCII: i32 = 1 << 6;
        let text = walk.text;
        let length = word(bytes, text.length)?;
        let state = int(bytes, text.state)?;
        let width = match (state >> 2) & 7 {
            1 => 1,
            2 => 2,
            4 => 4,
            _ => return None,
        };
        let address = if state & COMPACT == 0 {
            word(bytes, text.data)?
        } else if state & ASCII != 0 {
            at(address, text.ascii)
        } else {
            at(address, text.compact)
        };
        Some(Self {
            address,
            chars: usize::try_from(length).ok()?,
            width,
        })
    }

    /// The characters that are between the ends, of a string that is too long.
    fn left_out(self) -> usize {
        match self.chars > MAX_TEXT_CHARS {
            true => self.chars - 2 * END_CHARS,
            false => 0,
        }
    }

    /// The characters, where all of them are among the `bytes` at the string's own address.
    fn inside(self, address: u64, bytes: &[u8]) -> Option<&[u8]> {
        let from = usize::try_from(self.address.wrapping_sub(address)).ok()?;
        let len = (self.left_out() == 0).then(|| self.chars * self.width)?;
        bytes.get(from..from.checked_add(len)?)
    }

    /// Adds what is read of the characters; gives the place of the first area.
    fn push(self, batch: &mut Batch) -> usize {
        if self.left_out() == 0 {
            return batch.push(self.address, self.chars * self.width);
        }
        let end = END_CHARS * self.width;
        let first = batch.push(self.address, end);
        let behind = (self.chars - END_CHARS) as u64;
        let behind = behind.wrapping_mul(self.width as u64);
        batch.push(self.address.wrapping_add(behind), end);
        first
    }

    /// The text of what was added at `index`.
    fn decode_pushed(self, batch: &Batch, index: usize) -> Option<Arc<str>> {
        let first = self.decode(batch.whole(index)?);
        let left_out = self.left_out();
        if left_out == 0 {
            return Some(first);
        }
        let last = self.decode(batch.whole(index + 1)?);
        Some(format!("{first}[{left_out} characters left out]{last}").into())
    }

    fn decode(self, bytes: &[u8]) -> Arc<str> {
        if self.width == 1
            && bytes.is_ascii()
            && let Ok(text) = std::str::from_utf8(bytes)
        {
            return text.into();
        }
        bytes
            .chunks_exact(self.width)
            .map(|chunk| {
                let mut number = [0; 4];
                number[..self.width].copy_from_slice(chunk);
                char::from_u32(u32::from_le_bytes(number)).unwrap_or(char::REPLACEMENT_CHARACTER)
            })
            .collect::<String>()
            .into()
    }
}

/// Digits of the longest number that is read.
const MAX_DIGITS: u64 = 5;

fn decode_integer(shape: IntegerShape, bytes: &[u8]) -> Option<i64> {
    let (negative, size) = decode_long(shape, bytes)?;
    let size = i128::try_from(size).ok()?;
    i64::try_from(if negative { -size } else { size }).ok()
}

/// The sign and the size of a number.
fn decode_long(shape: IntegerShape, bytes: &[u8]) -> Option<(bool, u128)> {
    const DIGIT_BITS: u32 = 30;
    let (count, negative, digits) = match shape {
        IntegerShape::SignedSize { size, digits } => {
            let size = word(bytes, size)? as i64;
            (size.unsigned_abs(), size < 0, digits)
        }
        IntegerShape::Tag { tag, digits } => {
            let tag = word(bytes, tag)?;
            match tag & 3 {
                1 => (0, false, digits),
                sign => (tag >> 3, sign == 2, digits),
            }
        }
    };
    if count > MAX_DIGITS {
        return None;
    }
    let mut value: u128 = 0;
    for index in (0..count as u32).rev() {
        let digit = u128::try_from(int(bytes, digits + index * 4)?).ok()?;
        if value >> (u128::BITS - DIGIT_BITS) != 0 {
            return None;
        }
        value = (value << DIGIT_BITS) | digit;
    }
    Some((negative, value))
}

/// A `bool` object is an integer of 0 or 1.
pub(crate) fn as_bool(number: Option<i64>) -> Option<bool> {
    match number? {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::flags;
    use super::super::synthetic::{World, set_word};
    use super::*;

    #[test]
    fn strings_of_every_width_and_length() {
        for minor in 8..=15 {
            let mut world = World::new(minor);
            let whole = "y".repeat(MAX_TEXT_CHARS);
            let long = format!("/begin/{whole}/end.py");
            let folded = format!(
                "/begin/{}[14 characters left out]{}/end.py",
                "y".repeat(END_CHARS - 7),
                "y".repeat(END_CHARS - 7)
            );
            let wide = "\u{4e16}".repeat(MAX_TEXT_CHARS + 1);
            let of_wide = "\u{4e16}".repeat(END_CHARS);
            let of_wide = format!("{of_wide}[1 characters left out]{of_wide}");
            let cases = [
                (world.text(""), String::new()),
                (world.text("short"), "short".to_owned()),
                (world.text(&whole), whole.clone()),
                (world.text(&long), folded),
                (world.wide_text(&wide, 2), of_wide),
                (world.wide_text("n\u{e4}me", 1), "n\u{e4}me".to_owned()),
                (
                    world.wide_text("\u{4e16}\u{754c}", 2),
                    "\u{4e16}\u{754c}".to_owned(),
                ),
                (world.wide_text("\u{1f40d}", 4), "\u{1f40d}".to_owned()),
            ];
            let odd_width = world.wide_text("xxx", 3);
            let mut reader = world.reader();
            for (address, expected) in cases {
                let text = reader.read_text(address);
                assert_eq!(text.as_deref(), Some(expected.as_str()), "3.{minor}");
            }
            assert_eq!(reader.read_text(odd_width), None);
            assert_eq!(reader.read_text(0), None);
        }
    }

    #[test]
    fn integers_of_both_forms() {
        const BIT_30: u64 = 1 << 30;
        for minor in [8, 12] {
            let mut world = World::new(minor);
            let class = world.class("int", flags::LONG_SUBCLASS, 24);
            let mut number = |count: i64, digits: [u64; 3]| {
                let mut bytes = World::object(class, 36);
                let (size, offset) = match world.walk.integer {
                    IntegerShape::SignedSize { size, digits } => (count as u64, (size, digits)),
                    IntegerShape::Tag { tag, digits } => {
                        let sign = match count {
                            0 => 1,
                            1.. => 0,
                            _ => 2,
                        };
                        ((count.unsigned_abs() << 3) | sign, (tag, digits))
                    }
                };
                set_word(&mut bytes, offset.0, size);
                for (index, digit) in digits.iter().enumerate() {
                    let at = offset.1 as usize + index * 4;
                    bytes[at..at + 4].copy_from_slice(&(*digit as u32).to_le_bytes());
                }
                world.put(&bytes)
            };
            let addresses = [
                number(0, [9, 0, 0]),
                number(1, [7, 9, 9]),
                number(-1, [7, 9, 9]),
                number(2, [5, 3, 9]),
                number(3, [BIT_30 - 1, BIT_30 - 1, 7]),
                number(3, [0, 0, BIT_30 - 1]),
                number(4, [1, 1, 1]),
            ];
            let found = world.reader().integers(&addresses);
            let expected = [
                Some(0),
                Some(7),
                Some(-7),
                Some(5 + 3 * (1 << 30)),
                Some(i64::MAX),
                None,
                None,
            ];
            assert_eq!(found, expected, "3.{minor}");
        }
    }
}
