//! What not every kernel has, in one table: what it takes, what it gives, and what is said without it.

use super::{
    Arch,
    offsets::{Offsets, SOCKET_TRACEPOINTS},
};

/// Something that the tool does with a kernel, where that kernel can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    Causes,
    Samples,
    SwitchState,
    DelayedDequeue,
    Probes,
    RunTime,
    Requests,
}

/// What a feature takes.
#[derive(Clone, Copy, Debug)]
pub enum Need {
    /// Helpers of kernel programs. Whether they are there is told by loading alone.
    Helpers(&'static [&'static str]),
    /// A member of a struct, by BTF.
    Member(&'static str, fn(&Offsets) -> bool),
    /// So many arguments of the tracepoint `sched_switch`, by BTF.
    SwitchArguments(u32),
    Architecture(Arch),
    /// Tracepoints, and what their arguments have, by BTF.
    Tracepoints(&'static [&'static str], fn(&Offsets) -> bool),
    /// A command of the system call `bpf`. Whether it is there is told by using it.
    Command(&'static str),
}

/// A line of the table.
#[derive(Debug)]
pub struct Row {
    pub feature: Feature,
    /// What it takes, and what is said where that is missing.
    pub needs: &'static [(Need, &'static str)],
    /// The first release that has all of it.
    pub since: (u32, u32),
    pub gives: &'static str,
}

const REGISTERS: Need = Need::Helpers(&["bpf_task_pt_regs", "bpf_get_current_task_btf"]);

/// All features. The oldest supported kernels have none of them.
pub static TABLE: [Row; 7] = [
    Row {
        feature: Feature::Causes,
        needs: &[(
            REGISTERS,
            "this kernel does not tell what a blocked thread waits for (it would from 5.15 on)",
        )],
        since: (5, 15),
        gives: "the system call that a thread is blocked in, and with it what it waits for",
    },
    Row {
        feature: Feature::Samples,
        needs: &[
            (
                REGISTERS,
                "this kernel is too old to sample stacks (5.15 is needed)",
            ),
            (
                Need::Member("task_struct.thread.fsbase", |offsets| {
                    offsets.task_tls.is_some()
                }),
                "stacks cannot be sampled on this processor architecture",
            ),
        ],
        since: (5, 15),
        gives: "Python stacks, and with them the time of event loops",
    },
    Row {
        feature: Feature::SwitchState,
        needs: &[(
            Need::SwitchArguments(5),
            "the state of a thread that leaves its CPU is read out of the thread itself",
        )],
        since: (5, 18),
        gives: "the state of a thread that leaves its CPU, from the tracepoint",
    },
    Row {
        feature: Feature::DelayedDequeue,
        needs: &[(
            Need::Member("task_struct.se.sched_delayed", |offsets| {
                offsets.task_sched_delayed.is_some()
            }),
            "this kernel takes threads that block off their queues at once",
        )],
        since: (6, 12),
        gives: "threads that are blocked although they are still queued",
    },
    Row {
        feature: Feature::Probes,
        needs: &[(
            Need::Architecture(Arch::X86_64),
            "probes read arguments on x86-64 only",
        )],
        since: (5, 15),
        gives: "exact counts of tasks, and of failures in thread pools",
    },
    Row {
        feature: Feature::RunTime,
        needs: &[(
            Need::Command("BPF_ENABLE_STATS"),
            "not measured: the kernel does not, or only for who has CAP_SYS_ADMIN",
        )],
        since: (5, 8),
        gives: "the run time of the tool's own kernel programs",
    },
    Row {
        feature: Feature::Requests,
        needs: &[
            (
                Need::Tracepoints(&SOCKET_TRACEPOINTS, |offsets| offsets.sockets.is_some()),
                "this kernel does not tell what sockets read and write (it would from 6.3 on)",
            ),
            (
                REGISTERS,
                "this kernel does not tell where a system call has its bytes (it would from 5.15 on)",
            ),
        ],
        since: (6, 3),
        gives: "HTTP requests: how long each lay unread, and how long its response took",
    },
];

impl Feature {
    /// Its line of the table.
    pub const fn row(self) -> &'static Row {
        &TABLE[self as usize]
    }

    /// What is said where it is missing, and nothing is known but that.
    pub const fn without(self) -> &'static str {
        self.row().needs[0].1
    }
}

/// What one kernel has of what can be told before it is tried.
#[derive(Clone, Copy, Debug)]
pub struct Features {
    offsets: Offsets,
    switch_arguments: Option<u32>,
    helpers: bool,
}

impl Features {
    /// Of the kernel with these offsets; its helpers are taken to be there.
    pub const fn new(offsets: Offsets, switch_arguments: Option<u32>) -> Self {
        Self {
            offsets,
            switch_arguments,
            helpers: true,
        }
    }

    /// The same kernel, which has turned out to lack helpers.
    #[must_use]
    pub const fn without_helpers(self) -> Self {
        Self {
            helpers: false,
            ..self
        }
    }

    /// Why a feature is missing; `None`: it is there, or only its use tells.
    pub fn lacks(&self, feature: Feature) -> Option<&'static str> {
        let missing = |(need, _): &&(Need, _)| !self.meets(need);
        let missing = feature.row().needs.iter().find(missing);
        missing.map(|(_, said)| *said)
    }

    /// Whether a feature is there, as far as that can be told.
    pub fn has(&self, feature: Feature) -> bool {
        self.lacks(feature).is_none()
    }

    fn meets(&self, need: &Need) -> bool {
        match need {
            Need::Helpers(_) => self.helpers,
            Need::Member(_, is_there) | Need::Tracepoints(_, is_there) => is_there(&self.offsets),
            Need::SwitchArguments(count) => self.switch_arguments.is_some_and(|n| n >= *count),
            Need::Architecture(arch) => Arch::current() == Some(*arch),
            Need::Command(_) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_feature_has_its_own_row() {
        for (at, row) in TABLE.iter().enumerate() {
            assert_eq!(row.feature as usize, at);
            assert_eq!(row.feature.without(), row.needs[0].1);
        }
    }

    #[test]
    fn what_is_missing_is_said() {
        let Ok((offsets, arguments)) = Offsets::of_running_kernel() else {
            eprintln!("SKIPPED what_is_missing_is_said: no BTF here");
            return;
        };
        let offsets = Offsets {
            task_tls: Some(1),
            task_sched_delayed: None,
            ..offsets
        };
        let new = Features::new(offsets, arguments.map(|count| count.min(4)));
        assert!(new.has(Feature::Causes) && new.has(Feature::Samples));
        assert!(!new.has(Feature::SwitchState) && !new.has(Feature::DelayedDequeue));
        let old = new.without_helpers();
        assert!(!old.has(Feature::Causes));
        let said = old.lacks(Feature::Samples).expect("no samples");
        assert!(said.contains("too old"), "{said}");
        let offsets = Offsets {
            task_tls: None,
            ..offsets
        };
        let other = Features::new(offsets, Some(5));
        let said = other.lacks(Feature::Samples).expect("no samples");
        assert!(said.contains("architecture"), "{said}");
        assert!(other.has(Feature::SwitchState));
    }
}
