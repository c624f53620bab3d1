//! Collapsed stacks: `process;thread;outermost;...;innermost ns`.

use std::io::{self, Write};

use super::stacks::{Frame, Stack, Stacks};

/// Writes one line per stack, sorted.
pub(super) fn write(stacks: &Stacks, out: &mut dyn Write) -> io::Result<()> {
    for line in lines(stacks) {
        writeln!(out, "{line}")?;
    }
    Ok(())
}

/// The lines.
pub(super) fn lines(stacks: &Stacks) -> Vec<String> {
    let mut lines = std::collections::BTreeMap::<String, u64>::new();
    for stack in &stacks.stacks {
        *lines.entry(path(stacks, stack)).or_default() += stack.ns;
    }
    lines
        .into_iter()
        .map(|(path, ns)| format!("{path} {ns}"))
        .collect()
}

fn path(stacks: &Stacks, stack: &Stack) -> String {
    let mut path = match stacks.threads.get(&stack.thread) {
        Some(name) => format!(
            "{} {};{} {}",
            plain(&name.process),
            name.pid,
            plain(&name.thread),
            name.tid
        ),
        None => "process;thread".to_owned(),
    };
    for frame in &stack.frames {
        path.push(';');
        path.push_str(&label(frame));
    }
    path
}

/// `function (file:line)`, as py-spy writes it.
fn label(frame: &Frame) -> String {
    let function = plain(&frame.function);
    let file = frame.file.rsplit('/').next().unwrap_or(&frame.file);
    match (file, frame.line) {
        // Readers take a number behind a space for a count.
        ("", _) if function.ends_with(|c: char| c.is_ascii_digit() || c == '.') => {
            function.replace(' ', "_")
        }
        ("", _) => function,
        (file, 0) => format!("{function} ({})", plain(file)),
        (file, line) => format!("{function} ({}:{line})", plain(file)),
    }
}

/// Without what has a meaning in the format: semicolons part frames, and a line that begins with `#` is
/// a comment.
fn plain(text: &str) -> String {
    let plain = text.replace(';', "_");
    match plain.strip_prefix('#') {
        Some(rest) => format!("_{rest}"),
        None => plain,
    }
}
