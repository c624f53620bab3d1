//! One event of a watched thread. All kinds share one size, so that a batch is an array; each begins with
//! a head whose tag says what the rest is.

use core::mem::transmute;

use super::{ExecRecord, ExitRecord, ForkRecord, SliceRecord};

#[cfg(target_endian = "big")]
compile_error!("records are little-endian on both sides");

/// What a record is.
pub mod record_kind {
    pub const SLICE: u8 = 1;
    pub const FORK: u8 = 2;
    pub const EXEC: u8 = 3;
    pub const EXIT: u8 = 4;
}

/// What all records begin with.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordHead {
    /// [`record_kind`].
    pub kind: u8,
    /// [`cause`](super::cause) of the block before a slice; 0 in other records.
    pub cause: u8,
    /// Bits of the record's own kind.
    pub flags: u8,
    pub reserved: u8,
    pub tid: u32,
    pub at_ns: u64,
}

/// A record of any kind.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    pub head: RecordHead,
    pub body: [u64; 6],
}

/// A record of a known kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tagged {
    Slice(SliceRecord),
    Fork(ForkRecord),
    Exec(ExecRecord),
    Exit(ExitRecord),
}

impl Record {
    /// What its tag says that it is; `None`: nothing that is known.
    pub fn tagged(self) -> Option<Tagged> {
        Some(match self.head.kind {
            record_kind::SLICE => Tagged::Slice(self.into()),
            record_kind::FORK => Tagged::Fork(self.into()),
            record_kind::EXEC => Tagged::Exec(self.into()),
            record_kind::EXIT => Tagged::Exit(self.into()),
            _ => return None,
        })
    }
}

/// One record read as another: the same bits, whatever the tag says.
macro_rules! records {
    ($($name:ident)*) => {
        $(
            const _: () = assert!(size_of::<$name>() == size_of::<Record>());

            impl From<$name> for Record {
                fn from(record: $name) -> Self {
                    // SAFETY: both are plain `repr(C)` integers of one size, without padding.
                    unsafe { transmute(record) }
                }
            }

            impl From<Record> for $name {
                fn from(record: Record) -> Self {
                    // SAFETY: as above.
                    unsafe { transmute(record) }
                }
            }
        )*
    };
}

records! { SliceRecord ForkRecord ExecRecord ExitRecord }

const _: () = {
    assert!(size_of::<RecordHead>() == 16);
    assert!(size_of::<Record>() == 64);
};
