//! `cargo xtask guests`: runs concmon-bpf on other kernels, each in a guest without hardware
//! virtualisation.
//!
//! Everything a guest consists of (kernels, qemu, Python) comes from Debian's archive, is unpacked
//! into the cache folder and needs neither root nor an installed package. The guest's root is an
//! initial ram file system; no driver is needed.
mod cpio;
mod machine;
mod verdict;

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::apt::Apt;
use crate::tools;
use crate::workspace;
use machine::{Outcome, Qemu};

/// Kernel series, and the suites that hold its newest package.
const KERNELS: [(&str, &[&str]); 5] = [
    ("5.10", &["bullseye", "bullseye-security"]),
    ("6.1", &["bookworm", "bookworm-security"]),
    ("6.12", &["trixie", "trixie-security"]),
    ("7.2", &["sid"]),
    ("7.3", &["trixie-backports"]),
];
/// Where qemu and the guest's Python come from. Older qemu corrupts guests now and then.
const BASE_SUITES: [&str; 2] = ["trixie", "trixie-security"];
const INIT: &[u8] = include_bytes!("init.sh");
const WORKLOAD: &[u8] = include_bytes!("workload.py");
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Boot other kernels in qemu and watch a Python program there
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Which kernel series: 5.10, 6.1, 6.12, 7.2 or 7.3
    #[arg(long, value_delimiter = ',', default_values = ["5.10", "6.1", "6.12"])]
    kernels: Vec<String>,
    /// A statically linked concmon-bpf; without it one is built
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Build with optimizations
    #[arg(long)]
    release: bool,
    /// Seconds that one boot may take
    #[arg(long, default_value_t = 180)]
    timeout: u64,
    /// Also print what concmon-bpf printed
    #[arg(long)]
    show: bool,
}

/// Runs the command; fails when any kernel does.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let mut chosen = Vec::new();
    for name in &args.kernels {
        let Some(kernel) = KERNELS.iter().find(|(series, _)| series == name) else {
            bail!("there is no kernel `{name}`; see --help");
        };
        chosen.push(kernel);
    }
    let binary = match &args.binary {
        Some(binary) => binary.clone(),
        None => build(args.release)?,
    };
    let cache = workspace::cache_dir()?.join("guests");
    let qemu = Qemu {
        root: provide(&cache, "qemu", &BASE_SUITES, |apt, root| {
            apt.unpack_with_dependencies(&["qemu-system-x86"], root)
        })?,
    };
    let root = provide(&cache, "python", &BASE_SUITES, |apt, root| {
        apt.unpack_with_dependencies(&["base-files", "busybox-static", "python3"], root)
    })?;
    let work = tempfile::tempdir().context("creating a temporary folder")?;
    let initrd = work.path().join("initrd");
    write_initrd(&initrd, &root, &binary)?;

    let mut rows = Vec::new();
    for (series, suites) in chosen {
        let kernel = provide(
            &cache,
            &format!("linux-{series}"),
            suites,
            Apt::unpack_kernel,
        )
        .and_then(|root| find_vmlinuz(&root));
        let row = match kernel {
            Ok(kernel) => watch(&qemu, series, &kernel, &initrd, work.path(), args)?,
            Err(error) => Row::failed(series, format!("no kernel: {error:#}")),
        };
        rows.push(row);
    }
    print_table(&rows);
    Ok(
        if rows
            .iter()
            .all(|row| row.loaded && row.closed && row.exact && row.requests)
        {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        },
    )
}

/// The folder `name` of the cache, filled at first use.
fn provide(
    cache: &Path,
    name: &str,
    suites: &[&str],
    fill: impl FnOnce(&Apt, &Path) -> Result<()>,
) -> Result<PathBuf> {
    let root = cache.join(name);
    if root.is_dir() {
        return Ok(root);
    }
    println!("{name}: fetching from {}", suites.join(", "));
    fs::create_dir_all(cache).with_context(|| format!("creating {}", cache.display()))?;
    let staging = tempfile::tempdir_in(cache)?;
    let apt = Apt::open(staging.path().join("apt"), suites)?;
    let unpacked = staging.path().join("root");
    fill(&apt, &unpacked).with_context(|| format!("fetching {name}"))?;
    fs::rename(&unpacked, &root).with_context(|| format!("moving it to {}", root.display()))?;
    Ok(root)
}

/// Up to 6.12 packages keep it in `boot`, later ones beside the modules.
fn find_vmlinuz(root: &Path) -> Result<PathBuf> {
    let mut dirs = vec![root.join("boot")];
    if let Ok(modules) = fs::read_dir(root.join("usr/lib/modules")) {
        dirs.extend(modules.flatten().map(|entry| entry.path()));
    }
    dirs.iter()
        .filter_map(|dir| fs::read_dir(dir).ok())
        .flat_map(|entries| entries.flatten())
        .find(|entry| entry.file_name().to_string_lossy().starts_with("vmlinuz"))
        .map(|entry| entry.path())
        .with_context(|| format!("no vmlinuz below {}", root.display()))
}

/// A static concmon-bpf, which depends on nothing in the guest.
fn build(release: bool) -> Result<PathBuf> {
    let target_dir = workspace::target_dir()?.join("guests");
    let mut cargo = workspace::cargo();
    tools::without_build_settings(&mut cargo)
        .args(["build", "--package=concmon-userspace", "--bin=concmon-bpf"])
        .args(["--target", TARGET])
        .args(["--config", r#"profile.dev.debug="line-tables-only""#])
        .arg("--target-dir")
        .arg(&target_dir)
        .args(release.then_some("--release"))
        .env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static");
    workspace::run(&mut cargo)?;
    let profile = if release { "release" } else { "debug" };
    Ok(target_dir.join(TARGET).join(profile).join("concmon-bpf"))
}

fn write_initrd(path: &Path, root: &Path, binary: &Path) -> Result<()> {
    let binary = fs::read(binary).with_context(|| format!("reading {}", binary.display()))?;
    let mut archive = cpio::Archive::new(BufWriter::new(File::create(path)?));
    let useless = |name: &Path| {
        ["usr/share", "var", "proc", "sys", "dev", "tmp"]
            .iter()
            .any(|dir| name == Path::new(dir))
    };
    archive.add_tree(root, &useless)?;
    for dir in ["proc", "sys", "dev", "tmp"] {
        archive.add_dir(dir)?;
    }
    archive.add_file("init", true, INIT)?;
    archive.add_file("workload.py", false, WORKLOAD)?;
    archive.add_file("concmon-bpf", true, &binary)?;
    archive.finish()?;
    Ok(())
}

struct Row {
    series: String,
    kernel: String,
    loaded: bool,
    closed: bool,
    /// Tasks were counted by probes.
    exact: bool,
    /// Requests were seen, or it was said why not.
    requests: bool,
    causes: String,
    notes: Vec<String>,
}

impl Row {
    fn failed(series: &str, note: String) -> Self {
        Self {
            series: series.to_owned(),
            kernel: "-".to_owned(),
            loaded: false,
            closed: false,
            exact: false,
            requests: false,
            causes: "-".to_owned(),
            notes: vec![note],
        }
    }
}

/// Boots one kernel, a second time where the first boot did not come to its end, and judges.
fn watch(
    qemu: &Qemu,
    series: &str,
    kernel: &Path,
    initrd: &Path,
    work: &Path,
    args: &Args,
) -> Result<Row> {
    println!("{series}: booting {}", kernel.display());
    let timeout = Duration::from_secs(args.timeout);
    let mut notes = Vec::new();
    let boot = |attempt: u32| {
        let dir = work.join(format!("{series}-{attempt}"));
        fs::create_dir_all(&dir)?;
        qemu.boot(kernel, initrd, &dir, timeout)
    };
    let outcome = match boot(1) {
        Ok(outcome) => outcome,
        Err(error) => {
            println!("{series}: first boot failed, trying once more: {error:#}");
            notes.push("first boot failed, second counted".to_owned());
            match boot(2) {
                Ok(outcome) => outcome,
                Err(error) => {
                    println!("{series}: second boot failed: {error:#}");
                    return Ok(Row::failed(
                        series,
                        "both boots failed, see above".to_owned(),
                    ));
                }
            }
        }
    };
    if args.show {
        for line in &outcome.stderr {
            println!("{series}: stderr: {line}");
        }
        println!("{}", String::from_utf8_lossy(&outcome.stdout));
    }
    Ok(judge(series, &outcome, notes))
}

fn judge(series: &str, outcome: &Outcome, mut notes: Vec<String>) -> Row {
    notes.push(format!("{:.0} s", outcome.elapsed.as_secs_f64()));
    notes.push(outcome.python.clone());
    let mut row = Row {
        series: series.to_owned(),
        kernel: outcome.kernel.clone(),
        loaded: outcome.exit_code == 0,
        closed: false,
        exact: false,
        requests: false,
        causes: "-".to_owned(),
        notes,
    };
    if !row.loaded {
        row.notes.push(format!("exit code {}", outcome.exit_code));
        row.notes.extend(outcome.stderr.iter().take(3).cloned());
        return row;
    }
    match verdict::judge(&outcome.stdout) {
        Ok(verdict) => {
            row.closed = verdict.open.is_empty();
            row.exact = verdict.tasks > 0;
            row.causes = verdict
                .causes
                .iter()
                .map(String::as_str)
                .collect::<Vec<_>>()
                .join(" ");
            row.notes.push(format!("{} threads", verdict.threads));
            row.notes.push(format!("{} tasks", verdict.tasks));
            let requests = verdict.requests;
            row.requests = requests.is_some_and(|count| count > 0) || !verdict.limits.is_empty();
            row.notes
                .extend(requests.map(|count| format!("{count} requests")));
            row.notes.extend(verdict.limits);
            if verdict.unknown_ns != 0 {
                row.notes.push(format!("unknown {} ns", verdict.unknown_ns));
            }
            for (thread, difference) in verdict.open.iter().take(3) {
                row.notes
                    .push(format!("{thread} is open by {difference} ns"));
            }
        }
        Err(error) => row.notes.push(format!("{error:#}")),
    }
    row
}

fn print_table(rows: &[Row]) {
    let word = |value: bool| if value { "yes" } else { "NO" };
    println!(
        "\n{:7} {:34} {:6} {:6} {:6} {:8} {:42} notes",
        "series", "kernel", "loaded", "closed", "exact", "requests", "causes"
    );
    for row in rows {
        println!(
            "{:7} {:34} {:6} {:6} {:6} {:8} {:42} {}",
            row.series,
            row.kernel,
            word(row.loaded),
            word(row.closed),
            word(row.exact),
            word(row.requests),
            row.causes,
            row.notes.join("; ")
        );
    }
}
