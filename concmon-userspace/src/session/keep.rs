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
    let dumps = dumps(folder, Some(service), newest);
    for dump in dumps.iter().skip(keep) {
        forget(folder, dump);
    }
}

/// Deletes the oldest dumps of all services above so many bytes; the newest stays.
pub(crate) fn fit(folder: &Folder, most_bytes: u64, newest: &str) {
    let mut bytes = 0_u64;
    for (number, dump) in dumps(folder, None, newest).iter().enumerate() {
        bytes = bytes.saturating_add(dump.bytes);
        if number > 0 && bytes > most_bytes {
            forget(folder, dump);
        }
    }
}

/// A file that a flight recorder has written.
struct Dump {
    end_unix_ns: u64,
    name: OsString,
    bytes: u64,
}

fn forget(folder: &Folder, dump: &Dump) {
    if let Err(error) = folder.remove(&dump.name) {
        log::debug!("{} is old, and stays: {error}", folder.shown(&dump.name));
    }
}

/// The dumps of a service, or of all, the newest first.
fn dumps(folder: &Folder, service: Option<&str>, newest: &str) -> Vec<Dump> {
    let Ok(names) = folder.names(MAX_NAMES) else {
        return Vec::new();
    };
    let begin = service.map_or_else(String::new, |service| format!("{service}-"));
    let mut dumps: Vec<Dump> = names
        .into_iter()
        .filter(|name| {
            let bytes = name.as_encoded_bytes();
            bytes.starts_with(begin.as_bytes()) && bytes.ends_with(b".concmon")
        })
        .filter(|name| is_ordinary(folder, name))
        .take(MAX_OPENED)
        .filter_map(|name| dump(folder, name, service))
        .collect();
    dumps.sort_by_key(|dump| (dump.name != OsStr::new(newest), Reverse(dump.end_unix_ns)));
    dumps
}

fn is_ordinary(folder: &Folder, name: &OsStr) -> bool {
    let found = folder.find(name).ok().flatten();
    found.is_some_and(|found| found.is_ordinary_of(folder.owner()))
}

/// A dump of this service, or of any; `None`: it is something else.
fn dump(folder: &Folder, name: OsString, service: Option<&str>) -> Option<Dump> {
    let file: File = folder.open_to_read(&name).ok()?;
    if !folder.is_own(&file) {
        return None;
    }
    let whole = complete(&file).ok()??;
    let of = whole.flight.as_deref()?;
    service.is_none_or(|service| service == of).then_some(Dump {
        end_unix_ns: whole.end_unix_ns,
        name,
        bytes: file.metadata().ok()?.len(),
    })
}

#[cfg(test)]
mod tests {
    use std::{io::Cursor, path::Path};

    use super::*;
    use crate::capture::{Input, Reader, Recorder, Ring};

    const CAPTURE: &[u8] = include_bytes!("../../../tests/captures/1.0.concmon");

    /// Writes a dump that ends then; gives its length.
    fn dump(folder: &Path, name: &str, service: &str, end_ns: u64) -> u64 {
        let reader = Reader::embedded(Cursor::new(CAPTURE)).expect("a capture");
        let header = reader.header();
        let end_ns = header.info.start_ns + end_ns;
        let ring = Ring::new(u64::MAX, 1 << 20);
        let mut recorder = Recorder::new(Box::new(ring.clone()), header);
        recorder.key(end_ns);
        recorder.input(&Input::Release { until_ns: end_ns });
        recorder.finish().expect("it is kept");
        let file = File::create_new(folder.join(name)).expect("a file");
        ring.dump(file, service, "test").expect("it is written");
        ring.close(end_ns).expect("it is whole")
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).expect("a folder");
        let names = entries.map(|entry| entry.expect("a file").file_name());
        let mut names: Vec<String> = names
            .map(|name| name.to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn the_oldest_dumps_go_and_nothing_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path();
        std::fs::write(path.join("a-notes.concmon"), [0; 4_096]).expect("room");
        let mut bytes = 0;
        for (number, name) in ["a-1", "b-2", "a-3", "b-4"].into_iter().enumerate() {
            let name = format!("{name}.concmon");
            bytes = dump(path, &name, &name[..1], 1_000 * (1 + number as u64));
        }
        let open = Folder::open(path).expect("a folder");
        fit(&open, 4 * bytes, "b-4.concmon");
        assert_eq!(names(path).len(), 5);
        fit(&open, 2 * bytes, "b-4.concmon");
        assert_eq!(
            names(path),
            ["a-3.concmon", "a-notes.concmon", "b-4.concmon"]
        );
        // The newest stays, whatever it takes.
        fit(&open, 1, "a-3.concmon");
        assert_eq!(names(path), ["a-3.concmon", "a-notes.concmon"]);
        forget_old(&open, "b", 0, "");
        assert_eq!(names(path).len(), 2);
    }
}
