//! What hands type anyway: `concmon-bpf 4242`, `dump 4242`, `report FILE`, `help dump`; and tips that
//! fit what cannot be meant.

use std::ffi::{OsStr, OsString};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, CommandFactory};

use super::Cli;

/// From here on two words are taken for the same one, mistyped.
const SIMILAR: f64 = 0.8;

/// What other tools call it, and what it is here.
const ELSEWHERE: [(&str, &str); 8] = [
    ("top", "the live view: concmon-bpf --pid PID"),
    ("live", "the live view: concmon-bpf --pid PID"),
    ("watch", "the live view: concmon-bpf --pid PID"),
    ("attach", "the live view: concmon-bpf --pid PID"),
    ("run", "to start a program: concmon-bpf -- python app.py"),
    ("ps", "tasks of one process: concmon-bpf tasks -p PID"),
    ("pstree", "tasks as a tree: concmon-bpf tasks -p PID --tree"),
    ("version", "concmon-bpf --version"),
];

/// A command line as it is meant, and the subcommand that it names.
pub(super) struct Meant {
    pub(super) words: Vec<OsString>,
    subcommand: Option<String>,
}

/// Gives words the options that they stand for: a number is `--pid` and any word `--input` where there
/// is such an option, and `help` is `--help`.
pub(super) fn meant(typed: impl IntoIterator<Item = OsString>) -> Meant {
    let mut root = Cli::command();
    // Only then the subcommands have the global options.
    root.build();
    let mut command = &root;
    let mut typed = typed.into_iter();
    let mut words: Vec<OsString> = typed.next().into_iter().collect();
    let mut subcommand = None;
    while let Some(word) = typed.next() {
        let text = word.to_str().unwrap_or_default();
        if text == "--" {
            words.push(word);
            break;
        }
        if text.len() > 1 && text.starts_with('-') {
            let takes_next = takes_next(command, text);
            words.push(word);
            words.extend(takes_next.then(|| typed.next()).flatten());
        } else if let (None, Some(named)) = (&subcommand, root.find_subcommand(text)) {
            subcommand = Some(text.to_owned());
            command = named;
            words.push(word);
        } else if subcommand.is_none() && text == "help" {
            // Of a subcommand, if one is named.
            words.extend(typed.next());
            words.push("--help".into());
            subcommand = Some(text.to_owned());
        } else {
            words.push(as_option(command, word));
        }
    }
    words.extend(typed);
    Meant { words, subcommand }
}

/// Whether the value of an option is the next word.
fn takes_next(command: &Command, text: &str) -> bool {
    if let Some(name) = text.strip_prefix("--") {
        let takes = |arg: &clap::Arg| arg.get_long() == Some(name) && takes_values(arg);
        return command.get_arguments().any(takes);
    }
    // Of several in one word, what stands behind the first that takes a value is its value.
    let mut letters = text.chars().skip(1);
    while let Some(letter) = letters.next() {
        let takes = |arg: &clap::Arg| arg.get_short() == Some(letter) && takes_values(arg);
        if command.get_arguments().any(takes) {
            return letters.next().is_none();
        }
    }
    false
}

fn takes_values(arg: &clap::Arg) -> bool {
    arg.get_action().takes_values()
}

fn as_option(command: &Command, word: OsString) -> OsString {
    let has = |long: &str| has(command, long);
    let is_number = word
        .to_str()
        .is_some_and(|text| text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty());
    let option = match is_number {
        true if has("pid") => "--pid=",
        _ if has("input") => "--input=",
        _ => return word,
    };
    let mut meant = OsString::from(option);
    meant.push(word);
    meant
}

fn has(command: &Command, long: &str) -> bool {
    command
        .get_arguments()
        .any(|arg| arg.get_long() == Some(long))
}

impl Meant {
    /// Adds to an error what may have been meant.
    pub(super) fn advise(&self, mut error: clap::Error) -> clap::Error {
        let text = |kind| match error.get(kind) {
            Some(ContextValue::String(text)) => Some(text.clone()),
            _ => None,
        };
        let stray = text(ContextKind::InvalidArg).unwrap_or_default();
        let value = text(ContextKind::InvalidValue).unwrap_or_default();
        let tips = match error.kind() {
            ErrorKind::UnknownArgument if !stray.starts_with('-') => self.of_a_word(&stray),
            ErrorKind::UnknownArgument => {
                // It would be told to put `--` before it, which starts a program here.
                error.remove(ContextKind::Suggested);
                of_others(&stray)
            }
            ErrorKind::ValueValidation if stray.starts_with("--pid") => of_a_name(&value),
            _ => return error,
        };
        if !tips.is_empty() {
            let tips = tips.into_iter().map(Into::into).collect();
            error.insert(ContextKind::Suggested, ContextValue::StyledStrs(tips));
        }
        error
    }

    /// Where no word is expected.
    fn of_a_word(&self, word: &str) -> Vec<String> {
        let start = |before: &str| {
            let shown = shown(self.words.iter().skip_while(|typed| *typed != word));
            format!("to start a program, put `--` before it: concmon-bpf {before}-- {shown}")
        };
        match self.subcommand.as_deref() {
            Some("dump" | "tasks" | "doctor") => of_a_name(word),
            Some("record") => vec![start("record ")],
            Some("help") => similar(word).into_iter().collect(),
            Some(_) => Vec::new(),
            None => {
                if let Some((_, here)) = ELSEWHERE.iter().find(|(name, _)| *name == word) {
                    return vec![(*here).to_owned()];
                }
                vec![similar(word).unwrap_or_else(|| start(""))]
            }
        }
    }
}

/// Where the id of a process is expected.
fn of_a_name(word: &str) -> Vec<String> {
    let is_name = word.chars().any(char::is_alphabetic);
    let tip = match has(&Cli::command(), "name") {
        _ if !is_name => return Vec::new(),
        true => format!("to find processes by their names: --name {word}"),
        false => format!("a process is named by its id, which `pgrep -f {word}` tells"),
    };
    vec![tip]
}

/// The subcommand that may have been meant.
fn similar(word: &str) -> Option<String> {
    let command = Cli::command();
    let names = command.get_subcommands().map(Command::get_name);
    let near = names.map(|name| (strsim::jaro(name, word), name));
    let best = near.max_by(|a, b| a.0.total_cmp(&b.0))?;
    (best.0 >= SIMILAR).then(|| format!("a similar subcommand exists: {}", best.1))
}

/// Which subcommands have an option that this one has not.
fn of_others(option: &str) -> Vec<String> {
    let Some(long) = option.strip_prefix("--") else {
        return Vec::new();
    };
    let command = Cli::command();
    let having = command.get_subcommands().filter(|one| has(one, long));
    let names: Vec<_> = having.map(Command::get_name).collect();
    match names.is_empty() {
        true => Vec::new(),
        false => vec![format!("{option} is an option of: {}", names.join(", "))],
    }
}

/// Words for a tip: not more than fit.
fn shown<'a>(words: impl Iterator<Item = &'a OsString>) -> String {
    const MOST: usize = 60;
    let words: Vec<_> = words.map(|word| OsStr::to_string_lossy(word)).collect();
    let mut text = words.join(" ");
    if let Some((end, _)) = text.char_indices().nth(MOST) {
        text.truncate(end);
        text.push_str("...");
    }
    text
}
