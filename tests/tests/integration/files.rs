//! The tool's own files, beside users who would like to read, steer or spoil them.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use concmon_tests::harness::{Skip, quiet};
use concmon_tests::interpreter::Interpreter;
use concmon_tests::needs::UNPRIVILEGED;
use concmon_tests::spawn::{Group, code};
use concmon_tests::watch::{PATIENCE, binary};
use concmon_tests::workload::Workload;
use libtest_mimic::Trial;

use crate::captures::{reports, run, text};
use crate::watch_python;

pub(crate) fn trials() -> Vec<Trial> {
    let needs = watch_python("3.11");
    vec![
        quiet("files::what_is_refused", &needs, what_is_refused),
        quiet("files::what_is_replaced", &needs, what_is_replaced),
        quiet("files::what_is_open", &needs, what_is_open),
        quiet("files::nobody_else_reads", &needs, nobody_else_reads),
        quiet("files::names_are_planted", &needs, names_are_planted),
        quiet("files::two_recorders", &needs, two_recorders),
        quiet("files::flight_recorders", &needs, flight_recorders),
        quiet("files::killed_at_any_moment", &needs, killed_at_any_moment),
        quiet("files::kept_dumps", &needs, kept_dumps),
        quiet("files::a_full_disk", &needs, a_full_disk),
    ]
}

/// A folder where everybody may make files, a target, and a capture of it.
struct Scene {
    /// Only root can look into it.
    home: tempfile::TempDir,
    shared: PathBuf,
    workload: Workload,
    capture: String,
}

impl Scene {
    fn new() -> Result<Self> {
        let home = tempfile::tempdir()?;
        let shared = home.path().join("shared");
        fs::create_dir(&shared)?;
        fs::set_permissions(&shared, Permissions::from_mode(0o1777))?;
        let workload = Workload::start(&Interpreter::find("3.11")?, "gil.py", &["2"])?;
        let capture = text(&home.path().join("capture.concmon"))?.to_owned();
        let pid = workload.pid().to_string();
        run(&["record", "-q", "-p", &pid, "-d", "500ms", "-o", &capture])?;
        Ok(Self {
            home,
            shared,
            workload,
            capture,
        })
    }

    /// Every command that writes a file, without the file: its name comes last.
    fn commands(&self) -> Vec<Vec<String>> {
        let pid = self.workload.pid().to_string();
        let capture = self.capture.as_str();
        [
            &["-p", &pid, "-d", "600ms", "-i", "200ms", "-o"][..],
            &["-p", &pid, "-d", "600ms", "--json", "-o"],
            &["record", "-q", "-p", &pid, "-d", "300ms", "-o"],
            &["report", "-i", capture, "-o"],
            &["report", "-i", capture, "--json", "-o"],
            &["report", "-i", capture, "--html"],
            &["export", "-i", capture, "-f", "perfetto", "-o"],
            &["export", "-i", capture, "-f", "svg", "-o"],
            &["diff", capture, capture, "-o"],
            &["dump", "-p", &pid, "-o"],
            &["tasks", "-p", &pid, "--json", "-o"],
        ]
        .iter()
        .map(|words| words.iter().map(|word| (*word).to_owned()).collect())
        .collect()
    }
}

fn records(command: &[String]) -> bool {
    command[0] == "record"
}

/// Runs a command to its end, which comes soon: the exit code, and what it said.
fn outcome(command: &mut Command) -> Result<(i32, String)> {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null());
    let mut child = Group::start(quiet.stderr(Stdio::piped()))?;
    let status = child.wait_for(PATIENCE)?;
    let mut said = String::new();
    let stderr = child.stderr.as_mut().context("no stderr")?;
    stderr.read_to_string(&mut said)?;
    Ok((code(status), said))
}

fn tool(words: &[String], file: &Path) -> Result<Command> {
    let mut command = Command::new(binary()?);
    command.args(words).arg(file);
    Ok(command)
}

/// What is in a folder: kind, owner, mode, length, inode by name.
fn listing(folder: &Path) -> Result<BTreeMap<String, (u32, u32, u64, u64)>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        // It may have got another name meanwhile.
        let Ok(file) = path.symlink_metadata() else {
            continue;
        };
        let row = (file.uid(), file.mode(), file.len(), file.ino());
        found.insert(text(&path)?.to_owned(), row);
    }
    Ok(found)
}

fn make_fifo(path: &Path) -> Result<()> {
    let made = Command::new("mkfifo").arg(path).status()?;
    ensure!(made.success(), "mkfifo: {made}");
    Ok(())
}

/// Whatever another user may have put in the place of a file is refused at once, and stays as it is.
fn what_is_refused() -> Result<()> {
    let scene = Scene::new()?;
    let secret = scene.home.path().join("secret");
    fs::write(&secret, "of root")?;
    fs::set_permissions(&secret, Permissions::from_mode(0o600))?;
    let before = listing(scene.home.path())?;
    let file = scene.shared.join("file");
    let plants: [(&str, &dyn Fn() -> Result<()>); 7] = [
        ("belongs to user 65534", &|| {
            fs::write(&file, "theirs")?;
            fs::set_permissions(&file, Permissions::from_mode(0o666))?;
            Ok(())
        }),
        ("symbolic link", &|| Ok(symlink(&secret, &file)?)),
        ("symbolic link", &|| {
            Ok(symlink(scene.home.path().join("none"), &file)?)
        }),
        ("symbolic link", &|| Ok(symlink("/dev/null", &file)?)),
        ("FIFO", &|| make_fifo(&file)),
        ("folder", &|| Ok(fs::create_dir(&file)?)),
        ("hard link", &|| Ok(fs::hard_link(&secret, &file)?)),
    ];
    for (words, plant) in plants {
        plant()?;
        if words != "hard link" {
            lchown(&file, Some(UNPRIVILEGED), Some(UNPRIVILEGED))?;
        }
        let planted = listing(&scene.shared)?;
        for command in scene.commands() {
            let (code, said) = outcome(&mut tool(&command, &file)?)?;
            ensure!(code == 1, "{words}: {command:?}: exit code {code}: {said}");
            ensure!(
                said.contains(words) && said.contains(text(&file)?) && said.lines().count() == 1,
                "{words}: {command:?}: {said}"
            );
            ensure!(
                listing(&scene.shared)? == planted,
                "{words}: {command:?} changed it"
            );
        }
        match file.symlink_metadata()?.is_dir() {
            true => fs::remove_dir(&file)?,
            false => fs::remove_file(&file)?,
        }
    }
    ensure!(
        listing(scene.home.path())? == before,
        "something else was changed"
    );
    ensure!(fs::read_to_string(&secret)? == "of root");
    // What is no capture is not put aside, and neither is one put over what is none.
    for (name, words) in [("file", "no capture"), ("file.old", "no capture")] {
        fs::write(scene.shared.join(name), "not a capture")?;
        let record = scene.commands().into_iter().find(|one| records(one));
        let record = record.context("nothing records")?;
        let planted = listing(&scene.shared)?;
        let (code, said) = outcome(&mut tool(&record, &file)?)?;
        ensure!(code == 1 && said.contains(words), "{name}: {code}: {said}");
        ensure!(listing(&scene.shared)? == planted, "{name} was changed");
        fs::remove_file(scene.shared.join(name))?;
    }
    Ok(())
}

/// An own file gives way to the new one when that is whole; a capture is put aside.
fn what_is_replaced() -> Result<()> {
    let scene = Scene::new()?;
    for command in scene.commands() {
        let folder = tempfile::tempdir_in(&scene.shared)?;
        let file = folder.path().join("file");
        for round in 0..3 {
            if round == 0 && !records(&command) {
                fs::write(&file, "old")?;
                fs::set_permissions(&file, Permissions::from_mode(0o644))?;
            }
            let old = file.metadata().ok().map(|file| file.ino());
            let (code, said) = outcome(&mut tool(&command, &file)?)?;
            ensure!(code == 0, "{command:?}: {code}: {said}");
            let new = file.metadata()?;
            ensure!(
                new.mode() & 0o7777 == 0o600 && new.len() > 10 && Some(new.ino()) != old,
                "{command:?}: {new:?}"
            );
            let mut names = vec![text(&file)?.to_owned()];
            if records(&command) && round > 0 {
                let aside = folder.path().join("file.old");
                ensure!(aside.metadata()?.ino() == old.context("no file")?);
                names.push(text(&aside)?.to_owned());
            }
            let there: Vec<String> = listing(folder.path())?.into_keys().collect();
            ensure!(there == names, "{command:?}: {there:?}");
        }
    }
    Ok(())
}

/// What was handed over open is written as it is.
fn what_is_open() -> Result<()> {
    let scene = Scene::new()?;
    let plain = run(&["report", "-i", &scene.capture])?;
    for name in ["-", "/dev/stdout", "/dev/fd/1"] {
        let said = run(&["report", "-i", &scene.capture, "-o", name])?;
        ensure!(said == plain, "{name} is not standard output");
    }
    let null = fs::symlink_metadata("/dev/null")?;
    for command in scene.commands() {
        let (code, said) = outcome(&mut tool(&command, Path::new("/dev/null"))?)?;
        ensure!(code == 0, "{command:?}: {code}: {said}");
    }
    let now = fs::symlink_metadata("/dev/null")?;
    ensure!((now.ino(), now.rdev()) == (null.ino(), null.rdev()));
    // A recording on standard output is a whole capture, with nothing between.
    let pid = scene.workload.pid().to_string();
    let capture = run(&["record", "-q", "-p", &pid, "-d", "300ms", "-o", "-"])?;
    let file = scene.shared.join("piped");
    fs::write(&file, capture)?;
    is_whole(&file)?;
    // Descriptors of the tool's own are nobody's output.
    // SAFETY: a system call without pointers; the number need not be open.
    let flags = |number: i32| unsafe { libc::fcntl(number, libc::F_GETFD) };
    let inherited = |number: i32| flags(number) >= 0 && flags(number) & libc::FD_CLOEXEC == 0;
    for number in (3..40).filter(|number| !inherited(*number)) {
        let name = format!("/dev/fd/{number}");
        let words = ["report", "-i", &scene.capture, "-o"].map(str::to_owned);
        let (code, said) = outcome(&mut tool(&words, Path::new(&name))?)?;
        ensure!(
            code == 2 && said.contains("not open"),
            "{name}: {code}: {said}"
        );
    }
    Ok(())
}

fn is_whole(file: &Path) -> Result<()> {
    let found = reports(&run(&["report", "--json", "-i", text(file)?])?)?;
    let report = found.last().context("no report")?;
    let broken = report.limits.iter().find(|limit| limit.field == "capture");
    ensure!(broken.is_none(), "{file:?}: {broken:?}");
    Ok(())
}

/// From the first look on, files can be read by the caller of sudo only, under whatever name.
fn nobody_else_reads() -> Result<()> {
    let scene = Scene::new()?;
    let pid = scene.workload.pid().to_string();
    let ring = [
        "record",
        "-q",
        "-p",
        &pid,
        "-d",
        "1s",
        "--ring",
        "9s",
        "--on-disk",
    ];
    let ring = ring.iter().chain(&["--ring-size", "1MB", "-o"]);
    let mut commands: Vec<(Vec<String>, &str)> = vec![(
        ring.map(|word| (*word).to_owned()).collect(),
        // The folder itself.
        "",
    )];
    commands.extend(scene.commands().into_iter().map(|one| (one, "file")));
    for (command, name) in commands {
        let folder = tempfile::tempdir_in(&scene.shared)?;
        fs::set_permissions(folder.path(), Permissions::from_mode(0o1777))?;
        let mut command = tool(&command, &folder.path().join(name))?;
        command
            .env("SUDO_UID", UNPRIVILEGED.to_string())
            .env("SUDO_GID", UNPRIVILEGED.to_string())
            .stdout(Stdio::null());
        let mut child = Group::start(&mut command)?;
        let deadline = Instant::now() + PATIENCE;
        let (mut seen, mut ended) = (0, None);
        while ended.is_none() {
            ensure!(Instant::now() < deadline, "{command:?} does not end");
            ended = child.try_wait()?;
            for (name, (uid, mode, length, _)) in listing(folder.path())? {
                // Before its first byte a file may still be root's.
                let ours = uid == UNPRIVILEGED || (uid == 0 && length == 0 && ended.is_none());
                ensure!(
                    ours && mode == libc::S_IFREG | 0o600,
                    "{command:?}: {name}: user {uid}, mode {mode:o}"
                );
                seen += usize::from(length > 0 && ended.is_none());
            }
        }
        ensure!(ended.is_some_and(|ended| ended.success()), "{command:?}");
        if ["record", "-p"]
            .map(Some)
            .contains(&command.get_args().next().and_then(|one| one.to_str()))
        {
            ensure!(seen > 0, "{command:?}: nothing was there while it ran");
        }
    }
    Ok(())
}

/// Links under the names that a flight recorder will choose get it to choose others.
fn names_are_planted() -> Result<()> {
    let scene = Scene::new()?;
    let secret = scene.home.path().join("secret");
    fs::write(&secret, "of root")?;
    let pid = scene.workload.pid();
    let date = Command::new("date").args(["-u", "+%s"]).output()?;
    let now: u64 = String::from_utf8(date.stdout)?.trim().parse()?;
    for second in now..now + 90 {
        let at = format!("@{second}");
        let stamp = Command::new("date")
            .args(["-u", "-d", &at, "+%Y%m%dT%H%M%SZ"])
            .output()?;
        let stamp = String::from_utf8(stamp.stdout)?;
        let name = format!("gil.py-{pid}-{}-interrupt.concmon", stamp.trim());
        symlink(&secret, scene.shared.join(name))?;
    }
    let planted = listing(&scene.shared)?;
    let pid = pid.to_string();
    let mut recorder = flight(&scene.shared, &["-p", &pid])?;
    std::thread::sleep(Duration::from_secs(3));
    recorder.signal(libc::SIGINT);
    ensure!(recorder.wait_for(PATIENCE)?.success());
    let mut now = listing(&scene.shared)?;
    now.retain(|name, row| planted.get(name) != Some(row));
    let dumps: Vec<String> = now.into_keys().collect();
    let [dump] = &dumps[..] else {
        bail!("{} files: {dumps:?}", dumps.len());
    };
    ensure!(dump.ends_with("Z-2-interrupt.concmon"), "{dump}");
    is_whole(Path::new(dump))?;
    ensure!(fs::read_to_string(&secret)? == "of root");
    Ok(())
}

fn flight(folder: &Path, more: &[&str]) -> Result<Group> {
    let mut command = Command::new(binary()?);
    command
        .args(["record", "-q", "-i", "250ms", "--ring", "10s", "-o"])
        .arg(folder)
        .args(more)
        .stdout(Stdio::null());
    Group::start(&mut command)
}

/// Of two recorders that want one file one gets it, or one after the other: never both at a time.
fn two_recorders() -> Result<()> {
    let scene = Scene::new()?;
    let pid = scene.workload.pid().to_string();
    let file = scene.shared.join("file");
    let mut refused = 0;
    for round in 0..8 {
        let start = || {
            let mut command = Command::new(binary()?);
            command
                .args(["record", "-q", "-p", &pid, "-d", "700ms", "-o"])
                .arg(&file)
                .stdout(Stdio::null())
                .stderr(Stdio::piped());
            Group::start(&mut command)
        };
        let recorders = [start()?, start()?];
        let mut good = 0;
        for mut recorder in recorders {
            let status = code(recorder.wait_for(PATIENCE)?);
            let mut said = String::new();
            recorder
                .stderr
                .as_mut()
                .context("no stderr")?
                .read_to_string(&mut said)?;
            match status {
                0 => good += 1,
                1 => ensure!(
                    said.contains("another concmon-bpf"),
                    "round {round}: {said}"
                ),
                other => bail!("round {round}: exit code {other}: {said}"),
            }
        }
        ensure!(good >= 1, "round {round}: both were refused");
        refused += 2 - good;
        let there: Vec<String> = listing(&scene.shared)?.into_keys().collect();
        ensure!(
            there.len() >= good && there.len() <= 2,
            "round {round}: {there:?}"
        );
        for name in there {
            is_whole(Path::new(&name))?;
        }
    }
    ensure!(refused > 0, "they never met");
    Ok(())
}

/// Flight recorders of one process in one folder that write at the same instant.
fn flight_recorders() -> Result<()> {
    let scene = Scene::new()?;
    let pid = scene.workload.pid().to_string();
    let more = ["--on-disk", "--ring-size", "1MB", "-p", &pid];
    let mut recorders = Vec::new();
    for _ in 0..3 {
        recorders.push(flight(&scene.shared, &more)?);
    }
    let deadline = Instant::now() + PATIENCE;
    while listing(&scene.shared)?.len() < 3 {
        ensure!(Instant::now() < deadline, "they do not begin");
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_secs(2));
    for recorder in &recorders {
        recorder.signal(libc::SIGINT);
    }
    for mut recorder in recorders {
        ensure!(recorder.wait_for(PATIENCE)?.success());
    }
    let there: Vec<String> = listing(&scene.shared)?.into_keys().collect();
    ensure!(there.len() == 3, "{there:?}");
    for name in there {
        ensure!(name.ends_with("-interrupt.concmon"), "{name}");
        is_whole(Path::new(&name))?;
    }
    Ok(())
}

/// Whatever a SIGKILL leaves behind can be read, and is no larger than what was recorded.
/// `CONCMON_KILLS` says how often it is tried.
fn killed_at_any_moment() -> Result<()> {
    const SIDE_BY_SIDE: u64 = 4;
    /// The ring, and the rest of its last frame.
    const MOST_BYTES: u64 = 1 << 20;
    let kills = std::env::var("CONCMON_KILLS").ok();
    let kills: u64 = kills.map_or(Ok(60), |kills| kills.parse())?;
    let home = tempfile::tempdir()?;
    let home = home.path();
    // They leave the CPUs to the recorders.
    let program = "import time\nwhile True: time.sleep(0.0005)";
    let python = Interpreter::find("3.11")?;
    let target = || Group::start(python.command().args(["-c", program]));
    let targets = [target()?, target()?];
    let pids = targets.each_ref().map(|target| target.id().to_string());
    let one = |kill: u64| -> Result<usize> {
        let folder = tempfile::tempdir_in(home)?;
        let file = folder.path().join("file");
        let pid = &pids[(kill / 4 % 2) as usize];
        let mut command = Command::new(binary()?);
        command.args(["record", "-q", "-i", "100ms", "-p", pid]);
        match kill % 2 {
            0 => command.arg("-o").arg(&file),
            _ => command
                .args(["--ring", "10s", "--ring-size", "1MB", "--on-disk", "-o"])
                .arg(folder.path()),
        };
        let mut recorder = Group::start(command.stdout(Stdio::null()))?;
        // One in five while it begins, the others from the instant on that there is a file, in an
        // order that repeats late; with a dump on the way in half of the flight recorders.
        let deadline = Instant::now() + PATIENCE;
        let begun = || -> Result<bool> { Ok(fs::read_dir(folder.path())?.next().is_some()) };
        while !kill.is_multiple_of(5) && !begun()? {
            ensure!(Instant::now() < deadline, "the recorder does not begin");
            std::thread::sleep(Duration::from_micros(500));
        }
        std::thread::sleep(Duration::from_micros(kill * 75_701 % 500_000));
        if kill % 4 == 3 && begun()? {
            recorder.signal(libc::SIGUSR2);
            std::thread::sleep(Duration::from_micros(kill * 31_013 % 60_000));
        }
        recorder.signal(libc::SIGKILL);
        recorder.wait_for(PATIENCE)?;
        let mut there = listing(folder.path())?;
        // One that was killed before it wrote a byte leaves nothing to read, but under the name asked for.
        there.retain(|name, (.., length, _)| *length > 0 || Path::new(name) == file);
        for (name, (.., length, _)) in &there {
            let read = run(&["report", "--json", "-i", name]);
            let read = read.with_context(|| format!("kill {kill}, {length} bytes"))?;
            reports(&read).with_context(|| format!("kill {kill}: {name}"))?;
            ensure!(
                *length <= MOST_BYTES,
                "kill {kill}: {name} has {length} bytes"
            );
        }
        Ok(there.len())
    };
    let worker = |at: u64| -> Result<usize> {
        let mine = (0..kills).filter(|kill| kill % SIDE_BY_SIDE == at);
        mine.map(one).sum()
    };
    let left: usize = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..SIDE_BY_SIDE)
            .map(|at| scope.spawn(move || worker(at)))
            .collect();
        let joined = workers.into_iter().map(|worker| match worker.join() {
            Ok(left) => left,
            Err(_) => bail!("a worker has panicked"),
        });
        joined.sum::<Result<usize>>()
    })?;
    ensure!(
        left as u64 > kills / 2,
        "only {left} files of {kills} kills"
    );
    Ok(())
}

/// `--keep` counts and deletes what its own recorder has written whole, and nothing that only looks so.
fn kept_dumps() -> Result<()> {
    let scene = Scene::new()?;
    let pid = scene.workload.pid().to_string();
    let dumped = |more: &[&str]| -> Result<String> {
        let before = listing(&scene.shared)?;
        let mut recorder = flight(&scene.shared, &[&["-p", &pid], more].concat())?;
        std::thread::sleep(Duration::from_secs(2));
        recorder.signal(libc::SIGINT);
        ensure!(recorder.wait_for(PATIENCE)?.success());
        let new = listing(&scene.shared)?.into_keys();
        let mut new = new.filter(|name| !before.contains_key(name));
        new.next().context("no dump")
    };
    let first = dumped(&[])?;
    let whole = fs::read(&first)?;
    let decoy = |number: u32, content: &[u8]| -> Result<PathBuf> {
        // Older by its name than all others.
        let name = format!("gil.py-{number}-20200101T000000Z-stall.concmon");
        let path = scene.shared.join(name);
        fs::write(&path, content)?;
        Ok(path)
    };
    decoy(1, &fs::read(&scene.capture)?)?;
    decoy(2, b"")?;
    decoy(3, b"some notes")?;
    decoy(4, &whole[..whole.len() - 1])?;
    let theirs = decoy(5, &whole)?;
    lchown(&theirs, Some(UNPRIVILEGED), Some(UNPRIVILEGED))?;
    let elsewhere = scene.home.path().join("elsewhere");
    fs::write(&elsewhere, &whole)?;
    symlink(
        &elsewhere,
        scene.shared.join("gil.py-6-20200101T000000Z-stall.concmon"),
    )?;
    fs::hard_link(
        &elsewhere,
        scene.shared.join("gil.py-7-20200101T000000Z-stall.concmon"),
    )?;
    make_fifo(&scene.shared.join("gil.py-8-20200101T000000Z-stall.concmon"))?;
    fs::write(
        scene
            .shared
            .join("gil.pyx-9-20200101T000000Z-stall.concmon"),
        &whole,
    )?;
    let mut decoys = listing(&scene.shared)?;
    decoys.remove(&first);
    ensure!(decoys.len() == 9);
    for _ in 0..2 {
        let newest = dumped(&["--keep", "1"])?;
        let mut there = listing(&scene.shared)?;
        ensure!(there.remove(&newest).is_some());
        ensure!(there == decoys, "{there:?} is not {decoys:?}");
    }
    ensure!(fs::read(&elsewhere)? == whole);
    // A copy of an old dump counts, for it is one.
    fs::remove_file(decoy(4, &whole)?)?;
    let copy = decoy(4, &whole)?;
    dumped(&["--keep", "1"])?;
    ensure!(!copy.exists(), "it was not deleted");
    Ok(())
}

/// A file system in memory, for the time of a test.
struct Disk(PathBuf);

impl Disk {
    fn mount(folder: PathBuf, size: &str) -> Result<Self> {
        fs::create_dir(&folder)?;
        let size = format!("size={size}");
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(&folder);
        let (code, said) = outcome(&mut mount)?;
        if code != 0 {
            return Err(Skip(format!("cannot mount a small file system: {said}")).into());
        }
        Ok(Self(folder))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(&self.0).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("{:?} stays mounted", self.0);
        }
    }
}

/// On a full disk nothing is left of what could not be written, and what was there stays.
fn a_full_disk() -> Result<()> {
    let scene = Scene::new()?;
    let disk = Disk::mount(scene.home.path().join("disk"), "256k")?;
    let file = disk.0.join("file");
    let fill = || -> Result<()> {
        use std::io::Write as _;
        let mut filler = File::create(disk.0.join("filler"))?;
        while filler.write(&[1; 4096]).is_ok_and(|count| count > 0) {}
        Ok(())
    };
    for command in scene.commands() {
        for was_there in [false, true] {
            if was_there {
                match records(&command) {
                    true => drop(fs::copy(&scene.capture, &file)?),
                    false => fs::write(&file, "old")?,
                }
            }
            fill()?;
            let before = listing(&disk.0)?;
            let (code, said) = outcome(&mut tool(&command, &file)?)?;
            let what = format!("{command:?}, {was_there}: exit code {code}: {said}");
            ensure!(code == 1, "{what}");
            ensure!(
                said.contains("No space left") && said.contains(text(&file)?),
                "{what}"
            );
            ensure!(!said.contains("is whole"), "{what}");
            ensure!(
                listing(&disk.0)? == before,
                "{what}: {:?}",
                listing(&disk.0)?
            );
            fs::remove_file(disk.0.join("filler"))?;
            let _ = fs::remove_file(&file);
        }
    }
    let pid = scene.workload.pid().to_string();
    // There is room for some of the ring.
    let more = ["-p", &pid, "--on-disk"];
    let mut recorder = flight(&disk.0, &more)?;
    ensure!(code(recorder.wait_for(PATIENCE)?) == 1);
    ensure!(listing(&disk.0)?.is_empty(), "{:?}", listing(&disk.0)?);
    // There is none for a dump.
    fill()?;
    let before = listing(&disk.0)?;
    let mut recorder = flight(&disk.0, &["-p", &pid])?;
    std::thread::sleep(Duration::from_secs(2));
    recorder.signal(libc::SIGINT);
    ensure!(code(recorder.wait_for(PATIENCE)?) == 1);
    ensure!(listing(&disk.0)? == before, "{:?}", listing(&disk.0)?);
    Ok(())
}
