//! `threading.local`: what each thread has in one.

use super::containers::DictPlace;
use super::layout::LocalKey;
use super::memory::at;
use super::object::Reader;
use super::states::ThreadRecord;

/// How far up the bases the built-in type is.
const MAX_BASES: usize = 16;
const BASE: &str = "_thread._local";

/// What one thread has in a local object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LocalValues {
    /// Which of the threads; `None` when it is none of them.
    pub(super) thread: Option<usize>,
    /// A dict of attributes.
    pub(super) dict: u64,
}

/// The values of every thread that has some; `None` when the object is no `threading.local` of the
/// known form.
pub(super) fn values(
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
            .map(|key| threads.iter().position(|thread| thread.points_to(*key)))
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
            dummies.into_iter().map(|dummy| has(dummy?)).collect()
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
