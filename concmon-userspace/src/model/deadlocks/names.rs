//! What the members of a deadlock are called, and where they wait.

use std::collections::{BTreeMap, BTreeSet};

use super::{Node, Wait, What};
use crate::event::{PyFrame, PyTask, PyThread, PythonFact, Tid, own_frame};
use crate::model::rows;
use crate::schema::{Address, DeadlockMember};

/// Threads and tasks by id.
pub(super) struct Names<'a> {
    threads: BTreeMap<Tid, &'a PyThread>,
    tasks: BTreeMap<u64, &'a PyTask>,
}

impl<'a> Names<'a> {
    pub(super) fn of(look: &'a PythonFact) -> Self {
        Names {
            threads: look
                .threads
                .iter()
                .map(|thread| (thread.tid, thread))
                .collect(),
            tasks: look.tasks.iter().map(|task| (task.id, task)).collect(),
        }
    }

    fn name(&self, node: Node) -> Option<String> {
        match node {
            Node::Thread(tid) => self.threads.get(&tid)?.name.clone(),
            Node::Task(id) => self.tasks.get(&id).map(|task| task.name.clone()),
        }
    }

    /// Where it waits.
    fn place(&self, node: Node) -> Option<PyFrame> {
        let innermost: Vec<PyFrame> = match node {
            Node::Thread(tid) => self.threads.get(&tid)?.stack.clone(),
            Node::Task(id) => self
                .tasks
                .get(&id)?
                .awaiting
                .iter()
                .rev()
                .cloned()
                .collect(),
        };
        let own = own_frame(&innermost, |frame| &frame.file);
        own.or(innermost.first()).cloned()
    }

    fn label(&self, node: Node) -> String {
        match (node, self.name(node)) {
            (Node::Thread(tid), Some(name)) => format!("{name} ({tid})"),
            (Node::Thread(tid), None) => format!("thread {tid}"),
            (Node::Task(_), Some(name)) => format!("task {name}"),
            (Node::Task(id), None) => format!("task {}", Address(id)),
        }
    }
}

/// What is told of one member.
pub(super) fn member(
    node: Node,
    members: &BTreeSet<Node>,
    held: Option<(&str, bool)>,
    waits: &BTreeMap<Node, Wait>,
    names: &Names<'_>,
) -> DeadlockMember {
    let wait = &waits[&node];
    let on = || {
        let inside = wait.on.iter().filter(|on| members.contains(on));
        let labels: Vec<String> = inside.take(3).map(|on| names.label(*on)).collect();
        labels.join(", ")
    };
    DeadlockMember {
        tid: match node {
            Node::Thread(tid) => Some(tid.0),
            Node::Task(_) => None,
        },
        task: match node {
            Node::Thread(_) => None,
            Node::Task(id) => Some(Address(id)),
        },
        name: names.name(node),
        inferred: held.is_some_and(|(_, inferred)| inferred),
        holds: held.map(|(object, _)| object.to_owned()),
        waits_for: match &wait.what {
            What::Held(object) => object.clone(),
            What::End(tid) => format!("the end of {}", names.label(Node::Thread(*tid))),
            What::Result(tid) => format!("a result of {}", names.label(Node::Thread(*tid))),
            What::Queued(pool) => format!("a result that waits for a worker of {pool}"),
            What::Tasks => on(),
        },
        place: names.place(node).as_ref().map(rows::frame),
    }
}
