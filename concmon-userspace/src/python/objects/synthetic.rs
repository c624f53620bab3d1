//! Memory made up for tests: segments in a vector, objects in them, and noise.

use super::kinds::{FLAGGED_KINDS, NAMED_KINDS};
use super::{OBJECT_SIZE, OBJECT_TYPE, Reader, expected_size, flags};
use crate::python::layout::{KeysShape, Version, WalkLayout, row};
use crate::python::memory::{Batch, Memory, ReadError};

/// Memory that consists of segments.
#[derive(Debug, Default)]
pub(crate) struct Segments {
    segments: Vec<(u64, Vec<u8>)>,
}

impl Segments {
    pub(crate) fn put(&mut self, address: u64, bytes: impl Into<Vec<u8>>) {
        self.segments.push((address, bytes.into()));
    }

    /// `words` one after the other, little-endian.
    pub(crate) fn put_words(&mut self, address: u64, words: &[u64]) {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.put(address, bytes);
    }
}

impl Segments {
    fn copy(&self, address: u64, into: &mut [u8]) -> usize {
        self.segments
            .iter()
            .filter_map(|(start, bytes)| {
                let have = bytes.get(address.checked_sub(*start)? as usize..)?;
                let got = have.len().min(into.len());
                into[..got].copy_from_slice(&have[..got]);
                Some(got)
            })
            .max()
            .unwrap_or(0)
    }
}

impl Memory for Segments {
    fn read_batch(&self, batch: &mut Batch) -> Result<(), ReadError> {
        batch.fill(|address, into| self.copy(address, into));
        Ok(())
    }
}

/// Segments with objects in them, laid out as one version has them.
pub(crate) struct World {
    pub(crate) memory: Segments,
    pub(crate) walk: WalkLayout,
    next: u64,
    metatype: u64,
    text_type: u64,
}

impl World {
    pub(crate) fn new(minor: u8) -> Self {
        let layout = row(Version { major: 3, minor }).expect("a row");
        let mut world = Self {
            memory: Segments::default(),
            walk: layout.walk,
            next: 0x5500_0000_0000,
            metatype: 0,
            text_type: 0,
        };
        // Its own type is itself.
        world.metatype = world.next;
        world.class("type", flags::TYPE_SUBCLASS, 0);
        world.text_type = world.class("str", flags::UNICODE_SUBCLASS, 0);
        world
    }

    pub(crate) fn reader(&self) -> Reader<'_> {
        Reader::new(&self.memory, self.walk, 1 << 20)
    }

    pub(crate) fn put(&mut self, bytes: &[u8]) -> u64 {
        let address = self.next;
        // Segments do not touch: a read past the end of an object stays short.
        self.next += (bytes.len() as u64).next_multiple_of(0x1000) + 0x1000;
        self.memory.put(address, bytes);
        address
    }

    pub(crate) fn put_words(&mut self, words: &[u64]) -> u64 {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.put(&bytes)
    }

    /// A type object; a heap type has the shared keys that `cached_keys` says.
    pub(crate) fn class(&mut self, name: &str, flags: u64, basic_size: u64) -> u64 {
        self.class_with_keys(name, flags, basic_size, 0)
    }

    pub(crate) fn class_with_keys(
        &mut self,
        name: &str,
        flags: u64,
        basic_size: u64,
        cached_keys: u64,
    ) -> u64 {
        let address = self.reserve();
        let cached_keys = (self.walk.types.cached_keys, cached_keys);
        self.class_at(address, name, flags, basic_size, &[cached_keys]);
        address
    }

    /// An address for a class that something else refers to before it is there.
    pub(crate) fn reserve(&mut self) -> u64 {
        let address = self.next;
        self.next += 0x2000;
        address
    }

    /// A type object at a reserved address, with more fields.
    pub(crate) fn class_at(
        &mut self,
        address: u64,
        name: &str,
        flags: u64,
        basic_size: u64,
        more: &[(u32, u64)],
    ) {
        let fields = self.walk.types;
        let mut bytes = vec![0; fields.cached_keys as usize + 8];
        let mut c_name = name.as_bytes().to_vec();
        c_name.resize(128, 0);
        let c_name = self.put(&c_name);
        for (offset, value) in [
            (0, 1),
            (OBJECT_TYPE, self.metatype),
            (fields.name, c_name),
            (fields.basic_size, basic_size),
            (fields.flags, flags),
        ]
        .into_iter()
        .chain(more.iter().copied())
        {
            set_word(&mut bytes, offset, value);
        }
        self.memory.put(address, bytes);
    }

    pub(crate) fn tuple(&mut self, items: &[u64]) -> u64 {
        let class = self.class("tuple", flags::TUPLE_SUBCLASS, 24);
        let mut bytes = Self::object(class, self.walk.containers.tuple_items as usize);
        set_word(&mut bytes, OBJECT_SIZE, items.len() as u64);
        bytes.extend(items.iter().flat_map(|item| item.to_le_bytes()));
        self.put(&bytes)
    }

    /// The bytes of a living object of a type.
    pub(crate) fn object(class: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        set_word(&mut bytes, 0, 1);
        set_word(&mut bytes, OBJECT_TYPE, class);
        bytes
    }

    /// An ASCII string.
    pub(crate) fn text(&mut self, text: &str) -> u64 {
        let fields = self.walk.text;
        let mut bytes = Self::object(self.text_type, fields.ascii as usize);
        set_word(&mut bytes, fields.length, text.len() as u64);
        bytes[fields.state as usize] = (1 << 2) | (1 << 5) | (1 << 6);
        bytes.extend(text.as_bytes());
        self.put(&bytes)
    }

    /// A string of another width, not ASCII.
    pub(crate) fn wide_text(&mut self, text: &str, width: usize) -> u64 {
        let fields = self.walk.text;
        let mut bytes = Self::object(self.text_type, fields.compact as usize);
        set_word(&mut bytes, fields.length, text.chars().count() as u64);
        bytes[fields.state as usize] = ((width as u8) << 2) | (1 << 5);
        for char in text.chars() {
            bytes.extend(&u32::from(char).to_le_bytes()[..width]);
        }
        self.put(&bytes)
    }

    /// Keys of a dict: the kind (0 general, 1 strings, 2 shared; where releases have kinds), and
    /// keys with values.
    pub(crate) fn keys(&mut self, kind: u8, entries: &[(u64, u64)]) -> u64 {
        let shape = self.walk.containers.keys;
        let mut bytes = vec![0; shape.header() as usize + 8];
        let has_hash = match shape {
            KeysShape::Size { size, .. } => {
                set_word(&mut bytes, size, 8);
                true
            }
            KeysShape::Log {
                log2_bytes,
                kind: place,
                ..
            } => {
                bytes[log2_bytes as usize] = 3;
                bytes[place as usize] = kind;
                kind == 0
            }
        };
        set_word(&mut bytes, shape.count(), entries.len() as u64);
        for (key, value) in entries {
            if has_hash {
                bytes.extend(0x1234_5678u64.to_le_bytes());
            }
            bytes.extend(key.to_le_bytes());
            bytes.extend(value.to_le_bytes());
        }
        self.put(&bytes)
    }

    /// A dict object.
    pub(crate) fn dict(&mut self, keys: u64, values: u64) -> u64 {
        let class = self.class("dict", flags::DICT_SUBCLASS, 48);
        let fields = self.walk.containers;
        let mut bytes = Self::object(class, fields.dict_values as usize + 8);
        set_word(&mut bytes, fields.dict_keys, keys);
        set_word(&mut bytes, fields.dict_values, values);
        self.put(&bytes)
    }

    /// An array of values as a split dict has it.
    pub(crate) fn values(&mut self, values: &[u64]) -> u64 {
        let mut bytes = vec![0; self.walk.containers.split_values.first as usize];
        bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        self.put(&bytes)
    }
}

pub(crate) fn set_word(bytes: &mut [u8], offset: u32, value: u64) {
    let offset = offset as usize;
    bytes[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
}

/// Where noise begins; below it are the types. No count that is believed is as large.
const NOISE: u64 = 0x7f00_0000_0000;

/// Memory where every address holds something: small numbers, zeros, sets of bits, addresses, and
/// often enough the address of a real type, so that most of it looks like objects.
#[derive(Debug)]
pub(crate) struct Noise {
    seed: u64,
    /// The largest number is one less than this power of two.
    bits: u32,
    types: Segments,
    type_addresses: Vec<u64>,
}

impl Noise {
    pub(crate) fn new(minor: u8, seed: u64) -> Self {
        let mut world = World::new(minor);
        let mut type_addresses = vec![world.metatype, world.text_type];
        let keys = world.keys(2, &[(NOISE, 0), (NOISE + 8, 0)]);
        for (name, kind) in NAMED_KINDS {
            let size = expected_size(&world.walk, *kind).map_or(16, |size| size.bytes);
            type_addresses.push(world.class(name, 0, size.into()));
        }
        for (flag, _) in FLAGGED_KINDS {
            type_addresses.push(world.class("some", *flag, 16));
        }
        for flag in [0, flags::INLINE_VALUES] {
            let all = flags::HEAP_TYPE | flags::MANAGED_DICT | flag;
            type_addresses.push(world.class_with_keys("C", all, 16, keys));
        }
        Self {
            seed,
            bits: 0,
            types: world.memory,
            type_addresses,
        }
    }

    /// Reads so many of them, of all versions, with readers that read at most so many bytes each.
    pub(crate) fn each(seeds: u64, most: usize, mut read: impl FnMut(&Self, &mut Reader<'_>)) {
        for seed in 0..seeds {
            let minor = 8 + (seed % 8) as u8;
            let memory = Self::new(minor, seed);
            read(
                &memory,
                &mut Reader::new(&memory, World::new(minor).walk, most),
            );
        }
    }

    /// As [`new`](Self::new), but numbers are as large as any that are believed.
    pub(crate) fn huge(minor: u8, seed: u64) -> Self {
        Self {
            bits: 24,
            ..Self::new(minor, seed)
        }
    }

    fn hash(&self, value: u64) -> u64 {
        let mut hash = (value ^ self.seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        hash ^ (hash >> 31)
    }

    /// An address in a small world, so that ways through it meet.
    pub(crate) fn address(&self, index: u64) -> u64 {
        NOISE + self.hash(!index) % 4096 * 8
    }

    fn word(&self, address: u64) -> u64 {
        let hash = self.hash(address);
        match hash % 16 {
            0 | 1 => 0,
            2..5 if self.bits > 0 => (1 << ((hash >> 8) % u64::from(self.bits))) - 1,
            2..5 => (hash >> 8) % 9,
            5 => hash >> 8,
            6 => u64::MAX - (hash >> 8) % 3,
            7..11 => self.type_addresses[(hash >> 8) as usize % self.type_addresses.len()],
            _ => self.address(hash >> 8),
        }
    }
}

impl Memory for Noise {
    fn read_batch(&self, batch: &mut Batch) -> Result<(), ReadError> {
        batch.fill(|address, into| {
            if address < NOISE {
                return self.types.copy(address, into);
            }
            let mut at = 0;
            while at < into.len() {
                let inside = (address as usize + at) % 8;
                let word = self.word((address + at as u64) & !7).to_le_bytes();
                let len = (8 - inside).min(into.len() - at);
                into[at..at + len].copy_from_slice(&word[inside..inside + len]);
                at += len;
            }
            into.len()
        });
        Ok(())
    }
}
