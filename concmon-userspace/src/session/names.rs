//! What the tool's files are called: by program, process and time.

use std::{ffi::OsString, path::Path};

use crate::{
    procfs::{self, clocks::Clocks, entry::entry_of},
    schema::Process,
    views::recording,
};

/// The program that a process runs; with `redacted` nothing of its command line is told.
pub(crate) fn of_pid(pid: u32, redacted: bool) -> String {
    match procfs::program(pid) {
        Ok((name, entry)) => program(entry.as_deref().filter(|_| !redacted), &name),
        Err(_) => "unknown".to_owned(),
    }
}

/// The program that a command line starts.
pub(crate) fn of_command(command: &[OsString], redacted: bool) -> String {
    let words: Vec<String> = command
        .iter()
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let entry = entry_of(&words).filter(|_| !redacted);
    let name = words.first().map_or("unknown", String::as_str);
    program(entry.as_deref(), name)
}

/// The program of a process in a report.
pub(crate) fn of_process(process: &Process) -> String {
    program(process.entry.as_deref(), &process.name)
}

/// A service of the agent.
pub(crate) fn of_service(service: &str) -> String {
    program(None, service)
}

/// What names of files begin with: `PROGRAM-PID-TIME`, with the time now.
pub(crate) fn stem(program: &str, pid: u32) -> String {
    format!(
        "{program}-{pid}-{}",
        recording::stamp(Clocks::now().unix_ns)
    )
}

/// Of a script or module the last part, else the name of the process; letters, digits, `.` and `_`.
fn program(entry: Option<&str>, process: &str) -> String {
    let module = entry.map(|entry| entry.strip_prefix("-m ").unwrap_or(entry));
    // Code that stands in the command line or comes from a terminal has no name.
    let name = module.filter(|name| !name.starts_with(['-', '<']));
    let path = Path::new(name.unwrap_or(process));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || ['.', '_'].contains(&c);
    let mut text: String = name
        .chars()
        .take(40)
        .map(|c| if plain(c) { c } else { '_' })
        .collect();
    if text.is_empty() || text.starts_with('.') {
        text.insert(0, '_');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_named_by_what_they_run() {
        for (entry, name) in [
            (Some("/srv/shop/app.py"), "app.py"),
            (Some("-m uvicorn"), "uvicorn"),
            (Some("-c"), "python3.12"),
            (Some("<stdin>"), "python3.12"),
            (None, "python3.12"),
            (Some("/srv/..."), "_..."),
            (Some("/srv/"), "srv"),
            (Some("/"), "_"),
            (Some("my shop!"), "my_shop_"),
        ] {
            assert_eq!(program(entry, "python3.12"), name, "{entry:?}");
        }
    }

    #[test]
    fn programs_are_known_before_they_run() {
        for (line, redacted, name) in [
            ("/usr/bin/python3 -u /srv/app.py --secret", false, "app.py"),
            ("/usr/bin/python3 -u /srv/app.py --secret", true, "python3"),
            ("./worker -x", false, "worker"),
            ("", false, "_"),
        ] {
            let command: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            assert_eq!(of_command(&command, redacted), name, "{line}");
        }
        assert_ne!(of_pid(std::process::id(), false), "unknown");
    }
}
