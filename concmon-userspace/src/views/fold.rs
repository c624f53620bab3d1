//! Equal things together: threads of one name and shape, processes that do the same.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::columns::{self, Column};
use super::digest;
use super::names::{common, stem};
use crate::schema::{LedgerSum, Process, Role, Thread};

/// From so many on, equal things are one row.
pub(super) const MANY: usize = 3;

/// A thread with its process.
pub(super) type Member<'a> = (&'a Process, &'a Thread);

/// A thread, or several of one name and shape.
#[derive(Debug)]
pub(super) struct Crowd<'a> {
    pub(super) members: Vec<Member<'a>>,
}

impl<'a> Crowd<'a> {
    /// The threads of these processes, the most active first. `all`: each by itself.
    pub(super) fn of(processes: &[&'a Process], all: bool) -> Vec<Self> {
        let members = processes
            .iter()
            .flat_map(|process| process.threads.iter().map(move |thread| (*process, thread)));
        let mut crowds: Vec<Self> = match all {
            true => members
                .map(|member| Self {
                    members: vec![member],
                })
                .collect(),
            false => together(members),
        };
        crowds.sort_by_key(|crowd| {
            let (process, thread) = crowd.members[0];
            (Reverse(crowd.activity_ns()), process.pid, thread.tid)
        });
        crowds
    }

    /// The thread, where it is only one.
    pub(super) fn single(&self) -> Option<Member<'a>> {
        match self.members[..] {
            [member] => Some(member),
            _ => None,
        }
    }

    pub(super) fn threads(&self) -> impl Iterator<Item = &'a Thread> {
        self.members.iter().map(|(_, thread)| *thread)
    }

    pub(super) fn ledger(&self) -> LedgerSum {
        columns::sum(self.threads().map(|thread| &thread.ledger))
    }

    /// `MainThread`, `AnyIO worker thread ×40`, with `(ended)` behind it.
    pub(super) fn label(&self) -> String {
        let labels: Vec<String> = self.threads().map(digest::thread_label).collect();
        let mut label = common(labels.iter().map(String::as_str));
        if !self.threads().any(|thread| thread.alive) {
            label += " (ended)";
        }
        match self.members.len() {
            1 => label,
            count => format!("{label} ×{count}"),
        }
    }

    pub(super) fn activity_ns(&self) -> u64 {
        let each = self.threads().map(digest::activity_ns);
        each.fold(0, u64::saturating_add)
    }
}

/// What makes threads equal: what each is called, what for, and where its time went most.
type Shape = (String, Option<Role>, bool, Option<Column>);

fn together<'a>(members: impl Iterator<Item = Member<'a>>) -> Vec<Crowd<'a>> {
    let mut shapes: BTreeMap<Shape, Vec<Member<'a>>> = BTreeMap::new();
    for (process, thread) in members {
        let shape = (
            stem(&digest::thread_label(thread)),
            thread.role,
            thread.alive,
            main_column(&thread.ledger),
        );
        shapes.entry(shape).or_default().push((process, thread));
    }
    let mut crowds = Vec::new();
    for members in shapes.into_values() {
        match members.len() >= MANY {
            true => crowds.push(Crowd { members }),
            false => crowds.extend(members.into_iter().map(|member| Crowd {
                members: vec![member],
            })),
        }
    }
    crowds
}

/// Where most of the time went.
pub(super) fn main_column(ledger: &LedgerSum) -> Option<Column> {
    let columns = Column::ALL.into_iter();
    let columns = columns.filter(|column| column.of(ledger) > 0);
    columns.max_by_key(|column| (column.of(ledger), Reverse(*column)))
}

/// Processes that do the same: workers of one parent, of one name. Each of them has the same place in the
/// answer as its first; others are alone.
pub(super) fn alike<'a>(processes: &[&'a Process], all: bool) -> Vec<Vec<&'a Process>> {
    let key = |process: &Process| {
        let label = digest::process_label(process);
        (
            process.ppid,
            process.role,
            stem(&label),
            process.exited.map(digest::exited_label),
        )
    };
    let mut counts: BTreeMap<_, usize> = BTreeMap::new();
    for process in processes {
        *counts.entry(key(process)).or_default() += 1;
    }
    let mut places: BTreeMap<_, usize> = BTreeMap::new();
    let mut sets: Vec<Vec<&Process>> = Vec::new();
    for process in processes {
        let key = key(process);
        let many = !all && process.exact.is_none() && counts[&key] >= MANY;
        match places.get(&key) {
            Some(place) if many => sets[*place].push(process),
            _ => {
                if many {
                    places.insert(key, sets.len());
                }
                sets.push(vec![process]);
            }
        }
    }
    sets
}
