//! The tools that compile the kernel side: which versions are pinned, where they are looked for,
//! and how they are installed.
use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::digest;
use crate::workspace;

/// `rustc -Vv` of the toolchain that the committed object comes from.
const RUSTC: &str = "\
rustc 1.95.0 (59807616e 2026-04-14)
binary: rustc
commit-hash: 59807616e1fa2540724bfbac14d7976d7e4a3860
commit-date: 2026-04-14
host: x86_64-unknown-linux-gnu
release: 1.95.0
LLVM version: 22.1.2";
const CARGO: &str = "cargo 1.95.0 (f2d3ce0bd 2026-03-21)";
const BPF_LINKER: &str = "bpf-linker 0.13.0";
const BPF_LINKER_VERSION: &str = "0.13.0";
/// [`library_hash`] of rustc 1.95.0's own sources.
const LIBRARY: &str = "199ff94e73b20b66663d1146f0645159222924c0c7bd033b1bf3e81276eb2338";
/// The parts of the standard library's sources that end up in the object.
const LIBRARY_PARTS: [&str; 3] = [
    "core/src",
    "compiler-builtins/compiler-builtins/src",
    "compiler-builtins/libm/src",
];
/// rustc's own LLVM, which bpf-linker is built against.
const LIB_LLVM: &str = "libLLVM.so.22.1-rust-1.95.0-stable";
/// A folder with archives of the library's sources, beside the checkout.
const TOOLCHAIN_FOLDER: &str = "../shared/toolchain";
const LIBRARY_ARCHIVE: &str = "rust-1.95.0-library.tar.xz";

/// Tools found on this machine, whatever their versions.
pub(crate) struct Tools {
    pub(crate) bpf_linker: PathBuf,
    /// Name and version text, in the order in which the digest file lists them.
    pub(crate) versions: Vec<(&'static str, String)>,
}

impl Tools {
    /// Looks for everything; says what is missing and how to get it.
    pub(crate) fn find() -> Result<Self> {
        let sysroot = sysroot()?;
        let library = library_dir(&sysroot);
        ensure!(
            library.join("core/src").is_dir(),
            "the standard library's sources are not at {}; run \
             `cargo xtask build-ebpf --install-tools`, or `rustup component add rust-src`",
            library.display()
        );
        let Some(bpf_linker) = find_bpf_linker()? else {
            bail!(
                "bpf-linker is neither in CONCMON_BPF_LINKER nor in PATH nor in {}; run \
                 `cargo xtask build-ebpf --install-tools`",
                installed_bpf_linker()?.display()
            );
        };
        let bpf_linker_version = workspace::output(Command::new(&bpf_linker).arg("--version"))
            .context("asking bpf-linker for its version")?;
        Ok(Self {
            versions: vec![
                ("rustc", one_line(&rustc_version()?)),
                ("cargo", cargo_version()?),
                ("bpf-linker", bpf_linker_version.trim().to_owned()),
                ("library", library_hash(&library)?),
            ],
            bpf_linker,
        })
    }

    /// Those that are not the pinned ones, in words.
    pub(crate) fn differences(&self) -> Vec<String> {
        let pinned = BTreeMap::from([
            ("rustc", one_line(RUSTC)),
            ("cargo", CARGO.to_owned()),
            ("bpf-linker", BPF_LINKER.to_owned()),
            ("library", LIBRARY.to_owned()),
        ]);
        self.versions
            .iter()
            .filter(|(name, version)| pinned[name] != *version)
            .map(|(name, version)| format!("{name} is `{version}`, pinned is `{}`", pinned[name]))
            .collect()
    }
}

/// What keeps this machine's rustc and cargo from reproducing the object; they cannot be
/// installed by us, unlike the rest.
pub(crate) fn compiler_differences() -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    let rustc = rustc_version()?;
    if rustc.trim() != RUSTC {
        wrong.push(format!(
            "rustc is `{}`, pinned is `{}`",
            one_line(&rustc),
            one_line(RUSTC)
        ));
    }
    let cargo = cargo_version()?;
    if cargo != CARGO {
        wrong.push(format!("cargo is `{cargo}`, pinned is `{CARGO}`"));
    }
    Ok(wrong)
}

/// Provides the library's sources and bpf-linker where they are missing.
pub(crate) fn install() -> Result<()> {
    let sysroot = sysroot()?;
    install_library(&library_dir(&sysroot))?;
    install_bpf_linker(&sysroot)
}

fn install_library(library: &Path) -> Result<()> {
    if library.join("core/src").is_dir() {
        println!("library sources: {}", library.display());
        return Ok(());
    }
    let parent = library.parent().context("the sysroot has no parent")?;
    fs::create_dir_all(parent).with_context(|| {
        format!(
            "creating {}: the library's sources must lie there, another place changes the bytes",
            parent.display()
        )
    })?;
    if let Some(given) = env::var_os("CONCMON_RUST_LIBRARY") {
        let given = fs::canonicalize(&given)
            .with_context(|| format!("CONCMON_RUST_LIBRARY={}", given.display()))?;
        if given.is_dir() {
            ensure!(
                given.join("core/src").is_dir(),
                "{} is not the folder `library` of rustc's sources",
                given.display()
            );
            return std::os::unix::fs::symlink(&given, library)
                .with_context(|| format!("linking {} to it", library.display()));
        }
        return unpack(&given, parent);
    }
    let archive = workspace::root()
        .join(TOOLCHAIN_FOLDER)
        .join(LIBRARY_ARCHIVE);
    if archive.is_file() {
        return unpack(&archive, parent);
    }
    println!("library sources: asking rustup for its component rust-src");
    workspace::run(Command::new("rustup").args(["component", "add", "rust-src"])).context(
        "getting the library's sources; or set CONCMON_RUST_LIBRARY to the folder `library` of \
         rustc 1.95.0's sources, or to a tar archive of it",
    )
}

/// Unpacks an archive of the folder `library` into `parent`.
fn unpack(archive: &Path, parent: &Path) -> Result<()> {
    println!("library sources: unpacking {}", archive.display());
    let staging = tempfile::tempdir_in(parent)
        .with_context(|| format!("creating a folder in {}", parent.display()))?;
    let tar = workspace::run(
        Command::new("tar")
            .arg("-xf")
            .arg(archive)
            .arg("-C")
            .arg(staging.path()),
    );
    // tar needs a program to decompress with; Python often brings its own.
    if tar.is_err() {
        workspace::run(
            Command::new("python3")
                .args(["-m", "tarfile", "-e"])
                .arg(archive)
                .arg(staging.path()),
        )
        .context("neither tar nor Python could unpack it; is xz-utils installed?")?;
    }
    let library = parent.join("library");
    fs::rename(staging.path().join("library"), &library)
        .with_context(|| format!("moving the sources to {}", library.display()))
}

fn install_bpf_linker(sysroot: &Path) -> Result<()> {
    if let Some(found) = find_bpf_linker()? {
        println!("bpf-linker: {}", found.display());
        return Ok(());
    }
    let lib = sysroot.join("lib");
    let llvm = lib.join(LIB_LLVM);
    ensure!(
        llvm.is_file(),
        "{} does not exist: bpf-linker is built against the LLVM of rustc 1.95.0",
        llvm.display()
    );
    let binary = installed_bpf_linker()?;
    let root = binary
        .parent()
        .and_then(Path::parent)
        .context("the cache folder has no parent")?;
    println!(
        "bpf-linker: building {BPF_LINKER_VERSION} into {}",
        root.display()
    );
    let prefix = tempfile::tempdir().context("creating a temporary folder")?;
    fs::create_dir(prefix.path().join("lib"))?;
    std::os::unix::fs::symlink(&llvm, prefix.path().join("lib/libLLVM.so"))?;
    let rpath = format!("-Clink-arg=-Wl,-rpath,{}", lib.display());
    let mut install = workspace::cargo();
    without_build_settings(&mut install)
        .args([
            "install",
            "bpf-linker",
            "--locked",
            "--version",
            BPF_LINKER_VERSION,
        ])
        .args(["--no-default-features", "--features", "llvm-22", "--root"])
        .arg(root)
        .env("LLVM_PREFIX", prefix.path())
        .env("CARGO_ENCODED_RUSTFLAGS", rpath);
    workspace::run(&mut install)
}

/// Removes what the environment says about how cargo should build, except how many jobs.
pub(crate) fn without_build_settings(command: &mut Command) -> &mut Command {
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let changes_builds = [
            "CARGO_PROFILE_",
            "CARGO_TARGET_",
            "CARGO_BUILD_",
            "RUSTC_",
            "AYA_",
        ]
        .iter()
        .any(|prefix| text.starts_with(prefix))
            || ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_INCREMENTAL"].contains(&&*text);
        if changes_builds && text != "CARGO_BUILD_JOBS" {
            command.env_remove(&name);
        }
    }
    // Empty overrides what configuration files say.
    command
        .env("RUSTC_WRAPPER", "")
        .env("RUSTC_WORKSPACE_WRAPPER", "")
}

fn find_bpf_linker() -> Result<Option<PathBuf>> {
    if let Some(given) = env::var_os("CONCMON_BPF_LINKER") {
        let given = PathBuf::from(given);
        ensure!(
            given.is_file(),
            "CONCMON_BPF_LINKER={} is not a file",
            given.display()
        );
        return Ok(Some(given));
    }
    if let Some(found) = workspace::in_path("bpf-linker") {
        return Ok(Some(found));
    }
    Ok(Some(installed_bpf_linker()?).filter(|path| path.is_file()))
}

fn installed_bpf_linker() -> Result<PathBuf> {
    Ok(workspace::cache_dir()?
        .join(format!("bpf-linker-{BPF_LINKER_VERSION}"))
        .join("bin/bpf-linker"))
}

fn sysroot() -> Result<PathBuf> {
    let sysroot = workspace::output(rustc().args(["--print", "sysroot"]))?;
    Ok(PathBuf::from(sysroot.trim()))
}

/// Where `-Z build-std` looks for the sources.
fn library_dir(sysroot: &Path) -> PathBuf {
    sysroot.join("lib/rustlib/src/rust/library")
}

fn library_hash(library: &Path) -> Result<String> {
    let mut files = Vec::new();
    for part in LIBRARY_PARTS {
        digest::list_files(&library.join(part), &mut files)?;
    }
    files.retain(|file| file.extension().is_some_and(|extension| extension == "rs"));
    digest::hash_files(library, files)
}

fn rustc() -> Command {
    Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
}

fn rustc_version() -> Result<String> {
    workspace::output(rustc().arg("-Vv"))
}

fn cargo_version() -> Result<String> {
    Ok(workspace::output(workspace::cargo().arg("-V"))?
        .trim()
        .to_owned())
}

fn one_line(text: &str) -> String {
    text.trim().lines().collect::<Vec<_>>().join("; ")
}
