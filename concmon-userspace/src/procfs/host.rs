//! What `/proc` says of this host, and of who reads it.

use std::io;

use super::file;

/// Where a process finds its open files by number.
pub const OWN_FILES: &str = "/proc/self/fd/";

/// The value of `/proc/sys/kernel/NAME`.
///
/// # Errors
/// Whatever reading it fails with.
pub fn kernel_setting(name: &str) -> io::Result<String> {
    let text = file::text(file::CWD, format!("/proc/sys/kernel/{name}"))?;
    Ok(text.trim().to_owned())
}

/// Context switches since the host was started: `ctxt` of `/proc/stat` (proc(5)).
///
/// # Errors
/// Whatever reading it fails with; also that there is no such line.
pub fn context_switches() -> io::Result<u64> {
    let stat = file::text(file::CWD, "/proc/stat")?;
    switches_in(&stat).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

fn switches_in(stat: &str) -> Option<u64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("ctxt "))?;
    line.trim().parse().ok()
}

/// The calling thread's line, for [`super::stat::Stat`].
///
/// # Errors
/// Whatever reading it fails with.
pub fn own_stat() -> io::Result<Vec<u8>> {
    let mut room = [0; file::SMALL];
    Ok(file::small(file::CWD, "/proc/thread-self/stat", &mut room)?.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switches_of_the_host() {
        let stat = "cpu  1 2 3\nintr 5 6\nctxt 12345\nbtime 7\n";
        assert_eq!(switches_in(stat), Some(12_345));
        assert_eq!(switches_in("ctxt many\n"), None);
        assert_eq!(switches_in(""), None);
        let before = context_switches().expect("Linux tells");
        assert!(context_switches().expect("still") >= before);
    }
}
