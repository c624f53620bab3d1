//! Functions of asyncio's C module that kernel programs can be attached to, to count tasks exactly.
//!
//! Their addresses are taken out of living objects: types, and tables of methods. Each must lie in
//! executable memory that is mapped from the same file, and what names it must be what it should be;
//! else nothing is probed.

use concmon_ebpf::Exact;

use super::code::{Code, NotExact, Probe, ProbeKind, main_of, mappings_of, refused};
use crate::procfs::maps::Mapping;
use crate::python::attached::Attached;
use crate::python::layout::{Layout, StepType, WakeupShape};
use crate::python::memory::{at, plausible};
use crate::python::objects::{Kind, Reader};

/// What the search may read, bytes.
const SEARCH_BYTES: usize = 64 << 20;
/// `METH_O` (Include/methodobject.h).
const ONE_ARGUMENT: u32 = 8;
/// Names of the types of the objects that call steps and wakeups, and of the method
/// (Modules/_asyncio.c).
const STEP_TYPE: &str = "TaskStepMethWrapper";
const WAKEUP_TYPE: &str = "TaskWakeupMethWrapper";
const WAKEUP_METHOD: &str = "task_wakeup";

/// What it takes to count the tasks of a process exactly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExactTasks {
    /// For the kernel programs.
    pub view: Exact,
    pub probes: Vec<Probe>,
}

/// Where tasks begin, run and end in a process.
///
/// # Errors
/// Why that cannot be told, or not yet.
pub(crate) fn tasks(attached: &Attached) -> Result<ExactTasks, NotExact> {
    let (_, layout, main) = main_of(attached)?;
    let mut reader = Reader::new(&*attached.memory, layout.walk, SEARCH_BYTES);
    let objects = Objects::find(&mut reader, main, &layout)?;
    let mappings = mappings_of(attached)?;
    let code = Code {
        pid: attached.pid,
        mappings: &mappings,
    };
    let probes = find_probes(&mut reader, &code, &objects)?;
    Ok(ExactTasks {
        view: view(&layout, &objects),
        probes,
    })
}

/// Objects that lead to functions.
struct Objects {
    task_type: u64,
    type_type: u64,
    text_type: u64,
    coroutine_types: [u64; 2],
    module: u64,
}

impl Objects {
    fn find(reader: &mut Reader<'_>, interpreter: u64, layout: &Layout) -> Result<Self, NotExact> {
        let modules = reader
            .pointer(at(interpreter, layout.interpreter.modules))
            .map_err(|error| refused(format!("its modules cannot be read: {error}")))?;
        let found = reader
            .dict_values(modules, &["_asyncio", "types"])
            .ok_or_else(|| refused("its modules cannot be read"))?;
        let [Some(module), Some(types)] = found[..] else {
            return Err(NotExact::NotYet);
        };
        let incomplete = || NotExact::NotYet;
        let dict = reader.module_dict(module).ok_or_else(incomplete)?;
        let task_type = reader
            .dict_values(dict, &["Task"])
            .and_then(|found| found[0])
            .ok_or_else(incomplete)?;
        let types = reader.module_dict(types).ok_or_else(incomplete)?;
        let coroutines = reader
            .dict_values(types, &["CoroutineType", "GeneratorType"])
            .ok_or_else(incomplete)?;
        let [Some(coroutine), Some(generator)] = coroutines[..] else {
            return Err(incomplete());
        };
        reader.load_types([task_type, coroutine, generator]);
        let kind = |reader: &Reader<'_>, class| reader.type_info(class).map(|info| info.kind);
        if kind(reader, task_type) != Some(Kind::Task) {
            return Err(refused("tasks of this build are of another size"));
        }
        for class in [coroutine, generator] {
            if kind(reader, class) != Some(Kind::Generator) {
                return Err(refused("coroutines of this build are of another size"));
            }
        }
        let unreadable = || refused("the types of its objects cannot be read");
        let type_type = reader.pointer(task_type + 8).map_err(|_| unreadable())?;
        // Names of attributes are plain strings.
        let name = reader
            .dict(dict)
            .and_then(|entries| entries.first().map(|(name, _)| *name))
            .ok_or_else(unreadable)?;
        let text_type = reader.pointer(name + 8).map_err(|_| unreadable())?;
        reader.load_types([text_type]);
        let is_text = reader
            .type_info(text_type)
            .is_some_and(|info| &*info.name == "str");
        if !is_text {
            return Err(unreadable());
        }
        Ok(Self {
            task_type,
            type_type,
            text_type,
            coroutine_types: [coroutine, generator],
            module,
        })
    }
}

fn view(layout: &Layout, objects: &Objects) -> Exact {
    let walk = &layout.walk;
    Exact {
        text_type: objects.text_type,
        coroutine_types: objects.coroutine_types,
        state: walk.task.state,
        exception: walk.task.exception,
        loop_object: walk.task.loop_object,
        name: walk.task.name,
        coroutine: walk.task.coroutine,
        qualname: walk.generator.qualname,
        type_name: walk.types.name,
        text_length: walk.text.length,
        text_state: walk.text.state,
        text_ascii: walk.text.ascii,
        text_compact: walk.text.compact,
        tuple_items: walk.containers.tuple_items,
        eager: u32::from(walk.probes.eager),
        reserved: 0,
    }
}

fn find_probes(
    reader: &mut Reader<'_>,
    code: &Code<'_>,
    objects: &Objects,
) -> Result<Vec<Probe>, NotExact> {
    let probes = reader.walk.probes;
    let slot = |reader: &mut Reader<'_>, class: u64, slot: u32| {
        let unreadable = |_| refused("a type of asyncio cannot be read");
        reader.pointer(at(class, slot)).map_err(unreadable)
    };
    let init = slot(reader, objects.task_type, probes.type_init)?;
    let home = code.file_of(init)?;
    let made = if probes.eager {
        ProbeKind::MadeEager
    } else {
        ProbeKind::Made
    };
    let mut found = vec![code.probe(made, init, home)?];
    let mut search = Search::new(reader, code.parts_of(home));
    let step_type = match probes.step_type {
        StepType::Static => {
            search.static_type(reader, STEP_TYPE, probes.step_size, objects.type_type)?
        }
        StepType::InState(offset) => state_type(reader, objects.module, offset)?,
    };
    let call = slot(reader, step_type, probes.type_call)?;
    found.push(code.probe(ProbeKind::WrappedStep, call, home)?);
    match probes.wakeup {
        WakeupShape::Wrapper(size) => {
            let class = search.static_type(reader, WAKEUP_TYPE, size, objects.type_type)?;
            let call = slot(reader, class, probes.type_call)?;
            found.push(code.probe(ProbeKind::WrappedStep, call, home)?);
        }
        WakeupShape::Method => {
            let function = search.method(reader, WAKEUP_METHOD)?;
            found.push(code.probe(ProbeKind::Step, function, home)?);
        }
    }
    Ok(found)
}

/// The type of steps, of which the module's state has a pointer.
fn state_type(reader: &mut Reader<'_>, module: u64, offset: u32) -> Result<u64, NotExact> {
    let state = reader.walk.task.counter.map(|counter| counter.module_state);
    let class = state
        .and_then(|state| reader.pointer(at(module, state)).ok())
        .filter(|state| plausible(*state))
        .and_then(|state| reader.pointer(at(state, offset)).ok())
        .filter(|class| plausible(*class))
        .ok_or_else(|| refused("the state of asyncio's C module cannot be read"))?;
    reader.load_types([class]);
    let size = u64::from(reader.walk.probes.step_size);
    let fits = reader.type_info(class).is_some_and(|info| {
        info.name.rsplit('.').next() == Some(STEP_TYPE) && info.basic_size == size
    });
    if fits {
        Ok(class)
    } else {
        Err(refused("the type of steps is not where it should be"))
    }
}

/// The data of a module, searched for what points to a name.
struct Search {
    /// Addresses and contents of the parts that are mapped.
    parts: Vec<(u64, Vec<u8>)>,
}

impl Search {
    fn new(reader: &mut Reader<'_>, parts: Vec<&Mapping>) -> Self {
        let parts = parts.into_iter().filter_map(|mapping| {
            let length = usize::try_from(mapping.end - mapping.start).ok()?;
            Some((mapping.start, reader.bytes(mapping.start, length).ok()?))
        });
        Self {
            parts: parts.collect(),
        }
    }

    /// Addresses of words that point to this C string.
    fn pointers_to(&self, name: &str) -> Vec<u64> {
        let mut text = name.as_bytes().to_vec();
        text.push(0);
        let mut names = Vec::new();
        for (start, bytes) in &self.parts {
            let found = memchr::memmem::find_iter(bytes, &text);
            names.extend(found.map(|index| start + index as u64));
        }
        let mut pointers = Vec::new();
        for (start, bytes) in &self.parts {
            for (index, chunk) in bytes.chunks_exact(8).enumerate() {
                let word = u64::from_le_bytes(chunk.try_into().unwrap_or_default());
                if names.contains(&word) {
                    pointers.push(start + index as u64 * 8);
                }
            }
        }
        pointers
    }

    /// The one static type with this name.
    fn static_type(
        &mut self,
        reader: &mut Reader<'_>,
        name: &str,
        size: u32,
        type_type: u64,
    ) -> Result<u64, NotExact> {
        let fields = reader.walk.types;
        let pointers = self.pointers_to(name).into_iter();
        let types = pointers.map(|pointer| pointer.wrapping_sub(u64::from(fields.name)));
        let fitting = types.filter(|class| {
            reader.pointer(class.wrapping_add(8)).ok() == Some(type_type)
                && reader.pointer(at(*class, fields.basic_size)).ok() == Some(u64::from(size))
        });
        only(fitting, name)
    }

    /// The function of the one method with this name.
    fn method(&mut self, reader: &mut Reader<'_>, name: &str) -> Result<u64, NotExact> {
        let probes = reader.walk.probes;
        let functions = self.pointers_to(name).into_iter().filter_map(|method| {
            let flags = reader.pointer(at(method, probes.method_flags)).ok()?;
            let function = reader.pointer(at(method, probes.method_function)).ok()?;
            (flags as u32 == ONE_ARGUMENT && plausible(function)).then_some(function)
        });
        only(functions, name)
    }
}

/// The only one of these addresses.
fn only(found: impl Iterator<Item = u64>, name: &str) -> Result<u64, NotExact> {
    let mut found: Vec<u64> = found.collect();
    found.sort_unstable();
    found.dedup();
    match found[..] {
        [one] => Ok(one),
        [] => Err(refused(format!(
            "{name} was not found in asyncio's C module"
        ))),
        _ => Err(refused(format!(
            "{name} was found more than once in asyncio's C module"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::objects::synthetic::World;

    fn part(words: &[u64], text: &[u8]) -> Vec<u8> {
        let words = words.iter().flat_map(|word| word.to_le_bytes());
        words.chain(text.iter().copied()).collect()
    }

    #[test]
    fn data_is_searched_for_what_points_to_a_name() {
        let names = part(&[], b"task_wakeup\0xtask_wakeup\0task_wakeups\0");
        let (own, suffix, longer) = (0x5000, 0x500d, 0x5019);
        let data = part(&[7, own, 8, suffix, longer, own + 1], &[]);
        let search = Search {
            parts: vec![(0x5000, names), (0x9000, data)],
        };
        // A linker keeps a name that another one ends with inside that.
        assert_eq!(search.pointers_to(WAKEUP_METHOD), [0x9008, 0x9018]);
        assert!(search.pointers_to(STEP_TYPE).is_empty());
    }

    #[test]
    fn methods_are_told_by_their_flags() {
        let mut world = World::new(13);
        let name = world.put(b"task_wakeup\0");
        let function = 0x7f00_0000_1230_u64;
        let method = |world: &mut World, flags: u64| {
            let bytes = part(&[name, function, flags, 0], &[]);
            (world.put(&bytes), bytes)
        };
        let found = [ONE_ARGUMENT, 4].map(|flags| {
            let (at, bytes) = method(&mut world, u64::from(flags));
            let text = (name, b"task_wakeup\0".to_vec());
            let mut search = Search {
                parts: vec![text, (at, bytes)],
            };
            search.method(&mut world.reader(), WAKEUP_METHOD)
        });
        assert_eq!(found[0], Ok(function));
        assert!(matches!(&found[1], Err(NotExact::Refused(_))), "{found:?}");
    }

    #[test]
    fn addresses_must_be_unique() {
        assert_eq!(only([5, 5].into_iter(), "x"), Ok(5));
        assert!(only([5, 6].into_iter(), "x").is_err());
        assert!(only(std::iter::empty(), "x").is_err());
    }
}
