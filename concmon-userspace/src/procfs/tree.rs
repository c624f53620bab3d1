//! Which process is whose child: a scan of `/proc` now and then, asked per process.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;

use super::file::{self, CWD, SMALL};
use super::stat::Stat;

/// The processes of this PID namespace at one time, by parent.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    rows: BTreeMap<u32, Row>,
    children: BTreeMap<u32, Vec<Child>>,
    /// What tells each process, and the program that it runs, from others of its id.
    marks: BTreeMap<u32, Mark>,
}

/// What was read of one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Row {
    parent: u32,
    zombie: bool,
    is_kernel_thread: bool,
    mark: Mark,
}

impl Row {
    /// `None`: it has ended.
    fn read(folder: &OwnedFd, pid: u32) -> Option<Self> {
        let mut room = [0; SMALL];
        let line = file::small(folder, format!("{pid}/stat"), &mut room).ok()?;
        let stat = Stat::parse(line)?;
        Some(Self {
            parent: stat.ppid,
            zombie: stat.is_zombie(),
            is_kernel_thread: stat.is_kernel_thread(),
            mark: (stat.start_ticks, stat.image),
        })
    }
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
        Self::default().scan_again(|_| false)
    }

    /// The same once more: processes that have not run since this tree was scanned, as `stands` tells, are read only
    /// where others can have changed them.
    ///
    /// # Errors
    /// When `/proc` itself cannot be listed.
    pub fn scan_again(&self, stands: impl Fn(u32) -> bool) -> std::io::Result<Self> {
        let mut rows = BTreeMap::new();
        let mut kept = Vec::new();
        let folder = file::open(CWD, "/proc")?;
        file::ids(&folder, |pid| {
            if let Some(row) = self.rows.get(&pid).filter(|_| stands(pid)) {
                rows.insert(pid, *row);
                kept.push(pid);
            } else if let Some(row) = Row::read(&folder, pid) {
                rows.insert(pid, row);
            }
            true
        })?;
        // Who has lost its parent has another one by now.
        kept.retain(|pid| {
            let living = |rows: &BTreeMap<u32, Row>, parent| {
                let parent = rows.get(&parent).filter(|parent| !parent.zombie)?;
                Some(parent.mark.0)
            };
            let parent = rows[pid].parent;
            let before = living(&self.rows, parent);
            before.is_none() || before != living(&rows, parent)
        });
        for pid in kept {
            match Row::read(&folder, pid) {
                Some(row) => rows.insert(pid, row),
                None => rows.remove(&pid),
            };
        }
        Ok(Self::from_rows(rows))
    }

    fn from_rows(rows: BTreeMap<u32, Row>) -> Self {
        let mut tree = Tree::default();
        for (&pid, row) in &rows {
            let (zombie, child) = (row.zombie, tree.children.entry(row.parent));
            child.or_default().push(Child { pid, zombie });
            if !row.is_kernel_thread && !row.zombie {
                tree.marks.insert(pid, row.mark);
            }
        }
        tree.rows = rows;
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

    fn tree(rows: impl IntoIterator<Item = (u32, u32, bool)>) -> Tree {
        let rows = rows.into_iter().map(|(pid, parent, zombie)| {
            let row = Row {
                parent,
                zombie,
                is_kernel_thread: false,
                mark: (0, [0; 2]),
            };
            (pid, row)
        });
        Tree::from_rows(rows.collect())
    }

    #[test]
    fn families() {
        let tree = tree([
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
        let tree = tree([(5, 6, false), (6, 5, false), (7, 7, false)]);
        assert_eq!(tree.descendants(5), BTreeSet::from([6]));
        assert_eq!(tree.descendants(7), BTreeSet::new());
    }

    /// A shell and the `sleep` that it waits for are there, and then the shell is not any more.
    #[test]
    fn what_stands_is_read_again_once_its_parent_is_gone() {
        let mut shell = std::process::Command::new("sh")
            .args(["-c", "sleep 30 & wait"])
            .stdin(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let own = std::process::id();
        let (mut tree, sleep) = loop {
            let tree = Tree::scan().unwrap();
            if let Some(&sleep) = tree.descendants(shell.id()).first() {
                break (tree, sleep);
            }
            std::thread::yield_now();
        };
        // What it would say of itself is not asked for.
        let mark = (4_711, [0; 2]);
        tree.rows.get_mut(&sleep).unwrap().mark = mark;
        let stands = |pid| pid == sleep;
        let again = tree.scan_again(stands).unwrap();
        assert_eq!(again.living().get(&sleep), Some(&mark));
        assert_eq!(again.family(shell.id()).children, 1);
        assert!(again.living().contains_key(&own));
        assert_ne!(tree.scan_again(|_| false).unwrap().rows[&sleep].mark, mark);
        shell.kill().unwrap();
        // It is a zombie now, and then nothing.
        for _ in 0..2 {
            let adopted = loop {
                let again = tree.scan_again(stands).unwrap();
                if again.family(shell.id()).children == 0 {
                    break again.rows[&sleep];
                }
                std::thread::yield_now();
            };
            assert_ne!(adopted.parent, shell.id());
            assert_ne!(adopted.mark, mark);
            shell.wait().unwrap();
        }
        let sleep_id = rustix::process::Pid::from_raw(sleep.cast_signed()).unwrap();
        rustix::process::kill_process(sleep_id, rustix::process::Signal::KILL).unwrap();
        while tree
            .scan_again(stands)
            .unwrap()
            .living()
            .contains_key(&sleep)
        {
            std::thread::yield_now();
        }
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
