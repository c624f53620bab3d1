//! Heads of requests, of responses, and of chunks: what `httparse` makes of them.

use std::collections::BTreeMap;

use httparse::{EMPTY_HEADER, Header};

use crate::event::NotParsed;

/// Headers of one head, at most; the kernel programs hand over 1 KiB of it.
const MAX_HEADERS: usize = 128;
/// Characters of a value that is kept.
const MAX_VALUE: usize = 128;

/// A request's head.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) body: Body,
    /// Those that were wanted, by name in lower case.
    pub(super) headers: BTreeMap<String, String>,
}

/// What follows a request's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    None,
    Bytes(u64),
    Chunks,
    /// Not all headers were seen.
    Unknown,
}

/// What the beginning of a request has come to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Head {
    Partial,
    Whole {
        length: usize,
        head: Request,
    },
    /// Its end was not handed over.
    Cut(Request),
}

/// The beginning of a request, with its headers of these names. `is_cut`: no more of it comes.
pub(super) fn request(bytes: &[u8], is_cut: bool, names: &[String]) -> Result<Head, NotParsed> {
    if bytes.starts_with(b"PRI * HTTP/2") {
        return Err(NotParsed::Http2);
    }
    if bytes.starts_with(&[22, 3]) {
        return Err(NotParsed::Tls);
    }
    let mut headers = [EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => {
            let (Some(method), Some(path)) = (request.method, request.path) else {
                return Err(NotParsed::Malformed);
            };
            let body = body(request.headers)?;
            let head = Request::new(method, path, body, (&*request.headers, names));
            Ok(Head::Whole { length, head })
        }
        Ok(httparse::Status::Partial) if is_cut => cut(bytes, names),
        Ok(httparse::Status::Partial) => Ok(Head::Partial),
        // More than there is room for, though of a few bytes each.
        Err(httparse::Error::TooManyHeaders) => cut(bytes, names),
        Err(_) => Err(NotParsed::Malformed),
    }
}

/// A head of which whole lines are there.
fn cut(bytes: &[u8], names: &[String]) -> Result<Head, NotParsed> {
    let Some(line) = memchr::memchr(b'\n', bytes) else {
        return match memchr::memchr2_iter(b' ', b'?', bytes).nth(1) {
            // A very long query.
            Some(end) => line_only(&bytes[..end]),
            // A very long path.
            None => line_only(bytes),
        };
    };
    let mut whole = bytes[..=memchr::memrchr(b'\n', bytes).unwrap_or(line)].to_vec();
    whole.extend_from_slice(b"\r\n");
    let mut headers = [EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(&whole) {
        Ok(httparse::Status::Complete(_)) => {
            let (Some(method), Some(path)) = (request.method, request.path) else {
                return Err(NotParsed::Malformed);
            };
            let headers = (&*request.headers, names);
            Ok(Head::Cut(Request::new(
                method,
                path,
                Body::Unknown,
                headers,
            )))
        }
        Err(httparse::Error::TooManyHeaders) => line_only(bytes),
        _ => Err(NotParsed::Malformed),
    }
}

/// Method and path alone.
fn line_only(bytes: &[u8]) -> Result<Head, NotParsed> {
    let line = bytes
        .trim_ascii_start()
        .split(|byte| *byte == b'\n')
        .next()
        .unwrap_or_default();
    // It may be cut within a character.
    let text = String::from_utf8_lossy(line);
    let mut words = text.split(' ');
    match (words.next(), words.next()) {
        (Some(method), Some(path)) if is_method(method) && path.starts_with(['/', '*']) => Ok(
            Head::Cut(Request::new(method, path, Body::Unknown, (&[], &[]))),
        ),
        _ => Err(NotParsed::Malformed),
    }
}

fn is_method(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphabetic() || byte == b'-')
}

impl Request {
    /// Of all headers, those of these names are kept.
    fn new(
        method: &str,
        path: &str,
        body: Body,
        (headers, names): (&[Header<'_>], &[String]),
    ) -> Self {
        let mut kept = BTreeMap::new();
        for header in headers {
            let wanted = |name: &&String| header.name.eq_ignore_ascii_case(name);
            if let Some(name) = names.iter().find(wanted) {
                let value = String::from_utf8_lossy(header.value);
                kept.insert(name.clone(), value.chars().take(MAX_VALUE).collect());
            }
        }
        Self {
            method: method.to_owned(),
            path: path.to_owned(),
            body,
            headers: kept,
        }
    }
}

/// RFC 9112, 6.3: a transfer coding goes before a length; lengths that differ are an error.
fn body(headers: &[Header<'_>]) -> Result<Body, NotParsed> {
    let values = |name: &'static str| {
        let named = headers
            .iter()
            .filter(move |header| header.name.eq_ignore_ascii_case(name));
        named.map(|header| header.value.trim_ascii())
    };
    if let Some(coding) = values("transfer-encoding").next_back() {
        let is_chunked = coding.to_ascii_lowercase().ends_with(b"chunked");
        return match is_chunked {
            true => Ok(Body::Chunks),
            false => Err(NotParsed::Malformed),
        };
    }
    let mut length = None;
    for value in values("content-length") {
        let parsed = number(value).ok_or(NotParsed::Malformed)?;
        if length.is_some_and(|length| length != parsed) {
            return Err(NotParsed::Malformed);
        }
        length = Some(parsed);
    }
    Ok(match length {
        None | Some(0) => Body::None,
        Some(length) => Body::Bytes(length),
    })
}

/// Digits, and nothing else.
fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// What the length of a chunk says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Chunk {
    Partial,
    Data {
        head: usize,
        size: u64,
    },
    /// The last one, with the trailers: so many bytes in all.
    Last(usize),
}

/// The head of a chunk; `None`: it is none.
pub(super) fn chunk(bytes: &[u8]) -> Option<Chunk> {
    Some(match httparse::parse_chunk_size(bytes).ok()? {
        httparse::Status::Partial => Chunk::Partial,
        httparse::Status::Complete((head, 0)) => {
            let rest = &bytes[head..];
            let end = match rest.starts_with(b"\r\n") {
                true => Some(2),
                false => memchr::memmem::find(rest, b"\r\n\r\n").map(|at| at + 4),
            };
            end.map_or(Chunk::Partial, |end| Chunk::Last(head + end))
        }
        httparse::Status::Complete((head, size)) => Chunk::Data { head, size },
    })
}

/// A response's head.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Status {
    pub(super) code: u16,
    /// `None`: another end than by length.
    pub(super) body_bytes: Option<u64>,
    /// All of it is there.
    pub(super) is_whole: bool,
}

/// The head of a response, and how many of these bytes it takes; `None`: it is none.
pub(super) fn status(bytes: &[u8]) -> Option<(usize, Status)> {
    let mut headers = [EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let parsed = response.parse(bytes);
    let code = response.code.filter(|code| (100..1000).contains(code))?;
    let Ok(httparse::Status::Complete(length)) = parsed else {
        // The first line is enough, where more was not handed over or is not understood.
        return Some((
            bytes.len(),
            Status {
                code,
                body_bytes: None,
                is_whole: false,
            },
        ));
    };
    let body_bytes = match body(response.headers) {
        Ok(Body::Bytes(length)) => Some(length),
        _ => None,
    };
    let status = Status {
        code,
        body_bytes,
        is_whole: true,
    };
    Some((length, status))
}
