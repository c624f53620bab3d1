//! Files as a process sees them: a path within its root, links included.
//!
//! A link in somebody's container means what it means there. Opening `/proc/PID/root/PATH` as a whole would
//! follow it on this side, to a file that is none of the container's.

use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    fs::File,
    io,
    os::fd::{AsFd as _, OwnedFd},
    os::unix::ffi::OsStringExt as _,
    path::Path,
};

use rustix::fs::{FileType, Mode, OFlags, fstat, openat, readlinkat};

use super::shown;
use crate::event::Pid;

/// Links that are followed for one path, as the kernel does (`MAXSYMLINKS`).
const MAX_LINKS: usize = 40;
/// Parts that a path may have, with those of its links.
const MAX_PARTS: usize = 1_000;

/// Opens an ordinary file by the path that `pid` has for it, to be read.
///
/// # Errors
/// It is not there, is no ordinary file, or may not be read.
pub fn open(pid: Pid, path: &Path) -> io::Result<File> {
    let pid = shown::shown_by(pid);
    within(Path::new(&format!("/proc/{pid}/root")), path)
}

fn within(root: &Path, path: &Path) -> io::Result<File> {
    let folder = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(root, folder, Mode::empty())?;
    // Where one is; empty: at the root.
    let mut above: Vec<OwnedFd> = Vec::new();
    let mut parts: VecDeque<OsString> = path.iter().map(OsStr::to_owned).collect();
    let (mut links, mut passed) = (0, 0);
    while let Some(part) = parts.pop_front() {
        passed += 1;
        if passed > MAX_PARTS {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        match part.as_encoded_bytes() {
            b"/" => above.clear(),
            b"." => {}
            // Above the root there is the root.
            b".." => drop(above.pop()),
            _ => {
                let here = above.last().unwrap_or(&root).as_fd();
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let next = openat(here, &part, flags, Mode::empty())?;
                match FileType::from_raw_mode(fstat(&next)?.st_mode) {
                    FileType::Symlink => {
                        links += 1;
                        if links > MAX_LINKS {
                            return Err(io::Error::from_raw_os_error(libc::ELOOP));
                        }
                        let to =
                            OsString::from_vec(readlinkat(&next, "", Vec::new())?.into_bytes());
                        for part in Path::new(&to).iter().rev() {
                            parts.push_front(part.to_owned());
                        }
                    }
                    FileType::RegularFile if parts.is_empty() => {
                        // The same name once more, to be read; another file there is none of this kind.
                        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
                        let file = openat(here, &part, flags | OFlags::CLOEXEC, Mode::empty())?;
                        let kind = FileType::from_raw_mode(fstat(&file)?.st_mode);
                        return match kind {
                            FileType::RegularFile => Ok(File::from(file)),
                            _ => Err(io::ErrorKind::InvalidInput.into()),
                        };
                    }
                    _ => above.push(next),
                }
            }
        }
    }
    Err(io::ErrorKind::InvalidInput.into())
}

#[cfg(test)]
mod tests {
    use std::{io::Read as _, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn links_stay_within_the_root() {
        let outside = tempfile::tempdir().unwrap();
        let root = outside.path().join("root");
        std::fs::create_dir_all(root.join("srv/app")).unwrap();
        std::fs::write(root.join("srv/app/a.py"), "inside").unwrap();
        std::fs::write(outside.path().join("secret"), "outside").unwrap();
        symlink("/srv/app", root.join("opt")).unwrap();
        symlink("../a.py", root.join("srv/app/up")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        symlink("../../../../../../secret", root.join("escape")).unwrap();
        symlink(outside.path().join("secret"), root.join("absolute")).unwrap();
        let text = |path: &str| {
            let mut text = String::new();
            let mut file = within(&root, Path::new(path)).ok()?;
            file.read_to_string(&mut text).ok()?;
            Some(text)
        };
        let inside = Some("inside".to_owned());
        assert_eq!(text("/srv/app/a.py"), inside);
        assert_eq!(text("/opt/a.py"), inside);
        assert_eq!(text("/opt/../../../srv/./app/a.py"), inside);
        // A link is relative to where it lies.
        assert_eq!(text("/srv/app/up"), None);
        for path in [
            "/escape",
            "/absolute",
            "/loop",
            "/srv",
            "/none",
            "/srv/app/a.py/x",
        ] {
            assert_eq!(text(path), None, "{path}");
        }
        rustix::fs::mkfifoat(rustix::fs::CWD, root.join("fifo"), Mode::RWXU).unwrap();
        assert_eq!(text("/fifo"), None);
    }
}
