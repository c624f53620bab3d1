//! Types, strings, numbers, containers, callables.

use serde::Serialize;

use super::Since;

/// `PyTypeObject` and `PyHeapTypeObject`.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct TypeLayout {
    pub name: u32,
    pub basic_size: u32,
    pub flags: u32,
    pub dict_offset: u32,
    pub base: u32,
    pub dict: u32,
    pub mro: u32,
    pub cached_keys: u32,
    pub qualname: u32,
}

pub(super) const TYPES: Since<TypeLayout> = &[
    (8, types(872, 864)),
    (9, types(864, 856)),
    (10, types(872, 864)),
    (12, types(880, 872)),
    (15, types(888, 880)),
];

const fn types(cached_keys: u32, qualname: u32) -> TypeLayout {
    TypeLayout {
        name: 24,
        basic_size: 32,
        flags: 168,
        dict_offset: 288,
        base: 256,
        dict: 264,
        mro: 344,
        cached_keys,
        qualname,
    }
}

/// `PyASCIIObject`, `PyCompactUnicodeObject`, `PyUnicodeObject`, `PyBytesObject`.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct TextLayout {
    pub length: u32,
    pub state: u32,
    /// Where the characters of an ASCII string begin.
    pub ascii: u32,
    /// Where the characters of another compact string begin.
    pub compact: u32,
    /// Pointer to the characters of a string that is not compact.
    pub data: u32,
    pub bytes: u32,
}

pub(super) const TEXT: Since<TextLayout> = &[
    (
        8,
        TextLayout {
            length: 16,
            state: 32,
            ascii: 48,
            compact: 72,
            data: 72,
            bytes: 32,
        },
    ),
    (
        12,
        TextLayout {
            length: 16,
            state: 32,
            ascii: 40,
            compact: 56,
            data: 56,
            bytes: 32,
        },
    ),
];

/// How the length and sign of an integer are kept; its digits of 30 bits begin at `digits`.
#[derive(Clone, Copy, Debug, Serialize)]
pub enum IntegerShape {
    /// The count of digits, negative for a negative number.
    SignedSize { size: u32, digits: u32 },
    /// The count of digits times 8; the low two bits are 0, 1 or 2 for plus, zero, minus.
    Tag { tag: u32, digits: u32 },
}

pub(super) const INTEGER: Since<IntegerShape> = &[
    (
        8,
        IntegerShape::SignedSize {
            size: 16,
            digits: 24,
        },
    ),
    (
        12,
        IntegerShape::Tag {
            tag: 16,
            digits: 24,
        },
    ),
];

/// How the values of a split dict are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct SplitValues {
    /// Where the array of values begins.
    pub first: u32,
}

/// How a table of keys says how large it is: `_dictkeysobject`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum KeysShape {
    /// The size of the index is a count of its entries, whose width follows from it.
    Size { header: u32, size: u32, count: u32 },
    /// The size of the index is the logarithm of its bytes; entries of kind 0 have a hash.
    Log {
        header: u32,
        log2_bytes: u32,
        kind: u32,
        count: u32,
    },
}

impl KeysShape {
    /// Bytes before the index.
    pub const fn header(self) -> u32 {
        match self {
            Self::Size { header, .. } | Self::Log { header, .. } => header,
        }
    }

    /// Where the number of used entries is.
    pub const fn count(self) -> u32 {
        match self {
            Self::Size { count, .. } | Self::Log { count, .. } => count,
        }
    }
}

/// Lists, tuples, sets, dicts, and the fields of other small objects.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ContainerLayout {
    pub tuple_items: u32,
    pub list_items: u32,
    pub set_mask: u32,
    pub set_table: u32,
    pub dict_used: u32,
    pub dict_keys: u32,
    pub dict_values: u32,
    pub keys: KeysShape,
    pub split_values: SplitValues,
    /// The dict of a module.
    pub module_dict: u32,
    pub weakref_object: u32,
    pub float_value: u32,
}

pub(super) const CONTAINERS: Since<ContainerLayout> = &[
    (
        8,
        ContainerLayout {
            keys: KeysShape::Size {
                header: 40,
                size: 8,
                count: 32,
            },
            ..CONTAINERS_3_11
        },
    ),
    (11, CONTAINERS_3_11),
    (13, CONTAINERS_3_13),
    (
        14,
        ContainerLayout {
            tuple_items: 32,
            ..CONTAINERS_3_13
        },
    ),
];

const CONTAINERS_3_11: ContainerLayout = ContainerLayout {
    tuple_items: 24,
    list_items: 24,
    set_mask: 32,
    set_table: 40,
    dict_used: 16,
    dict_keys: 32,
    dict_values: 40,
    keys: KeysShape::Log {
        header: 32,
        log2_bytes: 9,
        kind: 10,
        count: 24,
    },
    split_values: SplitValues { first: 0 },
    module_dict: 16,
    weakref_object: 16,
    float_value: 16,
};

const CONTAINERS_3_13: ContainerLayout = ContainerLayout {
    split_values: SplitValues { first: 8 },
    ..CONTAINERS_3_11
};

/// Where an instance keeps its attributes when its type says that the interpreter manages them.
/// Offsets are negative, before the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum InstanceShape {
    /// The interpreter manages none: each has a dict where its type says.
    Unmanaged,
    /// A pointer to values and one to a dict.
    TwoPointers { values: u32, dict: u32 },
    /// One word: a pointer to values when odd (plus one), else one to a dict.
    TaggedPointer { word: u32 },
    /// A pointer to a dict; when null, values may lie inside the object behind its basic size,
    /// and are used when the byte at `valid` of them says so.
    Inline { dict: u32, valid: u32 },
}

pub(super) const INSTANCE: Since<InstanceShape> = &[
    (8, InstanceShape::Unmanaged),
    (
        11,
        InstanceShape::TwoPointers {
            values: 32,
            dict: 24,
        },
    ),
    (12, InstanceShape::TaggedPointer { word: 24 }),
    (13, InstanceShape::Inline { dict: 24, valid: 3 }),
];

/// Functions, methods, partials.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct CallableLayout {
    pub function_code: u32,
    pub function_qualname: u32,
    pub function_module: u32,
    pub function_closure: u32,
    pub method_function: u32,
    pub method_self: u32,
    pub builtin_definition: u32,
    pub builtin_self: u32,
    pub builtin_module: u32,
    pub partial_function: u32,
    pub partial_arguments: u32,
}

pub(super) const CALLABLE: Since<CallableLayout> = &[
    (8, callable(16, 104, 88, 48)),
    (10, callable(48, 40, 104, 72)),
];

const fn callable(
    function_code: u32,
    function_qualname: u32,
    function_module: u32,
    function_closure: u32,
) -> CallableLayout {
    CallableLayout {
        function_code,
        function_qualname,
        function_module,
        function_closure,
        method_function: 16,
        method_self: 24,
        builtin_definition: 16,
        builtin_self: 24,
        builtin_module: 32,
        partial_function: 16,
        partial_arguments: 24,
    }
}
