//! What the committed kernel object was made of, as text: `prebuilt/concmon-ebpf.digest`.
//!
//! The source part can be computed without any tool, so a plain `cargo test` finds an object
//! that is older than its sources.
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use sha2::{Digest as _, Sha256};

/// The package whose bin is the kernel object.
pub(crate) const PACKAGE: &str = "concmon-ebpf";
const PREAMBLE: &str = "\
# What concmon-ebpf.o was built from, and with. Written by `cargo xtask build-ebpf`.
";

/// The committed object.
pub(crate) fn object_path(root: &Path) -> PathBuf {
    root.join(PACKAGE).join("prebuilt/concmon-ebpf.o")
}

/// The committed digest.
pub(crate) fn digest_path(root: &Path) -> PathBuf {
    root.join(PACKAGE).join("prebuilt/concmon-ebpf.digest")
}

/// The part of the digest that depends on the tree alone.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SourcePart {
    /// Hash over the package's manifest and everything under its `src`.
    pub(crate) source: String,
    /// Hash over what the package inherits from the workspace's manifest.
    pub(crate) workspace: String,
    /// Hash over the lock entries the package depends on, transitively.
    pub(crate) lock: String,
}

impl SourcePart {
    /// Reads the tree at `root`.
    pub(crate) fn of_tree(root: &Path) -> Result<Self> {
        let read = |name: &str| {
            let path = root.join(name);
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
        };
        let lock = Lock::parse(&read("Cargo.lock")?)?;
        let package = root.join(PACKAGE);
        let mut files = Vec::new();
        list_files(&package.join("src"), &mut files)?;
        files.push(package.join("Cargo.toml"));
        Ok(Self {
            source: hash_files(&package, files)?,
            workspace: sha256(
                inherited(&read("Cargo.toml")?, &lock.direct(PACKAGE)?)
                    .join("\n")
                    .as_bytes(),
            ),
            lock: sha256(lock.closure(PACKAGE)?.join("\n").as_bytes()),
        })
    }

    fn lines(&self) -> [(&'static str, &str); 3] {
        [
            ("source", &self.source),
            ("workspace", &self.workspace),
            ("lock", &self.lock),
        ]
    }
}

/// The whole digest file.
pub(crate) fn render(
    source: &SourcePart,
    tools: &[(&'static str, String)],
    object: &[u8],
) -> String {
    let mut text = PREAMBLE.to_owned();
    let mut line = |key: &str, value: &str| {
        writeln!(text, "{key}: {value}").expect("writing to a String cannot fail");
    };
    for (key, value) in source.lines() {
        line(key, value);
    }
    for (key, value) in tools {
        line(key, value);
    }
    line("object", &sha256(object));
    text
}

/// What is wrong with the committed object, in words; empty when it belongs to the tree.
pub(crate) fn staleness(root: &Path) -> Result<Vec<String>> {
    let path = digest_path(root);
    if !path.exists() {
        return Ok(vec![format!("{} does not exist", path.display())]);
    }
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let committed: BTreeMap<&str, &str> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once(": "))
        .collect();
    let path = object_path(root);
    let object = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    let object = sha256(&object);

    let current = SourcePart::of_tree(root)?;
    let mut wrong = Vec::new();
    for (key, value) in current.lines().into_iter().chain([("object", &*object)]) {
        match committed.get(key) {
            Some(committed) if *committed == value => {}
            Some(committed) => wrong.push(format!("{key}: committed {committed}, now {value}")),
            None => wrong.push(format!("{key}: not in the committed digest")),
        }
    }
    Ok(wrong)
}

/// What to tell about a non-empty [`staleness`].
pub(crate) fn stale_message(wrong: &[String]) -> String {
    format!(
        "the committed kernel object does not belong to this tree; run `cargo xtask build-ebpf`\n  {}",
        wrong.join("\n  ")
    )
}

/// Lower-case hexadecimal SHA-256.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Hash over names (relative to `base`) and contents of `files`, whatever their order.
pub(crate) fn hash_files(base: &Path, mut files: Vec<PathBuf>) -> Result<String> {
    files.sort();
    let mut hash = Sha256::new();
    for file in files {
        let content = fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
        let name = file.strip_prefix(base).unwrap_or(&file);
        hash.update(name.to_string_lossy().as_bytes());
        hash.update(b"\0");
        hash.update((content.len() as u64).to_le_bytes());
        hash.update(content);
    }
    Ok(hex(&hash.finalize()))
}

/// Adds every file below `dir` to `files`.
pub(crate) fn list_files(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(dir).with_context(|| format!("listing {}", dir.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("listing {}", dir.display()))?;
        if entry.file_type()?.is_dir() {
            list_files(&entry.path(), files)?;
        } else {
            files.push(entry.path());
        }
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a String cannot fail");
        text
    })
}

/// The lines of the workspace's manifest that reach the package: its shared metadata (the
/// version is part of every symbol's hash) and the shared form of its `dependencies`.
fn inherited(manifest: &str, dependencies: &BTreeSet<String>) -> Vec<String> {
    let mut table = "";
    let mut lines = Vec::new();
    for line in manifest.lines().map(str::trim) {
        if line.starts_with('[') {
            table = line;
            continue;
        }
        let Some((key, _)) = line.split_once('=') else {
            continue;
        };
        let wanted = match table {
            "[workspace.package]" => matches!(key.trim(), "version" | "edition" | "rust-version"),
            "[workspace.dependencies]" => dependencies.contains(key.trim()),
            _ => false,
        };
        if wanted {
            lines.push(line.to_owned());
        }
    }
    lines
}

/// What this file needs of `Cargo.lock`.
struct Lock {
    packages: Vec<LockedPackage>,
}

#[derive(Default)]
struct LockedPackage {
    name: String,
    version: String,
    source: String,
    checksum: String,
    /// As written: the name, and where that is ambiguous the version, and then the source.
    dependencies: Vec<String>,
}

impl Lock {
    fn parse(text: &str) -> Result<Self> {
        let mut packages: Vec<LockedPackage> = Vec::new();
        for line in text.lines().map(str::trim) {
            if line == "[[package]]" {
                packages.push(LockedPackage::default());
                continue;
            }
            let Some(package) = packages.last_mut() else {
                continue;
            };
            if let Some((key, value)) = line.split_once(" = ") {
                let value = value.trim_matches('"').to_owned();
                match key {
                    "name" => package.name = value,
                    "version" => package.version = value,
                    "source" => package.source = value,
                    "checksum" => package.checksum = value,
                    _ => {}
                }
            } else if let Some(dependency) = line.strip_prefix('"') {
                let dependency = dependency.trim_end_matches(',').trim_end_matches('"');
                package.dependencies.push(dependency.to_owned());
            }
        }
        ensure!(!packages.is_empty(), "Cargo.lock holds no packages");
        Ok(Self { packages })
    }

    /// The package that a dependency entry (`name`, `name version`, `name version (source)`) names.
    fn find(&self, entry: &str) -> Result<&LockedPackage> {
        let mut words = entry.split(' ');
        let name = words.next().unwrap_or_default();
        let version = words.next();
        self.packages
            .iter()
            .find(|package| {
                package.name == name && version.is_none_or(|version| package.version == version)
            })
            .with_context(|| format!("Cargo.lock has no package for `{entry}`"))
    }

    /// Names of the direct dependencies.
    fn direct(&self, name: &str) -> Result<BTreeSet<String>> {
        let package = self.find(name)?;
        let entries = package.dependencies.iter();
        entries
            .map(|entry| Ok(self.find(entry)?.name.clone()))
            .collect()
    }

    /// One line for each package below `name`, itself left out, in order.
    fn closure(&self, name: &str) -> Result<Vec<String>> {
        let mut lines = BTreeSet::new();
        let mut open: Vec<&str> = self
            .find(name)?
            .dependencies
            .iter()
            .map(String::as_str)
            .collect();
        while let Some(entry) = open.pop() {
            let package = self.find(entry)?;
            let line = format!(
                "{} {} {} {}",
                package.name, package.version, package.source, package.checksum
            );
            if lines.insert(line) {
                open.extend(package.dependencies.iter().map(String::as_str));
            }
        }
        Ok(lines.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace;

    /// The object that users embed must belong to the sources that they read.
    #[test]
    fn committed_kernel_object_is_fresh() {
        let wrong = staleness(&workspace::root()).expect("reading the tree");
        assert!(wrong.is_empty(), "{}", stale_message(&wrong));
    }

    #[test]
    fn lock_closure_follows_versions_and_leaves_the_rest_out() {
        let lock = Lock::parse(
            r#"
version = 4

[[package]]
name = "a"
version = "1.0.0"
dependencies = [
 "b 2.0.0",
 "c",
]

[[package]]
name = "b"
version = "1.0.0"
checksum = "b1"

[[package]]
name = "b"
version = "2.0.0"
source = "registry"
checksum = "b2"
dependencies = [
 "c",
]

[[package]]
name = "c"
version = "0.1.0"
checksum = "c0"

[[package]]
name = "d"
version = "0.1.0"
"#,
        )
        .expect("parsing");
        assert_eq!(
            lock.closure("a").expect("closure"),
            ["b 2.0.0 registry b2", "c 0.1.0  c0"]
        );
        assert!(lock.closure("nowhere").is_err());
    }

    #[test]
    fn only_inherited_lines_count() {
        let manifest = "[workspace.package]\nversion = \"1\"\nlicense = \"x\"\n\
                        [workspace.dependencies]\naya-ebpf = \"=2\"\nclap = \"4\"\n";
        let dependencies = BTreeSet::from(["aya-ebpf".to_owned()]);
        assert_eq!(
            inherited(manifest, &dependencies),
            ["version = \"1\"", "aya-ebpf = \"=2\""]
        );
    }

    #[test]
    fn digest_is_read_back() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let root = dir.path();
        let write = |name: &str, content: &str| {
            let path = root.join(name);
            fs::create_dir_all(path.parent().expect("parent")).expect("folder");
            fs::write(path, content).expect("file");
        };
        write("Cargo.toml", "[workspace.package]\nversion = \"1\"\n");
        write(
            "Cargo.lock",
            "[[package]]\nname = \"concmon-ebpf\"\nversion = \"1\"\n",
        );
        write("concmon-ebpf/Cargo.toml", "[package]\n");
        write("concmon-ebpf/src/probes/sched.rs", "// one\n");
        write("concmon-ebpf/prebuilt/concmon-ebpf.o", "object");
        let source = SourcePart::of_tree(root).expect("source part");
        let digest = render(&source, &[("bpf-linker", "1".to_owned())], b"object");
        write("concmon-ebpf/prebuilt/concmon-ebpf.digest", &digest);
        assert!(staleness(root).expect("fresh").is_empty());

        write("concmon-ebpf/src/probes/sched.rs", "// two\n");
        write("concmon-ebpf/prebuilt/concmon-ebpf.o", "other");
        let wrong = staleness(root).expect("stale");
        assert_eq!(wrong.len(), 2, "{wrong:?}");
        assert!(wrong[0].starts_with("source: ") && wrong[1].starts_with("object: "));
    }
}
