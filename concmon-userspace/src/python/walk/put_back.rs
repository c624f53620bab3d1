//! Items of queues that frames have without a context manager: what was got right before a `try` statement that the frame
//! is in, and that puts it back in its `finally` clause, whatever happens.
//!
//! That is read from the code. The handler of such a statement begins with a call of `put`, of a variable that was assigned
//! right before the statement, where `get` of the same expression was called. A handler that asks what has been raised
//! belongs to an `except` clause: who puts back only what has failed has no item of a pool. Where the variable is assigned
//! again inside the statement, it may have been put back already.

use std::collections::HashSet;
use std::sync::Arc;

use super::stacks::StackFrame;
use super::suspended::{UNIT, first_instructions};
use crate::python::layout::{InstructionShape, Instructions, Opcode, Opcodes};
use crate::python::memory::addresses::{AddressMap, AddressSet};
use crate::python::memory::{Batch, at, int, word};
use crate::python::objects::{Kind, OBJECT_SIZE, OBJECT_TYPE, Reader};

/// By these an item is got, and put back.
const GETS: &[&str] = &["get"];
const PUTS: &[&str] = &["put", "put_nowait"];
/// The most names, instructions and handlers of a code object that are read, bytes of the latter two.
const MAX_NAMES: u64 = 256;
const MAX_CODE_BYTES: u64 = 1 << 16;
const MAX_TABLE_BYTES: u64 = 1 << 12;
/// Code objects that are read in one scan, and frames that are in such.
const MAX_CODES: usize = 64;
const MAX_FRAMES: usize = 512;
/// Statements around an instruction: CPython allows no more.
const MAX_BLOCKS: usize = 20;
/// A block's words: its kind, its handler, how much was on the stack.
const BLOCK_BYTES: usize = 12;
/// Up to where a call of `get` with its arguments may begin before the statement, bytes.
const CALL_BYTES: usize = 128;
/// `a.b.c.d.get`
const MAX_ATTRIBUTES: usize = 4;
const CELL_VALUE: u32 = 16;
const UNIT_BYTES: usize = UNIT as usize;
/// An argument is of so many bytes at most: no more instructions extend another one.
const ARGUMENT_BYTES: usize = 4;

/// The queues that each frame has items of, once for each item.
pub(crate) fn items(
    reader: &mut Reader<'_>,
    frames: &[StackFrame],
    queues: &AddressSet,
) -> Vec<Vec<u64>> {
    let codes = codes(reader, frames, &[GETS, PUTS]);
    let mut had = HashSet::new();
    let mut found = vec![Vec::new(); frames.len()];
    let slots = frames.iter().enumerate();
    let slots = slots.filter_map(|(slot, frame)| Some((slot, *frame, codes.get(&frame.code())?)));
    for (slot, frame, code) in slots.take(MAX_FRAMES) {
        if reader.is_over() {
            break;
        }
        let handlers = match code.opcodes.setup_finally {
            Some(kind) => blocks(reader, frame, kind),
            None => code.covering(frame.position.offset),
        };
        for (expression, item) in code.put_back(&handlers) {
            let queue = resolve(reader, frame, code, &expression);
            let Some(queue) = queue.filter(|queue| queues.contains(queue)) else {
                continue;
            };
            // Who was passed an item has the same one as whoever got it.
            let item = variable(reader, frame, item).filter(|item| is_something(reader, *item));
            if item.is_some_and(|item| had.insert((queue, item))) {
                found[slot].push(queue);
            }
        }
    }
    found
}

/// Whether the code of each frame puts something into its queue. Where its instructions are not known, by its names.
pub(crate) fn puts(reader: &mut Reader<'_>, frames: &[(StackFrame, u64)]) -> Vec<bool> {
    let own: Vec<StackFrame> = frames.iter().map(|(frame, _)| *frame).collect();
    if reader.walk.opcodes.is_none() {
        let codes = own.iter().map(|frame| frame.code()).collect();
        let named = named(reader, codes, &[PUTS]);
        let puts = own.iter().map(|frame| named.contains_key(&frame.code()));
        return puts.collect();
    }
    let codes = codes(reader, &own, &[PUTS]);
    let mut expressions: AddressMap<Vec<Expression>> = AddressMap::default();
    let puts = frames.iter().map(|(frame, queue)| {
        let Some(code) = codes.get(&frame.code()).filter(|_| !reader.is_over()) else {
            return false;
        };
        let all = expressions
            .entry(frame.code())
            .or_insert_with(|| code.expressions_that(PUTS));
        all.iter()
            .any(|one| resolve(reader, *frame, code, one) == Some(*queue))
    });
    puts.collect()
}

impl StackFrame {
    fn code(&self) -> u64 {
        self.position.code
    }
}

/// Where a value comes from: a variable, and attributes by the numbers of their names.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Expression {
    root: Root,
    attributes: Vec<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Root {
    Variable(usize),
    Cell(usize),
    Global(usize),
}

/// An instruction's number and argument, and where the next one begins.
struct Instruction {
    number: u8,
    argument: usize,
    next: usize,
}

struct Code {
    opcodes: Opcodes,
    /// Bytes by which distances are counted.
    unit: usize,
    instructions: Vec<u8>,
    /// What is covered by which handler: from, to, handler, in the order of the code.
    table: Vec<(usize, usize, usize)>,
    names: Vec<Option<Arc<str>>>,
}

impl Opcode {
    fn is(&self, instruction: &Instruction) -> bool {
        self.numbers.contains(&instruction.number)
    }

    fn behind(&self, instruction: &Instruction) -> usize {
        instruction.next + self.caches * UNIT_BYTES
    }
}

impl Code {
    fn instruction(&self, mut place: usize) -> Option<Instruction> {
        let mut argument = 0;
        for _ in 0..ARGUMENT_BYTES {
            let unit = self.instructions.get(place..place + UNIT_BYTES)?;
            argument = argument << 8 | usize::from(unit[1]);
            place += UNIT_BYTES;
            if unit[0] != self.opcodes.extended_arg {
                return Some(Instruction {
                    number: unit[0],
                    argument,
                    next: place,
                });
            }
        }
        None
    }

    /// The method of an expression's value that is loaded from here on, by the number of its name, and what is behind.
    fn method(&self, place: usize) -> Option<(Expression, usize, usize)> {
        let ops = &self.opcodes;
        let first = self.instruction(place)?;
        let argument = first.argument;
        let (root, mut next) = match &first {
            one if ops.load_fast.is(one) => (Root::Variable(argument), first.next),
            one if ops.load_deref.is(one) => (Root::Cell(argument), first.next),
            one if ops.load_global.is(one) => {
                let name = argument >> ops.global_shift;
                (Root::Global(name), ops.load_global.behind(one))
            }
            _ => return None,
        };
        let mut attributes = Vec::new();
        while attributes.len() <= MAX_ATTRIBUTES {
            let Some(one) = self.instruction(next) else {
                break;
            };
            let method = ops.load_method.filter(|method| method.is(&one));
            if let Some(method) = method {
                attributes.push(one.argument);
                next = method.behind(&one);
                break;
            }
            if !ops.load_attr.is(&one) {
                break;
            }
            attributes.push(one.argument >> ops.attr_shift);
            next = ops.load_attr.behind(&one);
        }
        let method = attributes.pop()?;
        Some((Expression { root, attributes }, method, next))
    }

    fn is_named(&self, name: usize, names: &[&str]) -> bool {
        let name = self.names.get(name);
        name.is_some_and(|name| name.as_ref().is_some_and(|name| names.contains(&&**name)))
    }

    /// Those of which a method of these names is loaded anywhere, each once.
    fn expressions_that(&self, names: &[&str]) -> Vec<Expression> {
        let mut found: Vec<Expression> = Vec::new();
        for place in (0..self.instructions.len()).step_by(UNIT_BYTES) {
            let method = self.method(place);
            let method = method.filter(|(_, method, _)| self.is_named(*method, names));
            if let Some((expression, ..)) = method
                && !found.contains(&expression)
                && found.len() < MAX_BLOCKS
            {
                found.push(expression);
            }
        }
        found
    }

    /// Where the items come from that the handlers put back, and in which variables they are all the time.
    fn put_back(&self, handlers: &[usize]) -> Vec<(Expression, usize)> {
        let found = handlers.iter().filter_map(|handler| {
            let (expression, variable) = self.puts_back(*handler)?;
            let begins = self.statement(*handler)?;
            let has = self.gets(begins, &expression, variable)
                && !self.changes(begins, *handler, variable);
            has.then_some((expression, variable))
        });
        found.collect()
    }

    /// Whether an instruction between two places gives a variable another value: what was in it may have been put back
    /// already. What follows an instruction and is none may look like one that does.
    fn changes(&self, from: usize, to: usize, variable: usize) -> bool {
        let mut place = from;
        while place < to {
            let Some(one) = self.instruction(place) else {
                return true;
            };
            let ops = &self.opcodes;
            let argument = one.argument;
            let changed = if ops.store_and.contains(&one.number) {
                [argument >> 4, argument & 15].contains(&variable)
            } else {
                let sets = ops.store_fast.is(&one) || one.number == ops.delete_fast;
                sets && argument == variable
            };
            if changed {
                return true;
            }
            place = one.next;
        }
        false
    }

    /// What a handler puts back first of all, and into what.
    fn puts_back(&self, handler: usize) -> Option<(Expression, usize)> {
        let begins = match self.opcodes.push_exc_info {
            Some(number) => {
                let first = self.instruction(handler)?;
                (first.number == number).then_some(first.next)?
            }
            None => handler,
        };
        let (expression, method, next) = self.method(begins)?;
        let item = self.instruction(next)?;
        let is_one = self.is_named(method, PUTS) && self.opcodes.load_fast.is(&item);
        is_one.then_some((expression, item.argument))
    }

    /// Where the statement begins that has this handler.
    fn statement(&self, handler: usize) -> Option<usize> {
        let Some(setup) = self.opcodes.setup_finally else {
            // What it covers may all lie in other statements inside of it.
            let mut all = self.table.iter().map(|(from, ..)| *from);
            return all.find(|from| self.covering(*from as i64).contains(&handler));
        };
        let mut place = 0;
        while place < handler {
            let one = self.instruction(place)?;
            if one.number == setup && one.next + one.argument * self.unit == handler {
                return Some(place);
            }
            place = one.next;
        }
        None
    }

    /// Whether the variable is assigned right before the statement, where the method is called.
    fn gets(&self, statement: usize, expression: &Expression, variable: usize) -> bool {
        let before = |end: usize| self.instructions.get(end.checked_sub(UNIT_BYTES)?..end);
        let mut end = statement;
        while before(end).is_some_and(|unit| unit[0] == self.opcodes.nop) {
            end -= UNIT_BYTES;
        }
        let assigns = before(end).is_some_and(|unit| {
            self.opcodes.store_fast.numbers.contains(&unit[0]) && usize::from(unit[1]) == variable
        });
        let first = end.saturating_sub(CALL_BYTES);
        assigns
            && (first..end).step_by(UNIT_BYTES).any(|place| {
                let found = self.method(place);
                found.is_some_and(|(own, method, next)| {
                    own == *expression && self.is_named(method, GETS) && next <= end
                })
            })
    }

    /// The handlers that cover an instruction, one around the other.
    fn covering(&self, offset: i64) -> Vec<usize> {
        let mut handlers = Vec::new();
        let mut place = usize::try_from(offset).ok();
        while let Some(inside) = place.filter(|_| handlers.len() < MAX_BLOCKS) {
            let behind = self.table.partition_point(|(from, ..)| *from <= inside);
            let covering = self.table.get(..behind).and_then(<[_]>::last);
            let covering = covering.filter(|(_, to, _)| inside < *to);
            let handler = covering.map(|(.., handler)| *handler);
            place = handler.filter(|handler| !handlers.contains(handler));
            handlers.extend(place);
        }
        handlers
    }
}

/// The entries of an exception table (`InternalDocs/exception_handling.md`).
fn entries(table: &[u8]) -> Vec<(usize, usize, usize)> {
    let mut bytes = table.iter();
    let mut number = || {
        let mut value = 0_usize;
        loop {
            let byte = *bytes.next()?;
            value = (value << 6 | usize::from(byte & 63)) & 0xffff_ffff;
            if byte & 64 == 0 {
                return Some(value * UNIT_BYTES);
            }
        }
    };
    let entry = || {
        let (from, length, handler, _) = (number()?, number()?, number()?, number()?);
        Some((from, from + length, handler))
    };
    let mut entries: Vec<(usize, usize, usize)> = std::iter::from_fn(entry).collect();
    entries.sort_unstable();
    entries
}

/// The code objects of frames that have a name of each of the sets.
fn codes(reader: &mut Reader<'_>, frames: &[StackFrame], sets: &[&[&str]]) -> AddressMap<Code> {
    let mut found = AddressMap::default();
    let Some(opcodes) = reader.walk.opcodes else {
        return found;
    };
    let addresses = frames.iter().map(|frame| frame.code()).collect();
    for (address, names) in named(reader, addresses, sets).into_iter().take(MAX_CODES) {
        let frame = frames.iter().find(|frame| frame.code() == address);
        if reader.is_over() {
            break;
        }
        if let Some(code) = frame.and_then(|frame| read(reader, *frame, opcodes, names)) {
            found.insert(address, code);
        }
    }
    found
}

fn read(
    reader: &mut Reader<'_>,
    frame: StackFrame,
    opcodes: Opcodes,
    names: Vec<u64>,
) -> Option<Code> {
    let position = Some(frame.position);
    let first = first_instructions(reader, [position].into_iter()).pop()??;
    let fields = reader.walk.code;
    let (size, table) = match fields.instructions {
        Instructions::Bytes { .. } => {
            let head = first.checked_sub(reader.walk.text.bytes.into())?;
            (bytes_size(reader, head)?, Vec::new())
        }
        Instructions::Inside(_) => {
            let units = reader.pointer(at(frame.code(), OBJECT_SIZE)).ok()?;
            let table = reader
                .pointer(at(frame.code(), fields.exception_table()))
                .ok()?;
            let size = bytes_size(reader, table).filter(|size| *size <= MAX_TABLE_BYTES)?;
            let table = at(table, reader.walk.text.bytes);
            let table = match size {
                0 => Vec::new(),
                size => reader.bytes(table, size as usize).ok()?,
            };
            (units.checked_mul(UNIT)?, entries(&table))
        }
    };
    (size <= MAX_CODE_BYTES).then_some(())?;
    let unit = match reader.walk.frame.instruction {
        InstructionShape::Last { unit, .. } => unit as usize,
        InstructionShape::Pointer(_) => UNIT_BYTES,
    };
    Some(Code {
        opcodes,
        unit,
        instructions: reader.bytes(first, size as usize).ok()?,
        table,
        names: names
            .iter()
            .map(|name| reader.text(*name).cloned())
            .collect(),
    })
}

/// How many bytes a bytes object has.
fn bytes_size(reader: &mut Reader<'_>, object: u64) -> Option<u64> {
    let head = reader.bytes(object, OBJECT_SIZE as usize + 8).ok()?;
    reader.load_types([word(&head, OBJECT_TYPE)?]);
    (reader.kind(&head) == Some(Kind::Bytes)).then(|| word(&head, OBJECT_SIZE))?
}

/// The names of each code object that has one of each of the sets.
fn named(reader: &mut Reader<'_>, codes: AddressSet, sets: &[&[&str]]) -> AddressMap<Vec<u64>> {
    let codes: Vec<u64> = codes.into_iter().collect();
    let place = reader.walk.code.names();
    let mut batch = Batch::new();
    for code in &codes {
        batch.push(at(*code, place), 8);
    }
    reader.fetch(&mut batch);
    let names = reader.tuples(&batch.words(), MAX_NAMES);
    let all = names.iter().flatten().flatten().copied();
    reader.load_texts(all.collect::<Vec<_>>());
    let has = |names: &[u64], set: &[&str]| {
        let mut texts = names.iter().filter_map(|name| reader.text(*name));
        texts.any(|text| set.contains(&&**text))
    };
    let named = codes.into_iter().zip(names);
    let named = named.filter_map(|(code, names)| Some((code, names?)));
    named
        .filter(|(_, names)| sets.iter().all(|set| has(names, set)))
        .collect()
}

/// The handlers of the statements that a frame object is in, those of this kind.
fn blocks(reader: &mut Reader<'_>, frame: StackFrame, kind: u8) -> Vec<usize> {
    let InstructionShape::Last { unit, .. } = reader.walk.frame.instruction else {
        return Vec::new();
    };
    let (count, first) = reader.walk.frame.blocks();
    let length = (first - count) as usize + MAX_BLOCKS * BLOCK_BYTES;
    let Ok(bytes) = reader.bytes(at(frame.address, count), length) else {
        return Vec::new();
    };
    let depth = int(&bytes, 0).and_then(|depth| usize::try_from(depth).ok());
    let blocks = bytes.get((first - count) as usize..);
    let blocks = blocks.unwrap_or_default().chunks_exact(BLOCK_BYTES);
    let handler = |block: &[u8]| {
        let is_one = int(block, 0)? == i32::from(kind);
        usize::try_from(int(block, 4)?).ok().filter(|_| is_one)
    };
    let own = blocks.take(depth.unwrap_or(0));
    own.filter_map(handler)
        .map(|handler| handler * unit as usize)
        .collect()
}

/// The object that an expression has in a frame.
fn resolve(
    reader: &mut Reader<'_>,
    frame: StackFrame,
    code: &Code,
    expression: &Expression,
) -> Option<u64> {
    let mut object = match expression.root {
        Root::Variable(index) => variable(reader, frame, index)?,
        Root::Cell(index) => {
            let before = match code.opcodes.setup_finally {
                // There, cells are counted by themselves.
                Some(_) => *super::locals::counts(reader, &[frame.code()]).get(&frame.code())?,
                None => 0,
            };
            let cell = variable(reader, frame, before.checked_add(index)?)?;
            let info = reader.types_of(&[cell]).pop()??;
            (info.kind == Kind::Cell).then_some(())?;
            reader.pointer(at(cell, CELL_VALUE)).ok()?
        }
        Root::Global(name) => {
            let name = code.names.get(name)?.clone()?;
            let globals = reader
                .pointer(at(frame.address, code.opcodes.globals))
                .ok()?;
            reader.dict_values(globals, &[&*name])?.pop()??
        }
    };
    for name in &expression.attributes {
        let name = code.names.get(*name)?.clone()?;
        object = attribute(reader, object, &name)?;
    }
    Some(object)
}

/// An object that is not `None`.
fn is_something(reader: &mut Reader<'_>, object: u64) -> bool {
    let info = reader.types_of(&[object]).pop().flatten();
    info.is_some_and(|info| &*info.name != "NoneType")
}

fn variable(reader: &mut Reader<'_>, frame: StackFrame, index: usize) -> Option<u64> {
    let place = u32::try_from(index.checked_mul(8)?).ok()?;
    let place = reader.walk.frame.locals.checked_add(place)?;
    let value = reader.pointer(at(frame.address, place)).ok()?;
    Some(reader.walk.frame.untag(value)).filter(|value| *value != 0)
}

/// Of a module, of an object, or of its class.
fn attribute(reader: &mut Reader<'_>, object: u64, name: &str) -> Option<u64> {
    if let Some(module) = reader.module_dict(object) {
        return reader.dict_values(module, &[name])?.pop()?;
    }
    let own = reader
        .members_of(object, &[name])
        .and_then(|mut own| own.pop()?);
    own.or_else(|| {
        let class = reader.pointer(at(object, OBJECT_TYPE)).ok()?;
        let is_class = reader.types_of(&[object]).pop()??.kind == Kind::Type;
        let found = reader.class_attribute(if is_class { object } else { class }, name)?;
        Some(found.1)
    })
}

#[cfg(test)]
mod tests;
