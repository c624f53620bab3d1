//! HTTP as both processes serve it: one answer for each connection, within bounds of size and time.

use std::{cell::Cell, convert::Infallible, future::Future, io, rc::Rc, time::Duration};

use http_body_util::Full;
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{self, HeaderName, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, sleep_until},
};

pub(super) type Answer = Response<Full<Bytes>>;

/// The head of a request is at most so long, and has at most so many fields.
const MAX_HEAD: usize = 16 << 10;
const MAX_FIELDS: usize = 64;
/// Until the head of a request has come, and until the answer has been read.
pub(super) const HEAD_TIME: Duration = Duration::from_secs(5);
const WHOLE_TIME: Duration = Duration::from_secs(30);
/// After a connection that could not be taken: descriptors may have run out.
pub(super) const PAUSE: Duration = Duration::from_millis(100);

/// Until when a connection may last. Clones are of the same one.
#[derive(Clone, Debug)]
pub(super) struct Patience(Rc<Cell<Instant>>);

impl Patience {
    /// Of a connection that begins.
    pub(super) fn new() -> Self {
        Self(Rc::new(Cell::new(Instant::now() + WHOLE_TIME)))
    }

    /// The answer takes so long by itself.
    pub(super) fn extend(&self, by: Duration) {
        self.0.set(Instant::now() + by + WHOLE_TIME);
    }

    /// Waits as long as that.
    pub(super) async fn over(&self) {
        while self.0.get() > Instant::now() {
            sleep_until(self.0.get()).await;
        }
    }
}

/// Reads one request, and answers it.
pub(super) async fn converse<F: Future<Output = Answer>>(
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    answer: impl Fn(Request<Incoming>) -> F,
) -> io::Result<()> {
    let answer = service_fn(move |request: Request<Incoming>| {
        let answer = answer(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_FIELDS)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), answer)
        .await
        .map_err(io::Error::other)
}

pub(super) fn text(status: StatusCode, text: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    with(response, header::CONTENT_TYPE, "text/plain; charset=utf-8")
}

pub(super) fn with(mut response: Answer, name: HeaderName, value: &'static str) -> Answer {
    let value = HeaderValue::from_static(value);
    response.headers_mut().insert(name, value);
    response
}
