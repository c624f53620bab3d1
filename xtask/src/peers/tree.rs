//! Trees as `python -m asyncio pstree` draws them.
use std::collections::BTreeSet;

use anyhow::{Context, Result};

/// Of one level; a branch is four characters wide.
const BRANCHES: [&str; 2] = ["└── ", "├── "];
const WIDTH: usize = 4;

/// The trees, each on one line, with siblings in the order of their names.
pub(super) fn sorted(drawn: &str) -> Result<BTreeSet<String>> {
    // From the last line up, what is open at a level are the children of the next line above it.
    let mut open: Vec<BTreeSet<String>> = vec![BTreeSet::new()];
    for line in drawn.lines().rev() {
        let (at, branch) = BRANCHES
            .iter()
            .filter_map(|branch| Some((line.find(branch)?, branch)))
            .min()
            .with_context(|| format!("no branch in `{line}`"))?;
        let level = line[..at].chars().count() / WIDTH;
        let name = line[at + branch.len()..].trim();
        open.resize(open.len().max(level + 2), BTreeSet::new());
        let children = std::mem::take(&mut open[level + 1]);
        let children: Vec<String> = children.into_iter().collect();
        open[level].insert(format!("{name} ({})", children.join(", ")));
    }
    Ok(open.swap_remove(0))
}

#[cfg(test)]
mod tests {
    use super::sorted;

    const DRAWN: &str = "\
└── (T) Task-1
    └──  main /app.py:3
        ├── (T) one
        │   └──  sleep /app.py:1
        └── (T) two
└── (T) Task-9
";

    #[test]
    fn the_order_of_siblings_does_not_matter() {
        let other = "\
└── (T) Task-9
└── (T) Task-1
    └──  main /app.py:3
        ├── (T) two
        └── (T) one
            └──  sleep /app.py:1
";
        let one = sorted(DRAWN).expect("a tree");
        assert_eq!(one, sorted(other).expect("a tree"));
        assert_eq!(one.len(), 2, "{one:?}");
    }

    #[test]
    fn where_a_branch_hangs_matters() {
        let other = DRAWN.replace("│   └──  sleep", "├──  sleep");
        assert_ne!(
            sorted(DRAWN).expect("a tree"),
            sorted(&other).expect("a tree")
        );
        assert!(sorted("Error retrieving tasks").is_err());
    }
}
