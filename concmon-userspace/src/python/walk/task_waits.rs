//! What a suspended task waits for: by the functions of asyncio that it is in, and by the future.

use super::suspended::FirstLocals;
use crate::event::{PyFrame, TaskWait};
use crate::python::memory::{Batch, at, plausible, word};
use crate::python::objects::{Kind, OBJECT_TYPE, Reader, TypeInfo};

/// How a function tells what is waited for.
#[derive(Clone, Copy)]
enum Says {
    Kind(&'static str),
    /// The class of the object whose method it is.
    Receiver,
}

/// Files of asyncio's, functions in them (the last part of the qualified name; none: any), and what
/// they wait for. Python 3.8 to 3.15.
const WAITS: &[(&str, &[&str], Says)] = &[
    ("tasks.py", &["sleep", "__sleep0"], Says::Kind("sleep")),
    ("tasks.py", &["_wait"], Says::Kind("wait")),
    ("tasks.py", &["_wait_for_one"], Says::Kind("as_completed")),
    ("tasks.py", &["wait_for"], Says::Kind("wait_for")),
    ("locks.py", &[], Says::Receiver),
    ("queues.py", &[], Says::Receiver),
    ("taskgroups.py", &[], Says::Kind("TaskGroup")),
    ("threads.py", &["to_thread"], Says::Kind("executor")),
    ("streams.py", &[], Says::Kind("stream")),
    ("sslproto.py", &[], Says::Kind("stream")),
    ("subprocess.py", &[], Says::Kind("subprocess")),
    ("base_subprocess.py", &[], Says::Kind("subprocess")),
    (
        "selector_events.py",
        &[
            "sock_recv",
            "sock_recv_into",
            "sock_recvfrom",
            "sock_recvfrom_into",
            "sock_sendall",
            "sock_sendto",
            "sock_accept",
            "sock_connect",
        ],
        Says::Kind("socket"),
    ),
    (
        "base_events.py",
        &["getaddrinfo", "getnameinfo"],
        Says::Kind("executor"),
    ),
    (
        "base_events.py",
        &["serve_forever", "wait_closed"],
        Says::Kind("Server"),
    ),
];

/// Functions that use other locks; they alone say what is waited for.
const USERS_OF_LOCKS: &[(&str, &str, &str)] = &[
    ("locks.py", "Barrier._block", "Barrier"),
    ("locks.py", "Barrier._wait", "Barrier"),
];

/// The function of anyio's limiter that waits for a token, and the file of anyio's classes on asyncio.
const LIMITER: &str = "acquire_on_behalf_of";
const ANYIO_FILE: &str = "/anyio/_backends/_asyncio.py";

/// The functions in which tasks wait for locks and semaphores of anyio's, and the files of these.
const ENTERING: &[&str] = &["acquire", "__aenter__"];
const OF_ANYIO: &[&str] = &["/anyio/_core/_synchronization.py", ANYIO_FILE];

const ADAPTER: &str = "Adapter";
/// What these call to wait.
const MAX_INNER: usize = 2;

/// The function in which whoever has entered anyio's task group waits for its tasks.
const END_OF_GROUP: &str = "__aexit__";

/// A function that a future calls when work in an executor is to be given up: it stands for that.
const OF_EXECUTOR: &str = "_chain_future.<locals>._call_check_cancel";

/// One suspended task.
pub(crate) struct Waiting<'a> {
    /// The future it waits for; 0: none, it is ready.
    pub(crate) future: u64,
    /// The outermost first.
    pub(crate) frames: &'a [PyFrame],
    /// The first local variables of each frame.
    pub(crate) locals: &'a [FirstLocals],
}

/// What each task waits for; `None` for one that waits for nothing.
pub(crate) fn waits(reader: &mut Reader<'_>, tasks: &[Waiting<'_>]) -> Vec<Option<TaskWait>> {
    let futures: Vec<u64> = tasks.iter().map(|task| task.future).collect();
    let said: Vec<Option<Says>> = tasks.iter().map(|task| said(task.frames)).collect();
    let receivers: Vec<u64> = tasks
        .iter()
        .zip(&said)
        .map(|(task, said)| match said {
            Some(Says::Receiver) => {
                let innermost = task.frames.len().saturating_sub(1);
                let frame = frame_of_anyio(task.frames).unwrap_or(innermost);
                task.locals.get(frame).map_or(0, |locals| locals[0])
            }
            _ => 0,
        })
        .collect();
    let of_futures = reader.types_of(&futures);
    let of_receivers = reader.types_of(&receivers);
    let by_executor = by_executor(reader, &futures, &said, &of_futures);
    tasks
        .iter()
        .enumerate()
        .map(|(slot, task)| {
            let info = of_futures[slot]
                .as_ref()
                .filter(|info| &*info.name != "NoneType")?;
            let future = Some(futures[slot]);
            let (kind, object) = match (said[slot], &of_receivers[slot]) {
                _ if info.kind == Kind::Task => ("Task", future),
                _ if &*info.name == "_GatheringFuture" => ("gather", future),
                (Some(Says::Kind(kind)), _) => (kind, future),
                (Some(Says::Receiver), Some(class)) => {
                    (kind_of(task.frames, &class.name), Some(receivers[slot]))
                }
                _ if by_executor[slot] => ("executor", future),
                _ => (last_part(&info.name), future),
            };
            Some(TaskWait {
                kind: kind.to_owned(),
                object,
            })
        })
        .collect()
}

/// Which frame is that of anyio's limiter: it waits by means of an event.
fn limiter_frame(frames: &[PyFrame]) -> Option<usize> {
    let is_limiter =
        |frame: &PyFrame| last_part(&frame.function) == LIMITER && frame.file.ends_with(ANYIO_FILE);
    let found = frames.iter().rposition(is_limiter)?;
    (frames.len() - found <= 2).then_some(found)
}

/// Which frame has the limiter, lock or semaphore of anyio's that is waited for: what waits may wrap another one, and
/// does so by means of an event or a future.
fn frame_of_anyio(frames: &[PyFrame]) -> Option<usize> {
    let is_inner = |frame: &&PyFrame| {
        asyncio_file(&frame.file) == Some("locks.py") || frame.file.ends_with(ANYIO_FILE)
    };
    let enters = |frame: &PyFrame| {
        ENTERING.contains(&last_part(&frame.function))
            && OF_ANYIO.iter().any(|file| frame.file.ends_with(file))
    };
    limiter_frame(frames).or_else(|| {
        let inner = frames
            .iter()
            .rev()
            .take(MAX_INNER)
            .take_while(|frame| !enters(frame) && is_inner(frame));
        let last = frames.len() - inner.count();
        let entering = frames[..last]
            .iter()
            .rev()
            .take_while(|frame| enters(frame));
        let count = entering.count();
        (count > 0).then(|| last - count)
    })
}

/// What an object is called whose method a task is in. One of anyio's that was made outside of any loop wraps another one.
fn kind_of<'a>(frames: &[PyFrame], class: &'a str) -> &'a str {
    let name = last_part(class);
    match name.strip_suffix(ADAPTER) {
        Some(wrapped) if frame_of_anyio(frames).is_some() => wrapped,
        _ => name,
    }
}

/// Of that file's classes, only the group has such a method.
fn is_end_of_group(frame: &PyFrame) -> bool {
    last_part(&frame.function) == END_OF_GROUP && frame.file.ends_with(ANYIO_FILE)
}

/// What the innermost functions say, as far as they are asyncio's.
fn said(frames: &[PyFrame]) -> Option<Says> {
    if frame_of_anyio(frames).is_some() {
        return Some(Says::Receiver);
    }
    if frames.last().is_some_and(is_end_of_group) {
        return Some(Says::Kind("TaskGroup"));
    }
    let asyncios = frames
        .iter()
        .rev()
        .map_while(|frame| Some((frame, asyncio_file(&frame.file)?)));
    let of_users = asyncios.clone().find_map(|(frame, file)| {
        USERS_OF_LOCKS
            .iter()
            .find(|(of, function, _)| *of == file && **function == *frame.function)
            .map(|(_, _, kind)| Says::Kind(kind))
    });
    of_users.or_else(|| {
        asyncios.clone().find_map(|(frame, file)| {
            let function = last_part(&frame.function);
            WAITS
                .iter()
                .find(|(of, names, _)| {
                    *of == file && (names.is_empty() || names.contains(&function))
                })
                .map(|(_, _, says)| *says)
        })
    })
}

/// The file in asyncio's folder.
pub(super) fn asyncio_file(path: &str) -> Option<&str> {
    let (folder, file) = path.rsplit_once('/')?;
    let package = folder.rsplit('/').next()?;
    (package == "asyncio").then_some(file)
}

fn last_part(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

/// Which plain futures stand for work in an executor.
fn by_executor(
    reader: &mut Reader<'_>,
    futures: &[u64],
    said: &[Option<Says>],
    types: &[Option<std::sync::Arc<TypeInfo>>],
) -> Vec<bool> {
    let fields = reader.walk.task;
    let mut batch = Batch::new();
    for ((future, said), info) in futures.iter().zip(said).zip(types) {
        let is_plain = said.is_none() && info.as_ref().is_some_and(|i| i.kind == Kind::Future);
        batch.push(
            if is_plain {
                at(*future, fields.callback)
            } else {
                0
            },
            8,
        );
    }
    reader.fetch(&mut batch);
    let callbacks = batch.words();
    if !callbacks.iter().any(|callback| plausible(*callback)) {
        return vec![false; futures.len()];
    }
    let qualname = reader.walk.callable.function_qualname;
    let mut functions = Batch::new();
    for callback in &callbacks {
        functions.push(*callback, qualname as usize + 8);
    }
    reader.fetch(&mut functions);
    reader.load_types((0..callbacks.len()).filter_map(|i| word(functions.prefix(i), OBJECT_TYPE)));
    let names: Vec<u64> = (0..callbacks.len())
        .map(|slot| {
            let bytes = functions.prefix(slot);
            match reader.kind(bytes) {
                Some(Kind::Function) => word(bytes, qualname).unwrap_or(0),
                _ => 0,
            }
        })
        .collect();
    reader.load_texts(names.clone());
    names
        .into_iter()
        .map(|name| reader.text(name).is_some_and(|name| &**name == OF_EXECUTOR))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_anyio_waits_with_is_not_what_is_waited_for() {
        const CORE: &str = "/lib/anyio/_core/_synchronization.py";
        const BACKEND: &str = "/lib/anyio/_backends/_asyncio.py";
        const LOCKS: &str = "/lib/python3.9/asyncio/locks.py";
        const OWN: &str = "/app/main.py";
        let frame = |chain: &[(&str, &str)]| {
            let frames: Vec<PyFrame> = chain
                .iter()
                .map(|(file, function)| PyFrame {
                    function: (*function).into(),
                    file: (*file).into(),
                    line: 1,
                })
                .collect();
            frame_of_anyio(&frames)
        };
        let own = (OWN, "acquire");
        assert_eq!(frame(&[own, (BACKEND, "Semaphore.acquire")]), Some(1));
        // In a statement, with an adapter, and by means of an event.
        let entered = [own, (CORE, "Lock.__aenter__"), (BACKEND, "Lock.acquire")];
        assert_eq!(frame(&entered), Some(1));
        let wrapped = [
            own,
            (CORE, "LockAdapter.__aenter__"),
            (BACKEND, "Lock.acquire"),
        ];
        assert_eq!(frame(&wrapped), Some(1));
        let event = [(BACKEND, "Event.wait"), (LOCKS, "Event.wait")];
        let old = [&[own, (CORE, "acquire")][..], &event[..]].concat();
        assert_eq!(frame(&old), Some(1));
        assert_eq!(frame(&[&[own][..], &event[..]].concat()), None);
        assert_eq!(frame(&[own, (LOCKS, "Lock.acquire")]), None);
        assert_eq!(frame(&[own]), None);
    }
}
