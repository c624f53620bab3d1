//! A cgroup with little memory, in which the kernel kills whoever takes more.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

/// Bytes.
const LIMIT: &str = "67108864";

/// A memory cgroup of 64 MiB, version 1 or 2, which goes with this.
#[derive(Debug)]
pub struct MemoryGroup(PathBuf);

impl MemoryGroup {
    /// `None`: none can be made here.
    pub fn create(name: &str) -> Option<Self> {
        let name = format!("concmon-test-{}-{name}", std::process::id());
        for (root, limit) in [
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            ("/sys/fs/cgroup", "memory.max"),
        ] {
            let group = Self(Path::new(root).join(&name));
            if std::fs::create_dir(&group.0).is_ok()
                && std::fs::write(group.0.join(limit), LIMIT).is_ok()
            {
                // Where there is no swap, there is no such file.
                let _ = std::fs::write(group.0.join("memory.swap.max"), "0");
                let _ = std::fs::write(group.0.join("memory.memsw.limit_in_bytes"), LIMIT);
                return Some(group);
            }
        }
        None
    }

    /// Puts a process into it.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn take(&self, pid: u32) -> Result<()> {
        let file = self.0.join("cgroup.procs");
        std::fs::write(&file, pid.to_string()).with_context(|| file.display().to_string())
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // Its last process may take a moment to go.
        for _ in 0..100 {
            if std::fs::remove_dir(&self.0).is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
