//! Makes small BTF for tests.

#[derive(Default)]
pub(crate) struct Builder {
    types: Vec<u8>,
    strings: Vec<u8>,
    count: u32,
}

/// Name (empty: anonymous), type id, offset in bits.
pub(crate) type Member<'a> = (&'a str, u32, u32);

impl Builder {
    pub(crate) fn new() -> Self {
        Builder {
            strings: vec![0],
            ..Builder::default()
        }
    }

    fn name(&mut self, name: &str) -> u32 {
        if name.is_empty() {
            return 0;
        }
        let at = self.strings.len() as u32;
        self.strings.extend_from_slice(name.as_bytes());
        self.strings.push(0);
        at
    }

    /// Any record: returns its type id.
    pub(crate) fn record(&mut self, name: &str, info: u32, size_or_type: u32, tail: &[u32]) -> u32 {
        let name = self.name(name);
        for word in [name, info, size_or_type].iter().chain(tail) {
            self.types.extend_from_slice(&word.to_le_bytes());
        }
        self.count += 1;
        self.count
    }

    pub(crate) fn int(&mut self, name: &str, bytes: u32) -> u32 {
        self.record(name, 1 << 24, bytes, &[bytes * 8])
    }

    pub(crate) fn pointer(&mut self, to: u32) -> u32 {
        self.record("", 2 << 24, to, &[])
    }

    pub(crate) fn array(&mut self, element: u32, len: u32) -> u32 {
        self.record("", 3 << 24, 0, &[element, 0, len])
    }

    pub(crate) fn typedef(&mut self, name: &str, of: u32) -> u32 {
        self.record(name, 8 << 24, of, &[])
    }

    pub(crate) fn volatile(&mut self, of: u32) -> u32 {
        self.record("", 9 << 24, of, &[])
    }

    fn composite(&mut self, kind: u32, name: &str, bytes: u32, members: &[Member<'_>]) -> u32 {
        let tail: Vec<u32> = members
            .iter()
            .flat_map(|&(name, type_id, bits)| [self.name(name), type_id, bits])
            .collect();
        self.record(name, kind << 24 | members.len() as u32, bytes, &tail)
    }

    pub(crate) fn structure(&mut self, name: &str, bytes: u32, members: &[Member<'_>]) -> u32 {
        self.composite(4, name, bytes, members)
    }

    pub(crate) fn union(&mut self, name: &str, bytes: u32, members: &[Member<'_>]) -> u32 {
        self.composite(5, name, bytes, members)
    }

    /// A struct whose members are given as in `structure`, with bit field sizes in bits 24 to 31.
    pub(crate) fn flagged(&mut self, name: &str, bytes: u32, members: &[Member<'_>]) -> u32 {
        self.composite(4 | 1 << 7, name, bytes, members)
    }

    pub(crate) fn prototype(&mut self, arguments: u32) -> u32 {
        let tail = vec![0; 2 * arguments as usize];
        self.record("", 13 << 24 | arguments, 0, &tail)
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = vec![0x9f, 0xeb, 1, 0];
        let (types, strings) = (self.types.len() as u32, self.strings.len() as u32);
        for word in [24, 0, types, types, strings] {
            out.extend_from_slice(&u32::to_le_bytes(word));
        }
        out.extend_from_slice(&self.types);
        out.extend_from_slice(&self.strings);
        out
    }
}
