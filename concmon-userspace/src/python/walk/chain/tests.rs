//! Await chains in memory that is made up.

use super::*;
use crate::python::layout::{
    AwaitShape, GeneratorFrame, InstructionShape, Instructions, StackShape, StateNumbers,
    StateShape,
};
use crate::python::memory::at;
use crate::python::objects::OBJECT_SIZE;
use crate::python::objects::synthetic::{World, set_word};

struct Case {
    /// 7: finished.
    state: i8,
    /// Values on the stack, the top last.
    stack: Vec<u64>,
    resume: [u8; 2],
}

/// A coroutine with two locals.
fn coroutine(world: &mut World, case: &Case) -> u64 {
    let (generator, frame) = (world.walk.generator, world.walk.frame);
    let size = match generator.frame {
        GeneratorFrame::Inside(inside) => inside + frame.locals,
        GeneratorFrame::Object { size, .. } => size,
    };
    let class = world.class("coroutine", 0, size.into());
    let depth = 2 + case.stack.len() as u32;
    let frame_len = frame.locals + depth * 8;
    // The instruction where it waits is the first one; the one after it says what for.
    let instructions = [0, 0, case.resume[0], case.resume[1]];
    let (code, instruction) = match world.walk.code.instructions {
        Instructions::Inside(first) => {
            let mut code = vec![0; first as usize];
            code.extend(instructions);
            let code = world.put(&code);
            (code, at(code, first))
        }
        Instructions::Bytes { pointer, size } => {
            let mut bytes = vec![0; world.walk.text.bytes as usize];
            bytes.extend(instructions);
            let bytes = world.put(&bytes);
            let mut code = vec![0; size as usize];
            set_word(&mut code, pointer, bytes);
            (world.put(&code), 0)
        }
    };
    let mut bytes = World::object(class, size as usize);
    let mut body = vec![0; frame_len as usize];
    let (address, place) = match generator.frame {
        GeneratorFrame::Inside(inside) => {
            bytes.truncate(inside as usize);
            let whole = [&bytes[..], &body].concat();
            let address = world.put(&whole);
            (address, at(address, inside))
        }
        GeneratorFrame::Object { pointer, .. } => {
            let place = world.put(&body);
            if case.state != 7 {
                set_word(&mut bytes, pointer, place);
            }
            (world.put(&bytes), place)
        }
    };
    match generator.state {
        StateShape::Running(running) => bytes[running as usize] = u8::from(case.state == 0),
        StateShape::OfFrame(state, _) => body[state as usize] = case.state as u8,
        StateShape::OfGenerator(state, _) => bytes[state as usize] = case.state as u8,
    }
    set_word(&mut body, frame.executable, code);
    match frame.instruction {
        InstructionShape::Pointer(pointer) => set_word(&mut body, pointer, instruction),
        InstructionShape::Last { index, .. } => {
            let first = if case.state == -2 { -1i32 } else { 0 };
            let index = index as usize;
            body[index..index + 4].copy_from_slice(&first.to_le_bytes());
        }
    }
    let end = place + u64::from(frame_len);
    match frame.stack {
        StackShape::Pointer { top } => set_word(&mut body, top, end),
        StackShape::Depth {
            values,
            depth: count,
        } => {
            set_word(&mut body, values, at(place, frame.locals));
            let count = count as usize;
            body[count..count + 4].copy_from_slice(&depth.to_le_bytes());
        }
        StackShape::Index { top } => set_word(&mut body, top, depth.into()),
    }
    for (index, value) in case.stack.iter().enumerate() {
        set_word(&mut body, frame.locals + 16 + index as u32 * 8, *value);
    }
    // The later segment at the same address is the longest match, too.
    if let GeneratorFrame::Inside(_) = generator.frame {
        world.memory.put(address, [bytes, body].concat());
    } else {
        world.memory.put(address, bytes);
        world.memory.put(place, body);
    }
    address
}

/// The numbers of the state byte; those of 3.10 where there is none.
fn states(world: &World) -> StateNumbers {
    match world.walk.generator.state {
        StateShape::OfFrame(_, numbers) | StateShape::OfGenerator(_, numbers) => numbers,
        StateShape::Running(_) => StateNumbers {
            created: -2,
            suspended: -1,
            awaiting: &[],
            executing: 0,
        },
    }
}

fn walked(world: &World, coroutine: u64) -> (usize, End) {
    let chain = chains(&mut world.reader(), &[coroutine], 8).remove(0);
    let parts = in_parts(&mut world.reader(), coroutine, 8);
    assert_eq!(
        (parts.positions.len(), parts.end),
        (chain.positions.len(), chain.end)
    );
    (chain.positions.len(), chain.end)
}

#[test]
fn each_release_says_in_its_own_way_what_is_awaited() {
    for minor in 8..=15 {
        let mut world = World::new(minor);
        let states = states(&world);
        let awaiting = states.awaiting.first().copied().unwrap_or(states.suspended);
        let class = world.class("_asyncio.FutureIter", 0, 24);
        let future = world.put(&World::object(class, 256));
        let (after_await, after_yield) = match world.walk.frame.awaited {
            AwaitShape::YieldFrom { opcode } => ([opcode, 0], [1, 0]),
            _ => ([151, 3], [151, 1]),
        };
        let make = |world: &mut World, state: i8, stack: Vec<u64>, resume: [u8; 2]| {
            coroutine(
                world,
                &Case {
                    state,
                    stack,
                    resume,
                },
            )
        };
        let inner = make(&mut world, awaiting, vec![77, future], after_await);
        let outer = make(&mut world, awaiting, vec![inner], after_await);
        let many = make(&mut world, awaiting, vec![1; 100], after_await);
        let deep = make(
            &mut world,
            awaiting,
            [vec![1; 100], vec![outer]].concat(),
            after_await,
        );
        let yields = make(&mut world, states.suspended, vec![future], after_yield);
        let created = make(&mut world, states.created, vec![], [0, 0]);
        let executing = make(&mut world, states.executing, vec![], [0, 0]);
        let runs_below = make(&mut world, awaiting, vec![executing], after_await);
        let finished = make(&mut world, 7, vec![], [0, 0]);
        let steps = world.class("async_generator_asend", 0, 32);
        let step_of = |world: &mut World, generator: u64| {
            let mut bytes = World::object(steps, 256);
            set_word(&mut bytes, OBJECT_SIZE, generator);
            world.put(&bytes)
        };
        let running_step = step_of(&mut world, executing);
        let waiting_step = step_of(&mut world, outer);
        let awaits_running = make(&mut world, awaiting, vec![running_step], after_await);
        let waits_for_none = make(&mut world, awaiting, vec![0], after_await);
        let marker = make(&mut world, awaiting, vec![inner, 3], after_await);
        for (name, coroutine, expected) in [
            ("one", inner, (1, End::Whole)),
            ("two", outer, (2, End::Whole)),
            ("more values than are read at first", deep, (3, End::Whole)),
            ("no object at all", many, (1, End::Torn)),
            ("a plain yield", yields, (1, End::Whole)),
            ("not begun", created, (1, End::Whole)),
            ("running", executing, (0, End::Executing)),
            ("running below a suspended one", runs_below, (1, End::Torn)),
            ("a step of one that runs", running_step, (0, End::Executing)),
            ("a step of one that waits", waiting_step, (2, End::Whole)),
            ("awaits a step that runs", awaits_running, (1, End::Torn)),
            ("finished", finished, (0, End::Torn)),
            ("nothing", waits_for_none, (1, End::Torn)),
            ("unmapped", 0x7777_0000, (0, End::Torn)),
        ] {
            assert_eq!(walked(&world, coroutine), expected, "3.{minor}: {name}");
        }
        if world.walk.frame.awaited == AwaitShape::StateWithMarker {
            assert_eq!(walked(&world, marker), (2, End::Whole), "3.{minor}");
        }
    }
}

#[test]
fn objects_of_an_unexpected_size_are_not_read() {
    let mut world = World::new(13);
    let class = world.class("coroutine", 0, 1000);
    let object = world.put(&World::object(class, 256));
    let mut reader = world.reader();
    assert_eq!(chains(&mut reader, &[object], 8)[0].end, End::Torn);
    assert!(reader.limits["layout.coroutine"].contains("1000 bytes"));
}

#[test]
fn a_chain_that_bites_its_tail_ends() {
    let mut world = World::new(13);
    let case = |stack| Case {
        state: -1,
        stack,
        resume: [0, 0],
    };
    let own_address = coroutine(&mut world, &case(vec![0]));
    let mut other = World::new(13);
    assert_eq!(coroutine(&mut other, &case(vec![own_address])), own_address);
    assert_eq!(walked(&other, own_address), (2, End::TooDeep));
}

#[test]
fn of_a_long_chain_both_ends_are_told() {
    let mut world = World::new(13);
    let class = world.class("_asyncio.FutureIter", 0, 24);
    let mut awaited = world.put(&World::object(class, 256));
    for number in 0..100 {
        let resume = [number + 1, 0];
        let state = -1;
        let stack = vec![awaited];
        awaited = coroutine(
            &mut world,
            &Case {
                state,
                stack,
                resume,
            },
        );
    }
    let mut reader = world.reader();
    let chain = chains(&mut reader, &[awaited], 8).remove(0);
    assert_eq!(chain.end, End::Whole);
    let left_out: Vec<Option<u32>> = chain.positions.iter().map(|at| at.left_out()).collect();
    let fold = [None, None, None, None, Some(93), None, None, None];
    assert_eq!(left_out, fold);
    assert_eq!((chain.qualnames.len(), chain.locals.len()), (8, 8));
    // The innermost one was made first.
    let first = chains(&mut reader, &[awaited], 200).remove(0);
    assert_eq!(first.positions.len(), 100);
    assert_eq!(first.positions[..4], chain.positions[..4]);
    assert_eq!(first.positions[97..], chain.positions[5..]);
    note_folded(&mut reader, &[chain], 8);
    assert!(reader.limits["tasks.awaiting"].contains("more than 8 frames"));
}

#[test]
fn a_generator_that_has_not_run_has_not_begun() {
    for minor in 8..=15 {
        let mut world = World::new(minor);
        let states = states(&world);
        for (state, expected) in [(states.created, false), (states.suspended, true)] {
            let case = Case {
                state,
                stack: vec![0x1000],
                resume: [0, 0],
            };
            let one = coroutine(&mut world, &case);
            let mut reader = world.reader();
            let length = reader.walk.frame.locals + 64;
            let pieces = Pieces::read(&mut reader, &[one], &[length]);
            assert_eq!(pieces.has_begun(&reader.walk, 0), expected, "3.{minor}");
        }
    }
}
