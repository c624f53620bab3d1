//! What is refused and what is replaced, and that nothing is written around these files.

use std::{
    ffi::OsStr,
    fs::{self, read_to_string},
    io::{ErrorKind, Write as _},
    os::unix::fs::{MetadataExt as _, symlink},
    path::{Path, PathBuf},
    rc::Rc,
};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use tempfile::TempDir;

use super::{FileError, Folder, NewFile, Recording, Target};
use crate::{
    capture::{Filters, Reader, Store as _},
    event::Pid,
    model::WatchInfo,
    session::intake,
};

fn folder() -> (TempDir, Rc<Folder>) {
    let temporary = tempfile::tempdir().expect("a folder");
    let folder = Folder::open(temporary.path()).expect("a folder");
    (temporary, folder)
}

fn new(folder: &Rc<Folder>, content: &str) -> NewFile {
    let new = NewFile::make(folder, OsStr::new("new"), "part").expect("a file");
    new.file().write_all(content.as_bytes()).expect("room");
    new
}

/// A file of the same owner.
fn put(folder: &Rc<Folder>, name: &str, content: &str) {
    let mut file = new(folder, content);
    file.rename(OsStr::new(name), None).expect("a free name");
}

fn names(folder: &Folder) -> Vec<String> {
    let names = folder.names(1_000).expect("a folder");
    let names = names.into_iter().filter_map(|name| name.into_string().ok());
    let mut names: Vec<String> = names
        .filter(|name| ![".", ".."].contains(&&name[..]))
        .collect();
    names.sort();
    names
}

#[test]
fn a_new_file_is_private_and_goes_away() {
    let (path, folder) = folder();
    let file = new(&folder, "x");
    let there = names(&folder);
    assert!(
        there.len() == 1 && there[0].starts_with("new."),
        "{there:?}"
    );
    let metadata = path.path().join(&there[0]).metadata().expect("a file");
    assert_eq!(metadata.mode() & 0o7777, 0o600);
    assert_eq!(metadata.uid(), folder.owner());
    drop(file);
    assert!(names(&folder).is_empty());
    let long = "n".repeat(255);
    drop(NewFile::make(&folder, OsStr::new(&long), "part.concmon").expect("a file"));
}

#[test]
fn names_that_are_taken_are_numbered() {
    let (path, folder) = folder();
    symlink("nowhere", path.path().join("f-1")).expect("a link");
    for number in 2..4 {
        let name = new(&folder, "x").rename_to_free(|number| format!("f-{number}"));
        assert_eq!(name.expect("a name"), format!("f-{number}"));
    }
    assert_eq!(names(&folder), ["f-1", "f-2", "f-3"]);
}

#[test]
fn what_was_looked_at_is_replaced_and_nothing_else() {
    let (path, folder) = folder();
    let target = OsStr::new("target");
    let read = || read_to_string(path.path().join(target)).expect("a file");
    put(&folder, "target", "first");
    let found = folder.find(target).expect("a folder").expect("a file");
    // Somebody puts another file there meanwhile.
    put(&folder, "other", "another");
    fs::rename(path.path().join("other"), path.path().join(target)).expect("a file");
    let mut file = new(&folder, "second");
    let error = file
        .rename(target, Some(&found))
        .expect_err("it is another");
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert_eq!((read().as_str(), names(&folder).len()), ("another", 2));
    let error = file.rename(target, None).expect_err("it is there");
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    let found = folder.find(target).expect("a folder").expect("a file");
    file.rename(target, Some(&found)).expect("it is that one");
    drop(file);
    assert_eq!(read(), "second");
    assert_eq!(names(&folder), ["target"]);
    // It has gone meanwhile.
    let found = folder.find(target).expect("a folder").expect("a file");
    folder.remove(target).expect("a file");
    let mut file = new(&folder, "third");
    file.rename(target, Some(&found)).expect("a free name");
    assert_eq!(read(), "third");
}

#[test]
fn a_file_system_that_knows_links_only_keeps_what_is_there() {
    let (_path, folder) = folder();
    put(&folder, "there", "x");
    put(&folder, "from", "y");
    let (from, there) = (OsStr::new("from"), OsStr::new("there"));
    let error = folder
        .link_to_nothing(from, there)
        .expect_err("it is there");
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    folder
        .link_to_nothing(from, OsStr::new("to"))
        .expect("a free name");
    assert_eq!(names(&folder), ["there", "to"]);
    assert!(folder.is_private().expect("a folder"));
}

#[test]
fn what_is_no_ordinary_file_is_refused() {
    let (path, folder) = folder();
    let file = |name: &str| path.path().join(name);
    put(&folder, "target", "x");
    fs::hard_link(file("target"), file("hard")).expect("a link");
    symlink("target", file("link")).expect("a link");
    symlink("nowhere", file("dangling")).expect("a link");
    fs::create_dir(file("folder")).expect("a folder");
    mknodat(CWD, file("fifo"), FileType::Fifo, Mode::RWXU, 0).expect("a FIFO");
    let before = names(&folder);
    for (name, words) in [
        ("hard", "hard link"),
        ("link", "symbolic link"),
        ("dangling", "symbolic link"),
        ("folder", "is a folder"),
        ("folder/", "names no file"),
        ("folder/..", "names no file"),
        ("fifo", "is a FIFO"),
        ("target/x", "cannot write"),
        ("none/x", "cannot write"),
    ] {
        let target = Target::of(&file(name)).expect_err(name).to_string();
        assert!(target.contains(words) && target.contains(name), "{target}");
        let record = Recording::new(Some(&file(name)), "x").expect_err(name);
        assert!(record.message.contains(words), "{}", record.message);
    }
    let line = file("a\nb");
    symlink("target", &line).expect("a link");
    let error = Target::of(&line).expect_err("a link").to_string();
    assert!(error.contains("a\\nb"), "{error}");
    fs::remove_file(&line).expect("a link");
    assert_eq!(names(&folder), before);
}

#[test]
fn a_report_that_is_not_ended_leaves_the_old_one() {
    let (path, folder) = folder();
    let file = path.path().join("report");
    for (content, ends) in [("one", true), ("two", false), ("three", true)] {
        let mut out = Target::of(&file)
            .expect("a place")
            .create()
            .expect("a file");
        out.write_all(content.as_bytes()).expect("room");
        let there = names(&folder);
        assert!(
            there
                .iter()
                .any(|name| name.starts_with("report.") && name.ends_with(".part"))
        );
        match ends {
            true => out.finish().expect("a file"),
            false => drop(out),
        }
        let now = read_to_string(&file).expect("a file");
        assert_eq!(now, if ends { content } else { "one" });
        assert_eq!(names(&folder), ["report"]);
    }
}

fn recording(path: &Path) -> Result<Recording, String> {
    let info = WatchInfo {
        version: "0".into(),
        start_ns: 1,
        start_unix_ns: 1,
        start_boottime_ns: 1,
        targets: vec![Pid(1)],
        stall_threshold_ns: None,
        knows_causes: true,
        place: crate::event::PlaceFact::default(),
        http: Default::default(),
    };
    let mut recording = Recording::new(Some(path), "x").map_err(|failure| failure.message)?;
    let header = intake::header(&info, Filters::default());
    recording
        .begin(&header)
        .map_err(|error| error.to_string())?;
    Ok(recording)
}

#[test]
fn a_recording_is_one_recorders() {
    let (path, folder) = folder();
    let file = path.path().join("f");
    let first = recording(&file).expect("a free name");
    assert_eq!(names(&folder), ["f"]);
    Reader::open(&file).expect("it can be read at once");
    let busy = FileError::Busy(file.to_string_lossy().into_owned()).to_string();
    assert_eq!(recording(&file).expect_err("it is written"), busy);
    assert_eq!(
        Target::of(&file).expect_err("it is written").to_string(),
        busy
    );
    drop(first);
    drop(recording(&file).expect("it is written no more"));
    assert_eq!(names(&folder), ["f", "f.old"]);
    let inode = |name: &str| {
        path.path()
            .join(name)
            .metadata()
            .map(|file| file.ino())
            .ok()
    };
    let newer = inode("f");
    let third = recording(&file).expect("both are captures");
    assert_eq!(
        (names(&folder), inode("f.old")),
        (vec!["f".into(), "f.old".into()], newer)
    );
    drop(third);
    // Neither is moved where the other is none.
    for name in ["f", "f.old"] {
        folder.remove(OsStr::new(name)).expect("a file");
        put(&folder, name, "something else");
        let refused = recording(&file).expect_err(name);
        assert!(refused.contains("no capture"), "{refused}");
        folder.remove(OsStr::new(name)).expect("a file");
        drop(recording(&path.path().join(name)).expect("a free name"));
    }
}

#[test]
fn two_that_find_a_place_free_do_not_share_it() {
    let (path, folder) = folder();
    let file = path.path().join("f");
    let looked = [1, 2].map(|_| Recording::new(Some(&file), "x").expect("a free name"));
    let begun = recording(&file).expect("a free name");
    let header = intake::header(
        &WatchInfo {
            version: "0".into(),
            start_ns: 1,
            start_unix_ns: 1,
            start_boottime_ns: 1,
            targets: Vec::new(),
            stall_threshold_ns: None,
            knows_causes: true,
            place: crate::event::PlaceFact::default(),
            http: Default::default(),
        },
        Filters::default(),
    );
    for mut late in looked {
        let error = late.begin(&header).expect_err("it is written").to_string();
        assert!(error.contains("another concmon-bpf"), "{error}");
    }
    assert_eq!(names(&folder), ["f"]);
    drop(begun);
}

/// Sources of the tool, without what only tests do.
fn sources(folder: &Path, found: &mut Vec<(PathBuf, String)>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|suffix| suffix == "rs") {
            let text = read_to_string(&path).expect("a source");
            let end = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
            found.push((path, text[..end].to_owned()));
        }
    }
}

#[test]
fn nothing_is_written_around_these_files() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    sources(&root, &mut found);
    assert!(found.len() > 100);
    let words = [
        "File::create",
        ".write(true)",
        ".append(true)",
        ".create_new(",
        "fs::write(",
        "fs::rename(",
        "fs::copy(",
    ];
    for (path, text) in found {
        let apart = path.starts_with(root.join("session/files")) || path.ends_with("tests.rs");
        let word = words.iter().find(|word| text.contains(**word));
        assert!(apart || word.is_none(), "{}: {word:?}", path.display());
    }
}
