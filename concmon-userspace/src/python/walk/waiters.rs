//! Which tasks wait for a task: as the task says itself, or as the callbacks tell that it will call
//! when it is done.

use std::rc::Rc;

use super::as_completed;
use super::callbacks::Waiters;
use super::gathers::Gathers;
use super::task_groups::{is_group, parents};
use crate::python::memory::addresses::{AddressMap, AddressSet};
use crate::python::memory::{Batch, plausible, word};
use crate::python::objects::{Kind, OBJECT_SIZE, OBJECT_TYPE, Reader, TypeInfo};

/// How many futures may lie between a task and one that waits for it (`gather`, `shield`, ...).
const MAX_DEPTH: usize = 6;
/// Tasks that are told for one, and for one after so many have been told for all.
const MAX_WAITERS: usize = 4096;
const MAX_TOLD: usize = 1 << 20;
const FEW_WAITERS: usize = 64;
/// Callbacks of one future that are looked at, and things that one of them refers to.
const MAX_CALLBACKS: u64 = 4096;
const MAX_REFERENCES: u64 = 16;
/// Callbacks that are read at once, or objects.
const AT_ONCE: usize = 1 << 12;
/// Pairs that are read at once: what is read of them stays in the CPU's cache.
const PAIRS_AT_ONCE: usize = 1 << 14;
/// What a node costs to keep besides the addresses in it, bytes.
const NODE_BYTES: usize = 96;
/// Objects behind one callback that are followed.
const MAX_BEHIND: usize = 1 << 12;
/// Tasks behind callbacks that are remembered; after that, few behind each.
const MAX_REMEMBERED: usize = 1 << 18;
/// What a future calls to wake the task that waits for it.
const WAKEUP: &str = "task_wakeup";

/// What is to be looked at of a future or task: its callbacks, and what it names itself.
#[derive(Default, PartialEq)]
struct Sources {
    callbacks: Vec<u64>,
    objects: Rc<[u64]>,
}

/// What an object is on the way to tasks.
enum Node {
    /// It is one, or stands for one.
    Task(u64),
    Future(Sources),
    Other,
}

/// What lies between tasks and those that wait for them. Each object is read once, however many
/// tasks lead to it.
#[derive(Default)]
struct Graph {
    /// What each callback refers to.
    callbacks: AddressMap<Vec<u64>>,
    objects: AddressMap<Node>,
    /// Bytes, as the scan counts them.
    kept: usize,
    /// So many at least were not followed.
    left_out: u64,
    /// What is behind each callback and object that has been asked for: tasks, each with how many futures lie in between.
    behind: AddressMap<Vec<(usize, u64)>>,
    /// How many tasks are in there.
    remembered: usize,
}

/// The tasks that wait for each of `tasks`, by their own words. `known` are tasks: those written in
/// Python cannot be told by their type.
pub(super) fn awaited_by(
    reader: &mut Reader<'_>,
    tasks: &[(u64, Waiters)],
    known: &AddressSet,
    gathers: &Gathers,
) -> Vec<Vec<u64>> {
    let (alone, kept) = gathers.alone(reader, tasks);
    let unread = tasks
        .iter()
        .zip(&alone)
        .map(|((_, waiters), alone)| match alone {
            Some(_) => Waiters::default(),
            None => *waiters,
        });
    let (mut sources, left_out) = sources(reader, &unread.collect::<Vec<_>>());
    for (sources, alone) in sources.iter_mut().zip(alone) {
        if let Some(gathers) = alone {
            sources.objects = gathers;
        }
    }
    let mut graph = Graph::read(reader, &sources, known);
    graph.left_out += left_out;
    graph.kept += kept;
    let mut told_of_all = 0;
    let mut result = Vec::with_capacity(tasks.len());
    let mut found: Vec<u64> = Vec::new();
    for (slot, (task, _)) in tasks.iter().enumerate() {
        if reader.is_over() {
            break;
        }
        // Tasks that are waited for together have the same callbacks.
        if slot == 0 || sources[slot] != sources[slot - 1] {
            found = graph.waiting(reader, &sources[slot]);
        }
        // Some callbacks refer to the future that calls them, too.
        let most = match told_of_all < MAX_TOLD {
            true => MAX_WAITERS,
            false => FEW_WAITERS,
        };
        let mut others = found.iter().copied().filter(|other| other != task);
        let mut told = Vec::with_capacity(found.len().min(most));
        told.extend(others.by_ref().take(most));
        graph.left_out += others.count() as u64;
        told_of_all += told.len();
        result.push(told);
    }
    result.resize(tasks.len(), Vec::new());
    if graph.left_out > 0 {
        let reason = format!(
            "too many wait for the same tasks: at least {} are left out",
            graph.left_out
        );
        let limit = reader.limits.entry("tasks.awaited_by".to_owned());
        limit.or_insert(reason);
    }
    reader.give_back(graph.kept);
    result
}

impl Graph {
    /// Reads what `sources` lead to, as much of it as the scan may keep.
    fn read(reader: &mut Reader<'_>, sources: &[Sources], known: &AddressSet) -> Self {
        let mut graph = Self::default();
        let mut definitions = AddressMap::default();
        // Tasks that are waited for together have the same callbacks.
        let different = sources.chunk_by(|one, other| one == other);
        let different = different.filter_map(<[Sources]>::first);
        let (mut callbacks, mut objects): (Vec<u64>, Vec<u64>) = (Vec::new(), Vec::new());
        // They may share their objects with others in between.
        let mut shared = AddressSet::default();
        for of in different {
            callbacks.extend(&of.callbacks);
            if shared.insert(of.objects.as_ptr() as u64) {
                objects.extend(of.objects.iter());
            }
        }
        for _ in 0..MAX_DEPTH {
            retain_new(&mut callbacks, &graph.callbacks);
            for some in callbacks.chunks(AT_ONCE) {
                let behind = behind(reader, some, &mut definitions);
                if !graph.keep(reader, some.len(), behind.iter().map(Vec::len).sum()) {
                    return graph;
                }
                objects.extend(behind.iter().flatten());
                graph.callbacks.extend(some.iter().copied().zip(behind));
            }
            retain_new(&mut objects, &graph.objects);
            callbacks.clear();
            let mut next = Vec::new();
            for some in objects.chunks(AT_ONCE) {
                let nodes = nodes(reader, some, known);
                let of_futures = || {
                    nodes.iter().filter_map(|node| match node {
                        Node::Future(sources) => Some(sources),
                        Node::Task(_) | Node::Other => None,
                    })
                };
                let count = of_futures().map(|of| of.callbacks.len() + of.objects.len());
                if !graph.keep(reader, some.len(), count.sum()) {
                    return graph;
                }
                callbacks.extend(of_futures().flat_map(|of| &of.callbacks));
                next.extend(of_futures().flat_map(|of| of.objects.iter()));
                graph.objects.extend(some.iter().copied().zip(nodes));
            }
            objects = next;
            if callbacks.is_empty() && objects.is_empty() {
                break;
            }
        }
        graph
    }

    /// Whether so many more nodes, with so many addresses in all, may be kept, and time is left.
    fn keep(&mut self, reader: &mut Reader<'_>, nodes: usize, addresses: usize) -> bool {
        let bytes = nodes * NODE_BYTES + addresses * 8;
        let may = !reader.is_over() && reader.may_keep(bytes);
        self.kept += if may { bytes } else { 0 };
        may
    }

    /// The tasks that wait by their own words in `sources`, the nearest first.
    fn waiting(&mut self, reader: &mut Reader<'_>, sources: &Sources) -> Vec<u64> {
        // The least depth of each.
        let mut found: AddressMap<usize> = AddressMap::default();
        let mut order = Vec::new();
        let both = sources.callbacks.iter().map(|callback| (*callback, true));
        let both = both.chain(sources.objects.iter().map(|object| (*object, false)));
        for (number, (address, is_callback)) in both.enumerate() {
            if found.len() > MAX_WAITERS || reader.is_over() {
                let all = sources.callbacks.len() + sources.objects.len();
                self.left_out += (all - number) as u64;
                break;
            }
            if !self.behind.contains_key(&address) {
                let objects = match is_callback {
                    true => self.callbacks.get(&address).cloned().unwrap_or_default(),
                    false => vec![address],
                };
                let tasks = self.tasks_behind(&objects);
                self.remembered += tasks.len();
                self.behind.insert(address, tasks);
            }
            for (depth, task) in &self.behind[&address] {
                let least = found.entry(*task).or_insert_with(|| {
                    order.push(*task);
                    *depth
                });
                *least = (*least).min(*depth);
            }
        }
        order.sort_by_key(|task| found[task]);
        order
    }

    /// The tasks that `objects` are or lead to, each with how many futures lie in between.
    fn tasks_behind(&mut self, objects: &[u64]) -> Vec<(usize, u64)> {
        let mut found = Vec::new();
        let mut seen = AddressSet::default();
        let mut front = objects.to_vec();
        let most = match self.remembered < MAX_REMEMBERED {
            true => MAX_WAITERS,
            false => FEW_WAITERS,
        };
        for depth in 0..MAX_DEPTH {
            let mut next = Vec::new();
            for (number, object) in front.iter().copied().enumerate() {
                if found.len() >= most || seen.len() >= MAX_BEHIND {
                    self.left_out += (front.len() - number) as u64;
                    return found;
                }
                if !seen.insert(object) {
                    continue;
                }
                match self.objects.get(&object) {
                    Some(Node::Task(task)) => found.push((depth, *task)),
                    Some(Node::Future(sources)) => {
                        let called = sources.callbacks.iter();
                        let called = called.filter_map(|callback| self.callbacks.get(callback));
                        let mut called = called.flatten().chain(sources.objects.iter());
                        next.extend(called.by_ref().take(MAX_BEHIND.saturating_sub(next.len())));
                        self.left_out += u64::from(called.next().is_some());
                    }
                    Some(Node::Other) | None => {}
                }
            }
            front = next;
        }
        found
    }
}

/// Leaves what is not in `known`, each once, in the order of addresses.
fn retain_new<V>(addresses: &mut Vec<u64>, known: &AddressMap<V>) {
    addresses.sort_unstable();
    addresses.dedup();
    addresses.retain(|address| !known.contains_key(address));
}

/// What each of `objects` is.
fn nodes(reader: &mut Reader<'_>, objects: &[u64], known: &AddressSet) -> Vec<Node> {
    let types = reader.types_of(objects);
    let of = |wanted: fn(&TypeInfo) -> bool| -> Vec<u64> {
        let typed = objects.iter().zip(&types);
        typed
            .filter(|(_, info)| info.as_ref().is_some_and(|info| wanted(info)))
            .map(|(object, _)| *object)
            .collect()
    };
    let groups = of(is_group);
    let parents = parents(reader, &groups);
    let futures = of(|info| info.kind == Kind::Future);
    let mut futures = read_futures(reader, &futures);
    objects
        .iter()
        .zip(types)
        .map(|(object, info)| match info {
            None => Node::Other,
            Some(info) if info.kind == Kind::Task || known.contains(object) => Node::Task(*object),
            Some(_) => match (futures.remove(object), parents.get(object)) {
                (Some(sources), _) => Node::Future(sources),
                (None, Some(parent)) => Node::Task(*parent),
                (None, None) => Node::Other,
            },
        })
        .collect()
}

fn read_futures(reader: &mut Reader<'_>, futures: &[u64]) -> AddressMap<Sources> {
    let mut batch = Batch::new();
    for future in futures {
        batch.push(*future, reader.walk.task.future_size as usize);
    }
    reader.fetch(&mut batch);
    let (futures, waiters): (Vec<u64>, Vec<Waiters>) = futures
        .iter()
        .enumerate()
        .filter_map(|(index, future)| {
            let bytes = batch.whole(index)?;
            (reader.kind(bytes)? == Kind::Future).then_some(())?;
            Some((*future, Waiters::of(reader, bytes)?))
        })
        .unzip();
    let (sources, _) = sources(reader, &waiters);
    futures.into_iter().zip(sources).collect()
}

/// What is to be looked at of each of `waiters`, and how much of that is left out.
fn sources(reader: &mut Reader<'_>, waiters: &[Waiters]) -> (Vec<Sources>, u64) {
    let mut left_out = 0;
    let mut sources: Vec<Sources> = Vec::with_capacity(waiters.len());
    if reader.walk.task.awaited_by.is_some() {
        for waiters in waiters {
            let mut objects = match waiters.awaited_by {
                none if !plausible(none) => Vec::new(),
                _ if reader.is_over() => Vec::new(),
                set if waiters.is_set => reader.set(set).unwrap_or_default(),
                one => vec![one],
            };
            left_out += objects.len().saturating_sub(MAX_WAITERS) as u64;
            objects.truncate(MAX_WAITERS);
            sources.push(Sources {
                callbacks: Vec::new(),
                objects: objects.into(),
            });
        }
        return (sources, left_out);
    }
    // A list of pairs: a callback, and the context to call it in.
    let lists: Vec<u64> = waiters.iter().map(|waiters| waiters.callbacks).collect();
    let lists = reader.lists(&lists, MAX_CALLBACKS);
    let counts = lists.iter().flatten().map(|(count, _)| *count);
    left_out += counts
        .map(|count| count.saturating_sub(MAX_CALLBACKS))
        .fold(0, u64::saturating_add);
    let pairs: Vec<u64> = lists
        .iter()
        .flatten()
        .flat_map(|(_, p)| p)
        .copied()
        .collect();
    let mut listed = Vec::with_capacity(pairs.len());
    for some in pairs.chunks(PAIRS_AT_ONCE) {
        first_items(reader, some, &mut listed);
    }
    let mut listed = listed.into_iter();
    for (waiters, list) in waiters.iter().zip(lists) {
        let first = Some(waiters.callback).filter(|callback| plausible(*callback));
        let count = list.map_or(0, |(_, pairs)| pairs.len());
        let listed = listed.by_ref().take(count).flatten();
        sources.push(Sources {
            callbacks: first.into_iter().chain(listed).collect(),
            objects: Rc::default(),
        });
    }
    (sources, left_out)
}

/// Adds the first element of each tuple.
fn first_items(reader: &mut Reader<'_>, tuples: &[u64], items: &mut Vec<Option<u64>>) {
    let place = reader.walk.containers.tuple_items;
    let mut batch = Batch::new();
    for tuple in tuples {
        batch.push(*tuple, place as usize + 8);
    }
    reader.fetch(&mut batch);
    reader.load_types((0..batch.len()).filter_map(|slot| word(batch.prefix(slot), OBJECT_TYPE)));
    // Most have the type of the one before.
    let mut tuple = None;
    items.extend((0..batch.len()).map(|slot| {
        let bytes = batch.whole(slot)?;
        let class = word(bytes, OBJECT_TYPE)?;
        if tuple != Some(class) || word(bytes, 0)? as u32 == 0 {
            (reader.kind(bytes)? == Kind::Tuple).then_some(())?;
            tuple = Some(class);
        }
        let is_empty = word(bytes, OBJECT_SIZE)? == 0;
        (!is_empty).then(|| word(bytes, place))?
    }));
}

/// What each of `callbacks` refers to: tasks, futures and groups that wait.
fn behind(
    reader: &mut Reader<'_>,
    callbacks: &[u64],
    definitions: &mut AddressMap<bool>,
) -> Vec<Vec<u64>> {
    /// The first fields of every kind of callback are in there.
    const HEAD_BYTES: usize = 112;
    let mut batch = Batch::new();
    for callback in callbacks {
        batch.push(*callback, HEAD_BYTES);
    }
    reader.fetch(&mut batch);
    reader.load_types((0..batch.len()).filter_map(|slot| word(batch.prefix(slot), OBJECT_TYPE)));
    let fields = reader.walk.callable;
    let mut result: Vec<Vec<u64>> = vec![Vec::new(); callbacks.len()];
    let (mut closures, mut arguments) = (Vec::new(), Vec::new());
    let (mut names, mut objects) = (Vec::new(), Vec::new());
    for (slot, result) in result.iter_mut().enumerate() {
        let bytes = batch.prefix(slot);
        match reader.kind(bytes) {
            Some(Kind::Builtin) => {
                let Some(definition) = word(bytes, fields.builtin_definition) else {
                    continue;
                };
                let wakes = *definitions.entry(definition).or_insert_with(|| {
                    reader.definition_name(definition).as_deref() == Some(WAKEUP)
                });
                result.extend(word(bytes, fields.builtin_self).filter(|_| wakes));
            }
            // `TaskWakeupMethWrapper.ww_task` is its first field.
            Some(Kind::TaskWakeup) => result.extend(word(bytes, OBJECT_SIZE)),
            Some(Kind::Method) => {
                let object = word(bytes, fields.method_self);
                result.extend(object);
                objects.extend(object.map(|object| (slot, object)));
            }
            Some(Kind::Function) => {
                names.extend(word(bytes, fields.function_qualname).map(|name| (slot, name)));
                closures.extend(word(bytes, fields.function_closure).map(|of| (slot, of)));
            }
            Some(Kind::Partial) => {
                arguments.extend(word(bytes, fields.partial_arguments).map(|of| (slot, of)));
            }
            _ => {}
        }
    }
    for (slot, found) in reader.items_of(&arguments) {
        result[slot].push(found);
    }
    let cells = reader.items_of(&closures);
    let contents = reader.cell_contents(&cells);
    for (slot, found) in &contents {
        result[*slot].push(*found);
    }
    let queues = as_completed::queues(reader, &names, &contents, &objects);
    for (slot, getter) in as_completed::getters(reader, &queues) {
        result[slot].push(getter);
    }
    result
}

impl Reader<'_> {
    /// What is in the tuples, each beside the number that its tuple has.
    fn items_of(&mut self, tuples: &[(usize, u64)]) -> Vec<(usize, u64)> {
        let addresses: Vec<u64> = tuples.iter().map(|(_, tuple)| *tuple).collect();
        let items = self.tuples(&addresses, MAX_REFERENCES);
        tuples
            .iter()
            .zip(items)
            .flat_map(|((slot, _), items)| {
                let items = items.unwrap_or_default().into_iter();
                items.map(|item| (*slot, item))
            })
            .collect()
    }

    /// What the cells hold, those that hold anything.
    fn cell_contents(&mut self, cells: &[(usize, u64)]) -> Vec<(usize, u64)> {
        /// `PyCellObject.ob_ref` is its first field.
        const CONTENT: u32 = OBJECT_SIZE;
        let mut batch = Batch::new();
        for (_, cell) in cells {
            batch.push(*cell, CONTENT as usize + 8);
        }
        self.fetch(&mut batch);
        self.load_types((0..batch.len()).filter_map(|i| word(batch.prefix(i), OBJECT_TYPE)));
        cells
            .iter()
            .enumerate()
            .filter_map(|(index, (slot, _))| {
                let bytes = batch.whole(index)?;
                let content = (self.kind(bytes)? == Kind::Cell).then(|| word(bytes, CONTENT))??;
                plausible(content).then_some((*slot, content))
            })
            .collect()
    }
}
