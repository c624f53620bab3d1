//! The few instructions by which a `try` statement shows that it puts back what was got before it: as `Include/opcode.h`
//! (`opcode_ids.h`) numbers them, with those that stand in their places once they have run often.

use serde::Serialize;

use super::Since;

/// An instruction: its numbers, and how many units of two bytes follow it that are none.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Opcode {
    pub numbers: &'static [u8],
    pub caches: usize,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub struct Opcodes {
    pub nop: u8,
    pub extended_arg: u8,
    /// Begins a statement, and says how far away its handler is; `None`: a table says what handlers cover.
    pub setup_finally: Option<u8>,
    /// A handler begins with it.
    pub push_exc_info: Option<u8>,
    pub load_fast: Opcode,
    pub store_fast: Opcode,
    pub delete_fast: u8,
    /// Two instructions in one, of which the first stores; its argument has a half for each.
    pub store_and: &'static [u8],
    pub load_deref: Opcode,
    /// Its argument is the name's number, shifted by so many bits.
    pub load_global: Opcode,
    pub global_shift: u32,
    pub load_attr: Opcode,
    pub attr_shift: u32,
    /// `None`: a bit of `load_attr` says the same.
    pub load_method: Option<Opcode>,
    /// The global variables of a frame's function, a dict.
    pub globals: u32,
}

pub(super) const OPCODES: Since<Option<Opcodes>> = &[
    (8, Some(OPCODES_3_8)),
    (
        11,
        Some(Opcodes {
            setup_finally: None,
            push_exc_info: Some(35),
            load_fast: with_caches(&[124, 45, 46], 0),
            store_fast: with_caches(&[125, 161, 167], 0),
            load_deref: with_caches(&[137], 0),
            load_global: with_caches(&[116, 47, 48, 55], 5),
            global_shift: 1,
            load_attr: with_caches(&[106, 39, 40, 41, 42, 43], 4),
            load_method: Some(with_caches(&[160, 56, 57, 58, 59, 62, 63], 10)),
            globals: 8,
            ..OPCODES_3_8
        }),
    ),
    (12, Some(OPCODES_3_12)),
    (
        13,
        Some(Opcodes {
            nop: 30,
            extended_arg: 71,
            push_exc_info: Some(33),
            delete_fast: 65,
            store_and: &[111, 112],
            load_fast: with_caches(&[85, 87], 0),
            store_fast: with_caches(&[110], 0),
            load_deref: with_caches(&[84], 0),
            load_global: with_caches(&[91, 203, 204], 4),
            load_attr: with_caches(
                &[
                    82, 191, 192, 193, 194, 195, 196, 197, 198, 199, 200, 201, 202,
                ],
                9,
            ),
            ..OPCODES_3_12
        }),
    ),
    // Not looked up yet.
    (14, None),
];

const OPCODES_3_8: Opcodes = Opcodes {
    nop: 9,
    extended_arg: 144,
    setup_finally: Some(122),
    push_exc_info: None,
    load_fast: with_caches(&[124], 0),
    store_fast: with_caches(&[125], 0),
    delete_fast: 126,
    store_and: &[],
    load_deref: with_caches(&[136], 0),
    load_global: with_caches(&[116], 0),
    global_shift: 0,
    load_attr: with_caches(&[106], 0),
    attr_shift: 0,
    load_method: Some(with_caches(&[160], 0)),
    globals: 48,
};

const OPCODES_3_12: Opcodes = Opcodes {
    nop: 9,
    extended_arg: 144,
    setup_finally: None,
    push_exc_info: Some(35),
    load_fast: with_caches(&[124, 127, 86, 88], 0),
    store_fast: with_caches(&[125, 154, 158], 0),
    delete_fast: 126,
    store_and: &[],
    load_deref: with_caches(&[137], 0),
    load_global: with_caches(&[116, 111, 112], 4),
    global_shift: 1,
    load_attr: with_caches(&[106, 70, 72, 73, 76, 77, 78, 79, 80, 81, 82], 9),
    attr_shift: 1,
    load_method: None,
    globals: 24,
};

const fn with_caches(numbers: &'static [u8], caches: usize) -> Opcode {
    Opcode { numbers, caches }
}
