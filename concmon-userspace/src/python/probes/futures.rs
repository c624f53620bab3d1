//! Functions that kernel programs can be attached to, to count what fails in thread pools.
//!
//! As for tasks, addresses come from living objects, and are checked. One comes from the symbols of the
//! interpreter's file: the function that notes each frame which an exception passes.

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Pid;
    use crate::python::layout::{Version, row};
    use crate::python::objects::synthetic::{Noise, World, set_word};
    use crate::python::objects::{Kind, expected_size};

    const MINORS: [u8; 4] = [8, 11, 13, 14];
    /// Functions of `mappings`.
    const PUT: u64 = 0x7f00_0000_1010;
    const SET_EXCEPTION: u64 = 0x7f00_0000_3020;

    /// What a program has imported, and has changed in it.
    #[derive(Clone, Copy)]
    struct Program {
        minor: u8,
        item: &'static str,
        queue: &'static str,
        /// The type of what `_WorkItem` has as `run`.
        run: &'static str,
        variable: &'static str,
        put: (u64, u32),
        set_exception: Option<(u64, u32)>,
        pools: bool,
    }

    fn program(minor: u8) -> Program {
        Program {
            minor,
            item: "_WorkItem",
            queue: "_queue.SimpleQueue",
            run: "function",
            variable: "work_queue",
            put: (PUT, VECTOR),
            set_exception: Some((SET_EXCEPTION, ONE_ARGUMENT)),
            pools: true,
        }
    }

    impl Program {
        fn layout(self) -> Layout {
            let minor = self.minor;
            row(Version { major: 3, minor }).expect("a row")
        }

        /// Its memory, and the interpreter's state in it.
        fn world(self) -> (World, u64) {
            let mut world = World::new(self.minor);
            let thread = {
                let worker = function(&mut world, "function", &["executor", self.variable]);
                let run = function(&mut world, self.run, &["self"]);
                let item = class(&mut world, self.item, &[("run", run)], &[]);
                module(&mut world, &[("_WorkItem", item), ("_worker", worker)])
            };
            let base = {
                let result = function(&mut world, "function", &["self"]);
                let methods = [("_Future__get_result", result)];
                let future = class(&mut world, "Future", &methods, &[]);
                let [cancelled, timeout] =
                    ["CancelledError", "TimeoutError"].map(|name| world.class(name, 0, 16));
                let values = [
                    ("Future", future),
                    ("CancelledError", cancelled),
                    ("TimeoutError", timeout),
                ];
                module(&mut world, &values)
            };
            let (function, flags) = self.put;
            let table = [("get", PUT + 8, VECTOR), ("put", function, flags)];
            let queue = class(&mut world, self.queue, &[], &table);
            let queue = module(&mut world, &[("SimpleQueue", queue)]);
            let mut modules = vec![("_queue", queue)];
            if self.pools {
                modules.push(("concurrent.futures.thread", thread));
                modules.push(("concurrent.futures._base", base));
            }
            if let Some((function, flags)) = self.set_exception {
                let table = [("set_exception", function, flags)];
                let future = class(&mut world, "_asyncio.Futures", &[], &table);
                modules.push(("_asyncio", module(&mut world, &[("Future", future)])));
            }
            let modules = dict(&mut world, &modules);
            let place = self.layout().interpreter.modules;
            let mut bytes = vec![0; place as usize + 8];
            set_word(&mut bytes, place, modules);
            let interpreter = world.put(&bytes);
            (world, interpreter)
        }

        /// Its objects, its probes of methods and where they have their arguments.
        fn read(self) -> Result<(Objects, Vec<Probe>, u32), NotExact> {
            let (world, interpreter) = self.world();
            let mut reader = world.reader();
            let objects = Objects::find(&mut reader, interpreter, &self.layout())?;
            let mappings = mappings();
            let code = Code {
                pid: Pid(9),
                mappings: &mappings,
            };
            let mut probes = Vec::new();
            let vector = add_methods(&mut reader, &code, &objects, &mut probes)?;
            Ok((objects, probes, vector))
        }
    }

    fn mappings() -> Vec<maps::Mapping> {
        maps::parse(
            "7f0000000000-7f0000001000 r--p 00000000 fe:01 7 /lib/queue.so\n\
             7f0000001000-7f0000002000 r-xp 00001000 fe:01 7 /lib/queue.so\n\
             7f0000003000-7f0000004000 r-xp 00000000 fe:01 8 /lib/asyncio.so\n\
             7f0000005000-7f0000006000 r-xp 00000000 00:00 0 \n",
        )
    }

    fn dict(world: &mut World, values: &[(&str, u64)]) -> u64 {
        let entries: Vec<(u64, u64)> = values
            .iter()
            .map(|(name, value)| (world.text(name), *value))
            .collect();
        let keys = world.keys(1, &entries);
        world.dict(keys, 0)
    }

    fn module(world: &mut World, values: &[(&str, u64)]) -> u64 {
        let dict = dict(world, values);
        let class = world.class("module", 0, 56);
        let place = world.walk.containers.module_dict;
        let mut bytes = World::object(class, place as usize + 8);
        set_word(&mut bytes, place, dict);
        world.put(&bytes)
    }

    /// A function, or another type of object, whose code has these variables.
    fn function(world: &mut World, kind: &str, variables: &[&str]) -> u64 {
        let names: Vec<u64> = variables.iter().map(|name| world.text(name)).collect();
        let names = world.tuple(&names);
        let size = expected_size(&world.walk, Kind::Code).map_or(16, |size| size.bytes);
        let class = world.class("code", 0, size.into());
        let place = world.walk.code.local_names;
        let mut code = World::object(class, place as usize + 8);
        set_word(&mut code, place, names);
        let code = world.put(&code);
        let class = world.class(kind, 0, 16);
        let place = world.walk.callable.function_code;
        let mut function = World::object(class, place as usize + 8);
        set_word(&mut function, place, code);
        world.put(&function)
    }

    fn class(
        world: &mut World,
        name: &str,
        values: &[(&str, u64)],
        methods: &[(&str, u64, u32)],
    ) -> u64 {
        let dict = dict(world, values);
        let mut table = Vec::new();
        for (name, function, flags) in methods {
            let name = world.put(format!("{name}\0").as_bytes());
            table.extend([name, *function, u64::from(*flags), 0]);
        }
        table.extend([0; 4]);
        let table = world.put_words(&table);
        let more = [
            (world.walk.types.dict, dict),
            (world.walk.failures.type_methods, table),
        ];
        let address = world.reserve();
        world.class_at(address, name, 0, 16, &more);
        address
    }

    fn reason(program: Program) -> String {
        match program.read() {
            Err(NotExact::Refused(reason)) => reason,
            other => panic!("not refused: {other:?}"),
        }
    }

    #[test]
    fn objects_lead_to_functions_of_files() {
        for minor in MINORS {
            let (objects, probes, vector) = program(minor).read().expect("all is there");
            assert_eq!((objects.work_queue, vector), (1, 0), "3.{minor}");
            let codes = [objects.run, objects.result, objects.worker];
            assert!(codes.iter().all(|code| plausible(*code)), "{objects:?}");
            let found: Vec<_> = probes
                .iter()
                .map(|one| (one.kind, one.begin.offset))
                .collect();
            let expected = [(ProbeKind::Put, 0x1010), (ProbeKind::HandedOver, 0x20)];
            assert_eq!(found, expected, "3.{minor}");
        }
    }

    #[test]
    fn asyncio_may_come_later_and_take_its_class_first() {
        for minor in MINORS {
            let mut program = program(minor);
            program.set_exception = Some((SET_EXCEPTION, CLASS_AND_VECTOR));
            assert_eq!(program.read().expect("all is there").2, 1);
            program.set_exception = None;
            let (objects, probes, _) = program.read().expect("all that is asked for");
            assert_eq!((objects.asyncio_future, probes.len()), (None, 1));
            program.pools = false;
            assert_eq!(program.read().err(), Some(NotExact::NotYet));
        }
    }

    #[test]
    fn what_is_not_as_it_should_be_is_refused() {
        for minor in MINORS {
            let like = program(minor);
            let item = Program {
                item: "Item",
                ..like
            };
            assert!(reason(item).contains("_WorkItem is not"), "3.{minor}");
            let queue = Program {
                queue: "Queue",
                ..like
            };
            assert!(reason(queue).contains("SimpleQueue is not"), "3.{minor}");
            // As tools that wrap methods leave it.
            let run = Program {
                run: "wrapper",
                ..like
            };
            assert!(reason(run).contains("changed by the program"), "3.{minor}");
            let variable = Program {
                variable: "q",
                ..like
            };
            assert!(reason(variable).contains("other variables"), "3.{minor}");
            let put = (PUT, ONE_ARGUMENT);
            assert!(reason(Program { put, ..like }).contains("another way"));
            let set_exception = Some((SET_EXCEPTION, VECTOR));
            let refused = reason(Program {
                set_exception,
                ..like
            });
            assert!(refused.contains("another way"), "{refused}");
        }
    }

    #[test]
    fn functions_outside_the_code_of_files_are_refused() {
        // Data of a file, memory of no file, and nothing at all.
        for bad in [PUT - 0x1000, 0x7f00_0000_5010, 0x7f00_0000_9000, 0] {
            for minor in MINORS {
                let like = program(minor);
                let put = (bad, VECTOR);
                let refused = reason(Program { put, ..like });
                assert!(refused.contains("no executable part"), "{refused}");
                let set_exception = Some((bad, ONE_ARGUMENT));
                let refused = reason(Program {
                    set_exception,
                    ..like
                });
                assert!(refused.contains("no executable part"), "{refused}");
            }
        }
    }

    #[test]
    fn an_interpreter_without_the_symbol_is_refused() {
        static SOMETHING: u8 = 7;
        let pid = Pid(std::process::id());
        let mappings = maps::mappings(pid).expect("our own");
        let code = Code {
            pid,
            mappings: &mappings,
        };
        for address in [&raw const SOMETHING as u64, 0x1000] {
            assert!(matches!(unwound(&code, address), Err(NotExact::Refused(_))));
        }
    }

    #[test]
    fn noise_leads_to_no_function() {
        for seed in 0..100 {
            let minor = 8 + (seed % 8) as u8;
            let layout = row(Version { major: 3, minor }).expect("a row");
            let memory = Noise::new(minor, seed);
            let mut reader = Reader::new(&memory, layout.walk, 1 << 20);
            for index in 0..50 {
                let address = memory.address(index);
                assert!(Objects::find(&mut reader, address, &layout).is_err());
                assert!(method(&mut reader, address, "put").is_err());
                assert!(variable(&mut reader, address, "work_queue").is_err());
            }
        }
    }
}
