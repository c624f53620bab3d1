//! Offsets that an interpreter gives itself: `_Py_DebugOffsets` (3.13 and later, at the start of
//! the runtime) and asyncio's own table (3.14 and later, section `.AsyncioDebug`).
//!
//! The tables have no field names: which position means what is CPython's
//! `Include/internal/pycore_debug_offsets.h` of each minor release.

use super::{
    AwaitedBy, CollectionSums, CollectorPlace, FrameRoot, GeneratorFrame, GilPlace,
    InstructionShape, Instructions, Layout, RunningLoop, StackShape, StateShape, Version,
    WalkLayout,
};
use crate::python::memory::word;

/// The first eight bytes of `_Py_DebugOffsets`.
pub const COOKIE: &[u8; 8] = b"xdebugpy";
/// The longest known `_Py_DebugOffsets`, bytes.
pub const MAX_TABLE_BYTES: usize = 888;
/// The length of asyncio's table, bytes.
pub const ASYNCIO_TABLE_BYTES: usize = 104;
/// No struct that has one of these offsets is larger, bytes.
const MAX_OFFSET: u64 = 1 << 21;

/// Why an interpreter's own table is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DescribedError {
    #[error("the interpreter's own offset table has a form that is not known")]
    UnknownForm,
    #[error("the interpreter's own offset table holds the implausible value {value} at {position}")]
    Implausible { position: u32, value: u64 },
}

/// The head of the table, the same in every release that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// `PY_VERSION_HEX`.
    pub version_hex: u64,
    pub free_threaded: bool,
}

/// Reads the head, when `bytes` begin with the cookie.
pub fn head(bytes: &[u8]) -> Option<Head> {
    if !bytes.starts_with(COOKIE) {
        return None;
    }
    Some(Head {
        version_hex: word(bytes, 8)?,
        free_threaded: word(bytes, 16)? != 0,
    })
}

/// One field: where it goes, and its position in the tables of 3.13, 3.14 and 3.15.
struct Field<T> {
    place: fn(&mut T) -> &mut u32,
    positions: [u32; 3],
}

const LAYOUT_FIELDS: &[Field<Layout>] = &[
    Field {
        place: |l| &mut l.runtime.interpreters_head,
        positions: [40, 40, 40],
    },
    Field {
        place: |l| &mut l.interpreter.next,
        positions: [64, 64, 64],
    },
    Field {
        place: |l| &mut l.interpreter.threads_head,
        positions: [72, 72, 72],
    },
    Field {
        place: |l| &mut l.interpreter.modules,
        positions: [88, 96, 96],
    },
];

const GIL_POSITIONS: [u32; 3] = [112, 120, 120];
/// `interpreter_state.gc` and `gc.collecting`.
const COLLECTOR_POSITIONS: [[u32; 2]; 3] = [[80, 576], [88, 656], [88, 760]];
/// `gc.generation_stats_size` and `gc.generation_stats` of 3.15.
const COLLECTION_RINGS_POSITIONS: [u32; 2] = [776, 784];
/// `thread_state.size`, behind which 3.13 has its running loop.
const THREAD_SIZE_POSITION_3_13: u32 = 152;

const WALK_FIELDS: &[Field<WalkLayout>] = &[
    Field {
        place: |w| &mut w.thread.prev,
        positions: [160, 184, 184],
    },
    Field {
        place: |w| &mut w.thread.next,
        positions: [168, 192, 192],
    },
    Field {
        place: |w| &mut w.thread.interpreter,
        positions: [176, 200, 200],
    },
    Field {
        place: |w| &mut w.thread.ident,
        positions: [192, 216, 240],
    },
    Field {
        place: |w| &mut w.frame.executable,
        positions: [240, 264, 328],
    },
    Field {
        place: |w| &mut w.frame.previous,
        positions: [232, 256, 320],
    },
    Field {
        place: |w| &mut w.frame.locals,
        positions: [256, 280, 344],
    },
    Field {
        place: |w| &mut w.code.filename,
        positions: [280, 320, 384],
    },
    Field {
        place: |w| &mut w.code.qualname,
        positions: [296, 336, 400],
    },
    Field {
        place: |w| &mut w.code.line_table,
        positions: [304, 344, 408],
    },
    Field {
        place: |w| &mut w.code.local_names,
        positions: [328, 368, 432],
    },
    Field {
        place: |w| &mut w.code.first_line,
        positions: [312, 352, 416],
    },
    Field {
        place: |w| &mut w.types.name,
        positions: [376, 424, 488],
    },
    Field {
        place: |w| &mut w.types.flags,
        positions: [392, 440, 504],
    },
    Field {
        place: |w| &mut w.containers.tuple_items,
        positions: [408, 456, 552],
    },
    Field {
        place: |w| &mut w.containers.list_items,
        positions: [432, 480, 576],
    },
    Field {
        place: |w| &mut w.containers.dict_keys,
        positions: [456, 536, 632],
    },
    Field {
        place: |w| &mut w.containers.dict_values,
        positions: [464, 544, 640],
    },
    Field {
        place: |w| &mut w.containers.float_value,
        positions: [480, 560, 656],
    },
    Field {
        place: |w| &mut w.text.bytes,
        positions: [528, 608, 704],
    },
    Field {
        place: |w| &mut w.text.state,
        positions: [544, 624, 720],
    },
    Field {
        place: |w| &mut w.text.length,
        positions: [552, 632, 728],
    },
    Field {
        place: |w| &mut w.text.ascii,
        positions: [560, 640, 736],
    },
];

/// Fields that only the tables of 3.14 and 3.15 have.
const LATER_FIELDS: &[Field<WalkLayout>] = &[
    Field {
        place: |w| &mut w.containers.set_table,
        positions: [0, 512, 608],
    },
    Field {
        place: |w| &mut w.containers.set_mask,
        positions: [0, 520, 616],
    },
];

const NATIVE_ID_POSITIONS: [u32; 3] = [200, 224, 248];
const CURRENT_FRAME_POSITIONS: [u32; 3] = [184, 208, 208];
const CHUNK_POSITIONS: [u32; 3] = [208, 232, 256];
const OWNER_POSITIONS: [u32; 3] = [264, 288, 352];
const INSTRUCTION_POSITIONS: [u32; 3] = [248, 272, 336];
const INSTRUCTIONS_POSITIONS: [u32; 3] = [344, 384, 448];
const STACK_POSITIONS: [u32; 3] = [0, 296, 360];
const GENERATOR_FRAME_POSITIONS: [u32; 3] = [0, 680, 808];
const GENERATOR_STATE_POSITIONS: [u32; 3] = [0, 688, 816];
/// `gen_object.gi_name`; the qualified name is the next pointer.
const GENERATOR_NAME_POSITIONS: [u32; 3] = [0, 672, 800];

fn read(table: &[u8], position: u32) -> Result<u32, DescribedError> {
    let value = word(table, position).ok_or(DescribedError::UnknownForm)?;
    if value >= MAX_OFFSET {
        return Err(DescribedError::Implausible { position, value });
    }
    Ok(value as u32)
}

fn fill<T>(
    into: &mut T,
    fields: &[Field<T>],
    table: &[u8],
    column: usize,
) -> Result<(), DescribedError> {
    for field in fields {
        *(field.place)(into) = read(table, field.positions[column])?;
    }
    Ok(())
}

/// Replaces what `layout` says by what the interpreter says, where it says anything.
pub fn apply(layout: &mut Layout, version: Version, table: &[u8]) -> Result<(), DescribedError> {
    let column = match (version.major, version.minor) {
        (3, 13) => 0,
        (3, 14) => 1,
        (3, 15) => 2,
        _ => return Err(DescribedError::UnknownForm),
    };
    // `pyobject.size` and `.ob_type`: the same in every build with a GIL, so a shifted table shows.
    let object_header = [[352, 360], [400, 408], [464, 472]][column];
    for (position, expected) in object_header.into_iter().zip([16, 8]) {
        let value = read(table, position)?;
        if value != expected {
            return Err(DescribedError::Implausible {
                position,
                value: value.into(),
            });
        }
    }
    fill(layout, LAYOUT_FIELDS, table, column)?;
    layout.interpreter.gil = GilPlace::Pointer(read(table, GIL_POSITIONS[column])?);
    let [collector, collecting] = COLLECTOR_POSITIONS[column];
    layout.collector.place = CollectorPlace::Interpreter(read(table, collector)?);
    layout.collector.collecting = read(table, collecting)?;
    if let CollectionSums::Rings { pointer, rings } = &mut layout.collector.sums {
        let [size, place] = COLLECTION_RINGS_POSITIONS;
        rings.size = read(table, size)?;
        *pointer = read(table, place)?;
    }
    let walk = &mut layout.walk;
    fill(walk, WALK_FIELDS, table, column)?;
    walk.thread.native_id = Some(read(table, NATIVE_ID_POSITIONS[column])?);
    walk.thread.frame = FrameRoot::Field(read(table, CURRENT_FRAME_POSITIONS[column])?);
    walk.thread.chunk = Some(read(table, CHUNK_POSITIONS[column])?);
    walk.frame.owner = Some(read(table, OWNER_POSITIONS[column])?);
    walk.frame.instruction = InstructionShape::Pointer(read(table, INSTRUCTION_POSITIONS[column])?);
    walk.code.instructions = Instructions::Inside(read(table, INSTRUCTIONS_POSITIONS[column])?);
    if column == 0 {
        // asyncio's fields directly follow the thread state, whose size changed within 3.13.
        walk.thread.running_loop = RunningLoop::Field(read(table, THREAD_SIZE_POSITION_3_13)?);
    } else {
        fill(walk, LATER_FIELDS, table, column)?;
        walk.frame.stack = StackShape::Pointer {
            top: read(table, STACK_POSITIONS[column])?,
        };
        walk.generator.frame =
            GeneratorFrame::Inside(read(table, GENERATOR_FRAME_POSITIONS[column])?);
        if let StateShape::OfGenerator(state, _) = &mut walk.generator.state {
            *state = read(table, GENERATOR_STATE_POSITIONS[column])?;
        }
        walk.generator.qualname = read(table, GENERATOR_NAME_POSITIONS[column])? + 8;
    }
    Ok(())
}

/// Replaces what `layout` says about asyncio by what the module itself says.
pub fn apply_asyncio(layout: &mut Layout, table: &[u8]) -> Result<(), DescribedError> {
    let walk = &mut layout.walk;
    let field = |index: u32| read(table, index * 8);
    walk.task.size = field(0)?;
    walk.task.name = field(1)?;
    walk.task.awaited_by = Some(AwaitedBy {
        object: field(2)?,
        is_set: field(4)?,
    });
    walk.task.coroutine = field(5)?;
    walk.task.node = Some(field(6)?);
    layout.interpreter.tasks_head = Some(field(8)?);
    walk.thread.running_loop = RunningLoop::Field(field(10)?);
    walk.thread.running_task = Some(field(11)?);
    walk.thread.tasks_head = Some(field(12)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::row;
    use super::*;

    const V3_14: Version = Version {
        major: 3,
        minor: 14,
    };

    #[test]
    fn a_table_that_is_cut_shifted_or_wild_is_refused() {
        let mut layout = row(V3_14).unwrap();
        assert_eq!(
            apply(&mut layout, V3_14, b"xdebugpy"),
            Err(DescribedError::UnknownForm)
        );
        let mut table = vec![0; MAX_TABLE_BYTES];
        assert_eq!(
            apply(&mut layout, V3_14, &table),
            Err(DescribedError::Implausible {
                position: 400,
                value: 0
            })
        );
        table[400] = 16;
        table[408] = 8;
        table[72..80].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(
            apply(&mut layout, V3_14, &table),
            Err(DescribedError::Implausible {
                position: 72,
                value: u64::MAX
            })
        );
        let unknown = Version {
            major: 3,
            minor: 16,
        };
        assert_eq!(
            apply(&mut layout, unknown, &table),
            Err(DescribedError::UnknownForm)
        );
    }

    #[test]
    fn what_the_module_says_replaces_the_row() {
        let mut layout = row(V3_14).unwrap();
        let values = [
            176u64, 144, 96, 108, 109, 130, 160, 225_864, 10_888, 944, 868, 876, 884,
        ];
        let table: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        assert_eq!(table.len(), ASYNCIO_TABLE_BYTES);
        apply_asyncio(&mut layout, &table).unwrap();
        let walk = layout.walk;
        assert_eq!(
            (
                walk.task.size,
                walk.task.name,
                walk.task.coroutine,
                walk.task.node
            ),
            (176, 144, 130, Some(160))
        );
        assert_eq!(layout.interpreter.tasks_head, Some(10_888));
        assert_eq!(walk.thread.running_loop, RunningLoop::Field(868));
        assert_eq!(walk.thread.tasks_head, Some(884));
    }
}
