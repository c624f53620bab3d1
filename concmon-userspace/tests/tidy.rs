//! The floor plan holds: imports run down the floors of `lib.rs`, and in no folder do files or folders
//! import one another in a circle.
//!
//! A folder's `mod.rs` is its ground and its door: what it defines, the files in it may use, and what it
//! names of them is no import. What it hands on counts as an import of where it comes from.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Circles that are there. None may come in, and one that is opened leaves the list.
const CIRCLES: &[&[&str]] = &[];

/// A module, by its names from the root; the root itself has none.
type Name = Vec<String>;

struct Module {
    /// The paths it imports or names, as they are written.
    paths: Vec<Vec<String>>,
    /// What it has under other modules' names: the last segment, and the path.
    names: BTreeMap<String, Vec<String>>,
}

/// All modules that ship, by name.
struct House(BTreeMap<Name, Module>);

impl House {
    fn read(root: &Path) -> Self {
        let mut modules = BTreeMap::new();
        let mut folders = vec![root.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).expect("a folder of sources") {
                let path = entry.expect("an entry").path();
                let stem = path.file_stem().unwrap_or_default().to_string_lossy();
                let for_tests = ["tests", "testing", "synthetic", "builder"].contains(&&*stem);
                if path.is_dir() && !for_tests {
                    folders.push(path);
                    continue;
                }
                if for_tests || path.extension().is_none_or(|extension| extension != "rs") {
                    continue;
                }
                let inside = path.strip_prefix(root).expect("below the root");
                let mut name: Name = inside
                    .with_extension("")
                    .iter()
                    .map(|part| part.to_string_lossy().into_owned())
                    .collect();
                name.pop_if(|last| last == "mod");
                if name != ["lib"] && name != ["main"] {
                    let text = fs::read_to_string(&path).expect("a source");
                    modules.insert(name, Module::parse(&text));
                }
            }
        }
        Self(modules)
    }

    /// The module that a path of `from` leads to, through what others hand on; `None`: out of the house.
    fn target(&self, from: &[String], path: &[String]) -> Option<Name> {
        let (mut at, mut rest) = (from.to_vec(), path);
        match rest.first().map(String::as_str) {
            Some("crate") => (at, rest) = (Vec::new(), &rest[1..]),
            Some("self") => rest = &rest[1..],
            _ => {}
        }
        while rest.first().is_some_and(|first| first == "super") {
            at.pop();
            rest = &rest[1..];
        }
        let is_relative = rest.len() == path.len();
        while let Some(next) = rest.first() {
            at.push(next.clone());
            if !self.0.contains_key(&at) {
                at.pop();
                break;
            }
            rest = &rest[1..];
        }
        if is_relative && at == from {
            return None;
        }
        let handed_on = rest.first().and_then(|name| {
            let path = self.0.get(&at)?.names.get(name)?;
            // A name may be handed on by the module that it is the name of.
            let next = self.target(&at, path)?;
            (next != at).then_some(next)
        });
        Some(handed_on.unwrap_or(at))
    }

    /// Each import from one module of another, without those of a door and those from the ground.
    fn imports(&self) -> BTreeSet<(Name, Name)> {
        let mut found = BTreeSet::new();
        for (from, module) in &self.0 {
            for path in &module.paths {
                let target = self.target(from, path);
                let is_import = |to: &Name| !to.starts_with(from) && !from.starts_with(to);
                found.extend(target.filter(is_import).map(|to| (from.clone(), to)));
            }
        }
        found
    }
}

impl Module {
    fn parse(text: &str) -> Self {
        let text = text.split("\n#[cfg(test)]\nmod tests {").next();
        let mut code = String::new();
        for line in text.unwrap_or_default().lines() {
            code.push_str(line.split("//").next().unwrap_or_default());
            code.push('\n');
        }
        let (mut paths, mut names) = (Vec::new(), BTreeMap::new());
        let mut rest = code.as_str();
        let mut others = String::new();
        while let Some((before, tree, after)) = next_use(rest) {
            others.push_str(before);
            for (path, name) in leaves(tree) {
                names.insert(name, path.clone());
                paths.push(path);
            }
            rest = after;
        }
        others.push_str(rest);
        let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
        paths.extend(others.split(|c| !is_part(c)).filter_map(|path| {
            let path = segments(path);
            let is_path = ["crate", "super", "self"].contains(&path.first()?.as_str());
            (is_path && path.len() > 1).then_some(path)
        }));
        Self { paths, names }
    }
}

/// What is before the first `use`, its tree, and what comes after it.
fn next_use(code: &str) -> Option<(&str, &str, &str)> {
    let (at, _) = code.match_indices("use ").find(|(at, _)| {
        let line = code[..*at].rsplit('\n').next().unwrap_or_default().trim();
        line.is_empty() || line.starts_with("pub")
    })?;
    let (tree, after) = code[at + 4..].split_once(';')?;
    Some((&code[..at], tree, after))
}

fn segments(path: &str) -> Vec<String> {
    let parts = path.split("::").map(str::trim);
    parts
        .filter(|part| !part.is_empty())
        .map(str::to_owned)
        .collect()
}

/// The paths of a tree, and the names that they get.
fn leaves(tree: &str) -> Vec<(Vec<String>, String)> {
    let Some((stem, inside)) = tree.split_once('{') else {
        let (path, name) = match tree.split_once(" as ") {
            Some((path, name)) => (segments(path), name.trim().to_owned()),
            None => (segments(tree), String::new()),
        };
        let last = path.last().cloned().unwrap_or_default();
        return vec![(path, if name.is_empty() { last } else { name })];
    };
    let inside = inside.rsplit_once('}').map_or(inside, |(inside, _)| inside);
    let (mut depth, mut start, mut found) = (0, 0, Vec::new());
    for (at, c) in inside.char_indices().chain([(inside.len(), ',')]) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                let branch = inside[start..at].trim();
                if !branch.is_empty() {
                    found.extend(leaves(&format!("{}{branch}", stem.trim())));
                }
                start = at + 1;
            }
            _ => {}
        }
    }
    found
}

/// The floors of `lib.rs`, from the top.
fn floors(text: &str) -> Vec<Vec<String>> {
    let plan = text.split("//! # Floors").nth(1).and_then(|text| {
        let plan = text.split("//! ```text").nth(1)?;
        plan.split("//! ```").next()
    });
    plan.expect("a floor plan")
        .lines()
        .map(|line| {
            let rooms = line.trim_start_matches("//!").split('·');
            rooms.map(|room| room.trim().to_owned()).collect()
        })
        .collect()
}

/// Nodes that can be reached from one another, each set in order.
fn circles(edges: &BTreeSet<(String, String)>) -> BTreeSet<Vec<String>> {
    let reach = |from: &String| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![from.clone()]);
        while let Some(node) = open.pop() {
            let next = edges.iter().filter(|(from, _)| *from == node);
            open.extend(
                next.map(|(_, to)| to.clone())
                    .filter(|to| seen.insert(to.clone())),
            );
        }
        seen
    };
    let nodes: BTreeSet<&String> = edges.iter().map(|(from, _)| from).collect();
    let reached: BTreeMap<&String, BTreeSet<String>> =
        nodes.into_iter().map(|node| (node, reach(node))).collect();
    reached
        .iter()
        .filter(|(node, to)| to.contains(**node))
        .map(|(node, to)| {
            let back = |other: &&String| reached.get(other).is_some_and(|to| to.contains(*node));
            to.iter().filter(back).cloned().collect()
        })
        .collect()
}

fn house() -> (House, String) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let plan = fs::read_to_string(root.join("lib.rs")).expect("lib.rs");
    (House::read(&root), plan)
}

#[test]
fn imports_run_down_the_floors() {
    let (house, plan) = house();
    let floors = floors(&plan);
    let floor = |room: &str| {
        let is_here = |floor: &Vec<String>| floor.iter().any(|here| here == room);
        let found = floors.iter().position(is_here);
        found.unwrap_or_else(|| panic!("lib.rs has no floor for {room}"))
    };
    let mut up = Vec::new();
    for (from, to) in house.imports() {
        if from[0] != to[0] && floor(&from[0]) >= floor(&to[0]) {
            up.push(format!("{} imports {}", from.join("/"), to.join("/")));
        }
    }
    assert!(up.is_empty(), "imports that run up:\n{}", up.join("\n"));
}

#[test]
fn no_folder_has_a_circle() {
    let (house, _) = house();
    let mut folders: BTreeMap<Name, BTreeSet<(String, String)>> = BTreeMap::new();
    for (from, to) in house.imports() {
        let shared = from.iter().zip(&to).take_while(|(one, other)| one == other);
        let depth = shared.count();
        let below = |name: &Name| name[..=depth].join("/");
        let edges = folders.entry(from[..depth].to_vec()).or_default();
        edges.insert((below(&from), below(&to)));
    }
    let found: BTreeSet<Vec<String>> = folders.values().flat_map(circles).collect();
    let fits = |found: &Vec<String>, listed: &&[&str]| {
        found.iter().all(|name| listed.contains(&name.as_str()))
    };
    for circle in &found {
        let is_listed = CIRCLES.iter().any(|listed| fits(circle, listed));
        assert!(is_listed, "these import one another: {}", circle.join(" "));
    }
    for listed in CIRCLES {
        let is_there = found.iter().any(|circle| fits(circle, listed));
        assert!(is_there, "no circle any more: {}", listed.join(" "));
    }
}

/// What the rules see of a text.
#[test]
fn paths_are_seen_as_they_are_written() {
    let text = "use super::{a::{self, B as C}, d};\n// use crate::never;\npub use crate::e::F;\n\
                fn f() { crate::g::h(); self_made::i(); }\n#[cfg(test)]\nmod tests { use crate::j; }";
    let module = Module::parse(text);
    let paths: Vec<String> = module.paths.iter().map(|path| path.join("::")).collect();
    let expected = [
        "super::a::self",
        "super::a::B",
        "super::d",
        "crate::e::F",
        "crate::g::h",
    ];
    assert_eq!(paths, expected);
    assert_eq!(module.names["C"].join("::"), "super::a::B");
    let edges = [("a", "b"), ("b", "c"), ("c", "b"), ("d", "a")];
    let edges = edges.map(|(from, to)| (from.to_owned(), to.to_owned()));
    let found = circles(&edges.into_iter().collect());
    assert_eq!(
        found,
        BTreeSet::from([vec!["b".to_owned(), "c".to_owned()]])
    );
    let plan = "//! # Floors\n//!\n//! ```text\n//! main\n//! one · two\n//! ```\n";
    assert_eq!(floors(plan)[2], ["one", "two"]);
}
