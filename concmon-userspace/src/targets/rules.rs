//! Rules on processes: which of those that are selected are watched, and what their services are called.

use std::cell::OnceCell;

use crate::{
    cli::Pattern,
    event::{Pid, ProcessFact},
    procfs::{self, cgroups::Cgroups, now},
};

/// All of it must hold of a process. Nothing that was left out is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Condition {
    /// Is found in what the kernel calls it.
    pub(crate) name: Option<Pattern>,
    /// Is found in its command line.
    pub(crate) command: Option<Pattern>,
    /// It runs as this user, by number.
    pub(crate) user: Option<u32>,
    /// It belongs to this systemd unit, or to one inside of it.
    pub(crate) unit: Option<String>,
    /// It is in this container: a name, or the begin of an id.
    pub(crate) container: Option<String>,
    /// It is in this cgroup, or in one below it.
    pub(crate) cgroup: Option<String>,
}

/// The rules of a watch that nobody sits at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rules {
    /// One must hold, where there are any.
    pub(crate) allow: Vec<Condition>,
    /// None may hold.
    pub(crate) deny: Vec<Condition>,
    /// The first that holds names the service.
    pub(crate) services: Vec<(Condition, String)>,
}

/// What rules ask about a process; its user and its cgroups are read once one does.
pub(crate) struct Subject {
    pid: Pid,
    pub(crate) name: String,
    pub(crate) command: String,
    user: OnceCell<Option<u32>>,
    cgroups: OnceCell<Cgroups>,
}

impl Subject {
    /// `None`: there is no such process any more, or it is a kernel thread.
    pub(crate) fn of(pid: Pid) -> Option<Self> {
        let (name, command) = procfs::command(pid.0)?;
        Some(Self::new(pid, name, command))
    }

    pub(super) fn new(pid: Pid, name: String, command: String) -> Self {
        Self {
            pid,
            name,
            command,
            user: OnceCell::new(),
            cgroups: OnceCell::new(),
        }
    }

    /// One that was read, and may be over: then nobody tells its user and its cgroups.
    pub(crate) fn read(fact: &ProcessFact) -> Self {
        Self::new(Pid(fact.pid), fact.name.clone(), fact.cmdline.join(" "))
    }

    fn user(&self) -> Option<u32> {
        *self.user.get_or_init(|| now::user(self.pid))
    }

    pub(super) fn cgroups(&self) -> &Cgroups {
        self.cgroups.get_or_init(|| Cgroups::of(self.pid))
    }
}

impl Condition {
    /// `is_container` tells whether a container id goes by a name.
    fn holds(&self, of: &Subject, is_container: &dyn Fn(&str, &str) -> bool) -> bool {
        let pattern = |wanted: &Option<Pattern>, text: &str| {
            wanted.as_ref().is_none_or(|wanted| wanted.is_in(text))
        };
        let place = |wanted: &Option<String>, is: &dyn Fn(&str) -> bool| {
            wanted.as_ref().is_none_or(|wanted| is(wanted))
        };
        pattern(&self.name, &of.name)
            && pattern(&self.command, &of.command)
            && self.user.is_none_or(|user| of.user() == Some(user))
            && place(&self.unit, &|unit| of.cgroups().is_in_unit(unit))
            && place(&self.cgroup, &|path| of.cgroups().is_below(path))
            && place(&self.container, &|named| {
                of.cgroups()
                    .container()
                    .is_some_and(|id| is_container(&id, named))
            })
    }

    /// Nothing is asked for.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Rules {
    /// There are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.allow.is_empty() && self.deny.is_empty() && self.services.is_empty()
    }

    /// Some rule asks for a container.
    pub(super) fn ask_for_containers(&self) -> bool {
        let services = self.services.iter().map(|(condition, _)| condition);
        let mut all = self.allow.iter().chain(&self.deny).chain(services);
        all.any(|condition| condition.container.is_some())
    }

    pub(super) fn denies(&self, of: &Subject, is_container: &dyn Fn(&str, &str) -> bool) -> bool {
        let mut deny = self.deny.iter();
        deny.any(|condition| condition.holds(of, is_container))
    }

    pub(super) fn allows(&self, of: &Subject, is_container: &dyn Fn(&str, &str) -> bool) -> bool {
        let mut allow = self.allow.iter();
        self.allow.is_empty() || allow.any(|condition| condition.holds(of, is_container))
    }

    pub(super) fn service(
        &self,
        of: &Subject,
        is_container: &dyn Fn(&str, &str) -> bool,
    ) -> Option<&str> {
        let mut services = self.services.iter();
        let found = services.find(|(condition, _)| condition.holds(of, is_container));
        found.map(|(_, name)| name.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_a_condition_must_hold_and_the_first_service_counts() {
        let own = Subject::of(Pid(std::process::id())).expect("this process");
        let pattern = |text: &str| Some(Pattern::parse(text).expect("a pattern"));
        let user = rustix::process::geteuid().as_raw();
        let is = Condition {
            command: pattern("."),
            user: Some(user),
            ..Condition::default()
        };
        let other_user = Condition {
            user: Some(user + 1),
            ..is.clone()
        };
        let other_place = Condition {
            container: Some("shop".to_owned()),
            ..is.clone()
        };
        let nobody = &|_: &str, _: &str| false;
        let rules = Rules {
            allow: vec![other_user.clone(), other_place.clone()],
            deny: Vec::new(),
            services: vec![
                (other_place.clone(), "one".to_owned()),
                (is.clone(), "two".to_owned()),
                (is.clone(), "three".to_owned()),
            ],
        };
        assert!(!rules.allows(&own, nobody) && !rules.denies(&own, nobody));
        assert_eq!(rules.service(&own, nobody), Some("two"));
        assert!(rules.ask_for_containers() && Rules::default().allows(&own, nobody));
        let denying = Rules {
            deny: vec![other_user, is],
            ..Rules::default()
        };
        assert!(denying.denies(&own, nobody) && !denying.ask_for_containers());
    }
}
