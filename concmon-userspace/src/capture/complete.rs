//! Whether a file is a whole capture, and of which flight recorder: by its header and its last frame,
//! so that nobody has to read what lies between.

use std::{fs::File, io, os::unix::fs::FileExt as _};

use super::{
    format::{HEAD_BYTES, Head, Layout, PREAMBLE_BYTES, frame, parse_preamble},
    header::Header,
    read::EndBody,
};

/// The longest header that is read. Command lines are in it.
const MAX_HEADER_BYTES: usize = 1 << 20;
/// The longest last frame, with its head: it holds one instant.
const MAX_END_BYTES: usize = HEAD_BYTES + 64;

/// A capture that was ended, and has content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complete {
    /// The service whose flight recorder has written it; `None`: no flight recorder has.
    pub flight: Option<String>,
    /// When the recording ended, ns after 1970.
    pub end_unix_ns: u64,
}

/// Looks at an open file, which may hold anything. `None`: it is no whole capture.
///
/// # Errors
/// Those of reading.
pub fn complete(file: &File) -> io::Result<Option<Complete>> {
    let bytes = file.metadata()?.len();
    let Some(header) = header(file, bytes)? else {
        return Ok(None);
    };
    let Some((chunks, end)) = end(file, bytes)? else {
        return Ok(None);
    };
    let since_ns = end.at_ns.saturating_sub(header.info.start_ns);
    Ok((chunks > 0).then(|| Complete {
        flight: header.flight,
        end_unix_ns: header.info.start_unix_ns.saturating_add(since_ns),
    }))
}

/// The service whose flight recorder has begun this file, whole or not; `None`: no flight recorder has.
///
/// # Errors
/// Those of reading.
pub fn flight_of(file: &File) -> io::Result<Option<String>> {
    let bytes = file.metadata()?.len();
    Ok(header(file, bytes)?.and_then(|header| header.flight))
}

fn header(file: &File, bytes: u64) -> io::Result<Option<Header>> {
    let begin = PREAMBLE_BYTES + HEAD_BYTES;
    if bytes < begin as u64 {
        return Ok(None);
    }
    let mut start = [0; PREAMBLE_BYTES + HEAD_BYTES];
    file.read_exact_at(&mut start, 0)?;
    let (preamble, head) = start.split_at(PREAMBLE_BYTES);
    let (Ok(Layout::Appended), Some(head)) = (parse_preamble(preamble), Head::parse(head)) else {
        return Ok(None);
    };
    let length = head.length as usize;
    if head.kind != frame::HEADER || length > MAX_HEADER_BYTES || (begin + length) as u64 > bytes {
        return Ok(None);
    }
    let mut body = vec![0; length];
    file.read_exact_at(&mut body, begin as u64)?;
    let whole = crc32fast::hash(&body) == head.body_crc;
    Ok(whole.then(|| Header::parse(&body).ok()).flatten())
}

/// The last frame, where it is the one that ends a recording, and how many chunks stand before it.
fn end(file: &File, bytes: u64) -> io::Result<Option<(u32, EndBody)>> {
    let length = MAX_END_BYTES.min(usize::try_from(bytes).unwrap_or(MAX_END_BYTES));
    let mut tail = vec![0; length];
    file.read_exact_at(&mut tail, bytes - length as u64)?;
    let found = (0..=length.saturating_sub(HEAD_BYTES)).find_map(|at| {
        let head = Head::parse(&tail[at..])?;
        let body = &tail[at + HEAD_BYTES..];
        let ends = head.kind == frame::END
            && head.length as usize == body.len()
            && crc32fast::hash(body) == head.body_crc;
        // The header is the first frame.
        let chunks = head.number.saturating_sub(1);
        ends.then(|| Some((chunks, rmp_serde::from_slice(body).ok()?)))?
    });
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::capture::{Encoder, FileStore, Input, Store as _, tests::header};

    /// A capture of so many chunks, of a flight recorder or not, ended or not.
    fn file(chunks: u64, flight: Option<&str>, ended: bool) -> File {
        let file = tempfile::tempfile().expect("a file");
        let mut store = FileStore::new(file.try_clone().expect("a descriptor"));
        let header = Header {
            flight: flight.map(str::to_owned),
            ..header()
        };
        store.begin(&header).expect("a header");
        for chunk in 0..chunks {
            let at_ns = header.info.start_ns + chunk;
            let mut encoder = Encoder::default();
            encoder.put(&Input::Release { until_ns: at_ns });
            store
                .chunk(encoder.seal(at_ns, at_ns + 1, false))
                .expect("a chunk");
        }
        if ended {
            store.end(header.info.start_ns + 1_000).expect("an end");
        }
        file
    }

    #[test]
    fn what_is_whole_says_whose_it_is_and_when_it_ends() {
        let whole = |flight: Option<&str>| Complete {
            flight: flight.map(str::to_owned),
            end_unix_ns: header().info.start_unix_ns + 1_000,
        };
        let found = |file: &File| complete(file).expect("a file");
        assert_eq!(found(&file(1, Some("app"), true)), Some(whole(Some("app"))));
        assert_eq!(found(&file(9, None, true)), Some(whole(None)));
        assert_eq!(found(&file(9, Some("app"), false)), None, "not ended");
        assert_eq!(found(&file(0, Some("app"), true)), None, "nothing in it");
        let mut longer = file(2, Some("app"), true);
        longer.write_all(b"x").expect("a file");
        assert_eq!(found(&longer), None, "something behind the end");
    }

    #[test]
    fn what_is_cut_anywhere_is_not_whole() {
        let whole = file(2, Some("app"), true);
        let bytes = whole.metadata().expect("a file").len();
        for length in (0..bytes).rev() {
            whole.set_len(length).expect("a file");
            assert_eq!(complete(&whole).expect("a file"), None, "{length}");
        }
    }
}
