//! HTTP: one answer for each connection, within bounds of size, number and time.

use std::{cell::RefCell, convert::Infallible, io, rc::Rc, time::Duration};

use http_body_util::Full;
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{self, HeaderName, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

use super::pages::{Format, Pages, STALE, Tls, Wanted};

/// The head of a request is at most so long, and has at most so many fields.
const MAX_HEAD: usize = 16 << 10;
const MAX_FIELDS: usize = 64;
/// Until the head of a request has come, and until the answer has been read.
const HEAD_TIME: Duration = Duration::from_secs(5);
const WHOLE_TIME: Duration = Duration::from_secs(30);
/// After a connection that could not be taken: descriptors may have run out.
const PAUSE: Duration = Duration::from_millis(100);

/// Answers whoever connects, for ever.
pub(super) async fn serve(listener: TcpListener, pages: Rc<RefCell<Pages>>) {
    // One for each client that is there, and one of our own.
    let clients = Rc::new(());
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(_) => {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        if Rc::strong_count(&clients) > pages.borrow().max_clients() {
            pages.borrow_mut().refused();
            continue;
        }
        let (client, pages) = (Rc::clone(&clients), Rc::clone(&pages));
        tokio::task::spawn_local(async move {
            // What a client does wrong is its own matter.
            let _ = tokio::time::timeout(WHOLE_TIME, greet(stream, pages)).await;
            drop(client);
        });
    }
}

/// Begins a connection, with TLS where that is asked for.
async fn greet(stream: TcpStream, pages: Rc<RefCell<Pages>>) -> io::Result<()> {
    let tls = pages.borrow().tls();
    let conversed = match tls {
        Tls::Without => converse(stream, pages).await,
        Tls::With(config) => {
            let accepted = TlsAcceptor::from(config).accept(stream);
            let stream = tokio::time::timeout(HEAD_TIME, accepted).await??;
            converse(stream, pages).await
        }
        Tls::Broken => Ok(()),
    };
    conversed.map_err(io::Error::other)
}

async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    pages: Rc<RefCell<Pages>>,
) -> Result<(), hyper::Error> {
    let answer = service_fn(move |request: Request<Incoming>| {
        let response = answer(&request, &mut pages.borrow_mut());
        std::future::ready(Ok::<_, Infallible>(response))
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_FIELDS)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), answer)
        .await
}

fn answer(request: &Request<Incoming>, pages: &mut Pages) -> Response<Full<Bytes>> {
    let response = respond(
        request.method(),
        request.uri().path(),
        request.headers(),
        pages,
    );
    pages.answered(response.status().as_u16());
    response
}

/// What is asked for, without the body for `HEAD`, which hyper leaves out.
fn respond(
    method: &Method,
    path: &str,
    headers: &HeaderMap,
    pages: &mut Pages,
) -> Response<Full<Bytes>> {
    if !["/metrics", "/healthz", "/readyz"].contains(&path) {
        return text(
            StatusCode::NOT_FOUND,
            "there is /metrics, /healthz and /readyz\n",
        );
    }
    if ![Method::GET, Method::HEAD].contains(method) {
        let response = text(StatusCode::METHOD_NOT_ALLOWED, "it can only be read\n");
        return with(response, header::ALLOW, "GET, HEAD");
    }
    match path {
        "/healthz" => text(StatusCode::OK, "ok\n"),
        "/readyz" => match pages.lacks() {
            None => text(StatusCode::OK, "ready\n"),
            Some(reason) => text(StatusCode::SERVICE_UNAVAILABLE, reason),
        },
        _ => metrics(headers, pages),
    }
}

fn metrics(headers: &HeaderMap, pages: &mut Pages) -> Response<Full<Bytes>> {
    let shown = headers.get(header::AUTHORIZATION);
    if !pages.admits(shown.map(HeaderValue::as_bytes)) {
        let response = text(StatusCode::UNAUTHORIZED, "a bearer token is needed\n");
        return with(response, header::WWW_AUTHENTICATE, "Bearer");
    }
    if pages.is_stale() {
        return text(StatusCode::SERVICE_UNAVAILABLE, STALE);
    }
    let said = |name: HeaderName| {
        let values = headers.get_all(name).iter();
        let values = values.filter_map(|value| value.to_str().ok());
        values.collect::<Vec<_>>().join(",")
    };
    let wanted = Wanted {
        format: Format::of(&said(header::ACCEPT)),
        gzip: accepts_gzip(&said(header::ACCEPT_ENCODING)),
    };
    let response = Response::new(Full::new(pages.metrics(wanted)));
    let response = with(response, header::CONTENT_TYPE, wanted.format.content_type());
    let response = with(response, header::VARY, "Accept, Accept-Encoding");
    match wanted.gzip {
        true => with(response, header::CONTENT_ENCODING, "gzip"),
        false => response,
    }
}

fn accepts_gzip(accepted: &str) -> bool {
    accepted.split(',').any(|coding| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
        let weight = weight
            .trim()
            .strip_prefix("q=")
            .and_then(|q| q.parse().ok());
        name.trim() == "gzip" && weight.unwrap_or(1.0) > 0.0
    })
}

fn text(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    with(response, header::CONTENT_TYPE, "text/plain; charset=utf-8")
}

fn with(
    mut response: Response<Full<Bytes>>,
    name: HeaderName,
    value: &'static str,
) -> Response<Full<Bytes>> {
    let value = HeaderValue::from_static(value);
    response.headers_mut().insert(name, value);
    response
}
