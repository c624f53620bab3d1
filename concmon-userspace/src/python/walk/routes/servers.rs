//! Which application a process serves: by the tasks, the loops and the threads of its servers.
//!
//! uvicorn's server is a local variable of its own task, also where an event loop in C has all else. aiohttp's are known to
//! the loop by the sockets on which it accepts, to the connections that are open, and to `run_app`.

use super::{MAX_WRAPPERS, ROOT_PATH, aiohttp, attribute, bound_to, has_text};
use crate::event::{PyFrame, PyTask};
use crate::python::memory::{Batch, at, word};
use crate::python::objects::{Kind, OBJECT_SIZE, Reader};
use crate::python::walk::stacks::StackFrame;
use crate::python::walk::{chain, locals};

/// The file of the frames whose first variable is uvicorn's server.
const UVICORN_FILE: &str = "uvicorn/server.py";
/// The coroutine whose first variable is aiohttp's application, and the file of it.
const RUN_APP: &str = "_run_app";
const AIOHTTP_FILE: &str = "aiohttp/web.py";
/// The coroutine whose first variable is one of aiohttp's connections.
const CONNECTION: &str = "RequestHandler.start";
/// What an event loop calls when somebody connects, and the class of what it makes connections with.
const ACCEPT: &str = "._accept_connection";
const AIOHTTP_SERVER: &str = "aiohttp.web_server.Server";
/// Tasks that are searched for servers, and descriptors of a loop.
const MAX_SERVERS: usize = 8;
const MAX_DESCRIPTORS: usize = 4_096;

/// What threads have on their stacks that serve: the file of a frame, its function, and what its first variable has of the
/// application; itself where that is nothing.
const FRAMES: &[(&str, &str, &[&str])] = &[
    ("gunicorn/workers/sync.py", "run", &["wsgi"]),
    ("gunicorn/workers/gthread.py", "run", &["wsgi"]),
    (WAITRESS, "serve", &[]),
    // werkzeug's and wsgiref's servers, the latter of which Django has.
    ("/socketserver.py", "serve_forever", &["app", "application"]),
];
/// Whose paths are below what `SCRIPT_NAME` of the environment has.
const GUNICORN: &str = "gunicorn/";
const SCRIPT_NAME: &[u8] = b"SCRIPT_NAME";
/// Where the bytes of a `bytes` begin, and variables of the environment that are looked at.
const BYTES_TEXT: u32 = 32;
const MAX_ENVIRONMENT: usize = 1_024;
/// Whose second variable has the arguments it was called with, among them this.
const WAITRESS: &str = "waitress/__init__.py";
const URL_PREFIX: &str = "url_prefix";
/// Frames that are read of all threads.
const MAX_FRAMES: usize = 64;

/// What runs in a process.
pub(crate) struct Running<'a> {
    pub(crate) tasks: &'a [PyTask],
    /// Event loops that may have servers of aiohttp.
    pub(crate) loops: Vec<u64>,
    /// The stacks of threads, with their places.
    pub(crate) stacks: Vec<(&'a [StackFrame], &'a [PyFrame])>,
}

/// What is served.
pub(super) enum Server {
    One {
        application: u64,
        loop_id: Option<u64>,
        /// It is served below a path.
        is_below: bool,
    },
    Several,
}

/// What is served: by event loops, else by threads; `None`: nothing that is known.
pub(super) fn server(
    reader: &mut Reader<'_>,
    running: &Running<'_>,
    modules: u64,
) -> Option<Server> {
    let mut found = of_uvicorn(reader, running.tasks);
    let others = of_aiohttp(reader, running.tasks, &running.loops);
    found.extend(others.into_iter().map(Served::by_loop));
    if found.is_empty() {
        found = of_threads(reader, modules, &running.stacks);
    }
    let Served {
        application,
        loop_id,
        ..
    } = *found.first()?;
    if found.iter().any(|one| one.application != application) {
        return Some(Server::Several);
    }
    Some(Server::One {
        application,
        loop_id,
        is_below: found.iter().any(|one| one.is_below),
    })
}

/// An application that is served.
#[derive(Clone, Copy)]
struct Served {
    application: u64,
    loop_id: Option<u64>,
    is_below: bool,
}

impl Served {
    fn by_loop((application, loop_id): (u64, u64)) -> Self {
        Self {
            application,
            loop_id: Some(loop_id),
            is_below: false,
        }
    }
}

/// The environment of the program, as Python has it, has a path below which it is served, or it cannot be read.
fn has_script_name(reader: &mut Reader<'_>, modules: u64) -> bool {
    script_name(reader, modules).is_none_or(|length| length > 0)
}

/// Its length; `None`: it cannot be read.
fn script_name(reader: &mut Reader<'_>, modules: u64) -> Option<u64> {
    let module = reader.dict_values(modules, &["os"])?.pop()??;
    let module = reader.module_dict(module)?;
    let environment = reader.dict_values(module, &["environ"])?.pop()??;
    let environment = attribute(reader, environment, "_data")?;
    let variables = reader.dict(environment)?;
    (variables.len() <= MAX_ENVIRONMENT).then_some(())?;
    let mut batch = Batch::new();
    for (name, _) in &variables {
        let len = BYTES_TEXT - OBJECT_SIZE;
        batch.push(at(*name, OBJECT_SIZE), len as usize + SCRIPT_NAME.len());
    }
    reader.fetch(&mut batch);
    for (index, (_, value)) in variables.iter().enumerate() {
        let bytes = batch.prefix(index);
        let text = bytes.get((BYTES_TEXT - OBJECT_SIZE) as usize..);
        if word(bytes, 0) == Some(SCRIPT_NAME.len() as u64) && text == Some(SCRIPT_NAME) {
            return reader.pointer(at(*value, OBJECT_SIZE)).ok();
        }
    }
    Some(0)
}

/// A call's arguments have a text of this name that is not empty, or it cannot be read.
fn has_argument(reader: &mut Reader<'_>, arguments: u64, name: &str) -> bool {
    let Some(found) = reader.dict_values(arguments, &[name]) else {
        return true;
    };
    let text = found.first().copied().flatten();
    text.is_some_and(|text| reader.read_text(text).is_none_or(|text| !text.is_empty()))
}

/// The applications that threads serve; of a server without one, itself.
fn of_threads(
    reader: &mut Reader<'_>,
    modules: u64,
    stacks: &[(&[StackFrame], &[PyFrame])],
) -> Vec<Served> {
    let frames = stacks
        .iter()
        .flat_map(|(frames, places)| frames.iter().zip(places.iter()));
    let serving = frames.filter_map(|(frame, place)| {
        let function = place.function.rsplit('.').next()?;
        let mut known = FRAMES.iter();
        let is_meant = |file: &str, name: &str| place.file.ends_with(file) && name == function;
        let (file, _, names) = known.find(|(file, name, _)| is_meant(file, name))?;
        Some((*frame, *file, *names))
    });
    let serving: Vec<_> = serving.take(MAX_FRAMES).collect();
    let frames: Vec<StackFrame> = serving.iter().map(|(frame, ..)| *frame).collect();
    let variables = locals::variables(reader, &frames);
    let mut found = Vec::new();
    for ((_, file, names), variables) in serving.into_iter().zip(variables) {
        let Some(first) = variables.own().first().copied().filter(|first| *first != 0) else {
            continue;
        };
        let applications = reader.members_of(first, names).unwrap_or_default();
        let application = applications.into_iter().flatten().next();
        let is_below = match file {
            WAITRESS => {
                let arguments = variables.own().get(1).copied();
                arguments.is_none_or(|arguments| has_argument(reader, arguments, URL_PREFIX))
            }
            _ => file.starts_with(GUNICORN) && has_script_name(reader, modules),
        };
        found.push(Served {
            application: application.unwrap_or(first),
            loop_id: None,
            is_below,
        });
    }
    found
}

/// The applications of uvicorn's servers, with the loops that serve them.
fn of_uvicorn(reader: &mut Reader<'_>, tasks: &[PyTask]) -> Vec<Served> {
    let serves = |task: &PyTask| {
        let mut frames = task.awaiting.iter();
        frames.any(|frame| frame.file.ends_with(UVICORN_FILE)) || task.coroutine == "Server.serve"
    };
    let servers = first_variables(reader, tasks, serves);
    let applications = servers.into_iter().filter_map(|(variables, loop_id)| {
        let found = variables.into_iter().find_map(|variable| {
            let config = attribute(reader, variable, "config")?;
            let application = attribute(reader, config, "loaded_app")?;
            Some((application, has_text(reader, config, ROOT_PATH)))
        });
        let (application, is_below) = found?;
        Some(Served {
            is_below,
            ..Served::by_loop((application, loop_id))
        })
    });
    applications.collect()
}

/// The applications of aiohttp's servers, with the loops that serve them.
fn of_aiohttp(reader: &mut Reader<'_>, tasks: &[PyTask], loops: &[u64]) -> Vec<(u64, u64)> {
    let runs = |task: &PyTask| {
        let mut frames = task.awaiting.iter();
        task.coroutine == RUN_APP && frames.any(|frame| frame.file.ends_with(AIOHTTP_FILE))
    };
    let running = first_variables(reader, tasks, runs);
    let mut found: Vec<(u64, u64)> = running
        .into_iter()
        .filter_map(|(variables, loop_id)| Some((*variables.first()?, loop_id)))
        .filter(|(object, _)| aiohttp::router(reader, *object).is_some())
        .collect();
    let connections = first_variables(reader, tasks, |task| task.coroutine == CONNECTION);
    for (variables, loop_id) in connections {
        let manager = variables.first().copied();
        let manager = manager.and_then(|connection| attribute(reader, connection, "_manager"));
        found.extend(manager.and_then(|server| Some((of_server(reader, server)?, loop_id))));
    }
    for loop_id in loops {
        let servers = accepting(reader, *loop_id).unwrap_or_default();
        for server in servers {
            found.extend(of_server(reader, server).map(|object| (object, *loop_id)));
        }
    }
    found
}

/// The application of one of aiohttp's servers, else itself; `None`: it is none.
fn of_server(reader: &mut Reader<'_>, server: u64) -> Option<u64> {
    let class = reader.classes_of(&[server]).pop()??;
    (reader.type_name(class)? == AIOHTTP_SERVER).then_some(())?;
    let handler = attribute(reader, server, "request_handler");
    Some(
        handler
            .and_then(|handler| bound_to(reader, handler))
            .unwrap_or(server),
    )
}

/// What a loop makes connections with, by the sockets on which it accepts.
fn accepting(reader: &mut Reader<'_>, loop_id: u64) -> Option<Vec<u64>> {
    let selector = attribute(reader, loop_id, "_selector")?;
    let keys = attribute(reader, selector, "_fd_to_key")?;
    let keys = reader.dict(keys)?.into_iter().take(MAX_DESCRIPTORS);
    let keys: Vec<u64> = keys.map(|(_, key)| key).collect();
    // The file, its descriptor, events, data; which is what reads, and what writes.
    let data = reader.tuples(&keys, 4).into_iter();
    let data: Vec<u64> = data.filter_map(|key| key?.get(3).copied()).collect();
    let readers = reader.tuples(&data, 2).into_iter();
    let readers: Vec<u64> = readers.filter_map(|data| data?.first().copied()).collect();
    let handles = reader
        .members(&readers, &["_callback", "_args"])
        .into_iter();
    let handles: Vec<(u64, u64)> = handles
        .filter_map(|found| {
            let found = found?;
            Some((found[0]?, found[1]?))
        })
        .collect();
    let arguments: Vec<u64> = handles.iter().map(|(_, arguments)| *arguments).collect();
    let arguments = reader.tuples(&arguments, 1);
    let mut found = Vec::new();
    for ((callback, _), arguments) in handles.into_iter().zip(arguments) {
        let Some(first) = arguments.and_then(|arguments| arguments.first().copied()) else {
            continue;
        };
        let kind = reader.types_of(&[callback]).pop().flatten();
        if kind.is_some_and(|info| info.kind == Kind::Method)
            && reader
                .callable_name(callback)
                .is_some_and(|name| name.ends_with(ACCEPT))
        {
            found.push(first);
        }
    }
    Some(found)
}

/// The first variable of each coroutine in the chains of the tasks that are meant, with the tasks' loops.
fn first_variables(
    reader: &mut Reader<'_>,
    tasks: &[PyTask],
    is_meant: impl Fn(&PyTask) -> bool,
) -> Vec<(Vec<u64>, u64)> {
    let meant = tasks.iter().filter(|task| is_meant(task));
    let meant: Vec<&PyTask> = meant.take(MAX_SERVERS).collect();
    let coroutines: Vec<u64> = meant.iter().map(|task| task.coroutine_id).collect();
    let chains = chain::chains(reader, &coroutines, MAX_WRAPPERS);
    let chains = chains.iter().zip(meant);
    chains
        .map(|(chain, task)| {
            let first = chain.locals.iter().map(|locals| locals[0]);
            (first.collect(), task.loop_id)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::objects::synthetic::Noise;

    #[test]
    fn reading_noise_ends() {
        Noise::each(60, 4 << 20, |memory, reader| {
            for index in 0..50 {
                let object = memory.address(index);
                of_server(reader, object);
                accepting(reader, object);
                has_script_name(reader, object);
                has_argument(reader, object, URL_PREFIX);
            }
        });
    }
}
