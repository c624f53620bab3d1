//! Where things are in an interpreter's memory: one struct of data, rows by version.
//!
//! Numbers are byte offsets into the struct that the group is named after, on 64-bit Linux. They
//! come from CPython's own headers and debug information of 3.8.18, 3.9.18, 3.10.13, 3.11.7,
//! 3.12.1, 3.13.0, 3.14.10 and 3.15.2, builds with a GIL; where an interpreter describes itself
//! ([`described`]), its own numbers replace the row's. Walkers look at the shape (which variant of an
//! enum, whether an option is there) and never at the version.

mod asyncio;
mod attributes;
mod collector;
mod contexts;
pub mod described;
mod executors;
mod frames;
mod locks;
mod objects;
mod opcodes;
mod probes;
mod threads;

pub use asyncio::{AwaitedBy, FutureFlags, TaskCounter, TaskLayout};
pub use attributes::{LocalKey, LocalLayout, SlotLayout};
pub use collector::{
    CollectionSums, CollectorLayout, CollectorPlace, GENERATION_BYTES, GENERATION_COUNT,
    RingsLayout,
};
pub use contexts::ContextLayout;
pub use executors::{ExecutorLayout, QueueShape, WorkShape};
pub use frames::{
    AwaitShape, CodeLayout, EnterShape, FrameLayout, GeneratorFrame, GeneratorLayout,
    InstructionShape, Instructions, LineTable, StackShape, StateNumbers, StateShape,
};
pub use locks::{HandleLayout, LockLayout};
pub use objects::{
    CallableLayout, ContainerLayout, InstanceShape, IntegerShape, KeysShape, SplitValues,
    TextLayout, TypeLayout,
};
pub use opcodes::{Opcode, Opcodes};
pub use probes::{FailureLayout, ProbeLayout, RaisedShape, StepType, WakeupShape};
pub use threads::{
    FrameRoot, GilPlace, InterpreterLayout, RunningLoop, RuntimeLayout, ThreadLayout,
};

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

/// An interpreter's version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    pub major: u8,
    pub minor: u8,
}

/// The oldest and the newest minor version of Python 3 that there are rows for.
pub const MINORS: std::ops::RangeInclusive<u8> = 8..=15;

/// A group's rows: each holds from its minor version on, up to the next row's.
type Since<T> = &'static [(u8, T)];

/// Everything known about one interpreter's memory.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Layout {
    pub runtime: RuntimeLayout,
    pub interpreter: InterpreterLayout,
    pub collector: CollectorLayout,
    pub walk: WalkLayout,
}

/// What the walkers need.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct WalkLayout {
    pub thread: ThreadLayout,
    pub frame: FrameLayout,
    pub generator: GeneratorLayout,
    pub code: CodeLayout,
    /// `None`: those of this version are not known.
    pub opcodes: Option<Opcodes>,
    pub types: TypeLayout,
    pub text: TextLayout,
    pub integer: IntegerShape,
    pub containers: ContainerLayout,
    pub instance: InstanceShape,
    pub callable: CallableLayout,
    pub task: TaskLayout,
    pub context: ContextLayout,
    pub slot: SlotLayout,
    pub local: LocalLayout,
    pub executors: ExecutorLayout,
    pub lock: LockLayout,
    pub probes: ProbeLayout,
    pub failures: FailureLayout,
}

/// The row for a version; `None` when there is none.
pub fn row(version: Version) -> Option<Layout> {
    if version.major != 3 || !MINORS.contains(&version.minor) {
        return None;
    }
    let minor = version.minor;
    Some(Layout {
        runtime: at(threads::RUNTIME, minor)?,
        interpreter: at(threads::INTERPRETER, minor)?,
        collector: at(collector::COLLECTOR, minor)?,
        walk: WalkLayout {
            thread: at(threads::THREAD, minor)?,
            frame: at(frames::FRAME, minor)?,
            generator: at(frames::GENERATOR, minor)?,
            code: at(frames::CODE, minor)?,
            opcodes: at(opcodes::OPCODES, minor)?,
            types: at(objects::TYPES, minor)?,
            text: at(objects::TEXT, minor)?,
            integer: at(objects::INTEGER, minor)?,
            containers: at(objects::CONTAINERS, minor)?,
            instance: at(objects::INSTANCE, minor)?,
            callable: at(objects::CALLABLE, minor)?,
            task: at(asyncio::TASK, minor)?,
            context: at(contexts::CONTEXT, minor)?,
            slot: at(attributes::SLOT, minor)?,
            local: at(attributes::LOCAL, minor)?,
            executors: at(executors::EXECUTORS, minor)?,
            lock: at(locks::LOCK, minor)?,
            probes: at(probes::PROBES, minor)?,
            failures: at(probes::FAILURES, minor)?,
        },
    })
}

/// The numbers of a layout one by one, by dotted name.
pub fn fields(layout: &Layout) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::new();
    if let Ok(value) = serde_json::to_value(layout) {
        flatten("", &value, &mut fields);
    }
    fields
}

fn flatten(name: &str, value: &Value, into: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(members) => {
            for (member, value) in members {
                let name = if name.is_empty() {
                    member.clone()
                } else {
                    format!("{name}.{member}")
                };
                flatten(&name, value, into);
            }
        }
        Value::Array(members) if members.iter().any(Value::is_object) => {
            for (index, value) in members.iter().enumerate() {
                flatten(&format!("{name}.{index}"), value, into);
            }
        }
        Value::Null => {}
        other => {
            into.insert(name.to_owned(), other.to_string().replace('"', ""));
        }
    }
}

fn at<T: Copy>(rows: Since<T>, minor: u8) -> Option<T> {
    rows.iter()
        .rev()
        .find(|(since, _)| *since <= minor)
        .map(|(_, row)| *row)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_exist_for_the_versions_that_were_measured_and_no_other() {
        for minor in 0..=30 {
            let found = row(Version { major: 3, minor });
            assert_eq!(found.is_some(), (8..=15).contains(&minor), "3.{minor}");
        }
        let python_2 = Version {
            major: 2,
            minor: 11,
        };
        assert!(row(python_2).is_none());
    }

    #[test]
    fn rows_are_in_order_and_hold_up_to_the_next() {
        let rows: Since<u8> = &[(8, 1), (11, 2)];
        assert_eq!(
            [7, 8, 10, 11, 15].map(|minor| at(rows, minor)),
            [None, Some(1), Some(1), Some(2), Some(2)]
        );
    }
}
