//! Debian packages of any suite, fetched and unpacked without touching the system's own apt.
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::workspace;

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const MIRROR: &str = "http://deb.debian.org/debian";
const SECURITY_MIRROR: &str = "http://deb.debian.org/debian-security";

/// An apt of its own: one folder with lists, cache and an empty package database.
pub(crate) struct Apt {
    dir: PathBuf,
}

impl Apt {
    /// Sets up `dir` for `suites` (those ending in `-security` come from the security mirror) and
    /// reads their package lists.
    pub(crate) fn open(dir: PathBuf, suites: &[&str]) -> Result<Self> {
        ensure!(
            Path::new(KEYRING).is_file(),
            "{KEYRING} does not exist: packages come from Debian's archive \
             (package debian-archive-keyring)"
        );
        for sub in [
            "lists/partial",
            "archives/partial",
            "etc/preferences.d",
            "log",
        ] {
            let path = dir.join(sub);
            fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
        }
        let mut sources = String::new();
        for suite in suites {
            let mirror = if suite.ends_with("-security") {
                SECURITY_MIRROR
            } else {
                MIRROR
            };
            sources += &format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n");
        }
        fs::write(dir.join("etc/sources.list"), sources)?;
        fs::write(dir.join("status"), "")?;
        let at = dir.display();
        // Dir::Etc::parts stays the system's: a proxy may be configured there.
        let config = format!(
            r#"Dir::State "{at}"; Dir::State::lists "{at}/lists"; Dir::State::status "{at}/status";
Dir::Cache "{at}"; Dir::Cache::archives "{at}/archives"; Dir::Log "{at}/log";
Dir::Etc::sourcelist "{at}/etc/sources.list"; Dir::Etc::sourceparts "-";
Dir::Etc::preferences "-"; Dir::Etc::preferencesparts "{at}/etc/preferences.d";
APT::Architecture "amd64"; APT::Architectures {{ "amd64"; }};
APT::Install-Recommends "false"; APT::Sandbox::User "";
Acquire::Languages "none"; Acquire::Check-Valid-Until "false"; Acquire::Retries "3";
"#
        );
        fs::write(dir.join("apt.conf"), config)?;
        let apt = Self { dir };
        workspace::output(apt.command("apt-get").args(["-q", "update"]))
            .with_context(|| format!("reading the package lists of {}", suites.join(", ")))?;
        Ok(apt)
    }

    /// Downloads `packages` with all they depend on and unpacks them into `root`; no maintainer
    /// script runs.
    pub(crate) fn unpack_with_dependencies(&self, packages: &[&str], root: &Path) -> Result<()> {
        workspace::output(
            self.command("apt-get")
                .args(["-q", "-y", "--download-only", "install"])
                .args(packages),
        )?;
        self.unpack(&self.dir.join("archives"), root)
    }

    /// Downloads the kernel that `linux-image-cloud-amd64` stands for and unpacks it into `root`.
    pub(crate) fn unpack_kernel(&self, root: &Path) -> Result<()> {
        let mut wanted = Vec::new();
        let mut open = vec!["linux-image-cloud-amd64".to_owned()];
        while let Some(package) = open.pop() {
            let depends = workspace::output(self.command("apt-cache").args(["depends", &package]))?;
            for name in depends
                .lines()
                .filter_map(|line| line.trim().strip_prefix("Depends: "))
            {
                let versioned = ["linux-image-", "linux-binary-"]
                    .iter()
                    .filter_map(|prefix| name.strip_prefix(prefix))
                    .any(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
                if versioned && !wanted.iter().any(|seen| seen == name) {
                    wanted.push(name.to_owned());
                    open.push(name.to_owned());
                }
            }
        }
        ensure!(
            !wanted.is_empty(),
            "linux-image-cloud-amd64 names no kernel"
        );
        let debs = self.dir.join("kernel");
        fs::create_dir_all(&debs)?;
        workspace::output(
            self.command("apt-get")
                .current_dir(&debs)
                .args(["-q", "download"])
                .args(&wanted),
        )?;
        self.unpack(&debs, root)
    }

    fn unpack(&self, debs: &Path, root: &Path) -> Result<()> {
        fs::create_dir_all(root)?;
        let mut paths: Vec<PathBuf> = fs::read_dir(debs)?
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<_>>()?;
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "deb"));
        ensure!(
            !paths.is_empty(),
            "nothing was downloaded into {}",
            debs.display()
        );
        // In order, so that base-files comes before those that rely on its links (`/lib`).
        paths.sort();
        for path in paths {
            workspace::output(Command::new("dpkg-deb").arg("-x").arg(&path).arg(root))?;
        }
        Ok(())
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("APT_CONFIG", self.dir.join("apt.conf"))
            .env("LC_ALL", "C");
        command
    }
}
