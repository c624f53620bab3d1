//! `cargo xtask images`: records a memory image of each interpreter found here, for the tests of
//! the walkers.
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::iter;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, ensure};

use crate::pythons::{self, Python};
use crate::workspace;

const PROGRAM: &str = "tests/workloads/image.py";
const DIR: &str = "concmon-userspace/tests/images";

/// Record a memory image of each interpreter found, one per minor version
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only versions that begin with this, `3.12` say
    #[arg(long)]
    only: Option<String>,
}

/// Runs the command; fails when an interpreter could not be recorded.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    ensure!(
        workspace::is_root(),
        "reading other processes' memory needs root: run this through sudo (`sudo -E`)"
    );
    workspace::run(workspace::cargo().args([
        "build",
        "--package=concmon-userspace",
        "--example=record",
    ]))?;
    let record = workspace::target_dir()?.join("debug/examples/record");
    let dir = workspace::root().join(DIR);
    fs::create_dir_all(&dir)?;
    let mut failed = false;
    for (minor, python) in latest()? {
        let minor = format!("3.{minor}");
        if args
            .only
            .as_ref()
            .is_some_and(|only| !minor.starts_with(only.as_str()))
        {
            continue;
        }
        let file = dir.join(format!("{minor}.image"));
        match record_one(&record, &python, &file) {
            Ok(said) => println!("{minor:6} {said}"),
            Err(error) => {
                failed = true;
                println!("{minor:6} FAILED: {error:#}");
            }
        }
    }
    println!(
        "\n`INSTA_UPDATE=always cargo test -p concmon-userspace --test images` pins what they hold; \
         read the difference before committing it"
    );
    Ok(ExitCode::from(u8::from(failed)))
}

/// One interpreter of each minor version, the first one found.
fn latest() -> Result<BTreeMap<u32, Python>> {
    let mut found = BTreeMap::new();
    for python in pythons::all()? {
        if let Some(version) = python.version()
            && pythons::WANTED.contains(&version.minor)
            && !version.free_threaded
        {
            found.entry(version.minor).or_insert(python);
        }
    }
    Ok(found)
}

fn record_one(record: &Path, python: &Python, file: &Path) -> Result<String> {
    let source = fs::read_to_string(workspace::root().join(PROGRAM))?;
    let mut program = python
        .command()
        .args(["-I", "-c", &source])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {}", python.path().display()))?;
    let mut line = String::new();
    let said = BufReader::new(program.stdout.take().context("it has no output")?)
        .read_line(&mut line)
        .context("reading from the program")
        .and_then(|_| {
            ensure!(line.trim() == "ready", "the program said `{}`", line.trim());
            workspace::output(Command::new(record).arg(program.id().to_string()).arg(file))
        });
    drop(program.stdin.take());
    program.wait().context("waiting for the program")?;
    let said = said?;
    leave_out_folders(python, file)?;
    Ok(said.trim().to_owned())
}

/// Takes the names of folders of whoever records out of an image, where that is where the interpreter is.
fn leave_out_folders(python: &Python, file: &Path) -> Result<()> {
    let Some(home) = std::env::home_dir() else {
        return Ok(());
    };
    let path = python.path();
    let own = path.parent().and_then(Path::parent);
    let own = own.filter(|folder| folder.starts_with(&home));
    let mut image = fs::read(file)?;
    for (folder, neutral) in own
        .map(|folder| (folder, "/opt/python"))
        .into_iter()
        .chain([(home.as_path(), "/user")])
    {
        rename(&mut image, folder.as_os_str().as_encoded_bytes(), neutral);
    }
    fs::write(file, image)?;
    Ok(())
}

/// Gives a folder another name, as long as the old one: texts keep their lengths. None that is too short.
fn rename(image: &mut [u8], folder: &[u8], neutral: &str) {
    if folder.len() < neutral.len() {
        return;
    }
    let neutral: Vec<u8> = neutral
        .bytes()
        .chain(iter::repeat(b'_'))
        .take(folder.len())
        .collect();
    let mut at = 0;
    while let Some(rest) = image.get_mut(at..at + folder.len() + 1) {
        if rest.starts_with(folder) && rest.ends_with(b"/") {
            rest[..folder.len()].copy_from_slice(&neutral);
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_renamed_in_their_length() {
        let mut image = *b"\x0c/home/me/py/lib\0/home/men/x /home/me/.local/home/me";
        rename(&mut image, b"/home/me/py", "/opt/p");
        rename(&mut image, b"/home/me", "/user");
        rename(&mut image, b"/lib", "/too_long");
        assert_eq!(
            &image,
            b"\x0c/opt/p_____/lib\0/home/men/x /user___/.local/home/me"
        );
    }
}
