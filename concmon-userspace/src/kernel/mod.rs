//! What the running kernel is like: its struct offsets (from BTF), its features, its release, its syscalls.
pub mod btf;
pub mod features;
pub mod offsets;
pub mod self_test;
pub mod syscalls;

/// The processor architectures that concmon knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arch {
    X86_64,
    Aarch64,
}

impl Arch {
    /// The architecture this binary was built for; `None` where it is none of the known ones.
    pub const fn current() -> Option<Self> {
        if cfg!(target_arch = "x86_64") {
            Some(Arch::X86_64)
        } else if cfg!(target_arch = "aarch64") {
            Some(Arch::Aarch64)
        } else {
            None
        }
    }
}

impl Arch {
    /// The one with this name, as [`std::env::consts::ARCH`] has it.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "x86_64" => Some(Arch::X86_64),
            "aarch64" => Some(Arch::Aarch64),
            _ => None,
        }
    }
}

/// The running kernel's release as `uname -r` prints it, such as `6.18.2-arch1-1`.
///
/// # Errors
/// Whatever `/proc/sys/kernel/osrelease` fails with.
pub fn release() -> std::io::Result<String> {
    crate::procfs::host::kernel_setting("osrelease")
}

/// Major and minor number of a kernel release; `None` when it does not begin with two numbers.
pub fn version_of(release: &str) -> Option<(u32, u32)> {
    let (major, rest) = release.split_once('.')?;
    let digits = rest
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len());
    Some((major.parse().ok()?, rest[..digits].parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn release_is_the_one_of_uname() {
        let uname = std::process::Command::new("uname")
            .arg("-r")
            .output()
            .unwrap();
        assert_eq!(
            release().unwrap(),
            String::from_utf8(uname.stdout).unwrap().trim_end()
        );
    }

    #[test]
    fn version_of_releases() {
        for (release, version) in [
            ("6.18.44-fc-v669", Some((6, 18))),
            ("5.10-rc1", Some((5, 10))),
            ("6.1", Some((6, 1))),
            ("6", None),
            ("x.y", None),
            ("", None),
            ("6.", None),
        ] {
            assert_eq!(version_of(release), version, "{release}");
        }
    }
}
