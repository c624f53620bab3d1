//! Batches of what sockets read and wrote.

use concmon_ebpf::{BatchHeader, SOCKET_AREA, SOCKET_BYTES, SocketHead, socket_kind};

use super::{DecodeError, Fields};

const HEAD_BYTES: usize = size_of::<SocketHead>();

/// What a system call read from, or wrote to, a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketRecord {
    pub head: SocketHead,
    /// The first bytes of it.
    pub bytes: Vec<u8>,
}

/// A decoded batch.
#[derive(Clone, Debug)]
pub struct SocketRecords {
    pub header: BatchHeader,
    /// In the order of the batch.
    pub records: Vec<SocketRecord>,
    /// Records that contradict themselves.
    pub invalid: u64,
}

/// Decodes the bytes of one perf event. Bytes behind the last record are the kernel's padding.
///
/// # Errors
/// [`DecodeError`], when nothing of it can be used.
pub fn sockets(bytes: &[u8]) -> Result<SocketRecords, DecodeError> {
    let (header, body) = super::split(bytes, SOCKET_AREA / HEAD_BYTES)?;
    let count = header.count;
    let truncated = DecodeError::Truncated {
        count,
        bytes: bytes.len(),
    };
    let mut records = Vec::with_capacity(count.into());
    let (mut rest, mut invalid) = (body, 0);
    for _ in 0..count {
        let (head, behind) = rest.split_at_checked(HEAD_BYTES).ok_or(truncated)?;
        let head = socket_head(head);
        let length = usize::from(head.bytes);
        if length > SOCKET_BYTES {
            return Err(truncated);
        }
        let (padded, behind) = behind
            .split_at_checked(length.next_multiple_of(8))
            .ok_or(truncated)?;
        rest = behind;
        if is_valid(&head) {
            let bytes = padded[..length].to_vec();
            records.push(SocketRecord { head, bytes });
        } else {
            invalid += 1;
        }
    }
    Ok(SocketRecords {
        header,
        records,
        invalid,
    })
}

fn is_valid(head: &SocketHead) -> bool {
    let is_known = match head.kind {
        socket_kind::CLOSED => true,
        socket_kind::WAITED => {
            let waited = head.ready_ns.checked_add(head.offset);
            head.tid != 0 && head.tgid != 0 && waited.is_some_and(|end_ns| end_ns <= head.at_ns)
        }
        socket_kind::READ | socket_kind::WRITTEN | socket_kind::END | socket_kind::OTHER => {
            head.tid != 0 && head.tgid != 0
        }
        _ => false,
    };
    // No connection lives for as long.
    let is_possible = head.offset < 1 << 62;
    is_known && is_possible && u32::from(head.bytes) <= head.length && head.ready_ns <= head.at_ns
}

fn socket_head(bytes: &[u8]) -> SocketHead {
    let mut fields = Fields(bytes);
    SocketHead {
        kind: fields.u8(),
        flags: fields.u8(),
        bytes: fields.u16(),
        tid: fields.u32(),
        tgid: fields.u32(),
        length: fields.u32(),
        at_ns: fields.u64(),
        ready_ns: fields.u64(),
        cookie: fields.u64(),
        offset: fields.u64(),
        tail: fields.u64(),
        peer: [(); 4].map(|()| fields.u32()),
        family: fields.u16(),
        peer_port: fields.u16(),
        reserved: fields.u32(),
    }
}
