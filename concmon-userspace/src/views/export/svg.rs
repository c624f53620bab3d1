//! A flame graph as a picture, by `inferno`.

use std::io::{self, Write};

use inferno::flamegraph::{Options, TextTruncateDirection, from_lines};

use super::collapsed;
use super::stacks::{By, Stacks};

/// Writes the picture; widths are in ns.
///
/// # Errors
/// What the writer says; [`io::ErrorKind::InvalidInput`] when there is no such time.
pub(super) fn write(stacks: &Stacks, out: &mut dyn Write) -> io::Result<()> {
    let lines = collapsed::lines(stacks);
    if lines.is_empty() {
        let message = format!("there is no time by {}: nothing to draw", stacks.by.name());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    let mut options = Options::default();
    options.title = match stacks.by {
        By::OnCpu => "Time on a CPU",
        By::Gil => "Time blocked on the GIL",
        By::Lock => "Time blocked on locks",
        By::Io => "Time blocked on I/O",
        By::Wall => "All time of threads",
        By::Blame => "Time that others waited for the GIL or a lock, by who had it",
    }
    .to_owned();
    options.count_name = "ns".to_owned();
    options.hash = true;
    options.no_sort = true;
    options.text_truncate_direction = TextTruncateDirection::Right;
    from_lines(&mut options, lines.iter().map(String::as_str), &mut *out)
        .map_err(|error| io::Error::other(error.to_string()))
}
