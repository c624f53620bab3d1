//! Who is watched and who is not: what `/debug/targets` tells.

use std::collections::{BTreeMap, BTreeSet};

use hyper::StatusCode;
use serde::Serialize;

use super::debug::Reply;
use crate::{
    event::Pid,
    procfs::rights::Denied,
    schema::Snapshot,
    session::watch::{Unwatched, Watch},
};

/// Processes that are told of, at most.
const MAX_TARGETS: usize = 10_000;

/// A process, as its last window has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Target {
    pid: u32,
    name: String,
    /// What its samples are counted for; `null`: not known, or nothing is counted.
    service: Option<String>,
    status: &'static str,
    /// Why it is not watched, or not as a whole.
    reason: Option<String>,
    /// The version of its interpreter.
    python: Option<String>,
}

/// The processes of the last window.
#[derive(Debug, Default)]
pub(super) struct Roster {
    watched: Vec<Target>,
}

#[derive(Serialize)]
struct Targets<'a> {
    targets: Vec<&'a Target>,
    /// Python processes that there was no room for, and processes that there was no time to look at.
    left_out: usize,
}

impl Roster {
    pub(super) fn learn(&mut self, window: &Snapshot) {
        let living = window.processes.iter();
        let living = living.filter(|process| process.exited.is_none());
        self.watched = living
            .map(|process| {
                let python = process.python.as_ref();
                let (status, reason) = match python {
                    Some(python) if python.supported => ("attached", None),
                    Some(python) => ("unsupported", python.reason.clone()),
                    None => ("attached", Some("by the kernel alone: no Python was seen in it, and it descends from a process that is watched".into())),
                };
                Target {
                    pid: process.pid,
                    name: process.name.clone(),
                    service: process.group.clone(),
                    status,
                    reason: reason.map(|reason| reason.to_string()),
                    python: python.and_then(|python| python.version.clone()),
                }
            })
            .collect();
    }

    /// The processes of a service; none: it is not there.
    pub(super) fn of_service(&self, service: &str) -> BTreeSet<Pid> {
        let watched = self.watched.iter();
        let of = watched.filter(|target| target.service.as_deref() == Some(service));
        of.map(|target| Pid(target.pid)).collect()
    }

    pub(super) fn service_of(&self, pid: u32) -> Option<&str> {
        let mut watched = self.watched.iter();
        watched.find(|target| target.pid == pid)?.service.as_deref()
    }

    /// The processes of each service.
    pub(super) fn services(&self) -> BTreeMap<String, BTreeSet<Pid>> {
        let mut services = BTreeMap::<String, BTreeSet<Pid>>::new();
        for target in &self.watched {
            if let Some(service) = &target.service {
                let of_service = services.entry(service.clone()).or_default();
                of_service.insert(Pid(target.pid));
            }
        }
        services
    }

    /// All of them, and those that are not watched.
    pub(super) fn targets(&self, watch: &mut Watch) -> Reply {
        let known: BTreeSet<u32> = self.watched.iter().map(|target| target.pid).collect();
        let (others, unseen) = watch.unwatched();
        let others: Vec<Target> = others
            .into_iter()
            .filter(|(pid, ..)| !known.contains(&pid.0))
            .map(|(pid, name, why)| {
                let (status, reason) = match why {
                    Unwatched::Denied => ("denied", "by a rule of the configuration".to_owned()),
                    Unwatched::NoPermission => {
                        let denied = Denied::reading(pid.0, "denied reading its memory");
                        ("no-permission", denied.to_string())
                    }
                    Unwatched::Short => ("short", "it has only just begun".to_owned()),
                    Unwatched::NoInterpreter => {
                        ("unsupported", "no interpreter was found".to_owned())
                    }
                };
                Target {
                    pid: pid.0,
                    name,
                    service: None,
                    status,
                    reason: Some(reason),
                    python: None,
                }
            })
            .collect();
        let mut targets: Vec<&Target> = self.watched.iter().chain(&others).collect();
        targets.sort_by_key(|target| target.pid);
        let left_out = unseen + targets.len().saturating_sub(MAX_TARGETS);
        targets.truncate(MAX_TARGETS);
        match serde_json::to_vec(&Targets { targets, left_out }) {
            Ok(mut body) => {
                body.push(b'\n');
                Reply {
                    status: StatusCode::OK.as_u16(),
                    content_type: "application/json".to_owned(),
                    body,
                }
            }
            Err(error) => Reply::text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
        }
    }
}
