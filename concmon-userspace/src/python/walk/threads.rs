//! Threads as `threading` knows them: name, daemon, and what they were started to run.

use std::collections::HashMap;

use crate::python::memory::at;
use crate::python::objects::containers::DictPlace;
use crate::python::objects::text::as_bool;
use crate::python::objects::{OBJECT_TYPE, Reader};

/// What pool workers run.
const POOL_WORKER: &str = "concurrent.futures.thread._worker";
/// `threading`'s own `run`, which calls the target.
const PLAIN_RUN: &str = "threading.Thread.run";
/// The classes of threads that `threading` did not start.
const MAIN_CLASS: &str = "threading._MainThread";
const FOREIGN_CLASS: &str = "threading._DummyThread";

/// What `threading` says of one thread.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ThreadAccount {
    pub(crate) name: Option<String>,
    /// The thread's id as it sees itself.
    pub(crate) native_id: Option<u64>,
    pub(crate) daemon: Option<bool>,
    pub(crate) entry: Option<String>,
    pub(crate) main: bool,
    pub(crate) pool: bool,
}

/// Names of callables met in one scan: a pool's workers share theirs.
#[derive(Default)]
struct Names {
    targets: HashMap<u64, Option<String>>,
    classes: HashMap<u64, Class>,
}

#[derive(Clone, Default)]
struct Class {
    name: Option<String>,
    /// What its `run` is called, when it is not `threading`'s own.
    run: Option<String>,
}

/// Reads `threading._active`: from `threading.get_ident()` to the thread's account.
pub(crate) fn accounts(
    reader: &mut Reader<'_>,
    active: u64,
) -> Option<HashMap<u64, ThreadAccount>> {
    let entries = reader.dicts(&[DictPlace::Object(active)]).pop()??;
    let idents = reader.integers(&entries.iter().map(|(key, _)| *key).collect::<Vec<_>>());
    let objects: Vec<u64> = entries.iter().map(|(_, value)| *value).collect();
    let attributes = reader.attributes(&objects, &["_name", "_daemonic", "_target", "_native_id"]);
    reader.load_texts(
        attributes
            .iter()
            .flatten()
            .filter_map(|found| found[0])
            .collect::<Vec<_>>(),
    );
    let daemonic: Vec<u64> = attributes
        .iter()
        .map(|found| found.as_ref().and_then(|found| found[1]).unwrap_or(0))
        .collect();
    let daemonic = reader.integers(&daemonic);
    let native: Vec<u64> = attributes
        .iter()
        .map(|found| found.as_ref().and_then(|found| found[3]).unwrap_or(0))
        .collect();
    let native = reader.integers(&native);
    let mut names = Names::default();
    let mut accounts = HashMap::new();
    for (index, object) in objects.iter().enumerate() {
        if reader.is_over() {
            break;
        }
        let (Some(ident), Some(found)) = (idents[index], &attributes[index]) else {
            reader.failed += 1;
            continue;
        };
        let mut account = ThreadAccount {
            name: found[0]
                .and_then(|name| reader.text(name))
                .map(|name| name.to_string()),
            native_id: native[index].and_then(|id| u64::try_from(id).ok()),
            daemon: as_bool(daemonic[index]),
            ..ThreadAccount::default()
        };
        names.describe(reader, *object, found[2], &mut account);
        accounts.insert(ident as u64, account);
    }
    Some(accounts)
}

impl Names {
    fn describe(
        &mut self,
        reader: &mut Reader<'_>,
        object: u64,
        target: Option<u64>,
        account: &mut ThreadAccount,
    ) {
        let Ok(class) = reader.pointer(at(object, OBJECT_TYPE)) else {
            return;
        };
        let class = self
            .classes
            .entry(class)
            .or_insert_with(|| read_class(reader, class))
            .clone();
        match class.name.as_deref() {
            Some(MAIN_CLASS) => account.main = true,
            Some(FOREIGN_CLASS) => {}
            _ if class.run.is_some() => account.entry = class.run,
            _ => {
                account.entry = target.and_then(|target| {
                    self.targets
                        .entry(target)
                        .or_insert_with(|| reader.callable_name(target))
                        .clone()
                });
                account.pool = account.entry.as_deref() == Some(POOL_WORKER);
            }
        }
    }
}

fn read_class(reader: &mut Reader<'_>, class: u64) -> Class {
    let run = reader
        .class_attribute(class, "run")
        .and_then(|(_, run)| reader.callable_name(run));
    Class {
        name: reader.type_name(class),
        run: run.filter(|run| run != PLAIN_RUN),
    }
}
