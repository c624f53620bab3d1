//! Finds interpreters on the machine and runs programs with them.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use concmon::event::Pid;

const START_TIMEOUT: Duration = Duration::from_secs(60);

/// An interpreter to test with.
#[derive(Clone, Debug)]
pub(crate) struct Python {
    pub(crate) minor: u8,
    command: Vec<String>,
}

impl Python {
    /// Runs a program; it gets a standard input that stays open as long as the [`Program`] lives.
    pub(crate) fn run(&self, source: &str) -> Program {
        let mut command = self.command.clone();
        command.extend(["-c".to_owned(), source.to_owned()]);
        Program::start(&command)
    }

    pub(crate) fn label(&self) -> String {
        self.command.join(" ")
    }

    /// The executable, when it is one of this root directory.
    #[allow(dead_code, reason = "not every test binary asks")]
    pub(crate) fn executable(&self) -> Option<&str> {
        (self.command.len() == 1).then(|| self.command[0].as_str())
    }
}

/// How often a program is started that seems to be written to, and how long to wait between.
const BUSY: (u32, Duration) = (100, Duration::from_millis(20));

/// Starts a program, which may have just been copied: until its exec, what another test starts
/// meanwhile has the copy open for writing, too.
fn spawn(command: &[String]) -> std::io::Result<Child> {
    let start = || {
        Command::new(&command[0])
            .args(&command[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
    };
    for _ in 0..BUSY.0 {
        match start() {
            Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => {
                std::thread::sleep(BUSY.1);
            }
            started => return started,
        }
    }
    start()
}

/// A running program; killed when dropped.
pub(crate) struct Program {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Program {
    pub(crate) fn start(command: &[String]) -> Self {
        let mut child = spawn(command).unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let stdout = child.stdout.take().expect("it is piped");
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self { child, lines }
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid(self.child.id())
    }

    /// Writes a line to its standard input.
    #[allow(dead_code, reason = "not every test binary speaks to its programs")]
    pub(crate) fn say(&mut self, line: &str) {
        let stdin = self.child.stdin.as_mut().expect("it is piped");
        writeln!(stdin, "{line}").expect("the program listens");
    }

    /// The next line of its standard output.
    pub(crate) fn line(&self) -> String {
        self.lines
            .recv_timeout(START_TIMEOUT)
            .expect("the program says something")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The interpreters of the given minor versions: those of pyenv, those of the system, and those
/// in the root directory that `CONCMON_TEST_ROOT` names. Missing versions are said aloud.
pub(crate) fn pythons(minors: std::ops::RangeInclusive<u8>) -> Vec<Python> {
    let mut found = Vec::new();
    let mut seen = HashSet::new();
    let mut add = |path: PathBuf, command: Vec<String>| {
        if let Some(minor) = minor_of(&path)
            && minors.contains(&minor)
            && seen.insert(std::fs::canonicalize(&path).unwrap_or(path))
        {
            found.push(Python { minor, command });
        }
    };
    let pyenv = std::env::var_os("PYENV_ROOT")
        .map(PathBuf::from)
        .or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".pyenv")));
    let mut folders = vec![PathBuf::from("/usr/bin"), PathBuf::from("/usr/local/bin")];
    if let Some(versions) = pyenv.and_then(|root| std::fs::read_dir(root.join("versions")).ok()) {
        folders.extend(versions.flatten().map(|version| version.path().join("bin")));
    }
    folders.sort();
    for folder in folders {
        for minor in 6..=15 {
            let path = folder.join(format!("python3.{minor}"));
            let command = vec![path.display().to_string()];
            add(path, command);
        }
    }
    let root = std::env::var("CONCMON_TEST_ROOT").ok();
    if let Some(root) = &root {
        for minor in 6..=15 {
            let name = format!("python3.{minor}");
            let command = vec!["chroot".to_owned(), root.clone(), name.clone()];
            add(Path::new(root).join("usr/bin").join(name), command);
        }
    }
    for minor in minors {
        if !found.iter().any(|python| python.minor == minor) {
            eprintln!(
                "skipped: Python 3.{minor}: no such interpreter (pyenv, /usr/bin, /usr/local/bin, \
                 CONCMON_TEST_ROOT={root:?})"
            );
        }
    }
    found
}

/// Two of the oldest, the middle and the newest of these versions, in turn; all of them where that is asked for.
pub(crate) fn in_turn(minors: &[u8], turn: usize) -> Vec<u8> {
    let is_all = std::env::var_os("CONCMON_TESTS_PYTHONS").is_some();
    match minors {
        [first, middle @ .., last] if !is_all && !middle.is_empty() => {
            let mut some = vec![*first, minors[minors.len() / 2], *last];
            some.remove(turn % some.len());
            some
        }
        _ => minors.to_vec(),
    }
}

/// For what hardly differs between versions: an interpreter of each of two, as [`in_turn`] says.
#[allow(dead_code, reason = "not every test binary asks")]
pub(crate) fn pythons_in_turn(turn: usize) -> Vec<Python> {
    let mut found = pythons(8..=15);
    found.sort_by_key(|python| python.minor);
    found.dedup_by_key(|python| python.minor);
    let minors: Vec<u8> = found.iter().map(|python| python.minor).collect();
    let some = in_turn(&minors, turn);
    found.retain(|python| some.contains(&python.minor));
    found
}

fn minor_of(path: &Path) -> Option<u8> {
    path.exists().then_some(())?;
    path.file_name()?
        .to_str()?
        .strip_prefix("python3.")?
        .parse()
        .ok()
}
