//! Who serves a request that is under way, and where that waits: as the latest look has it.

use crate::event::{PyFrame, PyLoop, PyTask, PythonFact, TaskState, Tid, own_frame};
use crate::model::rows;
use crate::schema::{self, Frame};

const NO_LOOK: &str = "no look since it was read";
const NO_THREAD: &str = "no look has met its thread";
const HANDED_ON: &str = "its server hands requests on to threads of its own";
const NO_TASK: &str =
    "no task is known to serve it: its server is none of those that are known, or it has not begun";
const SEVERAL: &str = "more than one request, or task, has this port of a client";
const NO_PORT: &str = "its client has no port";

/// The name of the pool of a server whose threads serve what another one has read.
const WAITRESS: &str = "waitress-";

/// What of a request says who serves it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Served {
    pub(super) began_ns: u64,
    /// Who read it.
    pub(super) tid: Tid,
    /// `Err`: several that are under way have it.
    pub(super) client_port: Result<Option<u16>, ()>,
}

/// Who serves it, and what that waits for; or why that is not known.
#[derive(Debug)]
pub(super) struct Serving {
    /// Within: `None` where a thread serves it.
    pub(super) task: Result<Option<schema::HttpTask>, &'static str>,
    pub(super) place: Result<Frame, &'static str>,
    pub(super) waits_for: Option<String>,
}

impl Serving {
    fn unknown(reason: &'static str) -> Self {
        Self {
            task: Ok(None),
            place: Err(reason),
            waits_for: None,
        }
    }
}

/// Who serves a request, as `look` has it.
pub(super) fn serving(look: Option<&PythonFact>, request: Served) -> Serving {
    let Some(look) = look else {
        return Serving::unknown(NO_THREAD);
    };
    let of_thread = |one: &&PyLoop| one.tid == request.tid;
    let its_loop = look.loops.iter().find(of_thread);
    // What another request had met before is nothing of this one.
    if request.began_ns > look.read_ns {
        return Serving {
            task: its_loop.map_or(Ok(None), |_| Err(NO_LOOK)),
            ..Serving::unknown(NO_LOOK)
        };
    }
    let Some(its_loop) = its_loop else {
        let mut pools = look.executors.iter();
        if pools.any(|pool| pool.name_prefix.as_deref() == Some(WAITRESS)) {
            return Serving::unknown(HANDED_ON);
        }
        return Serving {
            task: Ok(None),
            place: of_thread_place(look, request.tid),
            waits_for: None,
        };
    };
    match task(look, its_loop.id, request.client_port) {
        Ok(task) => Serving {
            task: Ok(Some(schema::HttpTask {
                id: schema::Address(task.id),
                name: task.name.clone(),
            })),
            place: match task.state {
                TaskState::Running => of_thread_place(look, request.tid),
                TaskState::Pending | TaskState::Done => {
                    let innermost: Vec<&PyFrame> = task.awaiting.iter().rev().collect();
                    place(&innermost)
                }
            },
            waits_for: task.waits_for.as_ref().map(|wait| wait.kind.clone()),
        },
        Err(reason) => Serving {
            task: Err(reason),
            ..Serving::unknown(reason)
        },
    }
}

/// The one task of a loop that serves the client with this port.
fn task(
    look: &PythonFact,
    loop_id: u64,
    client_port: Result<Option<u16>, ()>,
) -> Result<&PyTask, &'static str> {
    let port = client_port.map_err(|()| SEVERAL)?.ok_or(NO_PORT)?;
    let serves = |task: &&PyTask| task.loop_id == loop_id && task.client_port == Some(port);
    let mut tasks = look.tasks.iter().filter(serves);
    let task = tasks.next().ok_or(NO_TASK)?;
    match tasks.next() {
        None => Ok(task),
        Some(_) => Err(SEVERAL),
    }
}

fn of_thread_place(look: &PythonFact, tid: Tid) -> Result<Frame, &'static str> {
    let thread = look.threads.iter().find(|seen| seen.tid == tid);
    let stack = thread.map_or(&[][..], |thread| &thread.stack);
    place(&stack.iter().collect::<Vec<_>>())
}

/// The innermost frame that is the program's own, of a stack that begins with the innermost.
fn place(stack: &[&PyFrame]) -> Result<Frame, &'static str> {
    let frame = own_frame(stack, |frame| &frame.file).or(stack.first());
    frame.map(|found| rows::frame(found)).ok_or(NO_THREAD)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::testing;

    const PORT: u16 = 40_001;

    fn look() -> PythonFact {
        let mut look = testing::look(7, 1_000);
        look.loops = vec![testing::py_loop(9, 0x10)];
        let mut task = testing::py_task(0x20, 0x10, "one");
        task.client_port = Some(PORT);
        look.tasks = vec![testing::py_task(0x30, 0x10, "other"), task];
        look
    }

    fn request(tid: u32, began_ns: u64, port: u16) -> Served {
        Served {
            began_ns,
            tid: Tid(tid),
            client_port: Ok(Some(port)),
        }
    }

    #[test]
    fn a_task_is_known_by_its_client_where_there_is_one_such() {
        let mut look = look();
        let found = serving(Some(&look), request(9, 900, PORT));
        let id = |found: Serving| found.task.map(|task| task.map(|task| task.id.0));
        assert_eq!(found.place.as_ref().map(|frame| frame.line), Ok(7));
        assert_eq!(id(found), Ok(Some(0x20)));
        // Another client's, one that came later, one without a port, one of two.
        let others = [
            (request(9, 900, 1), NO_TASK),
            (request(9, 1_001, PORT), NO_LOOK),
            (
                Served {
                    client_port: Ok(None),
                    ..request(9, 900, PORT)
                },
                NO_PORT,
            ),
            (
                Served {
                    client_port: Err(()),
                    ..request(9, 900, PORT)
                },
                SEVERAL,
            ),
        ];
        for (request, reason) in others {
            let found = serving(Some(&look), request);
            assert_eq!(found.place.clone().err(), Some(reason));
            assert_eq!(id(found), Err(reason));
        }
        look.tasks[0].client_port = Some(PORT);
        let found = serving(Some(&look), request(9, 900, PORT));
        assert_eq!(id(found), Err(SEVERAL));
        // A loop of another thread has it: it is none of this one's.
        let found = serving(Some(&look), request(8, 900, PORT));
        assert_eq!(id(found), Ok(None));
    }
}
