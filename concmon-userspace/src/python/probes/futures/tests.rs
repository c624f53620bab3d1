//! Pools of made-up programs, and what is refused of them.

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
