//! `cargo xtask build-ebpf`: compiles the kernel programs into the object that users embed.
//!
//! The same sources give the same bytes in any folder, with any cargo home. Plain `cargo build`
//! needs none of this: it embeds the committed object.
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use crate::digest::{self, SourcePart};
use crate::instructions::{self, Counts};
use crate::strip;
use crate::tools::{self, Tools};
use crate::workspace;

const TARGET: &str = "bpfel-unknown-none";
/// A profile of its own, so that what the workspace says about `release` does not reach the object.
const PROFILE: &str = "bpf";
const PROFILE_SETTINGS: [&str; 11] = [
    r#"inherits="release""#,
    "opt-level=3",
    "debug=2",
    "debug-assertions=false",
    "overflow-checks=false",
    "codegen-units=1",
    "lto=false",
    "incremental=false",
    r#"panic="abort""#,
    r#"strip="none""#,
    r#"trim-paths="all""#,
];
/// `bpf_target_arch` only picks the register names of helpers for kprobes, which concmon does not
/// use: one object serves every architecture. Unset, aya would take the build machine's.
const RUSTFLAGS: [&str; 4] = [
    "-Cdebuginfo=2",
    "-Clink-arg=--btf",
    // The instruction set of 5.4 and later: 32-bit operations and jumps.
    "-Ctarget-cpu=v3",
    r#"--cfg=bpf_target_arch="x86_64""#,
];
const UNSTABLE: [&str; 2] = ["-Zbuild-std=core", "-Ztrim-paths"];

/// Exit code when this machine's rustc or cargo is not the pinned one.
const WRONG_COMPILER: u8 = 3;

/// Compile the kernel programs into concmon-ebpf/prebuilt
///
/// Exit code 3 when rustc or cargo is not the pinned version: the committed object then stays as
/// it is, and nothing is compared.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Rebuild from nothing in a temporary folder and compare with the committed object
    #[arg(long)]
    check: bool,
    /// Install bpf-linker and the standard library's sources where they are missing
    #[arg(long)]
    install_tools: bool,
    /// Let programs be more than 5 % longer than they were
    #[arg(long, conflicts_with_all = ["check", "output"])]
    longer: bool,
    /// Write the object here instead, whatever the versions of the tools
    #[arg(long, value_name = "FILE", conflicts_with = "check")]
    output: Option<PathBuf>,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let root = workspace::root();
    if args.check {
        let stale = digest::staleness(&root)?;
        if !stale.is_empty() {
            bail!("{}", digest::stale_message(&stale));
        }
    }
    let wrong = tools::compiler_differences()?;
    if !wrong.is_empty() && args.output.is_none() {
        eprintln!("=====================================================================");
        eprintln!("This machine's compiler cannot reproduce the committed kernel object:");
        for line in wrong {
            eprintln!("  {line}");
        }
        eprintln!("Nothing was built, compared or installed.");
        eprintln!("=====================================================================");
        return Ok(ExitCode::from(WRONG_COMPILER));
    }
    if args.install_tools {
        tools::install()?;
        if !args.check {
            return Ok(ExitCode::SUCCESS);
        }
    }

    let tools = Tools::find()?;
    let wrong = tools.differences();
    if !wrong.is_empty() && args.output.is_none() {
        bail!(
            "the tools are not the pinned ones, so the committed object stays as it is\n  {}",
            wrong.join("\n  ")
        );
    }
    if args.check {
        let target_dir = tempfile::tempdir().context("creating a temporary target folder")?;
        let (object, digest) = build(&root, &tools, target_dir.path())?;
        return compare(&root, &object, &digest);
    }
    let (object, digest) = build(&root, &tools, &workspace::target_dir()?.join("bpf"))?;
    if let Some(path) = &args.output {
        write(path, &object)?;
    } else {
        let counts = admitted(&root, &object, args.longer)?;
        write(&digest::object_path(&root), &object)?;
        let text = instructions::render(&counts);
        write(&instructions::path(&root), text.as_bytes())?;
        write(&digest::digest_path(&root), digest.as_bytes())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Compiles and strips; returns the object and its digest file.
fn build(root: &Path, tools: &Tools, target_dir: &Path) -> Result<(Vec<u8>, String)> {
    let source = SourcePart::of_tree(root)?;
    let mut cargo = workspace::cargo();
    tools::without_build_settings(&mut cargo)
        .args(["build", "--locked", "--package", digest::PACKAGE, "--bin"])
        .args([digest::PACKAGE, "--target", TARGET, "--profile", PROFILE])
        .arg("--target-dir")
        .arg(target_dir)
        .args(UNSTABLE);
    for setting in PROFILE_SETTINGS {
        cargo.args(["--config", &format!("profile.{PROFILE}.{setting}")]);
    }
    cargo
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", RUSTFLAGS.join("\x1f"))
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &tools.bpf_linker);
    workspace::run(&mut cargo).context("compiling the kernel programs")?;

    let compiled = target_dir.join(TARGET).join(PROFILE).join(digest::PACKAGE);
    let object = fs::read(&compiled).with_context(|| format!("reading {}", compiled.display()))?;
    let object = strip::strip_debug(&object)?;
    let mut versions = tools.versions.clone();
    versions.push((
        "flags",
        [&UNSTABLE[..], &RUSTFLAGS[..], &PROFILE_SETTINGS[..]]
            .concat()
            .join(" "),
    ));
    let digest = digest::render(&source, &versions, &object);
    Ok((object, digest))
}

/// The instructions of each program, as they are to be committed.
fn admitted(root: &Path, object: &[u8], longer: bool) -> Result<Counts> {
    let found = instructions::count(object)?;
    let path = instructions::path(root);
    if longer || !path.exists() {
        return Ok(found);
    }
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let known = instructions::parse(&text)?;
    let grown = instructions::grown(&known, &found);
    if !grown.is_empty() {
        bail!(
            "programs have grown by more than 5 %; `--longer` admits it\n  {}",
            grown.join("\n  ")
        );
    }
    Ok(instructions::kept(&known, &found))
}

fn compare(root: &Path, object: &[u8], digest: &str) -> Result<ExitCode> {
    let committed = |path: PathBuf| {
        fs::read(&path)
            .with_context(|| format!("reading {}; run `cargo xtask build-ebpf`", path.display()))
    };
    let committed_object = committed(digest::object_path(root))?;
    let committed_digest = committed(digest::digest_path(root))?;
    if committed_object != object {
        bail!(
            "the committed kernel object ({} bytes, sha256 {}) is not what its sources give \
             ({} bytes, sha256 {}); run `cargo xtask build-ebpf`",
            committed_object.len(),
            digest::sha256(&committed_object),
            object.len(),
            digest::sha256(object)
        );
    }
    if committed_digest != digest.as_bytes() {
        bail!(
            "the committed digest is not the one of this tree, though the object is; \
             run `cargo xtask build-ebpf`. This tree's:\n{digest}"
        );
    }
    println!(
        "kernel object: {} bytes, identical to the committed one",
        object.len()
    );
    Ok(ExitCode::SUCCESS)
}

/// Writes a whole file or, when it already holds these bytes, nothing.
fn write(path: &Path, content: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|old| old == content) {
        println!("{}: unchanged", path.display());
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
    }
    fs::write(path, content).with_context(|| format!("writing {}", path.display()))?;
    println!("{}: {} bytes written", path.display(), content.len());
    Ok(())
}
