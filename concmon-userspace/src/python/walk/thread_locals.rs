//! `threading.local`: what each thread has in one.

use super::thread_states::ThreadRecord;
use crate::python::layout::LocalKey;
use crate::python::memory::at;
use crate::python::objects::Reader;
use crate::python::objects::containers::DictPlace;

/// How far up the bases the built-in type is.
const MAX_BASES: usize = 16;
const BASE: &str = "_thread._local";

/// What one thread has in a local object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LocalValues {
    /// Which of the threads; `None` when it is none of them.
    pub(crate) thread: Option<usize>,
    /// A dict of attributes.
    pub(crate) dict: u64,
}

/// The values of every thread that has some; `None` when the object is no `threading.local` of the
/// known form.
pub(crate) fn values(
    reader: &mut Reader<'_>,
    local: u64,
    threads: &[ThreadRecord],
) -> Option<Vec<LocalValues>> {
    let fields = reader.walk.local;
    let class = reader.classes_of(&[local]).pop()??;
    (base_size(reader, class)? == u64::from(fields.size)).then_some(())?;
    let dicts = reader.pointer(at(local, fields.dicts)).ok()?;
    let entries = reader.dict(dicts)?;
    let keys: Vec<u64> = entries.iter().map(|(key, _)| *key).collect();
    let owners: Vec<Option<usize>> = match fields.key {
        LocalKey::InState => keys
            .iter()
            .map(|key| {
                if reader.is_over() {
                    return None;
                }
                threads.iter().position(|thread| thread.points_to(*key))
            })
            .collect(),
        LocalKey::ReferentInDict(dict) => {
            let dummies = reader.referents(&keys);
            let dicts: Vec<DictPlace> = threads
                .iter()
                .map(|thread| DictPlace::Object(thread.field(dict)))
                .collect();
            let dicts = reader.dicts(&dicts);
            let has = |dummy: u64| {
                dicts.iter().position(|entries| {
                    let mut values = entries.iter().flatten().map(|(_, value)| *value);
                    values.any(|value| value == dummy)
                })
            };
            dummies
                .into_iter()
                .map(|dummy| has(dummy.filter(|_| !reader.is_over())?))
                .collect()
        }
    };
    let found = entries.iter().zip(owners);
    Some(
        found
            .map(|((_, dict), thread)| LocalValues {
                thread,
                dict: *dict,
            })
            .collect(),
    )
}

/// `tp_basicsize` of the built-in type that a class is made from.
fn base_size(reader: &Reader<'_>, class: u64) -> Option<u64> {
    let mut class = class;
    for _ in 0..MAX_BASES {
        let info = reader.type_info(class)?;
        if &*info.name == BASE {
            return Some(info.basic_size);
        }
        class = info.base;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::objects::synthetic::{Noise, World, set_word};

    /// A local object whose class has a size, with a dict of (key, values of a thread).
    fn local(world: &mut World, size: u64, entries: &[(u64, u64)]) -> u64 {
        let base = world.class(BASE, 0, size);
        let class = world.reserve();
        let base_field = (world.walk.types.base, base);
        world.class_at(class, "RunContext", 1 << 9, size + 16, &[base_field]);
        let keys = world.keys(0, entries);
        let dicts = world.dict(keys, 0);
        let mut bytes = World::object(class, size as usize);
        set_word(&mut bytes, world.walk.local.dicts, dicts);
        world.put(&bytes)
    }

    /// A thread state with one pointer in it.
    fn thread(world: &mut World, offset: u32, pointer: u64) -> ThreadRecord {
        let mut bytes = vec![0; 2048];
        set_word(&mut bytes, offset, pointer);
        let address = world.put(&bytes);
        ThreadRecord::read(&world.memory, address, &world.walk.thread).expect("readable")
    }

    #[test]
    fn values_belong_to_the_thread_that_has_the_key() {
        for minor in 8..=15 {
            let mut world = World::new(minor);
            let size = u64::from(world.walk.local.size);
            let dummy = world.put(&[1; 32]);
            let (key, threads) = match world.walk.local.key {
                LocalKey::InState => {
                    let other = thread(&mut world, 200, 0x1234_5678);
                    (dummy, vec![other, thread(&mut world, 288, dummy)])
                }
                LocalKey::ReferentInDict(dict) => {
                    let weak = world.class("weakref", 0, 72);
                    let mut bytes = World::object(weak, 24);
                    set_word(&mut bytes, world.walk.containers.weakref_object, dummy);
                    let key = world.put(&bytes);
                    let name = world.text("_thread._local.7");
                    let keys = world.keys(0, &[(name, dummy)]);
                    let values = world.dict(keys, 0);
                    let other = thread(&mut world, dict, 0);
                    (key, vec![other, thread(&mut world, dict, values)])
                }
            };
            let found = local(&mut world, size, &[(key, 0x1111), (0x9999_0000, 0x2222)]);
            let of_thread = |thread, dict| LocalValues { thread, dict };
            assert_eq!(
                values(&mut world.reader(), found, &threads),
                Some(vec![of_thread(Some(1), 0x1111), of_thread(None, 0x2222)]),
                "3.{minor}"
            );
            let other_size = local(&mut world, size + 8, &[(key, 0x1111)]);
            assert_eq!(
                values(&mut world.reader(), other_size, &threads),
                None,
                "3.{minor}"
            );
            let no_local = world.text("text");
            assert_eq!(
                values(&mut world.reader(), no_local, &threads),
                None,
                "3.{minor}"
            );
        }
    }

    #[test]
    fn reading_noise_ends() {
        for seed in 0..100 {
            let minor = 8 + (seed % 8) as u8;
            let memory = Noise::new(minor, seed);
            let walk = World::new(minor).walk;
            let mut reader = crate::python::objects::Reader::new(&memory, walk, 1 << 20);
            let read = |index| ThreadRecord::read(&memory, memory.address(index), &walk.thread);
            let threads: Vec<ThreadRecord> = (0..10).map(|index| read(index).unwrap()).collect();
            for index in 0..100 {
                let local = memory.address(index);
                let found = values(&mut reader, local, &threads).unwrap_or_default();
                assert!(found.iter().all(|found| found.thread < Some(threads.len())));
            }
        }
    }
}
