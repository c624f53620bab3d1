//! NDJSON: one object per line, with exactly the fields of the snapshot or the dump.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, Hash as _, Hasher as _};
use std::io::{self, Write};

use foldhash::fast::FixedState;
use serde::Serialize;
use serde_json::ser::{CharEscape, CompactFormatter, Formatter};

use super::escape::{escape, is_hostile};
use crate::schema::{Address, Kind, Snapshot, Task};

/// Writes one line and flushes.
///
/// # Errors
/// What the writer says; a closed pipe is [`io::ErrorKind::BrokenPipe`].
pub fn write<T: Serialize>(object: &T, out: &mut dyn Write) -> io::Result<()> {
    line(object, SafeFormatter, out)
}

/// As [`write`], for who shows the texts: in them, what is hostile has become visible, as on a terminal.
pub(super) fn write_shown<T: Serialize>(object: &T, out: &mut dyn Write) -> io::Result<()> {
    line(object, ShownFormatter, out)
}

/// The lines of a watch, one after the other. Whoever takes the tasks of each line over the ones that it knows, by
/// their ids, and drops those that have gone, has all of them at each line: of very many tasks, those that have not
/// changed since the snapshot before are only counted, between the first snapshot and the summary.
#[derive(Debug)]
pub struct Stream {
    all: bool,
    few: usize,
    known: HashMap<ProcessKey, KnownTasks>,
}

/// Each of so many tasks is told of in every snapshot.
const FEW_TASKS: usize = 256;

/// A process, and its start.
type ProcessKey = (u32, u64);

/// The tasks that the last snapshot has of a process: what each was like, and in whose loop.
type KnownTasks = HashMap<Address, (u64, u32)>;

impl Stream {
    /// `all`: every line has all tasks.
    pub fn new(all: bool) -> Self {
        Self {
            all,
            few: FEW_TASKS,
            known: HashMap::new(),
        }
    }

    /// Snapshots of at most so many tasks tell of each.
    #[must_use]
    pub fn with_few(self, few: usize) -> Self {
        Self { few, ..self }
    }

    /// Writes the next line and flushes.
    ///
    /// # Errors
    /// What the writer says; a closed pipe is [`io::ErrorKind::BrokenPipe`].
    pub fn write(&mut self, mut snapshot: Snapshot, out: &mut dyn Write) -> io::Result<()> {
        if snapshot.kind == Kind::Summary {
            return write(&snapshot, out);
        }
        let loops = snapshot.processes.iter().flat_map(|one| &one.loops);
        let is_whole = self.all || loops.map(|l| l.tasks.len()).sum::<usize>() <= self.few;
        let mut before = std::mem::take(&mut self.known);
        for process in &mut snapshot.processes {
            let key = (process.pid, process.start_unix_ns);
            let mut before = before.remove(&key).unwrap_or_default();
            let mut now = KnownTasks::new();
            for l in &mut process.loops {
                let all = l.tasks.len();
                l.tasks.retain(|task| {
                    let state = fingerprint(task);
                    now.insert(task.id, (state, l.tid));
                    let known = before.remove(&task.id);
                    is_whole || !is_idle(task) || known.is_none_or(|(known, _)| known != state)
                });
                l.tasks_unchanged = (all - l.tasks.len()) as u64;
            }
            for (id, (_, tid)) in before {
                let mut loops = process.loops.iter_mut();
                // With its loop a task is gone anyway.
                if let Some(l) = loops.find(|l| l.tid == tid) {
                    l.tasks_gone.push(id);
                }
            }
            process.loops.iter_mut().for_each(|l| l.tasks_gone.sort());
            self.known.insert(key, now);
        }
        write(&snapshot, out)
    }
}

/// It has cost nothing in the window, as far as samples tell.
fn is_idle(task: &Task) -> bool {
    let cost = task.cost.unwrap_or_default();
    cost.samples == 0 && cost.cost.total_ns() == 0
}

/// All of a task but its age and its cost.
fn fingerprint(task: &Task) -> u64 {
    let mut hasher = FixedState::default().build_hasher();
    (
        &task.name,
        &task.coroutine,
        task.state.name(),
        task.timeout_ns,
        // Another task may have its address.
        task.seen.map(|seen| seen.first_seen_unix_ns),
    )
        .hash(&mut hasher);
    for frame in &task.awaiting {
        (&frame.function, &frame.file, frame.line).hash(&mut hasher);
    }
    if let Some(wait) = &task.waits_for {
        let object = wait.object.map(|object| object.0);
        (&wait.kind, object, wait.since_unix_ns).hash(&mut hasher);
    }
    for awaiter in &task.awaited_by {
        awaiter.0.hash(&mut hasher);
    }
    let outcome = (task.cancel_requested, &task.exception, task.retrieved);
    (outcome, &task.context).hash(&mut hasher);
    hasher.finish()
}

fn line(object: &impl Serialize, formatter: impl Formatter, out: &mut dyn Write) -> io::Result<()> {
    // In one piece, so that a reader never sees half a line of a living writer.
    let mut line = Vec::with_capacity(16 * 1024);
    let mut serializer = serde_json::Serializer::with_formatter(&mut line, formatter);
    object.serialize(&mut serializer)?;
    line.push(b'\n');
    out.write_all(&line)?;
    out.flush()
}

/// Writes a part of a string, with `hostile` for each such character.
fn fragment<W: ?Sized + Write>(
    writer: &mut W,
    fragment: &str,
    hostile: impl Fn(&mut W, char) -> io::Result<()>,
) -> io::Result<()> {
    // Nearly every text is plain, and told at once.
    if fragment.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return writer.write_all(fragment.as_bytes());
    }
    let mut rest = fragment;
    while let Some((at, c)) = rest.char_indices().find(|(_, c)| is_hostile(*c)) {
        writer.write_all(&rest.as_bytes()[..at])?;
        hostile(writer, c)?;
        rest = &rest[at + c.len_utf8()..];
    }
    writer.write_all(rest.as_bytes())
}

/// Compact JSON that is safe to look at on a terminal: JSON leaves DEL, the C1 controls and
/// bidi overrides as they are; here they are `\u` escapes, which mean the same.
struct SafeFormatter;

impl Formatter for SafeFormatter {
    fn write_string_fragment<W>(&mut self, writer: &mut W, text: &str) -> io::Result<()>
    where
        W: ?Sized + Write,
    {
        fragment(writer, text, |writer, c| {
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
            Ok(())
        })
    }

    fn write_char_escape<W>(&mut self, writer: &mut W, char_escape: CharEscape) -> io::Result<()>
    where
        W: ?Sized + Write,
    {
        CompactFormatter.write_char_escape(writer, char_escape)
    }
}

/// Compact JSON with the texts of [`escape`] in place of those of targets.
struct ShownFormatter;

impl ShownFormatter {
    fn show<W: ?Sized + Write>(writer: &mut W, c: char) -> io::Result<()> {
        let shown = escape(c.encode_utf8(&mut [0; 4])).replace('\\', r"\\");
        writer.write_all(shown.as_bytes())
    }
}

impl Formatter for ShownFormatter {
    fn write_string_fragment<W>(&mut self, writer: &mut W, text: &str) -> io::Result<()>
    where
        W: ?Sized + Write,
    {
        fragment(writer, text, Self::show)
    }

    fn write_char_escape<W>(&mut self, writer: &mut W, char_escape: CharEscape) -> io::Result<()>
    where
        W: ?Sized + Write,
    {
        let c = match char_escape {
            CharEscape::Quote | CharEscape::Solidus => {
                return CompactFormatter.write_char_escape(writer, char_escape);
            }
            CharEscape::ReverseSolidus => '\\',
            CharEscape::Backspace => '\x08',
            CharEscape::FormFeed => '\x0c',
            CharEscape::LineFeed => '\n',
            CharEscape::CarriageReturn => '\r',
            CharEscape::Tab => '\t',
            CharEscape::AsciiControl(byte) => char::from(byte),
        };
        Self::show(writer, c)
    }
}
