//! What holds for the repository as text: imports run downwards, files are small, nothing is left to do.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Lines of a file that people read.
const MAX_LINES: usize = 900;
/// Such files, by the end of their names.
const READ: [&str; 5] = ["rs", "py", "c", "md", "toml"];
/// Folders in which nothing was written by hand.
const SKIPPED: [&str; 3] = ["target", ".git", "prebuilt"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn files_below(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let entry = entry.expect("an entry");
        let path = entry.path();
        let name = entry.file_name();
        if entry.file_type().expect("a type").is_dir() {
            if !SKIPPED.iter().any(|skipped| name == *skipped) {
                files_below(&path, found);
            }
        } else if path
            .extension()
            .is_some_and(|end| READ.iter().any(|read| end == *read))
        {
            found.push(path);
        }
    }
}

fn files(folder: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    files_below(&root().join(folder), &mut found);
    found.sort();
    assert!(!found.is_empty());
    let named = found.into_iter().map(|path| {
        let text = fs::read_to_string(&path).expect("text");
        let name = path.strip_prefix(root()).expect("below the root");
        (name.display().to_string(), text)
    });
    named.collect()
}

/// Modules of the library with their floors, from the ground up, as its documentation draws them.
fn floors() -> BTreeMap<String, usize> {
    let text = fs::read_to_string(root().join("concmon-userspace/src/lib.rs")).expect("lib.rs");
    let drawn = text
        .split("//! # Floors")
        .nth(1)
        .expect("a section about floors");
    let drawn = drawn.split("```").nth(1).expect("a drawing");
    let lines: Vec<&str> = drawn.lines().filter(|line| line.len() > 3).collect();
    let mut floors = BTreeMap::new();
    for (height, line) in lines.iter().rev().enumerate() {
        for name in line.trim_start_matches("//!").split('·') {
            floors.insert(name.trim().to_owned(), height);
        }
    }
    floors
}

/// The modules that a text names behind `crate::`, also in braces.
fn named(text: &str) -> Vec<String> {
    let word = |text: &str| -> String {
        text.chars()
            .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
            .collect()
    };
    let mut found = Vec::new();
    for rest in text.split("crate::").skip(1) {
        let Some(list) = rest.strip_prefix('{') else {
            found.push(word(rest));
            continue;
        };
        let mut depth = 0;
        let mut begins = true;
        for (at, c) in list.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => begins = true,
                c if c.is_whitespace() => {}
                _ if begins => {
                    found.push(word(&list[at..]));
                    begins = false;
                }
                _ => {}
            }
        }
    }
    found
}

#[test]
fn imports_run_downwards() {
    let floors = floors();
    let mut checked = 0;
    for (path, text) in files("concmon-userspace/src") {
        let module = path.trim_start_matches("concmon-userspace/src/");
        let module = module.split(['/', '.']).next().expect("a name");
        if ["lib", "main", "testing", "demo"].contains(&module) {
            continue;
        }
        let height = floors.get(module);
        let height = height.unwrap_or_else(|| panic!("{path}: {module} stands on no floor"));
        for name in named(&text) {
            // `$crate::` of macros aside; test support is everybody's.
            if name == module || name == "testing" || name.is_empty() {
                continue;
            }
            let below = floors.get(&name).is_some_and(|other| other < height);
            assert!(below, "{path}: {name} is not below {module}");
            checked += 1;
        }
    }
    assert!(checked > 50, "{checked} imports were found");
}

/// Paths below `/proc` stand in `procfs` alone; tests may name what they like.
#[test]
fn proc_is_read_in_one_place() {
    let mut inside = 0;
    for (path, text) in files("concmon-userspace/src") {
        let named = text.split("#[cfg(test)]").next().expect("a part");
        let named = named.matches("\"/proc/").count();
        if path.contains("/procfs/") {
            inside += named;
        } else if !path.ends_with("tests.rs") {
            assert_eq!(named, 0, "{path} names a path below /proc");
        }
    }
    assert!(inside > 10, "{inside} paths were found");
}

#[test]
fn names_in_braces_are_found() {
    let text = "use crate::{\n    event::{Pid, Tid},\n    model::Model,\n};\nfn f(of: crate::kernel::Of) {}";
    assert_eq!(named(text), ["event", "model", "kernel"]);
}

#[test]
fn files_are_small() {
    for (path, text) in files("") {
        let lines = text.lines().count();
        assert!(lines <= MAX_LINES, "{path} has {lines} lines");
    }
}

/// The first line of a file says what is in it.
#[test]
fn files_say_what_they_are() {
    for (path, text) in files("").iter().filter(|(path, _)| path.ends_with(".rs")) {
        assert!(text.starts_with("//!") || text.starts_with("#!["), "{path}");
    }
}

#[test]
fn nothing_is_left_to_do() {
    let words = ["todo", "unimplemented"].map(|word| format!("{word}!("));
    for (path, text) in files("") {
        for word in &words {
            assert!(!text.contains(word), "{path} has {word}");
        }
    }
}

#[test]
fn the_readme_names_both_commands_first() {
    let text = fs::read_to_string(root().join("README.md")).expect("a README");
    let screen: Vec<&str> = text.lines().take(24).collect();
    for command in ["cargo xtask demo", "cargo xtask test"] {
        assert!(
            screen.iter().any(|line| line.contains(command)),
            "{command}"
        );
    }
}
