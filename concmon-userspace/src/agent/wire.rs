//! What the collector and the exporter tell each other: messages with their length before them. Neither trusts the
//! other.

use std::io;

use serde::{Deserialize, Serialize};

use super::{
    config::Config,
    debug::{Question, Reply},
    events::Event,
    metrics::Sample,
    tls::Identity,
};

/// Of this protocol: both are of one program, so another one is an error.
const VERSION: u32 = 0x434d_0007;
/// Longer messages are neither sent nor taken.
pub(super) const MAX_BODY: usize = 16 << 20;
/// Events of one message, and about how many bytes they take.
pub(super) const MAX_EVENTS: usize = 256;
pub(super) const MAX_EVENT_BYTES: usize = 4 << 20;
/// A version and a length, both little-endian.
pub(super) const HEAD: usize = 8;

/// What the exporter asks is at most so long.
pub(super) const MAX_ASK: usize = 4 << 10;

/// A message of the collector.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Message {
    Settings(Settings),
    Samples(Samples),
    /// What has happened since the last ones.
    Events(Vec<Event>),
    /// To what was asked with this number.
    Reply {
        number: u32,
        reply: Reply,
    },
}

/// The exporter's message: what somebody asks who has shown the token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ask {
    pub(super) number: u32,
    /// `None`: nobody waits for the reply to that number any more.
    pub(super) question: Option<Question>,
}

/// How the exporter serves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Settings {
    pub(super) token: Option<String>,
    pub(super) max_clients: usize,
    /// `None`: without TLS.
    pub(super) identity: Option<Identity>,
}

impl Settings {
    pub(super) fn of(config: &Config) -> Self {
        Self {
            token: config.token.clone(),
            max_clients: config.max_clients,
            identity: config.identity.clone(),
        }
    }
}

/// What it serves.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Samples {
    /// When they were read.
    pub(super) at_unix_ns: u64,
    /// For so long they are current, ms.
    pub(super) valid_ms: u64,
    pub(super) samples: Vec<Sample>,
}

/// A message as it is sent.
///
/// # Errors
/// It is too long.
pub(super) fn frame(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; HEAD];
    rmp_serde::encode::write(&mut frame, message).map_err(io::Error::other)?;
    let length = frame.len() - HEAD;
    if length > MAX_BODY {
        let text = format!("a message of {length} bytes is too long");
        return Err(io::Error::other(text));
    }
    frame[..4].copy_from_slice(&VERSION.to_le_bytes());
    frame[4..HEAD].copy_from_slice(&(length as u32).to_le_bytes());
    Ok(frame)
}

/// The length of what follows a head.
///
/// # Errors
/// It is no head of this protocol.
pub(super) fn length(head: [u8; HEAD], most: usize) -> io::Result<usize> {
    let [a, b, c, d, e, f, g, h] = head;
    let length = u32::from_le_bytes([e, f, g, h]) as usize;
    match u32::from_le_bytes([a, b, c, d]) == VERSION && length <= most {
        true => Ok(length),
        false => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// The message in a body; samples that are none of their family are left out.
///
/// # Errors
/// It is no message.
pub(super) fn parse(body: &[u8]) -> io::Result<Message> {
    let parsed = rmp_serde::from_slice(body);
    let mut message = parsed.map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    match &mut message {
        Message::Samples(samples) => samples.samples.retain(Sample::is_sound),
        Message::Events(events) => events.truncate(MAX_EVENTS),
        Message::Settings(_) | Message::Reply { .. } => {}
    }
    Ok(message)
}

/// What the exporter asks.
///
/// # Errors
/// It is no question.
pub(super) fn parse_ask(body: &[u8]) -> io::Result<Ask> {
    rmp_serde::from_slice(body).map_err(|_| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::metrics::{Distribution, Name, Value};
    use crate::testing::Rng;

    fn message() -> Message {
        let sample = |of, labels: &[&str], value| Sample {
            of,
            labels: labels.iter().map(|label| (*label).to_owned()).collect(),
            value,
            exemplar: None,
        };
        let histogram = Value::Histogram(Distribution {
            sum_ns: 7,
            buckets: vec![(1_024, 3)],
        });
        Message::Samples(Samples {
            at_unix_ns: 3,
            valid_ms: 5,
            samples: vec![
                sample(Name::Memory, &["shop"], Value::Number(2.5)),
                sample(Name::GilWait, &["shop"], histogram.clone()),
                // Neither fits its family.
                sample(Name::Memory, &["shop"], histogram),
                sample(Name::Memory, &[], Value::Number(1.0)),
                sample(Name::Memory, &["shop"], Value::Number(f64::NAN)),
            ],
        })
    }

    #[test]
    fn messages_come_as_they_were_sent() {
        let frame = frame(&message()).expect("it is short");
        let (head, body) = frame.split_at(HEAD);
        let head = head.try_into().expect("a head");
        assert_eq!(length(head, MAX_BODY).expect("a length"), body.len());
        let Message::Samples(came) = parse(body).expect("a message") else {
            panic!("another message came");
        };
        assert_eq!((came.valid_ms, came.samples.len()), (5, 2));
    }

    #[test]
    fn questions_are_short_and_come_as_they_were_asked() {
        let ask = Ask {
            number: 7,
            question: Some(Question::Recording {
                service: "shop".to_owned(),
                last_s: 60,
            }),
        };
        let frame = frame(&ask).expect("it is short");
        let (head, body) = frame.split_at(HEAD);
        let head = head.try_into().expect("a head");
        assert_eq!(length(head, MAX_ASK).expect("a length"), body.len());
        assert_eq!(parse_ask(body).expect("a question"), ask);
        assert!(length(head, body.len() - 1).is_err(), "it is longer");
        let mut rng = Rng::new(7);
        for _ in 0..20_000 {
            let mut body = body.to_vec();
            let at = rng.below(body.len());
            body[at] = rng.next() as u8;
            body.truncate(1 + rng.below(body.len()));
            let _ = parse_ask(&body);
        }
        assert!(parse_ask(b"no question").is_err());
    }

    #[test]
    fn what_is_no_message_is_refused_and_harms_nobody() {
        assert!(length([0; HEAD], MAX_BODY).is_err());
        let mut long = frame(&message()).expect("it is short");
        long[4..HEAD].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(length(long[..HEAD].try_into().expect("a head"), MAX_BODY).is_err());
        let frame = frame(&message()).expect("it is short");
        let mut rng = Rng::new(5);
        for _ in 0..20_000 {
            let mut body = frame[HEAD..].to_vec();
            for _ in 0..=rng.below(3) {
                let at = rng.below(body.len());
                body[at] = rng.next() as u8;
            }
            body.truncate(1 + rng.below(body.len()));
            let _ = parse(&body);
        }
    }
}
