//! How long a suspended task has asked to wait, by the functions of asyncio that it is in.

use super::loops::nanoseconds;
use super::task_waits::{Waiting, asyncio_file};
use crate::event::PyFrame;
use crate::python::objects::Reader;

/// Where a function keeps the time that it was given.
#[derive(Clone, Copy)]
enum Given {
    /// In its first or second local variable: seconds, or `None`.
    Local(usize),
    /// It waits for no time.
    Zero,
}

/// Functions in asyncio's `tasks.py` (the last part of the qualified name), Python 3.8 to 3.15.
const GIVEN: &[(&str, Given)] = &[
    ("sleep", Given::Local(0)),
    ("__sleep0", Given::Zero),
    ("wait_for", Given::Local(1)),
    ("_wait", Given::Local(1)),
];

/// The shortest time that each task was given, ns; `None`: none.
pub(super) fn timeouts(reader: &mut Reader<'_>, tasks: &[Waiting<'_>]) -> Vec<Option<u64>> {
    let mut shortest: Vec<Option<u64>> = vec![None; tasks.len()];
    // Where what else was given is to be read, and whose it is.
    let (mut places, mut owners) = (Vec::new(), Vec::new());
    for (slot, task) in tasks.iter().enumerate() {
        for (frame, locals) in task.frames.iter().zip(task.locals) {
            match given(frame) {
                Some(Given::Local(index)) => {
                    places.push(locals[index]);
                    owners.push(slot);
                }
                Some(Given::Zero) => shortest[slot] = Some(0),
                None => {}
            }
        }
    }
    for (slot, seconds) in owners.into_iter().zip(reader.numbers(&places)) {
        let ns = seconds.and_then(nanoseconds);
        shortest[slot] = shortest[slot].into_iter().chain(ns).min();
    }
    shortest
}

fn given(frame: &PyFrame) -> Option<Given> {
    (asyncio_file(&frame.file)? == "tasks.py").then_some(())?;
    let name = frame.function.rsplit('.').next()?;
    let (_, given) = GIVEN.iter().find(|(known, _)| *known == name)?;
    Some(*given)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::objects::synthetic::{World, set_word};

    fn float(world: &mut World, value: f64) -> u64 {
        let class = world.class("float", 0, 24);
        let mut bytes = World::object(class, 24);
        set_word(
            &mut bytes,
            world.walk.containers.float_value,
            value.to_bits(),
        );
        world.put(&bytes)
    }

    #[test]
    fn the_shortest_time_counts() {
        let mut world = World::new(13);
        let (short, long) = (float(&mut world, 0.001), float(&mut world, 3600.0));
        let (none, nan) = (world.text("no number"), float(&mut world, f64::NAN));
        let frame = |function: &str, file: &str| PyFrame {
            function: function.into(),
            file: file.into(),
            line: 1,
        };
        let asyncio = |function| frame(function, "/usr/lib/asyncio/tasks.py");
        let own = frame("sleep", "/srv/app/tasks.py");
        for (frames, locals, expected) in [
            (vec![asyncio("sleep")], vec![[short, 0]], Some(1_000_000)),
            (vec![asyncio("sleep")], vec![[none, short]], None),
            (vec![asyncio("sleep")], vec![[nan, 0]], None),
            (vec![asyncio("__sleep0")], vec![[0, 0]], Some(0)),
            (vec![asyncio("_wait")], vec![[none, short]], Some(1_000_000)),
            (
                vec![asyncio("wait_for"), own.clone(), asyncio("sleep")],
                vec![[none, short], [0, 0], [long, 0]],
                Some(1_000_000),
            ),
            (vec![own], vec![[short, short]], None),
            (vec![], vec![], None),
        ] {
            let task = Waiting {
                future: 0,
                frames: &frames,
                locals: &locals,
            };
            assert_eq!(timeouts(&mut world.reader(), &[task]), [expected]);
        }
    }
}
