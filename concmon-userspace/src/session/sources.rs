//! Lines of source for the live view, read by a thread of its own: a file system may never answer.

use std::{
    cell::RefCell,
    collections::HashMap,
    fs::File,
    io::{BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, Sender, channel},
};

use crate::{
    event::Pid,
    procfs::{now, root},
    views::screen,
};

/// Lines that are kept, and looked for at one time.
const MAX_LINES: usize = 4_096;
/// Bytes of a file up to the line.
const MAX_FILE_BYTES: u64 = 8 << 20;
/// Bytes of a line.
const MAX_LINE_BYTES: usize = 400;

/// A line of a file as a process sees it.
type Place = (u32, String, u32);
/// Once it was looked for: `None` where it cannot be read.
type Line = Option<String>;
/// The two ends to the thread that reads.
type Reader = (Sender<Place>, Receiver<(Place, Line)>);

/// What was read so far, and the thread that reads.
#[derive(Debug, Default)]
pub(crate) struct Sources(RefCell<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// `None`: it is being looked for.
    lines: HashMap<Place, Option<Line>>,
    /// Begun with the first line; `None` within: there is no thread.
    thread: Option<Option<Reader>>,
}

impl screen::Sources for Sources {
    /// What is not known is looked for, and there at one of the next times.
    fn line(&self, pid: u32, file: &str, line: u32) -> Option<String> {
        let mut inner = self.0.borrow_mut();
        let Inner { lines, thread } = &mut *inner;
        let (wanted, found) = thread.get_or_insert_with(begin).as_ref()?;
        for (place, line) in found.try_iter() {
            lines.insert(place, Some(line));
        }
        let place = (pid, file.to_owned(), line);
        if let Some(line) = lines.get(&place) {
            return line.clone().flatten();
        }
        if lines.len() >= MAX_LINES {
            lines.clear();
        }
        lines.insert(place.clone(), None);
        let _ = wanted.send(place);
        None
    }
}

fn begin() -> Option<Reader> {
    let (wanted, places) = channel::<Place>();
    let (lines, found) = channel();
    let read_all = move || {
        for place in places {
            let line = read(&place);
            if lines.send((place, line)).is_err() {
                break;
            }
        }
    };
    let thread = std::thread::Builder::new().name("sources".to_owned());
    thread.spawn(read_all).ok()?;
    Some((wanted, found))
}

fn read((pid, file, line): &Place) -> Line {
    let path = absolute(*pid, file)?;
    let file = root::open(Pid(*pid), &path).ok()?;
    nth(file, *line)
}

/// A relative name is so from where the process works; `<string>` and its like are none.
fn absolute(pid: u32, file: &str) -> Option<PathBuf> {
    let path = Path::new(file);
    if path.is_absolute() {
        return Some(path.to_owned());
    }
    if file.starts_with('<') {
        return None;
    }
    Some(now::folder(Pid(pid))?.join(path))
}

fn nth(file: File, number: u32) -> Line {
    let mut reader = BufReader::new(file.take(MAX_FILE_BYTES));
    let mut text = Vec::new();
    for _ in 0..number {
        text.clear();
        if reader.read_until(b'\n', &mut text).ok()? == 0 {
            return None;
        }
    }
    text.truncate(MAX_LINE_BYTES);
    Some(String::from_utf8_lossy(&text).trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use screen::Sources as _;

    #[test]
    fn lines_come_when_they_were_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.py");
        std::fs::write(&path, "first\n  second\nthird").unwrap();
        let sources = Sources::default();
        let own = std::process::id();
        let name = path.to_str().unwrap();
        let wait = |file: &str, line| {
            let deadline = Instant::now() + Duration::from_secs(2);
            loop {
                let found = sources.line(own, file, line);
                let looked = sources.0.borrow().lines[&(own, file.to_owned(), line)].is_some();
                if looked || Instant::now() > deadline {
                    return sources.line(own, file, line).or(found);
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        assert_eq!(wait(name, 2).as_deref(), Some("  second"));
        assert_eq!(wait(name, 3).as_deref(), Some("third"));
        assert_eq!(wait(name, 4), None);
        assert_eq!(wait("<string>", 1), None);
        assert_eq!(wait("/nowhere/at/all.py", 1), None);
    }
}
