//! `--keep`, and `folder_size` of the agent: which dumps of a flight recorder are old enough to go.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, VecDeque},
    ffi::{OsStr, OsString},
    fs::File,
    io,
    rc::Rc,
    time::UNIX_EPOCH,
};

use rustix::fs::{FlockOperation, flock};

use super::files::Folder;
use crate::capture::{complete, flight_of};

/// What a dump is called until it is whole.
pub(crate) const PART: &str = "part.concmon";

/// Names in a folder that are looked at, and for `--keep` files among them that are opened. Others wait for the
/// next time.
const MAX_NAMES: usize = 200_000;
const MAX_OPENED: usize = 4_096;
/// Of files that have come since the last time, so many are opened.
const MAX_NEW: usize = 256;

/// Deletes the oldest dumps of a service above the number that is kept. `newest` counts as the newest,
/// whatever the clock said, if it is one. A dump is
/// what says so itself: an ordinary file of the same owner, a whole capture with content, which a
/// flight recorder of this service has written. Names and dates of files are anybody's, and only say
/// where to look.
pub(crate) fn forget_old(folder: &Folder, service: &str, keep: usize, newest: &str) {
    let begin = format!("{service}-");
    let is_named_so = |name: &OsStr| name.as_encoded_bytes().starts_with(begin.as_bytes());
    let mut dumps = dumps(folder, Some(service), MAX_OPENED, is_named_so);
    dumps.sort_by_key(|dump| (dump.name != OsStr::new(newest), Reverse(dump.end_unix_ns)));
    for dump in dumps.iter().skip(keep) {
        forget(folder, dump);
    }
}

/// The dumps of all services in a folder, which take so many bytes at most: the oldest go, the newest stays.
#[derive(Debug)]
pub(crate) struct Kept {
    folder: Rc<Folder>,
    most_bytes: u64,
    /// The oldest first.
    dumps: VecDeque<Dump>,
    bytes: u64,
}

impl Kept {
    /// Those that are there, and what recorders have left that were killed while they wrote.
    pub(crate) fn new(folder: Rc<Folder>, most_bytes: u64) -> Self {
        let mut kept = Self {
            folder,
            most_bytes,
            dumps: VecDeque::new(),
            bytes: 0,
        };
        kept.find(usize::MAX);
        kept.fit();
        kept
    }

    /// There is another one, the newest whatever the clock said. Those that others have written since are counted
    /// from now on, too.
    pub(crate) fn add(&mut self, name: &str, bytes: u64) {
        self.find(MAX_NEW);
        let found = self.dumps.iter().position(|dump| dump.name == *name);
        let newest = found.and_then(|at| self.dumps.remove(at));
        let newest = newest.unwrap_or_else(|| {
            self.bytes = self.bytes.saturating_add(bytes);
            Dump {
                end_unix_ns: u64::MAX,
                name: name.into(),
                bytes,
            }
        });
        self.dumps.push_back(newest);
        self.fit();
    }

    /// Counts dumps that are not known yet.
    fn find(&mut self, most: usize) {
        let known: BTreeSet<&OsStr> = self.dumps.iter().map(|dump| &*dump.name).collect();
        let found = dumps(&self.folder, None, most, |name| !known.contains(name));
        if found.is_empty() {
            return;
        }
        self.bytes = found
            .iter()
            .fold(self.bytes, |sum, dump| sum.saturating_add(dump.bytes));
        self.dumps.extend(found);
        self.dumps
            .make_contiguous()
            .sort_by_key(|dump| dump.end_unix_ns);
    }

    fn fit(&mut self) {
        while self.bytes > self.most_bytes && self.dumps.len() > 1 {
            let Some(oldest) = self.dumps.pop_front() else {
                return;
            };
            self.bytes = self.bytes.saturating_sub(oldest.bytes);
            // Something else may have taken its name since.
            if dump(&self.folder, oldest.name.clone(), None).is_some() {
                forget(&self.folder, &oldest);
            }
        }
    }
}

/// A file that a flight recorder has written.
#[derive(Debug)]
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

/// The dumps of a service, or of all, of files whose names are asked for.
fn dumps(
    folder: &Folder,
    service: Option<&str>,
    most: usize,
    is_asked_for: impl Fn(&OsStr) -> bool,
) -> Vec<Dump> {
    let Ok(names) = folder.names(MAX_NAMES) else {
        return Vec::new();
    };
    names
        .into_iter()
        .filter(|name| name.as_encoded_bytes().ends_with(b".concmon") && is_asked_for(name))
        .filter(|name| is_ordinary(folder, name))
        .take(most)
        .filter_map(|name| dump(folder, name, service))
        .collect()
}

fn is_ordinary(folder: &Folder, name: &OsStr) -> bool {
    let found = folder.find(name).ok().flatten();
    found.is_some_and(|found| found.is_ordinary_of(folder.owner()))
}

/// A dump of this service, or of any, then also one that its recorder was killed over; `None`: it is something else.
fn dump(folder: &Folder, name: OsString, service: Option<&str>) -> Option<Dump> {
    let file: File = folder.open_to_read(&name).ok()?;
    if !folder.is_own(&file) {
        return None;
    }
    let metadata = file.metadata().ok()?;
    let end_unix_ns = match complete(&file).ok()? {
        Some(whole) => {
            let of = whole.flight.as_deref()?;
            service
                .is_none_or(|service| service == of)
                .then_some(whole.end_unix_ns)?
        }
        None if service.is_none() && is_left(&file, &name).ok()? => {
            let written = metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
            u64::try_from(written.as_nanos()).ok()?
        }
        None => return None,
    };
    Some(Dump {
        end_unix_ns,
        name,
        bytes: metadata.len(),
    })
}

/// A recorder has begun the file, and there is none any more that writes it.
fn is_left(file: &File, name: &OsStr) -> io::Result<bool> {
    let is_part = name.as_encoded_bytes().ends_with(PART.as_bytes());
    if !is_part || flight_of(file)?.is_none() {
        return Ok(false);
    }
    flock(file, FlockOperation::NonBlockingLockShared)?;
    Ok(true)
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
        let kept = |most| Kept::new(Rc::clone(&open), most);
        kept(4 * bytes);
        assert_eq!(names(path).len(), 5);
        let mut kept = kept(2 * bytes);
        assert_eq!(
            names(path),
            ["a-3.concmon", "a-notes.concmon", "b-4.concmon"]
        );
        // Others are in its place.
        std::fs::write(path.join("a-3.concmon"), [0; 4_096]).expect("room");
        kept.add("c-5.concmon", dump(path, "c-5.concmon", "c", 5_000));
        assert_eq!(names(path).len(), 4);
        kept.add("c-6.concmon", dump(path, "c-6.concmon", "c", 6_000));
        // Others have written one, too, which is older.
        dump(path, "d-7.concmon", "d", 1_000);
        kept.add("c-8.concmon", dump(path, "c-8.concmon", "c", 8_000));
        assert_eq!(kept.bytes, 2 * bytes);
        assert_eq!(
            names(path),
            [
                "a-3.concmon",
                "a-notes.concmon",
                "c-6.concmon",
                "c-8.concmon"
            ]
        );
        // The newest stays, whatever it takes.
        kept.most_bytes = 1;
        kept.fit();
        assert_eq!(
            names(path),
            ["a-3.concmon", "a-notes.concmon", "c-8.concmon"]
        );
        forget_old(&open, "c", 0, "");
        assert_eq!(names(path).len(), 2);
    }

    #[test]
    fn what_a_killed_recorder_has_left_counts_and_goes() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path();
        let bytes = dump(path, "a-1.concmon", "a", 1_000_000_000);
        let whole = std::fs::read(path.join("a-1.concmon")).expect("a dump");
        for name in ["a-2.0.part.concmon", "a-3.1.part.concmon"] {
            std::fs::write(path.join(name), &whole[..whole.len() - 1]).expect("room");
        }
        std::fs::write(path.join("a-4.2.part.concmon"), b"something else").expect("room");
        let written = File::open(path.join("a-3.1.part.concmon")).expect("a file");
        flock(&written, FlockOperation::NonBlockingLockExclusive).expect("a lock");
        let open = Folder::open(path).expect("a folder");
        let mut kept = Kept::new(Rc::clone(&open), 10 * bytes);
        assert_eq!(kept.bytes, 2 * bytes - 1);
        kept.add("a-5.concmon", dump(path, "a-5.concmon", "a", 1));
        kept.most_bytes = bytes;
        kept.fit();
        assert_eq!(
            names(path),
            ["a-3.1.part.concmon", "a-4.2.part.concmon", "a-5.concmon"]
        );
    }
}
