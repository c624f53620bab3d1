//! Which process is whose child: one scan of `/proc` per tick, then asked per process.

use std::collections::{BTreeMap, BTreeSet};

use super::file::{self, CWD, SMALL};
use super::stat::Stat;

/// The processes of this PID namespace at one time, by parent.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    children: BTreeMap<u32, Vec<Child>>,
    /// What tells each process, and the program that it runs, from others of its id.
    marks: BTreeMap<u32, Mark>,
}

/// The start of a process, and addresses that most kernels choose anew at each exec.
pub type Mark = (u64, [u64; 2]);

#[derive(Clone, Copy, Debug)]
struct Child {
    pid: u32,
    zombie: bool,
}

/// A process's relatives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Family {
    /// Direct and living.
    pub children: u64,
    /// Living, direct ones included.
    pub descendants: u64,
    /// Direct children that ended and have not been waited for.
    pub zombies: u64,
}

impl Tree {
    /// Reads every `/proc/PID/stat`, some 10 µs each. What ends meanwhile is left out.
    ///
    /// # Errors
    /// When `/proc` itself cannot be listed.
    pub fn scan() -> std::io::Result<Self> {
        let mut stats = Vec::new();
        let mut marks = BTreeMap::new();
        let folder = file::open(CWD, "/proc")?;
        file::ids(&folder, |pid| {
            let mut room = [0; SMALL];
            let line = file::small(&folder, format!("{pid}/stat"), &mut room).unwrap_or_default();
            if let Some(stat) = Stat::parse(line) {
                stats.push((pid, stat.ppid, stat.is_zombie()));
                if !stat.is_kernel_thread() && !stat.is_zombie() {
                    marks.insert(pid, (stat.start_ticks, stat.image));
                }
            }
            true
        })?;
        let mut tree = Self::from_rows(stats);
        tree.marks = marks;
        Ok(tree)
    }

    /// From rows of process id, parent's id, and whether it is a zombie.
    fn from_rows(rows: impl IntoIterator<Item = (u32, u32, bool)>) -> Self {
        let mut tree = Tree::default();
        for (pid, parent, zombie) in rows {
            tree.children
                .entry(parent)
                .or_default()
                .push(Child { pid, zombie });
        }
        tree
    }

    /// All living processes but the kernel's own, in ascending order.
    pub fn living(&self) -> &BTreeMap<u32, Mark> {
        &self.marks
    }

    fn children_of(&self, pid: u32) -> &[Child] {
        self.children.get(&pid).map_or(&[], Vec::as_slice)
    }

    /// The living descendants of `pid`, in ascending order.
    pub fn descendants(&self, pid: u32) -> BTreeSet<u32> {
        // Ids may be reused during a scan, so that this need not be a tree: each id is met once.
        let mut found = BTreeSet::new();
        let mut open = vec![pid];
        while let Some(parent) = open.pop() {
            for child in self.children_of(parent) {
                if !child.zombie && child.pid != pid && found.insert(child.pid) {
                    open.push(child.pid);
                }
            }
        }
        found
    }

    /// How many relatives `pid` has.
    pub fn family(&self, pid: u32) -> Family {
        let children = self.children_of(pid);
        let zombies = children.iter().filter(|child| child.zombie).count();
        Family {
            children: (children.len() - zombies) as u64,
            descendants: self.descendants(pid).len() as u64,
            zombies: zombies as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families() {
        let tree = Tree::from_rows([
            (1, 0, false),
            (10, 1, false),
            (11, 10, false),
            (12, 10, true),
            (13, 11, false),
            (14, 13, true),
            (20, 1, false),
        ]);
        for (pid, children, descendants, zombies) in [
            (1, 2, 4, 0),
            (10, 1, 2, 1),
            (11, 1, 1, 0),
            (13, 0, 0, 1),
            (20, 0, 0, 0),
            (99, 0, 0, 0),
        ] {
            assert_eq!(
                tree.family(pid),
                Family {
                    children,
                    descendants,
                    zombies
                },
                "{pid}"
            );
        }
        assert_eq!(tree.descendants(10), BTreeSet::from([11, 13]));
    }

    #[test]
    fn a_cycle_ends() {
        let tree = Tree::from_rows([(5, 6, false), (6, 5, false), (7, 7, false)]);
        assert_eq!(tree.descendants(5), BTreeSet::from([6]));
        assert_eq!(tree.descendants(7), BTreeSet::new());
    }

    #[test]
    fn scan_sees_children_and_grandchildren() {
        let mut child = std::process::Command::new("sh")
            .args(["-c", "sleep 30 & wait"])
            .stdin(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let family = loop {
            let family = Tree::scan().unwrap().family(child.id());
            if family.children == 1 {
                break family;
            }
            std::thread::yield_now();
        };
        assert_eq!(
            family,
            Family {
                children: 1,
                descendants: 1,
                zombies: 0
            }
        );
        let tree = Tree::scan().unwrap();
        assert!(tree.descendants(std::process::id()).contains(&child.id()));
        for pid in tree.descendants(child.id()) {
            let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        child.wait().unwrap();
    }
}
