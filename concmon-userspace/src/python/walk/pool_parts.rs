//! What executors of every kind are read with: their workers, weak dicts of threads, the functions that they run.

use std::collections::HashMap;

use crate::event::Tid;
use crate::python::memory::at;
use crate::python::objects::{Kind, Reader};

/// The most executors that are read.
pub(super) const MAX_EXECUTORS: usize = 256;
/// The most workers that are looked at.
pub(super) const MAX_WORKERS: usize = 4096;
/// The most wrappers around a function that are taken off, and arguments that are kept for that.
const MAX_WRAPPERS: usize = 8;
const MAX_ARGUMENTS: u64 = 8;
/// Functions that call what they get as their first argument.
const CALLERS: &[&str] = &[
    "Context.run",
    "_contextvars.Context.run",
    "concurrent.futures.process._process_chunk",
];

/// A thread as far as executors care.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Worker {
    /// Address of its thread state.
    pub(crate) state: u64,
    pub(crate) tid: Tid,
}

/// Living threads by the address of their `threading.Thread`. (Its ident is not enough: in a forked
/// child the workers are gone, and a new thread may have the ident of one.)
pub(crate) type Workers = HashMap<u64, Worker>;

/// Names of functions met in one read.
pub(super) type Names = HashMap<u64, Option<String>>;

pub(super) fn limit(reader: &mut Reader<'_>, field: &str, reason: &str) {
    reader.limits.insert(field.to_owned(), reason.to_owned());
}

/// The entries of a weak dict of threads, an attribute of a module, whose threads live: thread
/// object, value, and thread.
pub(super) fn weak_entries(
    reader: &mut Reader<'_>,
    module: Option<u64>,
    attribute: &str,
    threads: &Workers,
) -> Vec<(u64, u64, Worker)> {
    let Some(module) = module else {
        return Vec::new();
    };
    let entries = reader
        .dict_values(module, &[attribute])
        .and_then(|found| reader.attributes_of(found[0]?, &["data"]))
        .and_then(|found| reader.dict(found[0]?));
    let Some(mut entries) = entries else {
        // While the module is being imported, its names are not there yet.
        limit(reader, "executors", "concurrent.futures could not be read");
        return Vec::new();
    };
    if entries.len() > MAX_WORKERS {
        entries.truncate(MAX_WORKERS);
        let reason = format!("there are more than the {MAX_WORKERS} workers that are read");
        limit(reader, "executors", &reason);
    }
    let references: Vec<u64> = entries.iter().map(|(reference, _)| *reference).collect();
    let objects: Vec<u64> = reader
        .referents(&references)
        .into_iter()
        .map(|object| object.unwrap_or(0))
        .collect();
    objects
        .into_iter()
        .zip(entries)
        .filter_map(|(object, (_, value))| Some((object, value, *threads.get(&object)?)))
        .collect()
}

/// What a weak reference refers to; `None` when that is gone.
pub(super) fn referent(reader: &mut Reader<'_>, reference: u64) -> Option<u64> {
    let object = reader.referents(&[reference]).pop()??;
    let info = reader.types_of(&[object]).pop()??;
    (&*info.name != "NoneType").then_some(object)
}

pub(super) fn positive(reader: &mut Reader<'_>, number: u64) -> Option<u64> {
    u64::try_from(reader.integers(&[number])[0]?).ok()
}

/// The name of what the program wants to be run, without what only calls it.
pub(super) fn function_name(
    reader: &mut Reader<'_>,
    names: &mut Names,
    function: u64,
    arguments: Option<u64>,
) -> Option<String> {
    let mut function = function;
    let mut arguments = arguments
        .and_then(|arguments| reader.tuple(arguments, MAX_ARGUMENTS))
        .unwrap_or_default();
    for _ in 0..MAX_WRAPPERS {
        let info = reader.types_of(&[function]).pop()??;
        if info.kind == Kind::Partial {
            let own = at(function, reader.walk.executors.partial_arguments);
            let own = reader.pointer(own).ok()?;
            let mut own = reader.tuple(own, MAX_ARGUMENTS)?;
            own.append(&mut arguments);
            arguments = own;
            let inner = at(function, reader.walk.callable.partial_function);
            function = reader.pointer(inner).ok()?;
            continue;
        }
        let name = match names.get(&function) {
            Some(name) => name.clone(),
            None => {
                let name = reader.callable_name(function);
                names.insert(function, name.clone());
                name
            }
        };
        let is_caller = name.as_deref().is_some_and(|name| CALLERS.contains(&name));
        if !is_caller || arguments.is_empty() {
            return name;
        }
        function = arguments.remove(0);
    }
    None
}
