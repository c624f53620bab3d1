//! The outer part of a stack that goes on faster than it can be read, up to 3.10: there, a frame that has returned may say
//! nothing more, so that no walk from the innermost one comes to the end.

use super::frames::{Head, Piece, Step, head_len};
use crate::python::layout::WalkLayout;
use crate::python::memory::addresses::AddressMap;
use crate::python::memory::byte;

/// From the innermost of them on, the frames that ran both before and after, each called by the next; the last one was
/// called by none. They are looked for among `known` ones, from the outermost on inwards. `None`: it is not certain
/// which one that is, or frames do not say whether they run.
pub(super) fn outer_part(
    walk: &WalkLayout,
    (before, after): (&Piece<'_>, &Piece<'_>),
    known: &[u64],
) -> Option<Vec<Step>> {
    let (offset, value) = walk.frame.running?;
    let len = head_len(walk);
    let running = |piece: &Piece<'_>, address| {
        let frame = piece.frame(address, len)?;
        let step = Step::at(walk, address, frame)?;
        (byte(frame, offset)? == value).then_some(step)
    };
    // By who has called them; `None`: more than one.
    let mut called: AddressMap<Option<Step>> = AddressMap::default();
    let mut seen = known.to_vec();
    seen.sort_unstable();
    seen.dedup();
    for address in seen {
        let both = running(before, address).zip(running(after, address));
        if let Some((_, now)) = both.filter(|(then, now)| then.head.is_same_frame(&now.head)) {
            let caller = now.head.previous;
            let only = (!called.contains_key(&caller)).then_some(now);
            called.insert(caller, only);
        }
    }
    let mut steps: Vec<Step> = Vec::new();
    let mut caller = 0;
    while let Some(step) = called.remove(&caller).flatten() {
        caller = step.address;
        steps.push(step);
    }
    steps.reverse();
    (!steps.is_empty()).then_some(steps)
}

impl Step {
    /// A frame that may be no more, for the way to the next one: where frames are objects, it still has its caller as long
    /// as nothing else is in its place.
    pub(super) fn of_any(walk: &WalkLayout, address: u64, frame: &[u8]) -> Option<Self> {
        let step = Self::at(walk, address, frame);
        if step.is_some() || walk.frame.running.is_none() {
            return step;
        }
        Some(Self {
            address,
            head: Head::of_any(walk, frame)?,
            position: None,
            gone: true,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::layout::{FrameLayout, InstructionShape, Version, row};

    /// A frame: its address, its caller, whether it runs.
    type Frame = (u64, u64, bool);

    fn bytes(fields: &FrameLayout, len: usize, (address, caller, runs): Frame) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let mut put = |offset: u32, value: u64| {
            bytes[offset as usize..offset as usize + 8].copy_from_slice(&value.to_le_bytes());
        };
        let InstructionShape::Last { index, .. } = fields.instruction else {
            panic!("instructions are told otherwise");
        };
        put(0, 1);
        put(fields.executable, address + 0x10_0000);
        put(fields.previous, caller);
        put(index, 2);
        let (running, value) = fields.running.expect("frames say it");
        bytes[running as usize] = if runs { value } else { value.wrapping_add(1) };
        bytes
    }

    fn piece(frames: &[(u64, Vec<u8>)]) -> Piece<'_> {
        Piece {
            chunk: 0,
            bytes: &[],
            others: frames.iter().map(|(at, bytes)| (*at, &**bytes)).collect(),
        }
    }

    fn part(minor: u8, before: &[Frame], after: &[Frame]) -> Option<Vec<u64>> {
        let walk = row(Version { major: 3, minor }).unwrap().walk;
        let len = head_len(&walk);
        let all = |frames: &[Frame]| -> Vec<(u64, Vec<u8>)> {
            let one = |frame: &Frame| (frame.0, bytes(&walk.frame, len, *frame));
            frames.iter().map(one).collect()
        };
        let (then, now) = (all(before), all(after));
        let (then, now) = (piece(&then), piece(&now));
        let mut known: Vec<u64> = before.iter().chain(after).map(|frame| frame.0).collect();
        known.push(0x9999);
        let steps = outer_part(&walk, (&then, &now), &known)?;
        Some(steps.iter().map(|step| step.address).collect())
    }

    #[test]
    fn frames_that_ran_both_times_are_linked_from_the_outermost_on() {
        const OUTER: [Frame; 3] = [
            (0x1000, 0, true),
            (0x2000, 0x1000, true),
            (0x3000, 0x2000, true),
        ];
        for minor in [8, 9, 10] {
            let with = |frames: &[Frame]| [&OUTER[..], frames].concat();
            // What is inside was another one, had returned, or is kept by somebody.
            for (then, now) in [
                (&[(0x4000, 0x3000, true)][..], &[(0x4000, 0x5000, true)][..]),
                (&[(0x4000, 0x3000, true)], &[(0x4000, 0x3000, false)]),
                (&[(0x4000, 0x3000, false)], &[(0x4000, 0x3000, false)]),
                (&[(0x4000, 0x3000, true)], &[]),
            ] {
                let found = part(minor, &with(then), &with(now));
                assert_eq!(
                    found,
                    Some(vec![0x3000, 0x2000, 0x1000]),
                    "{then:x?} {now:x?}"
                );
            }
            // Of two that the same one seems to have called, one is elsewhere.
            let two = with(&[(0x6000, 0x2000, true)]);
            assert_eq!(part(minor, &two, &two), Some(vec![0x2000, 0x1000]));
            let two = with(&[(0x6000, 0, true)]);
            assert_eq!(part(minor, &two, &two), None);
            assert_eq!(part(minor, &OUTER[1..], &OUTER), None);
        }
    }
}
