//! `--keep`: which dumps of a flight recorder are old enough to go.

use std::{
    cmp::Reverse,
    ffi::{OsStr, OsString},
    fs::File,
};

use super::files::Folder;
use crate::capture::complete;

/// Names in a folder that are looked at, and files among them that are opened. Others wait for the
/// next time.
const MAX_NAMES: usize = 200_000;
const MAX_OPENED: usize = 4_096;

/// Deletes the oldest dumps of a service above the number that is kept. `newest` counts as the newest,
/// whatever the clock said, if it is one. A dump is
/// what says so itself: an ordinary file of the same owner, a whole capture with content, which a
/// flight recorder of this service has written. Names and dates of files are anybody's, and only say
/// where to look.
pub(crate) fn forget_old(folder: &Folder, service: &str, keep: usize, newest: &str) {
    let Ok(names) = folder.names(MAX_NAMES) else {
        return;
    };
    let begin = format!("{service}-");
    let mut dumps: Vec<(u64, OsString)> = names
        .into_iter()
        .filter(|name| {
            let bytes = name.as_encoded_bytes();
            bytes.starts_with(begin.as_bytes()) && bytes.ends_with(b".concmon")
        })
        .filter(|name| is_ordinary(folder, name))
        .take(MAX_OPENED)
        .filter_map(|name| Some((end_of_dump(folder, &name, service)?, name)))
        .collect();
    dumps.sort_by_key(|(end_ns, name)| (name != OsStr::new(newest), Reverse(*end_ns)));
    for (_, name) in dumps.iter().skip(keep) {
        if let Err(error) = folder.remove(name) {
            log::debug!("{} is old, and stays: {error}", folder.shown(name));
        }
    }
}

fn is_ordinary(folder: &Folder, name: &OsStr) -> bool {
    let found = folder.find(name).ok().flatten();
    found.is_some_and(|found| found.is_ordinary_of(folder.owner()))
}

/// When a dump of this service ends, ns after 1970; `None`: it is something else.
fn end_of_dump(folder: &Folder, name: &OsStr, service: &str) -> Option<u64> {
    let file: File = folder.open_to_read(name).ok()?;
    if !folder.is_own(&file) {
        return None;
    }
    let dump = complete(&file).ok()??;
    (dump.flight.as_deref() == Some(service)).then_some(dump.end_unix_ns)
}
