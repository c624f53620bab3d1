//! `diff`: two captures, window by window, and what changed from one to the other.

use std::path::Path;

use super::export::unread;
use crate::session::{
    outcome::{Failure, code},
    output, printed, privileges,
};
use crate::{
    cli::{self, Options},
    source::replay::{Replay, Step},
    views::diff::{self, Rates},
};

pub(super) fn run(options: &Options, files: &cli::Diff) -> Result<u8, Failure> {
    let mut sink = output::open_beside(options, &[&files.before, &files.after])?;
    crate::session::settle_reader(privileges::CAPTURES, options.output.as_deref());
    let before = rates(options, &files.before, files)?;
    let after = rates(options, &files.after, files)?;
    let diff = diff::Diff::of(&before, &after);
    let written = if options.json {
        diff::write_json(&diff, &mut sink.writer)
    } else {
        diff::write_text(&diff, sink.form.paint, &mut sink.writer)
    };
    printed(written.and_then(|()| sink.writer.finish()))?;
    Ok(code::OK)
}

fn rates(options: &Options, path: &Path, files: &cli::Diff) -> Result<Rates, Failure> {
    let unread = unread(path);
    let mut replay = Replay::open(path)
        .map_err(&unread)?
        .granted(files.memory.budget_bytes);
    if options.redact {
        replay = replay.redacted();
    }
    let mut rates = Rates::new(&path.to_string_lossy());
    let summary = replay
        .run(&mut |step| {
            if let Step::Window(window) = step {
                rates.add(&window);
            }
        })
        .map_err(|error| unread(error.into()))?;
    rates.finish(&summary);
    Ok(rates)
}
