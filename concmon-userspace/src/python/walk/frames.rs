//! The frames of one thread's stack: a walk down them, over what was read of it in one go.

use super::suspended::instruction_offset;
use crate::event::PyFrame;
use crate::python::layout::{InstructionShape, WalkLayout};
use crate::python::memory::addresses::AddressMap;
use crate::python::memory::{byte, int, plausible, word};
use crate::python::objects::Reader;
use crate::python::objects::code::{CodeCache, CodePosition};

/// Up to here, the owner of a frame is Python code: a thread, a generator, a frame object. Others
/// are the interpreter's own and have no code of their own.
pub(crate) const LAST_PYTHON_OWNER: u8 = 2;
/// Frames of the interpreter itself that lie between those of Python code.
const MAX_OTHER_FRAMES: usize = 1024;

/// One frame of Python code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StackFrame {
    pub(crate) address: u64,
    pub(crate) position: CodePosition,
}

impl StackFrame {
    /// Where no frame is.
    pub(super) const NONE: Self = Self {
        address: 0,
        position: CodePosition { code: 0, offset: 0 },
    };
}

/// A thread's stack at one instant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stack {
    /// The innermost first.
    pub(crate) frames: Vec<StackFrame>,
    /// Address of the innermost frame of all, the interpreter's own included; 0 when the thread went
    /// on while it was read.
    pub(super) innermost: u64,
    /// There are more than were asked for.
    pub(crate) cut: bool,
    /// It changed each time it was read: there are no frames.
    pub(crate) torn: bool,
}

impl Stack {
    pub(super) const TORN: Self = Self {
        frames: Vec::new(),
        innermost: 0,
        cut: false,
        torn: true,
    };

    pub(super) fn is_known(&self, codes: &CodeCache) -> bool {
        let mut frames = self.frames.iter();
        frames.all(|frame| codes.knows(frame.position.code))
    }

    /// The places of its frames; `None` when one cannot be told.
    pub(crate) fn places(
        &self,
        reader: &Reader<'_>,
        codes: &mut CodeCache,
    ) -> Option<Vec<PyFrame>> {
        let lines = reader.walk.code.lines;
        self.frames
            .iter()
            .map(|frame| codes.frame(frame.position, lines))
            .collect()
    }
}
/// Frames of a stack that were read in one go.
pub(super) struct Piece<'b> {
    pub(super) chunk: u64,
    pub(super) bytes: &'b [u8],
    pub(super) others: AddressMap<&'b [u8]>,
}

impl Piece<'_> {
    pub(super) fn frame(&self, address: u64, len: usize) -> Option<&[u8]> {
        let offset = usize::try_from(address.wrapping_sub(self.chunk)).ok();
        let inside = offset.and_then(|offset| self.bytes.get(offset..offset.checked_add(len)?));
        inside.or_else(|| self.others.get(&address).copied())
    }
}

/// A walk down one stack.
pub(super) struct Walk {
    /// Where it began.
    pub(super) innermost: u64,
    pub(super) next: u64,
    pub(super) steps: Vec<Step>,
    /// How many of the steps are Python code.
    pub(super) frames: usize,
    /// Frames that were read on the way: their addresses and bytes.
    pub(super) outside: Vec<(u64, Vec<u8>)>,
    pub(super) state: WalkState,
}

/// A frame that was passed.
pub(super) struct Step {
    pub(super) address: u64,
    pub(super) head: Head,
    /// `None`: the interpreter's own.
    pub(super) position: Option<CodePosition>,
    /// It had returned when it was read, and is what it was before.
    pub(super) gone: bool,
}

/// What a frame says; all but the instruction stays the same as long as it lives.
#[derive(PartialEq, Eq)]
pub(super) struct Head {
    pub(super) executable: u64,
    pub(super) previous: u64,
    pub(super) instruction: u64,
}

impl Head {
    /// `None` for too few bytes, and for an object that is no more.
    pub(super) fn of(walk: &WalkLayout, frame: &[u8]) -> Option<Self> {
        let is_alive = walk.thread.chunk.is_some() || word(frame, 0)? != 0;
        is_alive.then(|| Self::of_any(walk, frame))?
    }

    /// Also of an object that is no more, as long as nothing else is in its place.
    pub(super) fn of_any(walk: &WalkLayout, frame: &[u8]) -> Option<Self> {
        let fields = walk.frame;
        Some(Self {
            executable: word(frame, fields.executable)?,
            previous: word(frame, fields.previous)?,
            instruction: match fields.instruction {
                InstructionShape::Last { index, .. } => int(frame, index)? as u32 as u64,
                InstructionShape::Pointer(pointer) => word(frame, pointer)?,
            },
        })
    }

    pub(super) fn is_same_frame(&self, other: &Self) -> bool {
        (self.executable, self.previous) == (other.executable, other.previous)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum WalkState {
    Open,
    Whole,
    Cut,
    Torn,
}

/// How much of a frame is looked at.
pub(super) fn head_len(walk: &WalkLayout) -> usize {
    let frame = walk.frame;
    let instruction = match frame.instruction {
        InstructionShape::Last { index, .. } => index,
        InstructionShape::Pointer(pointer) => pointer,
    };
    let last = [
        frame.executable,
        frame.previous,
        instruction,
        frame.owner.unwrap_or(0),
        frame.running.map_or(0, |(running, _)| running),
    ];
    last.into_iter().max().unwrap_or(0) as usize + 8
}

impl Walk {
    pub(super) fn from(innermost: Option<u64>) -> Self {
        Self {
            innermost: innermost.unwrap_or(0),
            next: innermost.unwrap_or(0),
            steps: Vec::new(),
            frames: 0,
            outside: Vec::new(),
            state: match innermost {
                Some(_) => WalkState::Open,
                None => WalkState::Torn,
            },
        }
    }

    /// Goes on as long as frames are in what was read in one go. Of a frame that is no more, what was read `before`
    /// says who had called it.
    pub(super) fn through(
        &mut self,
        walk: &WalkLayout,
        (before, piece): (&Piece<'_>, &Piece<'_>),
        depth: usize,
    ) {
        let len = head_len(walk);
        while self.state == WalkState::Open {
            if self.next == 0 {
                self.state = WalkState::Whole;
            } else if self.frames >= depth {
                self.state = WalkState::Cut;
            } else if !plausible(self.next) || self.steps.len() - self.frames > MAX_OTHER_FRAMES {
                self.state = WalkState::Torn;
            } else {
                let Some(frame) = piece.frame(self.next, len) else {
                    break;
                };
                let now = Step::at(walk, self.next, frame);
                let step = now.or_else(|| {
                    let step = Step::at(walk, self.next, before.frame(self.next, len)?)?;
                    Some(Step { gone: true, ..step })
                });
                self.take(step);
            }
        }
    }

    /// Over a frame that was read on the way. One that had returned leads on, to frames that may be looked for, but the
    /// walk does not hold.
    pub(super) fn step(&mut self, walk: &WalkLayout, frame: &[u8]) {
        self.take(Step::of_any(walk, self.next, frame));
    }

    /// Where it does not hold, it is this part of the stack.
    pub(super) fn be_part(&mut self, steps: Vec<Step>, depth: usize) {
        let left_out = steps.len().saturating_sub(depth);
        // Those inside of them have gone on meanwhile.
        self.innermost = 0;
        self.frames = steps.len() - left_out;
        self.state = match left_out {
            0 => WalkState::Whole,
            _ => WalkState::Cut,
        };
        self.steps = steps;
        self.steps.truncate(self.frames);
    }

    fn take(&mut self, step: Option<Step>) {
        match step {
            Some(step) => {
                self.next = step.head.previous;
                self.frames += usize::from(step.position.is_some());
                self.steps.push(step);
            }
            None => self.state = WalkState::Torn,
        }
    }

    /// Keeps the frames that were there before, too, from the outermost on, up to and with the
    /// first one that went on meanwhile.
    pub(super) fn keep_lasting(&mut self, walk: &WalkLayout, before: &Piece<'_>) {
        let len = head_len(walk);
        let mut lasting = 0;
        for step in self.steps.iter().rev().take_while(|step| !step.gone) {
            let head = before
                .frame(step.address, len)
                .and_then(|frame| Head::of(walk, frame));
            let Some(head) = head.filter(|head| head.is_same_frame(&step.head)) else {
                break;
            };
            lasting += 1;
            if head != step.head {
                break;
            }
        }
        if lasting == 0 && !self.steps.is_empty() {
            self.state = WalkState::Torn;
        }
        let gone = self.steps.len() - lasting;
        if gone > 0 {
            self.innermost = 0;
        }
        self.steps.drain(..gone);
    }

    pub(super) fn stack(self) -> Option<Stack> {
        match self.state {
            WalkState::Whole | WalkState::Cut => Some(Stack {
                frames: self
                    .steps
                    .into_iter()
                    .filter_map(|step| {
                        Some(StackFrame {
                            address: step.address,
                            position: step.position?,
                        })
                    })
                    .collect(),
                innermost: self.innermost,
                cut: self.state == WalkState::Cut,
                torn: false,
            }),
            WalkState::Torn | WalkState::Open => None,
        }
    }
}

impl Step {
    pub(super) fn at(walk: &WalkLayout, address: u64, frame: &[u8]) -> Option<Self> {
        let head = Head::of(walk, frame)?;
        let owner = match walk.frame.owner {
            Some(owner) => byte(frame, owner)?,
            None => 0,
        };
        let position = if owner > LAST_PYTHON_OWNER {
            None
        } else {
            let code = walk.frame.untag(head.executable);
            Some(CodePosition {
                code,
                offset: instruction_offset(walk, code, frame)?,
            })
        };
        Some(Self {
            address,
            head,
            position,
            gone: false,
        })
    }
}
