//! Functions that kernel programs can be attached to, to count what fails in thread pools.
//!
//! As for tasks, addresses come from living objects, and are checked. One comes from the symbols of the
//! interpreter's file: the function that notes each frame which an exception passes.

#[cfg(test)]
mod tests;

use concmon_ebpf::ExactFutures as View;

use super::code::{Code, NotExact, Probe, ProbeKind, main_of, mappings_of, refused};
use crate::procfs::maps;
use crate::python::attached::Attached;
use crate::python::detect;
use crate::python::detect::elf;
use crate::python::layout::{Layout, RaisedShape};
use crate::python::memory::{at, plausible};
use crate::python::objects::{Kind, OBJECT_TYPE, Reader};
use crate::python::walk::gil;

/// What the search may read, bytes.
const SEARCH_BYTES: usize = 16 << 20;
/// The most methods of a type, and variables of a function, that are looked at.
const MAX_METHODS: u64 = 128;
const MAX_VARIABLES: u64 = 64;
/// Bytes of a `PyMethodDef`.
const METHOD_BYTES: u64 = 32;
/// Flags of methods (Include/methodobject.h): one argument; a vector of arguments, and keywords; the
/// same with the class in front.
const ONE_ARGUMENT: u32 = 0x08;
const VECTOR: u32 = 0x82;
const CLASS_AND_VECTOR: u32 = 0x282;

/// What it takes to count what fails in the thread pools of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExactFutures {
    /// For the kernel programs.
    pub view: View,
    pub probes: Vec<Probe>,
    /// `probes` has the one in asyncio; `false`: that has not been imported yet.
    pub asyncio: bool,
}

/// Where work is submitted to thread pools, fails, and is asked for its exception.
///
/// # Errors
/// Why that cannot be told, or not yet.
pub(crate) fn futures(attached: &Attached) -> Result<ExactFutures, NotExact> {
    let (runtime, layout, main) = main_of(attached)?;
    let mut reader = Reader::new(&*attached.memory, layout.walk, SEARCH_BYTES);
    let objects = Objects::find(&mut reader, main, &layout)?;
    let gil = detect::gil_of(&*attached.memory, runtime, main, &layout)
        .map_err(|error| refused(format!("its GIL cannot be read: {error}")))?;
    let mappings = mappings_of(attached)?;
    let code = Code {
        pid: attached.pid,
        mappings: &mappings,
    };
    let mut probes = vec![unwound(&code, objects.type_type)?];
    let vector = add_methods(&mut reader, &code, &objects, &mut probes)?;
    Ok(ExactFutures {
        view: View {
            vector,
            ..view(&layout, &objects, gil)
        },
        probes,
        asyncio: objects.asyncio_future.is_some(),
    })
}

/// Probes of methods, and where the one of asyncio has its arguments.
fn add_methods(
    reader: &mut Reader<'_>,
    code: &Code<'_>,
    objects: &Objects,
    probes: &mut Vec<Probe>,
) -> Result<u32, NotExact> {
    let (put, flags) = method(reader, objects.queue_type, "put")?;
    if flags != VECTOR {
        return Err(refused(
            "SimpleQueue.put takes its arguments in another way",
        ));
    }
    probes.push(code.probe(ProbeKind::Put, put, code.file_of(put)?)?);
    let Some(future) = objects.asyncio_future else {
        return Ok(0);
    };
    let (function, flags) = method(reader, future, "set_exception")?;
    let vector = match flags {
        ONE_ARGUMENT => 0,
        CLASS_AND_VECTOR => 1,
        _ => {
            return Err(refused(
                "Future.set_exception takes arguments in another way",
            ));
        }
    };
    probes.push(code.probe(ProbeKind::HandedOver, function, code.file_of(function)?)?);
    Ok(vector)
}

/// Objects that tell failures, and lead to functions.
#[derive(Debug)]
struct Objects {
    run: u64,
    result: u64,
    worker: u64,
    /// Index of the worker's variable.
    work_queue: u32,
    item_type: u64,
    queue_type: u64,
    type_type: u64,
    cancelled: u64,
    timeout: u64,
    asyncio_future: Option<u64>,
}

impl Objects {
    fn find(reader: &mut Reader<'_>, interpreter: u64, layout: &Layout) -> Result<Self, NotExact> {
        const MODULES: [&str; 4] = [
            "concurrent.futures.thread",
            "concurrent.futures._base",
            "_queue",
            "_asyncio",
        ];
        let unreadable = || refused("its modules cannot be read");
        let modules = reader
            .pointer(at(interpreter, layout.interpreter.modules))
            .map_err(|_| unreadable())?;
        let found = reader
            .dict_values(modules, &MODULES)
            .ok_or_else(unreadable)?;
        let [Some(thread), Some(base), Some(queue), asyncio] = found[..] else {
            return Err(NotExact::NotYet);
        };
        let [item_type, worker] = values(reader, thread, ["_WorkItem", "_worker"])?;
        let [future, cancelled, timeout] =
            values(reader, base, ["Future", "CancelledError", "TimeoutError"])?;
        let [queue_type] = values(reader, queue, ["SimpleQueue"])?;
        let asyncio_future = match asyncio {
            // While it is being imported, it is not all there.
            Some(module) => values(reader, module, ["Future"])
                .ok()
                .map(|[future]| future),
            None => None,
        };
        reader.load_types(
            [item_type, queue_type, future]
                .into_iter()
                .chain(asyncio_future),
        );
        for (class, name) in [(item_type, "_WorkItem"), (queue_type, "SimpleQueue")] {
            let fits = reader
                .type_info(class)
                .is_some_and(|info| info.name.rsplit('.').next() == Some(name));
            if !fits {
                return Err(refused(format!("{name} is not what it should be")));
            }
        }
        let run = class_code(reader, item_type, "run")?;
        let result = class_code(reader, future, "_Future__get_result")?;
        let worker = function_code(reader, worker)?;
        let type_type = reader
            .pointer(at(item_type, OBJECT_TYPE))
            .map_err(|_| unreadable())?;
        Ok(Self {
            run,
            result,
            worker,
            work_queue: variable(reader, worker, "work_queue")?,
            item_type,
            queue_type,
            type_type,
            cancelled,
            timeout,
            asyncio_future,
        })
    }
}

/// What a module has under these names.
fn values<const N: usize>(
    reader: &mut Reader<'_>,
    module: u64,
    names: [&str; N],
) -> Result<[u64; N], NotExact> {
    reader
        .module_dict(module)
        .and_then(|dict| reader.dict_values(dict, &names))
        .and_then(|found| found.into_iter().collect::<Option<Vec<u64>>>())
        .and_then(|found| found.try_into().ok())
        .ok_or(NotExact::NotYet)
}

/// The code of a method that a class has itself.
fn class_code(reader: &mut Reader<'_>, class: u64, name: &str) -> Result<u64, NotExact> {
    let dict = at(class, reader.walk.types.dict);
    let function = reader
        .pointer(dict)
        .ok()
        .and_then(|dict| reader.dict_values(dict, &[name])?[0])
        .ok_or_else(|| refused(format!("{name} of concurrent.futures cannot be read")))?;
    function_code(reader, function)
}

fn function_code(reader: &mut Reader<'_>, function: u64) -> Result<u64, NotExact> {
    let kind = |reader: &mut Reader<'_>, object| {
        let info = reader.types_of(&[object]).pop().flatten();
        info.map(|info| info.kind)
    };
    let code = at(function, reader.walk.callable.function_code);
    let code = match kind(reader, function) {
        Some(Kind::Function) => reader.pointer(code).ok(),
        _ => None,
    };
    code.filter(|code| kind(reader, *code) == Some(Kind::Code))
        .ok_or_else(|| refused("concurrent.futures has been changed by the program"))
}

/// The index of a variable of a function.
fn variable(reader: &mut Reader<'_>, code: u64, name: &str) -> Result<u32, NotExact> {
    let names = at(code, reader.walk.code.local_names);
    let names = reader
        .pointer(names)
        .ok()
        .and_then(|names| reader.tuple(names, MAX_VARIABLES))
        .unwrap_or_default();
    reader.load_texts(names.iter().copied());
    let is_it = |text: &u64| reader.text(*text).is_some_and(|text| **text == *name);
    let index = names.iter().position(is_it);
    index
        .and_then(|index| u32::try_from(index).ok())
        .ok_or_else(|| refused("workers of thread pools have other variables"))
}

/// The function of a type's method, and its flags.
fn method(reader: &mut Reader<'_>, class: u64, name: &str) -> Result<(u64, u32), NotExact> {
    let (probes, methods) = (reader.walk.probes, reader.walk.failures.type_methods);
    let methods = reader.pointer(at(class, methods)).unwrap_or(0);
    for index in 0..MAX_METHODS {
        let entry = methods.wrapping_add(index * METHOD_BYTES);
        if !plausible(entry) || reader.pointer(entry).unwrap_or(0) == 0 {
            break;
        }
        if reader.definition_name(entry).as_deref() != Some(name) {
            continue;
        }
        let function = reader.pointer(at(entry, probes.method_function)).ok();
        let flags = reader.pointer(at(entry, probes.method_flags)).ok();
        if let (Some(function), Some(flags)) = (function, flags) {
            return Ok((function, flags as u32));
        }
    }
    Err(refused(format!(
        "the method {name} was not found in its type"
    )))
}

/// The function that notes that an exception passes a frame, of the file that the type `type` is in.
fn unwound(code: &Code<'_>, type_type: u64) -> Result<Probe, NotExact> {
    let failed = || refused("the interpreter's symbols cannot be read");
    let file = maps::containing(code.mappings, type_type)
        .filter(|mapping| mapping.is_file())
        .ok_or_else(failed)?;
    let facts = file.open(code.pid).map_err(|_| failed())?;
    let facts = elf::inspect(facts, true).map_err(|_| failed())?;
    let bias = detect::load_bias(&facts, file, code.mappings).ok_or_else(failed)?;
    let function = facts.traceback.ok_or_else(failed)?;
    code.probe(ProbeKind::Unwound, bias.wrapping_add(function), file)
}

fn view(layout: &Layout, objects: &Objects, gil: u64) -> View {
    let walk = &layout.walk;
    let failures = &walk.failures;
    let (raised, raised_type, raised_traceback) = match failures.raised {
        RaisedShape::Parts { class, traceback } => (0, class, traceback),
        RaisedShape::Object(raised) => (raised, 0, 0),
    };
    View {
        run: objects.run,
        result: objects.result,
        worker: objects.worker,
        item_type: objects.item_type,
        converted: match failures.converted {
            true => [objects.cancelled, objects.timeout],
            false => [0; 2],
        },
        holder: at(gil, gil::LAST_HOLDER),
        object_frame: failures.object_frame.unwrap_or(0),
        executable: walk.frame.executable,
        previous: walk.frame.previous,
        worker_queue: walk.frame.locals + 8 * objects.work_queue,
        raised,
        raised_type,
        raised_traceback,
        exception_traceback: failures.exception_traceback,
        traceback_frame: failures.traceback_frame,
        vector: 0,
    }
}
