//! The command line of what to watch or to look at: processes by id, name, service, container.

use clap::Args;
use regex::{Regex, RegexBuilder};

use super::MAX_PID;

/// A compiled pattern takes so many bytes at most.
const MAX_PATTERN_BYTES: usize = 1 << 20;

/// A regular expression as it was typed.
#[derive(Clone, Debug)]
pub struct Pattern(Regex);

impl Pattern {
    /// Whether it is found anywhere in a text.
    pub fn is_in(&self, text: &str) -> bool {
        self.0.is_match(text)
    }

    pub fn text(&self) -> &str {
        self.0.as_str()
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text()
    }
}

impl Eq for Pattern {}

impl Pattern {
    /// A pattern that is not on the command line.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        pattern(text)
    }
}

fn pattern(text: &str) -> Result<Pattern, String> {
    if text.is_empty() {
        return Err("an empty pattern matches everything: use --all for that".to_owned());
    }
    let built = RegexBuilder::new(text)
        .size_limit(MAX_PATTERN_BYTES)
        .build();
    built.map(Pattern).map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => "it is too large".to_owned(),
        error => {
            // The last line says what, those before it show where.
            let text = error.to_string();
            let reason = text.lines().last().unwrap_or_default().to_owned();
            let reason = reason.strip_prefix("error: ").unwrap_or(&reason);
            format!("{reason}; a backslash takes the meaning from a sign, as in 'app\\.py'")
        }
    })
}

/// An id or a name of a container, a unit, a cgroup.
fn name(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("it is empty".to_owned()),
        text => Ok(text.to_owned()),
    }
}

/// What selects processes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
#[group(skip)]
pub struct Selection {
    /// This process; may be repeated. With --container: its id inside. Of a process that is no Python, a
    /// shell or a container's init, its Python descendants
    #[arg(short, long = "pid", value_name = "PID", value_parser = clap::value_parser!(u32).range(1..=MAX_PID))]
    pub(crate) pids: Vec<u32>,

    /// Python processes whose name or command line matches, now and later; may be repeated
    #[arg(long = "name", value_name = "REGEX", value_parser = pattern)]
    pub names: Vec<Pattern>,

    /// Every Python process of this host, now and later
    #[arg(long)]
    pub all: bool,

    /// Python processes of this systemd unit, now and later; may be repeated
    #[arg(long = "unit", value_name = "NAME", value_parser = name)]
    pub units: Vec<String>,

    /// Python processes of this container (docker, podman, containerd), now and later; may be repeated
    #[arg(long = "container", value_name = "ID|NAME", value_parser = name)]
    pub containers: Vec<String>,

    /// Python processes of this cgroup and of those below it, now and later; may be repeated
    #[arg(long = "cgroup", value_name = "PATH", value_parser = name)]
    pub cgroups: Vec<String>,

    /// None whose name or command line matches, children included; may be repeated
    #[arg(long, value_name = "REGEX", value_parser = pattern, requires = "selected")]
    pub exclude: Vec<Pattern>,

    /// Where nothing matches, wait until something does
    #[arg(long, requires = "selected")]
    pub wait: bool,
}

impl Selection {
    /// Their ids on the command line, of which one at least is needed.
    pub(super) const SELECTING: [&'static str; 6] =
        ["pids", "names", "all", "units", "containers", "cgroups"];

    /// These processes, and nobody else.
    pub fn of_pids(pids: Vec<u32>) -> Self {
        Self {
            pids,
            ..Self::default()
        }
    }

    /// Nothing was asked for.
    pub fn is_empty(&self) -> bool {
        self.pids.is_empty() && !self.has_properties()
    }

    /// The same, with ids in order and without doubles.
    pub(super) fn sorted(&self) -> Self {
        Self {
            pids: self.pids(),
            ..self.clone()
        }
    }

    /// The ids that were given: sorted, without doubles.
    pub fn pids(&self) -> Vec<u32> {
        let mut pids = self.pids.clone();
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// Ids are those that processes have inside of a container.
    pub fn has_inner_pids(&self) -> bool {
        !self.pids.is_empty() && !self.containers.is_empty()
    }

    /// Whether processes are wanted for what they are: those that appear later, too.
    pub fn selects_later(&self) -> bool {
        let others = self.all
            || !(self.names.is_empty() && self.units.is_empty() && self.cgroups.is_empty());
        others || (self.pids.is_empty() && !self.containers.is_empty())
    }

    fn has_properties(&self) -> bool {
        self.all
            || !self.names.is_empty()
            || !self.units.is_empty()
            || !self.containers.is_empty()
            || !self.cgroups.is_empty()
    }

    /// What was asked for, as it was typed: `--name app --unit shop`.
    pub fn words(&self) -> String {
        let mut words = Vec::new();
        let mut add = |option: &str, value: &str| match value {
            "" => words.push(option.to_owned()),
            value => words.push(format!("{option} {value}")),
        };
        for pid in self.pids() {
            add("--pid", &pid.to_string());
        }
        for name in &self.names {
            add("--name", name.text());
        }
        if self.all {
            add("--all", "");
        }
        for (option, values) in [
            ("--unit", &self.units),
            ("--container", &self.containers),
            ("--cgroup", &self.cgroups),
        ] {
            for value in values {
                add(option, value);
            }
        }
        for exclude in &self.exclude {
            add("--exclude", exclude.text());
        }
        words.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        let app = pattern(r"app\.py$").unwrap();
        assert!(app.is_in("python /srv/app.py") && !app.is_in("python /srv/appapy"));
        assert_eq!(app, pattern(r"app\.py$").unwrap());
        for (text, reason) in [
            ("", "--all"),
            ("(", "unclosed group"),
            ("[a-", "unclosed character class"),
            (r"\w{1000}{1000}{1000}", "too large"),
        ] {
            let error = pattern(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn what_was_asked_for_in_words() {
        let mut selection = Selection::of_pids(vec![7, 3, 7]);
        assert!(!selection.selects_later() && !selection.is_empty());
        selection.containers.push("web".to_owned());
        // It says where the ids are those of.
        assert!(!selection.selects_later() && selection.has_inner_pids());
        selection.names.push(pattern("a b").unwrap());
        assert!(selection.selects_later());
        assert_eq!(
            selection.words(),
            "--pid 3 --pid 7 --name a b --container web"
        );
        assert!(Selection::default().is_empty());
    }
}
