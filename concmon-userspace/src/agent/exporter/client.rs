//! One request to a receiver: a connection for each, within bounds of size and time.

use std::{
    fmt::Display,
    io,
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::Bytes,
    client::conn::http1,
    header::{self, HeaderMap, HeaderValue},
    rt::{Read, Write},
};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceResponse;
use prost::Message as _;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, RootCertStore, pki_types::ServerName},
};

use super::dial::Line;
use crate::agent::config::{Destination, Endpoint};

/// Of an answer, its head and its body each.
const MAX_ANSWER: usize = 64 << 10;
/// A receiver may ask for so long a pause at most.
const MAX_PAUSE: Duration = Duration::from_secs(600);

/// A receiver of one signal.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) to: Destination,
    line: Rc<Line>,
    tls: Option<Tls>,
}

/// The certificates that are trusted.
#[derive(Clone, Debug)]
pub(super) struct Roots(Arc<ClientConfig>);

#[derive(Debug)]
struct Tls {
    config: Arc<ClientConfig>,
    server: ServerName<'static>,
}

/// What has become of a request.
#[derive(Debug)]
pub(super) enum Answer {
    /// It was taken, but for so many items.
    Taken(u64),
    /// It may be sent again, after the pause that the receiver has asked for.
    Later(String, Option<Duration>),
    Refused(String),
    /// It is refused for its size.
    TooLarge(String),
}

impl Roots {
    /// Those of the system, or of `SSL_CERT_FILE` and `SSL_CERT_DIR`. To be read before files cannot be.
    ///
    /// # Errors
    /// There are none.
    pub(super) fn of_system() -> io::Result<Self> {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            let why = found.errors.first().map(ToString::to_string);
            let why = why.unwrap_or_else(|| "the system has no certificates to trust".to_owned());
            return Err(io::Error::other(why));
        }
        let config = ClientConfig::builder().with_root_certificates(roots);
        Ok(Self(Arc::new(config.with_no_client_auth())))
    }
}

impl Client {
    /// `line` leads to the dialer of this receiver.
    ///
    /// # Errors
    /// TLS is asked for, and cannot be.
    pub(super) fn new(to: Destination, line: Rc<Line>, roots: Option<&Roots>) -> io::Result<Self> {
        let tls = match (to.endpoint.tls, roots) {
            (false, _) => None,
            (true, None) => return Err(io::Error::other("there are no certificates to trust")),
            (true, Some(roots)) => Some(Tls {
                config: Arc::clone(&roots.0),
                server: ServerName::try_from(to.endpoint.host.clone()).map_err(io::Error::other)?,
            }),
        };
        Ok(Self { to, line, tls })
    }

    /// Sends a request once.
    pub(super) async fn post(&self, body: Bytes) -> Answer {
        let until = Instant::now() + self.to.timeout;
        match timeout_at(until, self.exchange(body, until)).await {
            Err(_) => Answer::Later("it takes too long".to_owned(), None),
            Ok(Err(why)) => Answer::Later(why, None),
            Ok(Ok(answer)) => judge(&answer),
        }
    }

    async fn exchange(&self, body: Bytes, until: Instant) -> Result<Response<Bytes>, String> {
        let request = self.request(body).map_err(text)?;
        let stream = self.line.connect().await.map_err(text)?;
        match &self.tls {
            None => exchange(TokioIo::new(stream), request, until).await,
            Some(Tls { config, server }) => {
                let connector = TlsConnector::from(Arc::clone(config));
                let stream = connector.connect(server.clone(), stream).await;
                exchange(TokioIo::new(stream.map_err(text)?), request, until).await
            }
        }
    }

    fn request(&self, body: Bytes) -> hyper::http::Result<Request<Full<Bytes>>> {
        let Endpoint {
            authority, path, ..
        } = &self.to.endpoint;
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(header::HOST, authority)
            .header(header::CONTENT_TYPE, "application/x-protobuf")
            .header(header::CONNECTION, "close")
            .header(
                header::USER_AGENT,
                concat!("concmon/", env!("CARGO_PKG_VERSION")),
            );
        if self.to.gzip {
            request = request.header(header::CONTENT_ENCODING, "gzip");
        }
        let mut request = request.body(Full::new(body))?;
        request.headers_mut().extend(self.to.headers.clone());
        Ok(request)
    }
}

fn text(error: impl Display) -> String {
    error.to_string()
}

/// An answer is there with its head: what comes after it until then may be cut off, or too long, and is left out.
async fn exchange(
    stream: impl Read + Write + Unpin,
    request: Request<Full<Bytes>>,
    until: Instant,
) -> Result<Response<Bytes>, String> {
    let mut builder = http1::Builder::new();
    builder.max_buf_size(MAX_ANSWER);
    let (mut sender, connection) = builder.handshake(stream).await.map_err(text)?;
    let answer = async {
        let (head, body) = sender
            .send_request(request)
            .await
            .map_err(text)?
            .into_parts();
        let body = timeout_at(until, Limited::new(body, MAX_ANSWER).collect()).await;
        let body = body.ok().and_then(Result::ok);
        let body = body.map(|body| body.to_bytes()).unwrap_or_default();
        Ok(Response::from_parts(head, body))
    };
    tokio::pin!(answer, connection);
    tokio::select! {
        biased;
        answer = &mut answer => return answer,
        // What has gone wrong with it, the answer tells.
        _ = &mut connection => {}
    }
    answer.await
}

/// By the specification of OTLP: these may be sent again, no others.
fn judge(answer: &Response<Bytes>) -> Answer {
    let status = answer.status();
    match status {
        status if status.is_success() => Answer::Taken(rejected(answer.body())),
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => Answer::Later(status.to_string(), pause(answer.headers())),
        StatusCode::PAYLOAD_TOO_LARGE => Answer::TooLarge(status.to_string()),
        status => Answer::Refused(status.to_string()),
    }
}

/// Items that the receiver has not taken of those that it was sent. The messages of all signals are alike.
fn rejected(body: &[u8]) -> u64 {
    let response = ExportMetricsServiceResponse::decode(body);
    let partial = response.ok().and_then(|response| response.partial_success);
    partial.map_or(0, |partial| {
        partial.rejected_data_points.max(0).cast_unsigned()
    })
}

/// What `Retry-After` asks for: seconds, or until an instant.
fn pause(headers: &HeaderMap<HeaderValue>) -> Option<Duration> {
    let asked = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let pause = match asked.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let until = jiff::fmt::rfc2822::parse(asked).ok()?.timestamp();
            let until = SystemTime::from(until);
            until.duration_since(SystemTime::now()).unwrap_or_default()
        }
    };
    Some(pause.min(MAX_PAUSE))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn answer(status: u16, headers: &[(&'static str, &str)], body: &'static [u8]) -> Answer {
        let mut answer = Response::new(Bytes::from_static(body));
        *answer.status_mut() = StatusCode::from_u16(status).expect("a status");
        for (name, value) in headers {
            let value = HeaderValue::from_str(value).expect("a value");
            answer.headers_mut().insert(*name, value);
        }
        judge(&answer)
    }

    #[test]
    fn only_what_may_be_sent_again_is() {
        for status in [429, 502, 503, 504] {
            assert!(
                matches!(answer(status, &[], b""), Answer::Later(_, None)),
                "{status}"
            );
        }
        assert!(matches!(answer(413, &[], b""), Answer::TooLarge(_)));
        for status in [301, 400, 401, 404, 500] {
            assert!(
                matches!(answer(status, &[], b""), Answer::Refused(_)),
                "{status}"
            );
        }
        // `partial_success {rejected_data_points: 3, error_message: "no"}`.
        let partial = b"\x0a\x06\x08\x03\x12\x02no";
        assert!(matches!(answer(200, &[], partial), Answer::Taken(3)));
        for body in [&b""[..], b"ok", b"\x0a\xff\xff", b"{}"] {
            assert!(matches!(answer(200, &[], body), Answer::Taken(0)));
        }
    }

    /// Sent again, what was taken would be there twice.
    #[tokio::test]
    async fn an_answer_holds_without_its_body() {
        for (rest, time) in [
            ("content-length: 9\r\n\r\ncut", Duration::from_secs(20)),
            (
                &*format!("\r\n{}", "x".repeat(2 * MAX_ANSWER)),
                Duration::from_secs(20),
            ),
            // The body does not end.
            (
                "content-length: 999999\r\n\r\nslow",
                Duration::from_millis(300),
            ),
        ] {
            let (ours, mut theirs) = tokio::io::duplex(4 * MAX_ANSWER);
            let answer = format!("HTTP/1.1 200 OK\r\n{rest}");
            let server = async move {
                let mut asked = Vec::new();
                while !asked.ends_with(b"\r\n\r\n") {
                    asked.push(theirs.read_u8().await.expect("a request"));
                }
                theirs.write_all(answer.as_bytes()).await.expect("room");
                if rest.ends_with("cut") {
                    theirs.shutdown().await.expect("it is open");
                }
                theirs
            };
            let request = Request::post("/").header(header::HOST, "h");
            let request = request.body(Full::new(Bytes::new())).expect("a request");
            let until = Instant::now() + time;
            let client = timeout_at(until, exchange(TokioIo::new(ours), request, until));
            let (exchanged, _open) = tokio::join!(client, server);
            let answer = judge(&exchanged.expect("in time").expect("an answer"));
            assert!(matches!(answer, Answer::Taken(0)), "{answer:?}");
        }
    }

    #[test]
    fn the_receiver_says_when_to_send_again() {
        let asks = |value: &str| match answer(503, &[("retry-after", value)], b"") {
            Answer::Later(_, pause) => pause,
            other => panic!("{other:?}"),
        };
        assert_eq!(asks("7"), Some(Duration::from_secs(7)));
        assert_eq!(asks("86400"), Some(MAX_PAUSE));
        assert_eq!(asks("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        assert_eq!(asks("Fri, 01 Jan 2100 00:00:00 GMT"), Some(MAX_PAUSE));
        assert_eq!((asks("soon"), asks("-1")), (None, None));
    }
}
