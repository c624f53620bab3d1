//! Whose request a server's task serves: the port of the client, by which its connection is known.
//!
//! uvicorn and aiohttp have a task for each request, whose first variables lead to the connection.

use super::suspended::Pieces;
use crate::event::{PyTask, TaskState};
use crate::python::memory::at;
use crate::python::objects::text::as_bool;
use crate::python::objects::{Kind, Reader};

/// The coroutine of uvicorn's tasks; its first variable is the cycle of a request and its response.
const CYCLE: &str = "RequestResponseCycle.run_asgi";
/// The coroutine of aiohttp's tasks; its second variable is the request.
const REQUEST: &str = "RequestHandler._handle_request";
/// Tasks that are looked at; of more, the last ones are left out.
const MAX_SERVED: usize = 1_024;

/// Says of tasks that serve a request whose it is, as long as its response has not begun.
pub(crate) fn of_tasks(reader: &mut Reader<'_>, tasks: &mut [PyTask]) {
    let serves = |task: &&mut PyTask| {
        task.state != TaskState::Done && matches!(&*task.coroutine, CYCLE | REQUEST)
    };
    let mut serving: Vec<&mut PyTask> = tasks.iter_mut().filter(serves).take(MAX_SERVED).collect();
    if serving.is_empty() {
        return;
    }
    let coroutines: Vec<u64> = serving.iter().map(|task| task.coroutine_id).collect();
    // The variables lie in the coroutine, also while it runs.
    let length = reader.walk.frame.locals + 16;
    let pieces = Pieces::read(reader, &coroutines, &vec![length; coroutines.len()]);
    for (slot, task) in serving.iter_mut().enumerate() {
        if reader.is_over() {
            return;
        }
        let [first, second] = pieces.first_locals(&reader.walk, slot);
        let client = match &*task.coroutine {
            CYCLE => of_cycle(reader, first),
            _ => of_request(reader, second),
        };
        task.client_port = client.and_then(|client| port(reader, client));
    }
}

/// The client of uvicorn's cycle, as its connection has it: middleware changes what the scope has.
fn of_cycle(reader: &mut Reader<'_>, cycle: u64) -> Option<u64> {
    let found = reader.members_of(cycle, &["response_started", "on_response"])?;
    let started = reader.integers(&[found[0]?])[0];
    (as_bool(started) == Some(false)).then_some(())?;
    let method = found[1]?;
    let is_method = reader.types_of(&[method]).pop()??.kind == Kind::Method;
    is_method.then_some(())?;
    let place = at(method, reader.walk.callable.method_self);
    let connection = reader.pointer(place).ok()?;
    reader.members_of(connection, &["client"])?.pop()?
}

/// The client of aiohttp's request.
fn of_request(reader: &mut Reader<'_>, request: u64) -> Option<u64> {
    let found = reader.members_of(request, &["_transport_peername", "_payload_writer"])?;
    let written = reader.members_of(found[1]?, &["output_size"])?.pop()?;
    // It is an attribute of the class until something is written.
    let has_written = match written {
        Some(written) => reader.integers(&[written])[0]? != 0,
        None => false,
    };
    (!has_written).then_some(())?;
    found[0]
}

/// The port of an address: the second of its parts.
fn port(reader: &mut Reader<'_>, address: u64) -> Option<u16> {
    let kind = reader.types_of(&[address]).pop()??.kind;
    (kind == Kind::Tuple).then_some(())?;
    let parts = reader.tuple(address, 4)?;
    let port = reader.integers(&[*parts.get(1)?])[0]?;
    u16::try_from(port).ok().filter(|port| *port != 0)
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
                of_cycle(reader, object);
                of_request(reader, object);
                port(reader, object);
            }
        });
    }
}
