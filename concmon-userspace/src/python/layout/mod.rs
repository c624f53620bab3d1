//! Where things are in an interpreter's memory: one struct of data, rows by version.
//!
//! Numbers are byte offsets into the struct that the group is named after, on 64-bit Linux. They
//! come from CPython's own headers and debug information of the release named by the row; where
//! an interpreter describes itself ([`described`]), its own numbers replace the row's.
//! Walkers look at the shape (which variant of an enum, whether an option is there) and never at
//! the version.

pub mod described;
mod rows;

pub use rows::row;

/// An interpreter's version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    pub major: u8,
    pub minor: u8,
}

/// Everything known about one interpreter's memory.
#[derive(Clone, Debug)]
pub struct Layout {
    pub runtime: RuntimeLayout,
    pub interpreter: InterpreterLayout,
    /// `None`: threads and what is below cannot be read for this version yet.
    pub walk: Option<WalkLayout>,
}

/// `_PyRuntimeState`.
#[derive(Clone, Copy, Debug)]
pub struct RuntimeLayout {
    pub interpreters_head: u32,
}

/// Where the GIL struct is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GilPlace {
    /// Inside the runtime struct, for all interpreters.
    Runtime(u32),
    /// Each interpreter has a pointer to the one it uses.
    Pointer(u32),
}

/// `PyInterpreterState`.
#[derive(Clone, Copy, Debug)]
pub struct InterpreterLayout {
    pub next: u32,
    pub threads_head: u32,
    pub modules: u32,
    pub gil: GilPlace,
    /// List of tasks whose threads have ended.
    pub tasks_head: Option<u32>,
}

/// What the walkers need.
#[derive(Clone, Copy, Debug)]
pub struct WalkLayout {
    pub thread: ThreadLayout,
    pub frame: FrameLayout,
    pub generator: GeneratorLayout,
    pub code: CodeLayout,
    pub types: TypeLayout,
    pub text: TextLayout,
    pub integer: IntegerShape,
    pub containers: ContainerLayout,
    pub instance: InstanceShape,
    pub callable: CallableLayout,
    pub task: TaskLayout,
}

/// Where a thread's running event loop is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunningLoop {
    /// In the thread's dict: an object that holds the loop at this offset.
    DictHolder { dict: u32, held: u32 },
    /// In the thread's dict: the loop itself.
    Dict { dict: u32 },
    /// A field of the thread state.
    Field(u32),
}

/// `PyThreadState`, with asyncio's additions behind it.
#[derive(Clone, Copy, Debug)]
pub struct ThreadLayout {
    pub prev: u32,
    pub next: u32,
    pub interpreter: u32,
    pub ident: u32,
    pub native_id: u32,
    pub running_loop: RunningLoop,
    /// `None`: it is in a dict of the asyncio module.
    pub running_task: Option<u32>,
    pub tasks_head: Option<u32>,
}

/// How a suspended frame says what it waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AwaitShape {
    /// The next instruction is one of these resume opcodes with an argument of 2 or more; the
    /// awaited object is on top of the stack, whose depth is an index.
    Resume { opcodes: [u8; 2] },
    /// A frame state says so; the top of the stack is an index.
    StackIndex,
    /// A frame state says so; the top of the stack is a pointer. Values are tagged; a marker (a
    /// tagged small integer or an empty reference) may lie on top of the awaited object.
    StackPointer,
}

/// `_PyInterpreterFrame`.
#[derive(Clone, Copy, Debug)]
pub struct FrameLayout {
    pub executable: u32,
    pub instruction: u32,
    pub locals: u32,
    /// `stacktop` or `stackpointer`, as [`AwaitShape`] says.
    pub stack: u32,
    pub awaited: AwaitShape,
    /// References to objects carry a tag in their two low bits.
    pub tagged: bool,
}

/// Coroutines, generators and asynchronous generators share one struct, with a frame inside.
#[derive(Clone, Copy, Debug)]
pub struct GeneratorLayout {
    pub qualname: u32,
    pub state: u32,
    pub frame: u32,
    pub states: StateNumbers,
}

/// Which number of the state byte means what; all others mean finished.
#[derive(Clone, Copy, Debug)]
pub struct StateNumbers {
    pub created: i8,
    /// Suspended; whether it awaits something, [`AwaitShape`] says, or another number does.
    pub suspended: i8,
    /// Suspended and awaiting, where that has numbers of its own.
    pub awaiting: &'static [i8],
    pub executing: i8,
}

/// `PyCodeObject`.
#[derive(Clone, Copy, Debug)]
pub struct CodeLayout {
    pub filename: u32,
    pub qualname: u32,
    pub first_line: u32,
    pub line_table: u32,
    pub instructions: u32,
}

/// `PyTypeObject` and `PyHeapTypeObject`.
#[derive(Clone, Copy, Debug)]
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

/// `PyASCIIObject`, `PyCompactUnicodeObject`, `PyUnicodeObject`, `PyBytesObject`.
#[derive(Clone, Copy, Debug)]
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

/// How the length and sign of an integer are kept; its digits of 30 bits begin at `digits`.
#[derive(Clone, Copy, Debug)]
pub enum IntegerShape {
    /// The count of digits, negative for a negative number.
    SignedSize { size: u32, digits: u32 },
    /// The count of digits times 8; the low two bits are 0, 1 or 2 for plus, zero, minus.
    Tag { tag: u32, digits: u32 },
}

/// How the values of a split dict are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SplitValues {
    /// Where the array of values begins.
    pub first: u32,
}

/// Lists, tuples, sets, dicts, and the fields of other small objects.
#[derive(Clone, Copy, Debug)]
pub struct ContainerLayout {
    pub tuple_items: u32,
    pub list_items: u32,
    pub set_mask: u32,
    pub set_table: u32,
    pub dict_used: u32,
    pub dict_keys: u32,
    pub dict_values: u32,
    pub split_values: SplitValues,
    /// The dict of a module.
    pub module_dict: u32,
    pub weakref_object: u32,
    pub float_value: u32,
}

/// Where an instance keeps its attributes when its type says that the interpreter manages them.
/// Offsets are negative, before the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InstanceShape {
    /// A pointer to values and one to a dict.
    TwoPointers { values: u32, dict: u32 },
    /// One word: a pointer to values when odd (plus one), else one to a dict.
    TaggedPointer { word: u32 },
    /// A pointer to a dict; when null, values may lie inside the object behind its basic size,
    /// and are used when the byte at `valid` of them says so.
    Inline { dict: u32, valid: u32 },
}

/// Functions, methods, partials.
#[derive(Clone, Copy, Debug)]
pub struct CallableLayout {
    pub function_qualname: u32,
    pub function_module: u32,
    pub method_function: u32,
    pub builtin_definition: u32,
    pub builtin_self: u32,
    pub builtin_module: u32,
    pub partial_function: u32,
}

/// `TaskObj` of asyncio's C module.
#[derive(Clone, Copy, Debug)]
pub struct TaskLayout {
    /// What `tp_basicsize` must be for the rest to hold.
    pub size: u32,
    pub loop_object: u32,
    pub state: u32,
    pub awaited_future: u32,
    pub coroutine: u32,
    pub name: u32,
    /// The node by which tasks are linked into lists; `None` where they are not.
    pub node: Option<u32>,
    /// Attributes of `asyncio.tasks` that are weak sets of tasks.
    pub weak_sets: &'static [&'static str],
    /// Attributes of `asyncio.tasks` that are plain sets of tasks.
    pub sets: &'static [&'static str],
}
