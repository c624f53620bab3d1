//! The `asyncio.gather`s that tasks wait for, and whom these wait for. A task that gathers alone wait for, perhaps very
//! many, need not be asked for each of its callbacks: there are as many as it is a child of gathers.

use std::collections::HashMap;
use std::rc::Rc;

use foldhash::fast::RandomState;

use super::callbacks::Waiters;
use crate::python::memory::addresses::{AddressMap, AddressSet};
use crate::python::memory::{Batch, plausible, word};
use crate::python::objects::{Kind, OBJECT_SIZE, OBJECT_TYPE, Reader};

/// The class, and its list of those that it waits for.
const CLASS: &str = "_GatheringFuture";
const CHILDREN: &str = "_children";
/// The most children of one that are read: of one that has more, none is.
const MAX_CHILDREN: u64 = 1 << 18;
/// Lists of children that are read at once, and tasks.
const LISTS_AT_ONCE: usize = 4;
const TASKS_AT_ONCE: usize = 2048;
/// `PySetObject.used`, 3.8 to 3.15.
const SET_USED: u32 = 24;

/// Which gathers wait for each task. Gathers with the same children in the same order, often very many, are one group.
#[derive(Default)]
pub(crate) struct Gathers {
    groups: Vec<Vec<u64>>,
    /// Numbers of groups.
    of_children: AddressMap<Vec<u32>>,
    /// Bytes, as the scan counts them.
    kept: usize,
}

impl Gathers {
    /// Those that `tasks` wait for, if any task of them has more than one that waits for it.
    pub(super) fn read(reader: &mut Reader<'_>, tasks: &[u64]) -> Self {
        let mut found = Self::default();
        let Some(futures) = waited_for(reader, tasks) else {
            return found;
        };
        let types = reader.types_of(&futures);
        let mut types = types.into_iter().flatten().map(|info| &*info.name == CLASS);
        let mut gathers = futures;
        gathers.retain(|_| types.next() == Some(true));
        let lists = reader.attributes(&gathers, &[CHILDREN]);
        let lists: Vec<(u64, u64)> = gathers
            .into_iter()
            .zip(lists)
            .filter_map(|(gather, found)| Some((gather, found?[0]?)))
            .collect();
        let wanted: AddressSet = tasks.iter().copied().collect();
        let mut by_children = ByChildren::default();
        for some in lists.chunks(LISTS_AT_ONCE) {
            let addresses: Vec<u64> = some.iter().map(|(_, list)| *list).collect();
            let children = reader.lists(&addresses, MAX_CHILDREN);
            for ((gather, _), children) in some.iter().zip(children) {
                let known = children.filter(|(count, _)| *count <= MAX_CHILDREN);
                let children = known.map_or_else(Vec::new, |(_, all)| all);
                found.add(reader, *gather, children, &mut by_children, &wanted);
            }
        }
        reader.give_back(by_children.kept);
        found
    }

    fn add(
        &mut self,
        reader: &mut Reader<'_>,
        gather: u64,
        children: Vec<u64>,
        by_children: &mut ByChildren,
        wanted: &AddressSet,
    ) {
        if reader.is_over() || !reader.may_keep(size_of::<u64>()) {
            return;
        }
        self.kept += size_of::<u64>();
        if let Some(number) = by_children.groups.get(&children) {
            self.groups[*number as usize].push(gather);
            return;
        }
        let Ok(number) = u32::try_from(self.groups.len()) else {
            return;
        };
        let list = size_of::<(Vec<u64>, u32)>() + children.len() * size_of::<u64>();
        let numbers = size_of::<Vec<u64>>() + children.len() * size_of::<u32>();
        if !reader.may_keep(list + numbers) {
            return;
        }
        by_children.kept += list;
        self.kept += numbers;
        self.groups.push(vec![gather]);
        let of_one = size_of::<(u64, Vec<u32>)>() + 16;
        for child in children.iter().filter(|child| wanted.contains(child)) {
            if !self.of_children.contains_key(child) {
                if !reader.may_keep(of_one) {
                    return;
                }
                self.kept += of_one;
            }
            let groups = self.of_children.entry(*child).or_default();
            // It may be a child twice, and is waited for once.
            if groups.last() != Some(&number) {
                groups.push(number);
            }
        }
        by_children.groups.insert(children, number);
    }

    /// The gathers that wait for each of `tasks`, and their bytes, as the scan counts them; `None` where it is not known
    /// that nobody else does, or they may not be kept. Tasks of the same groups share them.
    pub(super) fn alone(
        &self,
        reader: &mut Reader<'_>,
        tasks: &[(u64, Waiters)],
    ) -> (Vec<Option<Rc<[u64]>>>, usize) {
        let mut alone = vec![None; tasks.len()];
        let mut of_groups: HashMap<&[u32], Option<Rc<[u64]>>, RandomState> = HashMap::default();
        let mut kept = 0;
        let mut batch = Batch::new();
        let children: Vec<(usize, &Vec<u32>, &Waiters)> = tasks
            .iter()
            .enumerate()
            .filter_map(|(slot, (task, waiters))| {
                Some((slot, self.of_children.get(task)?, waiters))
            })
            .collect();
        for (_, _, waiters) in &children {
            let several = if waiters.is_set {
                waiters.awaited_by
            } else {
                waiters.callbacks
            };
            batch.push(several, SET_USED as usize + 8);
        }
        reader.fetch(&mut batch);
        reader.load_types(
            (0..batch.len()).filter_map(|index| word(batch.prefix(index), OBJECT_TYPE)),
        );
        for (index, (slot, groups, waiters)) in children.into_iter().enumerate() {
            let bytes = batch.prefix(index);
            let count = match (reader.kind(bytes), waiters.is_set) {
                (Some(Kind::Set), true) => word(bytes, SET_USED),
                (Some(Kind::List), false) => {
                    let first = u64::from(plausible(waiters.callback));
                    word(bytes, OBJECT_SIZE).and_then(|count| count.checked_add(first))
                }
                _ => None,
            };
            let gathers = groups
                .iter()
                .filter_map(|number| self.groups.get(*number as usize));
            let all = gathers.clone().map(Vec::len).sum::<usize>();
            if count == Some(all as u64) {
                let shared = of_groups.entry(groups).or_insert_with(|| {
                    let bytes = all * size_of::<u64>();
                    let may = !reader.is_over() && reader.may_keep(bytes);
                    kept += if may { bytes } else { 0 };
                    may.then(|| gathers.flatten().copied().collect())
                });
                alone[slot].clone_from(shared);
            }
        }
        (alone, kept)
    }

    pub(super) fn give_back(self, reader: &mut Reader<'_>) {
        reader.give_back(self.kept);
    }
}

/// Numbers of groups by their children, while these are read.
#[derive(Default)]
struct ByChildren {
    groups: HashMap<Vec<u64>, u32, RandomState>,
    /// Bytes, as the scan counts them.
    kept: usize,
}

/// The futures that tasks wait for, each once; `None` where each task has one that waits for it at most.
fn waited_for(reader: &mut Reader<'_>, tasks: &[u64]) -> Option<Vec<u64>> {
    let fields = reader.walk.task;
    let mut futures = AddressSet::default();
    let mut have_several = false;
    for tasks in tasks.chunks(TASKS_AT_ONCE) {
        let mut batch = Batch::new();
        for task in tasks {
            batch.push(*task, fields.size as usize);
        }
        reader.fetch(&mut batch);
        reader.load_types(
            (0..batch.len()).filter_map(|index| word(batch.prefix(index), OBJECT_TYPE)),
        );
        for index in 0..batch.len() {
            let bytes = batch.prefix(index);
            if reader.kind(bytes) == Some(Kind::Task)
                && let Some(waiters) = Waiters::of(reader, bytes)
            {
                have_several |= waiters.is_set || plausible(waiters.callbacks);
                let future = word(bytes, fields.awaited_future);
                futures.extend(future.filter(|future| plausible(*future)));
            }
        }
    }
    have_several.then(|| futures.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::objects::synthetic::{World, set_word};

    /// A list or set of so many.
    fn of_length(world: &mut World, class: u64, place: u32, count: u64) -> u64 {
        let mut bytes = World::object(class, 64);
        set_word(&mut bytes, place, count);
        world.put(&bytes)
    }

    #[test]
    fn gathers_wait_alone_where_there_are_as_many_callbacks() {
        const TASK: u64 = 0x7000_0000;
        let wanted: AddressSet = [TASK].into_iter().collect();
        for minor in [8, 13, 14, 15] {
            let mut world = World::new(minor);
            let list = world.class("list", 1 << 25, 40);
            let set = world.class("set", 0, 200);
            let two = of_length(&mut world, list, OBJECT_SIZE, 2);
            let three = of_length(&mut world, list, OBJECT_SIZE, 3);
            let of_set = of_length(&mut world, set, SET_USED, 3);
            let mut reader = world.reader();
            let mut gathers = Gathers::default();
            let mut by_children = ByChildren::default();
            // It is a child twice of one of them, and two have the same children.
            for (gather, children) in [
                (1, vec![TASK, TASK]),
                (2, vec![9, TASK]),
                (3, vec![9, TASK]),
            ] {
                gathers.add(&mut reader, gather, children, &mut by_children, &wanted);
            }
            assert_eq!(gathers.groups, [vec![1], vec![2, 3]]);
            let mut alone = |task, callback, callbacks, awaited_by| {
                let waiters = Waiters {
                    awaited_by,
                    is_set: awaited_by != 0,
                    callback,
                    callbacks,
                };
                let (mut alone, _) = gathers.alone(&mut reader, &[(task, waiters)]);
                alone.pop().flatten().map(|all| all.to_vec())
            };
            let all = Some(vec![1, 2, 3]);
            assert_eq!(alone(TASK, 0x8000, two, 0), all, "3.{minor}");
            assert_eq!(alone(TASK, 0, three, 0), all);
            assert_eq!(alone(TASK, 0, 0, of_set), all);
            // There is somebody else, or one has ended meanwhile; what is no list says nothing.
            assert_eq!(alone(TASK, 0x8000, three, 0), None);
            assert_eq!(alone(TASK, 0, two, 0), None);
            assert_eq!(alone(TASK, 0, of_set, 0), None);
            assert_eq!(alone(TASK + 8, 0, three, 0), None);
        }
    }

    #[test]
    fn tasks_of_the_same_gathers_share_what_is_kept_of_them() {
        const TASKS: [u64; 3] = [0x7000_0000, 0x7000_1000, 0x7000_2000];
        let wanted: AddressSet = TASKS.into_iter().collect();
        let mut world = World::new(13);
        let list = world.class("list", 1 << 25, 40);
        let two = of_length(&mut world, list, OBJECT_SIZE, 2);
        let mut reader = world.reader();
        let mut gathers = Gathers::default();
        let mut by_children = ByChildren::default();
        for (gather, children) in [(1, &TASKS[..2]), (2, &TASKS[..2]), (3, &TASKS[2..])] {
            let children = children.to_vec();
            gathers.add(&mut reader, gather, children, &mut by_children, &wanted);
        }
        let waiters = Waiters {
            callbacks: two,
            ..Waiters::default()
        };
        let tasks = TASKS.map(|task| (task, waiters));
        let (alone, kept) = gathers.alone(&mut reader, &tasks);
        let [Some(one), Some(other), None] = &alone[..] else {
            panic!("{alone:?}");
        };
        assert!(Rc::ptr_eq(one, other) && **one == [1, 2]);
        assert_eq!(kept, 16);
        while reader.may_keep(8) {}
        let refused = gathers.alone(&mut reader, &tasks);
        assert_eq!(refused, (vec![None, None, None], 0));
    }
}
