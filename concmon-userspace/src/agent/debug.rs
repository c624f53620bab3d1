//! What can be asked of the collector itself, by its owner on the local socket and by who has the token: how each
//! process is watched, and profiles.

use std::time::Duration;

use hyper::{
    Method, StatusCode, Uri,
    body::Bytes,
    header::{self, HeaderValue},
};
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use super::http::{self, Answer};
use crate::views::export::By;

/// Paths of all questions begin so.
pub(super) const PREFIX: &str = "/debug/";
/// Questions that wait to be taken up.
pub(super) const MAX_WAITING: usize = 16;
/// A profile is at most so long, and so long where nothing is said.
const MAX_SECONDS: u8 = 120;
const SECONDS: u8 = 10;
/// Beside its time, a profile takes so long at most.
const MAKING: Duration = Duration::from_secs(60);
/// The name of a service is at most so long, bytes.
const MAX_NAME: usize = 512;

/// A question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Question {
    /// How each process is watched, or why not.
    Targets,
    Profile(ProfileOf),
    /// What the flight recorder of a service has of so many last seconds.
    Recording {
        service: String,
        last_s: u32,
    },
}

/// What of a service is wanted, and for how long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ProfileOf {
    pub(super) service: String,
    seconds: u8,
    pub(super) by: By,
}

impl ProfileOf {
    pub(super) fn length(&self) -> Duration {
        Duration::from_secs(self.seconds.clamp(1, MAX_SECONDS).into())
    }
}

/// What the collector says to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) content_type: String,
    pub(super) body: Vec<u8>,
}

/// A question, and where the reply goes.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) question: Question,
    pub(super) reply: oneshot::Sender<Reply>,
}

/// The way of questions to who answers them.
pub(super) type Asker = mpsc::Sender<Asked>;

impl Reply {
    pub(super) fn text(status: StatusCode, text: &str) -> Self {
        Self {
            status: status.as_u16(),
            content_type: "text/plain; charset=utf-8".to_owned(),
            body: text.as_bytes().to_vec(),
        }
    }

    pub(super) fn no_service() -> Self {
        let text = "no such service is watched: /debug/targets has those that are\n";
        Self::text(StatusCode::NOT_FOUND, text)
    }

    pub(super) fn busy() -> Self {
        let text = "too much is asked for at once: try again later\n";
        Self::text(StatusCode::SERVICE_UNAVAILABLE, text)
    }

    /// The token that was shown is none any more.
    pub(super) fn gone() -> Self {
        Self::text(StatusCode::FORBIDDEN, "there is no token any more\n")
    }

    pub(super) fn too_long() -> Self {
        let text = "the answer is too long\n";
        Self::text(StatusCode::INSUFFICIENT_STORAGE, text)
    }

    /// As it is sent.
    pub(super) fn answer(self) -> Answer {
        answer(self.status, &self.content_type, self.body.into())
    }
}

pub(super) fn answer(status: u16, content_type: &str, body: Bytes) -> Answer {
    let status = StatusCode::from_u16(status);
    let mut answer = http::text(status.unwrap_or(StatusCode::BAD_GATEWAY), body);
    if let Ok(kind) = HeaderValue::from_str(content_type) {
        answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    }
    answer
}

impl Question {
    /// # Errors
    /// The answer to what is no question.
    pub(super) fn of(method: &Method, uri: &Uri) -> Result<Self, Reply> {
        let wrong = |text: String| Reply::text(StatusCode::BAD_REQUEST, &text);
        if method != Method::GET {
            let text = "it can only be read, by GET\n";
            return Err(Reply::text(StatusCode::METHOD_NOT_ALLOWED, text));
        }
        let fields = fields(uri.query().unwrap_or_default()).map_err(wrong)?;
        let known: &[&str] = match uri.path() {
            "/debug/targets" => &[],
            "/debug/pprof/profile" => &["service", "seconds", "type"],
            "/debug/recording" => &["service", "last"],
            _ => {
                let text = "there is /debug/targets, /debug/pprof/profile and /debug/recording\n";
                return Err(Reply::text(StatusCode::NOT_FOUND, text));
            }
        };
        if let Some((key, _)) = fields.iter().find(|(key, _)| !known.contains(&&**key)) {
            let text = format!("{:?} is not known here\n", key.as_str());
            return Err(wrong(text));
        }
        let field = |key: &str| {
            let found = fields.iter().rev().find(|(known, _)| known == key);
            found.map(|(_, value)| value.as_str())
        };
        if known.is_empty() {
            return Ok(Self::Targets);
        }
        let Some(service) = field("service") else {
            return Err(wrong("service= is missing\n".to_owned()));
        };
        if known.contains(&"last") {
            let last_s = field("last").unwrap_or("60").parse();
            return match last_s {
                Ok(last_s) => Ok(Self::Recording {
                    service: service.to_owned(),
                    last_s,
                }),
                Err(_) => Err(wrong("last= is a number of seconds\n".to_owned())),
            };
        }
        let seconds = field("seconds").map_or(Ok(SECONDS), str::parse);
        let seconds = seconds.ok().filter(|all| (1..=MAX_SECONDS).contains(all));
        let by = field("type").unwrap_or(By::OnCpu.name());
        let by = By::ALL.into_iter().find(|known| known.name() == by);
        match (seconds, by) {
            (Some(seconds), Some(by)) => Ok(Self::Profile(ProfileOf {
                service: service.to_owned(),
                seconds,
                by,
            })),
            (None, _) => Err(wrong(format!("seconds= is 1 to {MAX_SECONDS}\n"))),
            (_, None) => {
                let names = By::ALL.map(By::name).join(", ");
                Err(wrong(format!("type= is one of {names}\n")))
            }
        }
    }

    /// How long the answer takes by itself.
    pub(super) fn takes(&self) -> Duration {
        match self {
            Self::Targets | Self::Recording { .. } => Duration::ZERO,
            Self::Profile(of) => of.length() + MAKING,
        }
    }
}

/// The fields of a query.
fn fields(query: &str) -> Result<Vec<(String, String)>, String> {
    let decoded = |text: &str| {
        let spaced = text.replace('+', " ");
        let decoded = percent_decode_str(&spaced).decode_utf8();
        let decoded = decoded.map_err(|_| "the query is no UTF-8\n".to_owned())?;
        match decoded.len() <= MAX_NAME {
            true => Ok(decoded.into_owned()),
            false => Err("the query is too long\n".to_owned()),
        }
    };
    let parts = query.split('&').filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            Ok((decoded(key)?, decoded(value)?))
        })
        .collect()
}

/// Asks, and waits for the reply.
pub(super) async fn ask(asker: &Asker, question: Question) -> Reply {
    let (reply, replied) = oneshot::channel();
    match asker.try_send(Asked { question, reply }) {
        Ok(()) => replied.await.unwrap_or_else(|_| Reply::busy()),
        Err(_) => Reply::busy(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(path: &str) -> Result<Question, u16> {
        let uri = path.parse().expect("a path");
        Question::of(&Method::GET, &uri).map_err(|reply| reply.status)
    }

    #[test]
    fn questions_are_known_and_their_fields_are_bounded() {
        assert_eq!(of("/debug/targets"), Ok(Question::Targets));
        let profile = |service: &str, seconds, by| {
            Ok(Question::Profile(ProfileOf {
                service: service.to_owned(),
                seconds,
                by,
            }))
        };
        let path = "/debug/pprof/profile?service=a%2Fb+c&seconds=7&type=blame";
        assert_eq!(of(path), profile("a/b c", 7, By::Blame));
        let recording = Question::Recording {
            service: "shop".to_owned(),
            last_s: 7,
        };
        assert_eq!(of("/debug/recording?service=shop&last=7"), Ok(recording));
        let path = "/debug/pprof/profile?service=shop";
        assert_eq!(of(path), profile("shop", SECONDS, By::OnCpu));
        for (wrong, status) in [
            ("/debug/other", 404),
            ("/debug/targets?a=b", 400),
            ("/debug/recording?service=x&last=-1", 400),
            ("/debug/pprof/profile", 400),
            ("/debug/pprof/profile?service=x&seconds=0", 400),
            ("/debug/pprof/profile?service=x&seconds=121", 400),
            ("/debug/pprof/profile?service=x&seconds=1.5", 400),
            ("/debug/pprof/profile?service=x&type=heap", 400),
            ("/debug/pprof/profile?service=%ff", 400),
        ] {
            assert_eq!(of(wrong), Err(status), "{wrong}");
        }
        let long = format!("/debug/pprof/profile?service={}", "x".repeat(MAX_NAME + 1));
        assert_eq!(of(&long), Err(400));
        let uri = "/debug/targets".parse().expect("a path");
        let posted = Question::of(&Method::POST, &uri);
        assert_eq!(posted.map_err(|reply| reply.status), Err(405));
    }
}
