//! HTTP: one answer for each connection, within bounds of size, number and time.

use std::{cell::RefCell, io, rc::Rc};

use http_body_util::Full;
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::Incoming,
    header::{self, HeaderName, HeaderValue},
};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::{
    ask::Line,
    pages::{Format, Pages, STALE, Tls, Wanted},
};
use crate::agent::{
    debug::{self, Question},
    http::{Answer, HEAD_TIME, PAUSE, Patience, converse, text, with},
};

/// Answers whoever connects, for ever. Questions to the collector go by `line`.
pub(super) async fn serve(listener: TcpListener, pages: Rc<RefCell<Pages>>, line: Line) {
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
        let client = Rc::clone(&clients);
        let desk = Desk {
            pages: Rc::clone(&pages),
            line: line.clone(),
            patience: Patience::new(),
        };
        tokio::task::spawn_local(async move {
            let patience = desk.patience.clone();
            tokio::select! {
                // What a client does wrong is its own matter.
                _ = greet(stream, desk) => {}
                () = patience.over() => {}
            }
            drop(client);
        });
    }
}

/// What a connection is answered from.
#[derive(Clone)]
struct Desk {
    pages: Rc<RefCell<Pages>>,
    line: Line,
    patience: Patience,
}

/// Begins a connection, with TLS where that is asked for.
async fn greet(stream: TcpStream, desk: Desk) -> io::Result<()> {
    let tls = desk.pages.borrow().tls();
    let answer = |request| {
        let desk = desk.clone();
        async move { desk.answer(&request).await }
    };
    match tls {
        Tls::Without => converse(stream, answer).await,
        Tls::With(config) => {
            let accepted = TlsAcceptor::from(config).accept(stream);
            let stream = tokio::time::timeout(HEAD_TIME, accepted).await??;
            converse(stream, answer).await
        }
        Tls::Broken => Ok(()),
    }
}

impl Desk {
    async fn answer(&self, request: &Request<Incoming>) -> Answer {
        let (method, path) = (request.method(), request.uri().path());
        let has_token = self.pages.borrow().has_token();
        let answer = match path.starts_with(debug::PREFIX) && has_token {
            true => self.ask(request).await,
            false => respond(
                method,
                path,
                request.headers(),
                &mut self.pages.borrow_mut(),
            ),
        };
        let mut pages = self.pages.borrow_mut();
        pages.answered(answer.status().as_u16());
        answer
    }

    /// What only the collector can answer, for who shows the token.
    async fn ask(&self, request: &Request<Incoming>) -> Answer {
        if !admits(request.headers(), &self.pages.borrow()) {
            return unauthorized();
        }
        let reply = match Question::of(request.method(), request.uri()) {
            Ok(question) => {
                self.patience.extend(question.takes());
                self.line.ask(question).await
            }
            Err(reply) => reply,
        };
        reply.answer()
    }
}

/// What is asked for, without the body for `HEAD`, which hyper leaves out.
fn respond(method: &Method, path: &str, headers: &HeaderMap, pages: &mut Pages) -> Answer {
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

fn admits(headers: &HeaderMap, pages: &Pages) -> bool {
    let shown = headers.get(header::AUTHORIZATION);
    pages.admits(shown.map(HeaderValue::as_bytes))
}

fn unauthorized() -> Answer {
    let response = text(StatusCode::UNAUTHORIZED, "a bearer token is needed\n");
    with(response, header::WWW_AUTHENTICATE, "Bearer")
}

fn metrics(headers: &HeaderMap, pages: &mut Pages) -> Answer {
    if !admits(headers, pages) {
        return unauthorized();
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
