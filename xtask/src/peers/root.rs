//! Debian sid's interpreters with their own tests, in a folder that is a root directory for them.
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use super::Version;
use crate::apt::Apt;
use crate::{pythons, workspace};

const FILES: [(&str, &str); 4] = [
    // The name by which Python imports it in place of its own.
    ("_remote_debugging.py", include_str!("stand_in.py")),
    ("run_tests.py", include_str!("run_tests.py")),
    ("programs.py", include_str!("programs.py")),
    ("stacks.py", include_str!("stacks.py")),
];
/// In the folder of a run; what lies beside it is found before Python's own modules.
const STAND_IN: &str = "stand-in";

/// The folder with interpreters, and one in it for this run.
pub(super) struct Root {
    dir: PathBuf,
    run: TempDir,
}

impl Root {
    /// Makes ready what [`fetch`] has given.
    pub(super) fn open(dir: PathBuf, monitor: &Path) -> Result<Self> {
        pythons::mount_proc(&dir)?;
        let run = tempfile::tempdir_in(dir.join("tmp"))?;
        let stand_in = run.path().join(STAND_IN);
        fs::create_dir(&stand_in)?;
        for (name, text) in FILES {
            let folder = if name.starts_with('_') {
                &stand_in
            } else {
                run.path()
            };
            fs::write(folder.join(name), text)?;
        }
        fs::write(run.path().join("looks"), "")?;
        fs::copy(monitor, run.path().join("concmon-bpf"))?;
        Ok(Self { dir, run })
    }

    /// A command that runs an interpreter with one of the files; with `stands_in`, `_remote_debugging` is concmon.
    pub(super) fn python(&self, version: Version, stands_in: bool) -> Command {
        let mut command = Command::new("chroot");
        command
            .arg(&self.dir)
            .arg(format!("/usr/bin/python3.{version}"));
        // What this user has set for Python is not for these.
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        if stands_in {
            command.env("PYTHONPATH", self.inside(STAND_IN));
            command.env("CONCMON_BPF", self.inside("concmon-bpf"));
            command.env("CONCMON_LOOKS", self.inside("looks"));
        }
        command
    }

    /// How often concmon was asked.
    pub(super) fn looks(&self) -> Result<u64> {
        Ok(fs::metadata(self.run.path().join("looks"))?.len())
    }

    /// A file of this run, as interpreters see it.
    pub(super) fn inside(&self, name: &str) -> PathBuf {
        let path = self.run.path().join(name);
        let inside = path.strip_prefix(&self.dir).unwrap_or(&path);
        Path::new("/").join(inside)
    }
}

/// Fetches what is not there; an error says why it cannot be had.
pub(super) fn fetch(versions: &[Version]) -> Result<PathBuf> {
    let cache = workspace::cache_dir()?.join("peers");
    let dir = cache.join("root");
    let there = |dir: &Path| {
        let tests = |version| {
            dir.join(format!(
                "usr/lib/python3.{version}/test/test_external_inspection.py"
            ))
        };
        versions.iter().all(|version| tests(version).is_file())
    };
    if there(&dir) {
        return Ok(dir);
    }
    ensure!(
        !dir.exists(),
        "{} is not whole; unmount what is below it, and remove it",
        dir.display()
    );
    ensure!(
        workspace::in_path("apt-get").is_some(),
        "there is no apt-get to fetch Debian's packages with"
    );
    fs::create_dir_all(&cache)?;
    let staging = tempfile::tempdir_in(&cache)?;
    let apt = Apt::open(staging.path().join("apt"), &["sid"])?;
    let mut packages = vec!["base-files".to_owned()];
    for version in versions {
        packages.push(format!("python3.{version}"));
        packages.push(format!("libpython3.{version}-testsuite"));
    }
    let packages: Vec<&str> = packages.iter().map(String::as_str).collect();
    let root = staging.path().join("root");
    apt.unpack_with_dependencies(&packages, &root)?;
    for folder in ["dev", "proc", "tmp"] {
        fs::create_dir_all(root.join(folder))?;
    }
    // The tests connect to it by name, and discard output.
    fs::write(root.join("etc/hosts"), "127.0.0.1 localhost\n")?;
    let null = root.join("dev/null");
    workspace::run(
        Command::new("mknod")
            .arg("-m666")
            .arg(null)
            .args(["c", "1", "3"]),
    )?;
    ensure!(
        there(&root),
        "the packages hold no test_external_inspection"
    );
    fs::rename(&root, &dir).with_context(|| format!("moving it to {}", dir.display()))?;
    Ok(dir)
}
