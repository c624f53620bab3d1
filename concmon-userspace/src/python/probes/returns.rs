//! Where the calls of a function begin and end: its code is decoded from the first instruction, along
//! every jump.
//!
//! Probes are placed in it as it is, at instructions that were decoded on a way from the entry. Nothing
//! of the target's stack is touched, as it would be by a return address that leads elsewhere first.
//!
//! A breakpoint at a jump or a push is cheap: the kernel does these itself. At any other instruction it
//! lets the thread take a single step, which takes many times as long. So what is probed at the end is
//! the last jump before each return, where nothing but the frame is written from there on, and nothing
//! called. Where a call of another function comes last, it is the end of that one; else the first
//! instruction behind what is called or written last.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use iced_x86::{
    Code, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic,
    OpAccess, OpKind, Register,
};

/// The longest instruction, bytes (Intel SDM, volume 2, 2.3.11).
pub(crate) const LONGEST: usize = 15;
/// More instructions than are followed for one function; and more ends than one gets.
const MAX_INSTRUCTIONS: usize = 20_000;
const MAX_ENDS: usize = 64;
/// How many functions that end with each other's end are followed.
const MAX_NESTED: u32 = 2;
/// What a call puts on the stack, bytes.
const RETURN_ADDRESS: u64 = 8;

/// An instruction that each call of a function passes, or those that take a certain way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) address: u64,
    /// What the call has on the stack there, bytes: added to the stack pointer, it makes the one at the
    /// call's entry.
    pub(crate) depth: u64,
}

/// Why the ends of a function are not known. Places are counted from its entry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unclear {
    #[error("an indirect jump at {0:+#x}")]
    Indirect(i64),
    #[error("no instruction at {0:+#x}")]
    NoInstruction(i64),
    #[error("instructions that overlap at {0:+#x}")]
    Overlap(i64),
    #[error("an unusual return at {0:+#x}")]
    Return(i64),
    #[error("too many instructions")]
    Length,
    #[error("too many places")]
    Places,
    #[error("no return")]
    Endless,
}

/// What an instruction means for the end of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    /// Changes registers and the frame at most.
    Local,
    /// Calls something, or writes to other memory.
    Outside,
    /// A jump that the kernel does itself.
    Jump,
    Return,
}

#[derive(Clone, Copy, Debug)]
struct Step {
    length: u64,
    effect: Effect,
    /// The kernel pushes by itself as well.
    is_push: bool,
    /// The function that is called.
    callee: Option<u64>,
    /// Where it goes on: behind the instruction, and by a jump.
    next: [Option<u64>; 2],
    /// By how much it moves the stack pointer down, bytes; `None` where that cannot be told.
    moves: Option<i64>,
    /// What is on the stack before it, on every way from the entry; `None` where ways differ.
    depth: Option<u64>,
    /// Something was called or written on a way from the entry.
    late: bool,
}

impl Step {
    fn depth_behind(&self) -> Option<u64> {
        self.depth?.checked_add_signed(self.moves?)
    }
}

/// Reads code: the bytes at an address, none outside of it.
pub(crate) struct Walker<F> {
    fetch: F,
    info: InstructionInfoFactory,
    /// How many more instructions are decoded.
    left: usize,
}

/// The instructions of a function, and which ones come before each.
struct Function {
    steps: BTreeMap<u64, Step>,
    before: BTreeMap<u64, Vec<u64>>,
}

impl Function {
    fn before(&self, address: u64) -> &[u64] {
        self.before.get(&address).map_or(&[], Vec::as_slice)
    }
}

impl<F: FnMut(u64) -> Option<[u8; LONGEST]>> Walker<F> {
    pub(crate) fn new(fetch: F) -> Self {
        Self {
            fetch,
            info: InstructionInfoFactory::new(),
            left: MAX_INSTRUCTIONS,
        }
    }

    /// An instruction that each call of the function at `entry` passes once, when registers still hold
    /// these arguments.
    pub(crate) fn begin(&mut self, entry: u64, arguments: &[Register]) -> Place {
        let first = Place {
            address: entry,
            depth: 0,
        };
        self.left = MAX_INSTRUCTIONS;
        let Ok(function) = self.follow(entry, false) else {
            return first;
        };
        let mut address = entry;
        loop {
            let step = &function.steps[&address];
            let ways_here = usize::from(address != entry);
            if function.before(address).len() != ways_here {
                return first;
            }
            if step.is_push || step.effect == Effect::Jump {
                return match step.depth {
                    Some(depth) => Place { address, depth },
                    None => first,
                };
            }
            let keeps = step.effect == Effect::Local && !self.writes(address, arguments);
            match step.next {
                [Some(next), None] if keeps => address = next,
                _ => return first,
            }
        }
    }

    /// Where calls of the function at `entry` end.
    ///
    /// # Errors
    /// What keeps its code from being known as a whole.
    pub(crate) fn ends(&mut self, entry: u64) -> Result<Vec<Place>, Unclear> {
        self.left = MAX_INSTRUCTIONS;
        let ends = self.ends_within(entry, 0, MAX_NESTED)?;
        if ends.len() > MAX_ENDS {
            return Err(Unclear::Places);
        }
        Ok(ends.into_iter().collect())
    }

    /// The same of a function that is called with so much on the stack; by `nested` more at most.
    fn ends_within(
        &mut self,
        entry: u64,
        outer: u64,
        nested: u32,
    ) -> Result<BTreeSet<Place>, Unclear> {
        let is_inner = nested < MAX_NESTED;
        let function = self.follow(entry, is_inner)?;
        let is_return = |step: &Step| step.effect == Effect::Return;
        let returns = function.steps.iter().filter(|(_, step)| is_return(step));
        let mut work: Vec<u64> = returns.map(|(address, _)| *address).collect();
        if work.is_empty() {
            return Err(Unclear::Endless);
        }
        let mut seen: BTreeSet<u64> = work.iter().copied().collect();
        let mut ends = BTreeSet::new();
        while let Some(address) = work.pop() {
            if address == entry && is_inner {
                // What its caller has done before is over by now.
                ends.extend(Self::at(&function, address, outer));
            }
            for from in function.before(address) {
                let step = &function.steps[from];
                match (step.effect, step.depth) {
                    // From the entry to here nothing has happened yet.
                    (Effect::Jump, _) if !step.late => {}
                    (Effect::Jump, Some(depth)) => {
                        ends.insert(Place {
                            address: *from,
                            depth: outer + depth,
                        });
                    }
                    (Effect::Local, _) => {
                        if seen.insert(*from) {
                            work.push(*from);
                        }
                    }
                    _ => {
                        let callee = step.callee.filter(|_| nested > 0).zip(step.depth);
                        let inner = callee.and_then(|(callee, depth)| {
                            let outer = outer + depth + RETURN_ADDRESS;
                            self.ends_within(callee, outer, nested - 1).ok()
                        });
                        ends.extend(inner.unwrap_or_else(|| Self::at(&function, address, outer)));
                    }
                }
            }
        }
        Ok(ends)
    }

    /// An instruction itself; where it is not known what is on the stack there, the returns behind it:
    /// there, it is what it was.
    fn at(function: &Function, address: u64, outer: u64) -> BTreeSet<Place> {
        if let Some(depth) = function.steps[&address].depth {
            let depth = outer + depth;
            return BTreeSet::from([Place { address, depth }]);
        }
        let returns = returns_from(address, &function.steps);
        let place = |address| Place {
            address,
            depth: outer,
        };
        returns.into_iter().map(place).collect()
    }

    fn decode(&mut self, address: u64) -> Option<Instruction> {
        let bytes = (self.fetch)(address)?;
        Some(Decoder::with_ip(64, &bytes, address, DecoderOptions::NONE).decode())
    }

    fn writes(&mut self, address: u64, registers: &[Register]) -> bool {
        self.decode(address).is_none_or(|decoded| {
            let used = self.info.info(&decoded).used_registers().iter();
            used.filter(|used| is_write(used.access()))
                .any(|used| registers.contains(&used.register().full_register()))
        })
    }

    /// Every instruction that can be reached from the entry.
    fn follow(&mut self, entry: u64, late: bool) -> Result<Function, Unclear> {
        let place = |address: u64| address.wrapping_sub(entry).cast_signed();
        let mut steps: BTreeMap<u64, Step> = BTreeMap::new();
        let mut work = vec![(entry, Some(0), late)];
        while let Some((address, depth, late)) = work.pop() {
            let step = match steps.get_mut(&address) {
                Some(step) => {
                    let known = (step.depth, step.late);
                    if step.depth != depth {
                        step.depth = None;
                    }
                    step.late |= late;
                    if (step.depth, step.late) == known {
                        continue;
                    }
                    *step
                }
                None => {
                    self.left = self.left.checked_sub(1).ok_or(Unclear::Length)?;
                    let decoded = self
                        .decode(address)
                        .ok_or(Unclear::NoInstruction(place(address)))?;
                    let step = read(&decoded, depth, late, &mut self.info).map_err(|wrong| {
                        let place = place(address);
                        match wrong {
                            Wrong::Indirect => Unclear::Indirect(place),
                            Wrong::Return => Unclear::Return(place),
                            Wrong::Invalid => Unclear::NoInstruction(place),
                        }
                    })?;
                    steps.insert(address, step);
                    step
                }
            };
            let late = step.late || step.effect == Effect::Outside;
            for next in step.next.into_iter().flatten() {
                work.push((next, step.depth_behind(), late));
            }
        }
        let mut last = 0;
        let mut before: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for (address, step) in &steps {
            if *address < last {
                return Err(Unclear::Overlap(place(*address)));
            }
            last = address + step.length;
            for next in step.next.into_iter().flatten() {
                before.entry(next).or_default().push(*address);
            }
        }
        Ok(Function { steps, before })
    }
}

/// The returns that can be reached from an instruction without another end.
fn returns_from(address: u64, steps: &BTreeMap<u64, Step>) -> Vec<u64> {
    let mut work = vec![address];
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    while let Some(address) = work.pop() {
        if !seen.insert(address) {
            continue;
        }
        let step = &steps[&address];
        if step.effect == Effect::Return {
            found.push(address);
        }
        work.extend(step.next.into_iter().flatten());
    }
    found
}

enum Wrong {
    Indirect,
    Return,
    Invalid,
}

fn read(
    decoded: &Instruction,
    depth: Option<u64>,
    late: bool,
    info: &mut InstructionInfoFactory,
) -> Result<Step, Wrong> {
    let behind = Some(decoded.next_ip());
    let target = Some(decoded.near_branch_target());
    let (effect, next) = match decoded.flow_control() {
        _ if decoded.is_invalid() => return Err(Wrong::Invalid),
        FlowControl::Next => (reach(decoded, info), [behind, None]),
        FlowControl::Call | FlowControl::IndirectCall => (Effect::Outside, [behind, None]),
        FlowControl::UnconditionalBranch if decoded.is_jmp_short_or_near() => {
            (Effect::Jump, [target, None])
        }
        FlowControl::ConditionalBranch if decoded.is_jcc_short_or_near() => {
            (Effect::Jump, [behind, target])
        }
        // `loop` and its like, which the kernel does not do itself.
        FlowControl::ConditionalBranch => (Effect::Outside, [behind, target]),
        FlowControl::Return => match decoded.code() {
            Code::Retnq | Code::Retnq_imm16 => (Effect::Return, [None, None]),
            _ => return Err(Wrong::Return),
        },
        // `ud2`, `int3`: the compiler knows that nothing comes here.
        FlowControl::Exception | FlowControl::Interrupt => (Effect::Outside, [None, None]),
        FlowControl::UnconditionalBranch
        | FlowControl::IndirectBranch
        | FlowControl::XbeginXabortXend => return Err(Wrong::Indirect),
    };
    Ok(Step {
        length: decoded.len() as u64,
        effect,
        is_push: matches!(decoded.code(), Code::Push_r64),
        callee: decoded.is_call_near().then(|| decoded.near_branch_target()),
        next,
        moves: moves(decoded, info),
        depth,
        late,
    })
}

fn is_write(access: OpAccess) -> bool {
    !matches!(
        access,
        OpAccess::None | OpAccess::Read | OpAccess::CondRead | OpAccess::NoMemAccess
    )
}

/// Whether an instruction writes to memory other than the frame.
fn reach(decoded: &Instruction, info: &mut InstructionInfoFactory) -> Effect {
    let memory = info.info(decoded).used_memory().iter();
    let mut written = memory.filter(|memory| is_write(memory.access()));
    if written.any(|memory| memory.base() != Register::RSP) {
        Effect::Outside
    } else {
        Effect::Local
    }
}

/// By how much an instruction moves the stack pointer down, bytes.
fn moves(decoded: &Instruction, info: &mut InstructionInfoFactory) -> Option<i64> {
    let mut used = info.info(decoded).used_registers().iter();
    let writes_pointer = used
        .any(|used| used.register().full_register() == Register::RSP && is_write(used.access()));
    let is_call = matches!(
        decoded.flow_control(),
        FlowControl::Call | FlowControl::IndirectCall
    );
    if !writes_pointer || is_call {
        return Some(0);
    }
    let immediate = matches!(
        decoded.op1_kind(),
        OpKind::Immediate8to64 | OpKind::Immediate32to64
    );
    match decoded.mnemonic() {
        Mnemonic::Push | Mnemonic::Pop => Some(-i64::from(decoded.stack_pointer_increment())),
        Mnemonic::Sub if immediate => Some(decoded.immediate(1).cast_signed()),
        Mnemonic::Add if immediate => Some(-decoded.immediate(1).cast_signed()),
        Mnemonic::Lea
            if decoded.memory_base() == Register::RSP
                && decoded.memory_index() == Register::None =>
        {
            Some(-decoded.memory_displacement64().cast_signed())
        }
        _ => None,
    }
}
