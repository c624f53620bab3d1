//! `record --from-agent`: what the flight recorder of an agent has of a service, over the agent's local socket.

use std::{
    io::{self, Write as _},
    time::Duration,
};

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{Request, StatusCode, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::{net::UnixStream, time::timeout};

use crate::{
    capture::MAGIC,
    cli::{FromAgent, Options},
    session::{
        Failure, code,
        files::{Out, Target},
        names, printed, say,
    },
    views::{escape::escape, recording},
};

/// An answer is at most so long, bytes.
const MAX_ANSWER: usize = 1 << 30;
/// It comes within this time, or not at all.
const PATIENCE: Duration = Duration::from_secs(90);

pub(super) fn run(options: &Options, wanted: &FromAgent) -> Result<u8, Failure> {
    // What cannot be written is refused first.
    let out = match &options.output {
        Some(path) => Target::of(path)?.create()?,
        None => {
            let stem = names::stem(&names::of_service(&wanted.service), 0);
            Out::free(stem, ".concmon")?
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let answered = runtime.block_on(async { timeout(PATIENCE, ask(wanted)).await });
    let late = || Failure::new(code::FAILURE, "the agent does not answer");
    let body = answered.map_err(|_| late())??;
    if !body.starts_with(&MAGIC) {
        return Err(Failure::new(code::FAILURE, "the agent sent no capture"));
    }
    let (mut out, size) = (out, recording::size(body.len() as u64));
    let written = out.write_all(&body).and_then(|()| out.finish_named());
    let name = written
        .as_ref()
        .map_or_else(|_| String::new(), String::clone);
    if printed(written.map(drop))? && !options.quiet {
        let service = escape(&wanted.service);
        say(&format!(
            "concmon-bpf: recorded {service} in {name}: {size}\n"
        ));
    }
    Ok(code::OK)
}

async fn ask(wanted: &FromAgent) -> Result<Bytes, Failure> {
    let failed = |error: &dyn std::fmt::Display| {
        let text = format!("the agent does not answer: {error}");
        Failure::new(code::FAILURE, text)
    };
    let stream = UnixStream::connect(&wanted.socket).await.map_err(|error| {
        let kind = match error.kind() {
            io::ErrorKind::PermissionDenied => code::PERMISSION,
            _ => code::FAILURE,
        };
        let socket = wanted.socket.to_string_lossy();
        let text = format!("cannot reach an agent at {}: {error}", escape(&socket));
        Failure::new(kind, text)
    })?;
    let conversed = http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = conversed.map_err(|error| failed(&error))?;
    tokio::spawn(connection);
    let service = utf8_percent_encode(&wanted.service, NON_ALPHANUMERIC);
    let last = wanted.last.as_secs().max(1);
    let request = Request::get(format!("/debug/recording?service={service}&last={last}"))
        .header(header::HOST, "agent")
        .body(Empty::<Bytes>::new())
        .map_err(|error| failed(&error))?;
    let answer = sender.send_request(request).await;
    let answer = answer.map_err(|error| failed(&error))?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
    let body = body.map_err(|error| failed(&error))?.to_bytes();
    if status == StatusCode::OK {
        return Ok(body);
    }
    let said = String::from_utf8_lossy(&body);
    Err(Failure::new(
        code::FAILURE,
        escape(said.trim()).into_owned(),
    ))
}
