//! Whether what is known about an interpreter's memory holds for a living one.

use std::collections::BTreeMap;

use super::detect::{self, DetectError};
use super::layout::{self, Version};
use super::memory::{Memory, ProcessMemory, at};
use super::objects::{Kind, Reader, expected_size};
use super::walk::thread_states;
use crate::event::Pid;

/// Where types are found whose sizes the layouts rely on.
const SIZED: &[(&str, &str, Kind)] = &[
    ("types", "CodeType", Kind::Code),
    ("types", "GeneratorType", Kind::Generator),
    ("types", "CoroutineType", Kind::Generator),
    ("types", "AsyncGeneratorType", Kind::Generator),
    ("_asyncio", "Task", Kind::Task),
    ("_asyncio", "Future", Kind::Future),
    ("_contextvars", "Context", Kind::Context),
];

/// What was compared with a living interpreter.
#[derive(Clone, Debug)]
pub struct Verified {
    /// `3.13.0`
    pub version: String,
    /// Fields that the interpreter itself gives otherwise: name, the row's value, its own.
    pub drift: Vec<(String, String, String)>,
    /// Sizes of objects: type, what the layout expects, what the type says; `None`: no such type.
    pub sizes: Vec<(String, u32, Option<u64>)>,
}

/// Compares the rows for a process's interpreter with what its memory says.
pub fn verify(pid: Pid) -> Result<Verified, DetectError> {
    let memory = ProcessMemory::new(pid);
    let found = detect::detect(pid, &memory)?;
    let reason = found.info.reason.clone().unwrap_or_default();
    let (Some((runtime, own)), Some(text)) = (found.runtime, found.info.version) else {
        return Err(DetectError::Io(std::io::Error::other(reason)));
    };
    let version = super::detect::version::version_in_name(&format!("python{text}"))
        .unwrap_or(Version { major: 0, minor: 0 });
    let row = layout::row(version).map_or_else(BTreeMap::new, |row| layout::fields(&row));
    let drift = layout::fields(&own)
        .into_iter()
        .filter_map(|(name, own)| {
            let row = row.get(&name).cloned().unwrap_or_default();
            (row != own).then_some((name, row, own))
        })
        .collect();
    let mut reader = Reader::new(&memory, own.walk, 64 << 20);
    let modules = thread_states::interpreters(&memory, runtime, &own)
        .ok()
        .and_then(|found| Some(at(*found.first()?, own.interpreter.modules)))
        .and_then(|place| memory.read_u64(place).ok())
        .unwrap_or(0);
    let sizes = SIZED
        .iter()
        .filter_map(|(module, name, kind)| {
            let expected = expected_size(&own.walk, *kind)?.bytes;
            let size = size_of(&mut reader, modules, module, name);
            Some((format!("{module}.{name}"), expected, size))
        })
        .collect();
    let mut sizes: Vec<(String, u32, Option<u64>)> = sizes;
    for (module, name, expected) in [
        ("_queue", "SimpleQueue", own.walk.executors.queue_size),
        ("_thread", "_local", own.walk.local.size),
    ] {
        let size = size_of(&mut reader, modules, module, name);
        sizes.push((format!("{module}.{name}"), expected, size));
    }
    Ok(Verified {
        version: text,
        drift,
        sizes,
    })
}

/// `tp_basicsize` of the type that a module has under a name.
fn size_of(reader: &mut Reader<'_>, modules: u64, module: &str, name: &str) -> Option<u64> {
    let module = reader.dict_values(modules, &[module])?[0]?;
    let dict = reader.module_dict(module)?;
    let class = reader.dict_values(dict, &[name])?[0]?;
    reader.load_types([class]);
    Some(reader.type_info(class)?.basic_size)
}
