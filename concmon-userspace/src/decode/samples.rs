//! Batches of samples: stacks as a kernel program took them, still by addresses.

use concmon_ebpf::{
    BatchHeader, SAMPLE_AREA, SAMPLE_FRAMES, SampleFrame, SampleHead, sample_flags,
};

use super::{DecodeError, Fields};
use crate::event::{Cause, SampleKind};

const HEAD_BYTES: usize = size_of::<SampleHead>();
const FRAME_BYTES: usize = size_of::<SampleFrame>();

/// A stack by addresses.
#[derive(Clone, Debug)]
pub struct RawSample {
    pub head: SampleHead,
    pub kind: SampleKind,
    /// Those of Python code, the innermost first.
    pub frames: Vec<SampleFrame>,
}

impl RawSample {
    /// Whether the kernel program has set a bit of [`sample_flags`].
    pub fn has(&self, flag: u8) -> bool {
        self.head.flags & flag != 0
    }
}

/// A decoded batch.
#[derive(Clone, Debug)]
pub struct Samples {
    pub header: BatchHeader,
    /// In the order of the batch.
    pub samples: Vec<RawSample>,
    /// Samples that contradict themselves.
    pub invalid: u64,
}

/// Decodes the bytes of one perf event. Bytes behind the last sample are the kernel's padding.
///
/// # Errors
/// [`DecodeError`], when nothing of it can be used.
pub fn samples(bytes: &[u8]) -> Result<Samples, DecodeError> {
    let (header, body) = super::split(bytes, SAMPLE_AREA / HEAD_BYTES)?;
    let count = header.count;
    let truncated = DecodeError::Truncated {
        count,
        bytes: bytes.len(),
    };
    let mut samples = Vec::with_capacity(count.into());
    let (mut rest, mut invalid) = (body, 0);
    for _ in 0..count {
        let (head, behind) = rest.split_at_checked(HEAD_BYTES).ok_or(truncated)?;
        let head = sample_head(head);
        let frames = usize::from(head.frames);
        if frames > SAMPLE_FRAMES {
            return Err(truncated);
        }
        let (frames, behind) = behind
            .split_at_checked(frames * FRAME_BYTES)
            .ok_or(truncated)?;
        rest = behind;
        match kind(&head) {
            Some(kind) if head.tid != 0 && head.tgid != 0 => samples.push(RawSample {
                head,
                kind,
                frames: frames
                    .chunks_exact(FRAME_BYTES)
                    .map(frame)
                    .filter(|frame| frame.code != 0)
                    .collect(),
            }),
            _ => invalid += 1,
        }
    }
    Ok(Samples {
        header,
        samples,
        invalid,
    })
}

fn kind(head: &SampleHead) -> Option<SampleKind> {
    if head.flags & sample_flags::BLOCK == 0 {
        return Some(SampleKind::OnCpu);
    }
    Cause::from_wire(head.cause).map(SampleKind::Block)
}

fn sample_head(bytes: &[u8]) -> SampleHead {
    let mut fields = Fields(bytes);
    SampleHead {
        flags: fields.u8(),
        cause: fields.u8(),
        frames: fields.u16(),
        tid: fields.u32(),
        tgid: fields.u32(),
        turn_index: fields.u32(),
        turn_count: fields.u32(),
        turns: fields.u32(),
        at_ns: fields.u64(),
        context: fields.u64(),
        context_version: fields.u64(),
        turn_start: fields.u64(),
        ip: fields.u64(),
        thread_state: fields.u64(),
    }
}

fn frame(bytes: &[u8]) -> SampleFrame {
    let mut fields = Fields(bytes);
    SampleFrame {
        code: fields.u64(),
        generator: fields.u64(),
        instruction: fields.u64(),
    }
}

#[cfg(test)]
mod tests {
    use concmon_ebpf::WIRE_VERSION;

    use super::*;
    use crate::testing::Rng;

    fn batch(count: u16, frames: u16, flags: u8) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(WIRE_VERSION.to_le_bytes());
        bytes.extend(count.to_le_bytes());
        bytes.extend(1u32.to_le_bytes());
        bytes.extend([0; 16]);
        for sample in 0..count {
            bytes.extend([flags, 3]);
            bytes.extend(frames.to_le_bytes());
            bytes.extend([7u32, 5, 0, 0, 0].map(u32::to_le_bytes).concat());
            bytes.extend(u64::from(sample).to_le_bytes());
            bytes.extend([0; 40]);
            for frame in 0..u64::from(frames) {
                bytes.extend([frame + 1, 0, 2].map(u64::to_le_bytes).concat());
            }
        }
        bytes
    }

    #[test]
    fn samples_lie_one_behind_the_other() {
        let bytes = batch(3, 2, sample_flags::BLOCK);
        let decoded = samples(&bytes).expect("a batch");
        assert_eq!(decoded.samples.len(), 3);
        assert_eq!(decoded.samples[2].head.at_ns, 2);
        assert_eq!(decoded.samples[2].frames[1].code, 2);
        assert_eq!(decoded.samples[0].kind, SampleKind::Block(Cause::Sleep));
    }

    #[test]
    fn what_is_cut_is_refused() {
        let bytes = batch(2, 3, 0);
        for length in 0..bytes.len() {
            assert!(samples(&bytes[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn noise_gives_no_panic() {
        let mut rng = Rng::new(11);
        for _ in 0..2_000 {
            let mut bytes = batch(2, 3, 0);
            for _ in 0..4 {
                let at = rng.below(bytes.len());
                bytes[at] = rng.next() as u8;
            }
            let _ = samples(&bytes);
        }
    }
}
