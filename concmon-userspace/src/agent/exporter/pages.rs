//! What the exporter has to show, in the formats that are asked for. Each is made once for a reading, whoever asks.

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    sync::Arc,
    time::{Duration, Instant},
};

use hyper::body::Bytes;
use tokio_rustls::rustls::ServerConfig;

use crate::agent::{
    config::Signal,
    metrics::{
        Name, Sample, Value, proto,
        text::{self, Dialect},
    },
    tls::Identity,
    wire::{Samples, Settings},
};

/// A format, and whether it is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Wanted {
    pub(super) format: Format,
    pub(super) gzip: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Format {
    Text,
    OpenMetrics,
    Protobuf,
}

impl Format {
    /// The best of those that are accepted, by their weights; of two alike the one with more in it.
    pub(super) fn of(accept: &str) -> Self {
        let mut best = (0.0, Format::Text);
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default();
            let parameters: Vec<(&str, &str)> =
                parts.filter_map(|part| part.split_once('=')).collect();
            let parameter = |name: &str| {
                let found = parameters.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| value.trim_matches('"'))
            };
            let format = match kind {
                "application/vnd.google.protobuf"
                    if parameter("proto") == Some("io.prometheus.client.MetricFamily")
                        && parameter("encoding").is_none_or(|of| of == "delimited") =>
                {
                    Format::Protobuf
                }
                "application/openmetrics-text"
                    if parameter("version").is_none_or(|of| ["1.0.0", "0.0.1"].contains(&of)) =>
                {
                    Format::OpenMetrics
                }
                "text/plain" => Format::Text,
                _ => continue,
            };
            let weight: f64 = parameter("q").and_then(|q| q.parse().ok()).unwrap_or(1.0);
            if weight > 0.0 && (weight, format) > best {
                best = (weight, format);
            }
        }
        best.1
    }

    pub(super) const fn content_type(self) -> &'static str {
        match self {
            Format::Text => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Format::Protobuf => {
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
            }
        }
    }
}

/// Why there are no metrics then.
pub(super) const STALE: &str = "the last reading is too old\n";

/// How connections begin.
#[derive(Clone, Debug)]
pub(super) enum Tls {
    Without,
    With(Arc<ServerConfig>),
    /// What there is cannot be served with, which the collector has checked: nobody is answered.
    Broken,
}

impl Tls {
    fn of(settings: &Settings) -> Self {
        match settings.identity.as_ref().map(Identity::server) {
            None => Tls::Without,
            Some(Ok(config)) => Tls::With(config),
            Some(Err(_)) => Tls::Broken,
        }
    }
}

/// All that there is to show.
#[derive(Debug)]
pub(super) struct Pages {
    settings: Settings,
    tls: Tls,
    samples: Vec<Sample>,
    /// When these were read.
    read_unix_ns: u64,
    /// Until when these are current; `None`: none have come.
    valid: Option<Instant>,
    made: BTreeMap<Wanted, Bytes>,
    answered: BTreeMap<u16, u64>,
    refused: u64,
    /// What became of what was pushed: counts by outcome.
    pushed: BTreeMap<(Name, Signal, &'static str), u64>,
}

impl Pages {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            tls: Tls::of(&settings),
            settings,
            samples: Vec::new(),
            read_unix_ns: 0,
            valid: None,
            made: BTreeMap::new(),
            answered: BTreeMap::new(),
            refused: 0,
            pushed: BTreeMap::new(),
        }
    }

    pub(super) fn set(&mut self, settings: Settings) {
        if settings.identity != self.settings.identity {
            self.tls = Tls::of(&settings);
        }
        self.settings = settings;
    }

    pub(super) fn tls(&self) -> Tls {
        self.tls.clone()
    }

    pub(super) fn take(&mut self, samples: Samples) {
        self.samples = samples.samples;
        self.read_unix_ns = samples.at_unix_ns;
        self.valid = Some(Instant::now() + Duration::from_millis(samples.valid_ms));
        self.made.clear();
    }

    pub(super) fn max_clients(&self) -> usize {
        self.settings.max_clients
    }

    /// Why the agent is not ready; `None`: it is.
    pub(super) fn lacks(&self) -> Option<&'static str> {
        match self.valid {
            None => Some("nothing has been read yet\n"),
            Some(_) if self.is_stale() => Some(STALE),
            Some(_) => None,
        }
    }

    /// The collector is there, and has told nothing for long: what it told is not how things stand.
    pub(super) fn is_stale(&self) -> bool {
        self.valid.is_some_and(|valid| valid < Instant::now())
    }

    pub(super) const fn has_token(&self) -> bool {
        self.settings.token.is_some()
    }

    /// Whether who shows this may read the metrics.
    pub(super) fn admits(&self, authorization: Option<&[u8]>) -> bool {
        let Some(token) = &self.settings.token else {
            return true;
        };
        let shown = authorization.and_then(|shown| shown.strip_prefix(b"Bearer "));
        let shown = shown.unwrap_or_default();
        // How long it takes does not tell where they differ.
        let differ = shown.iter().zip(token.bytes()).map(|(a, b)| a ^ b);
        shown.len() == token.len() && differ.fold(0, |all, one| all | one) == 0
    }

    pub(super) fn answered(&mut self, status: u16) {
        *self.answered.entry(status).or_default() += 1;
    }

    pub(super) fn refused(&mut self) {
        self.refused += 1;
    }

    pub(super) fn pushed(&mut self, of: Name, signal: Signal, outcome: &'static str, count: u64) {
        *self.pushed.entry((of, signal, outcome)).or_default() += count;
    }

    /// All samples that are current, and when they were read; `None`: none are.
    pub(super) fn reading(&self) -> Option<(Vec<Sample>, u64)> {
        let is_current = self.lacks().is_none();
        is_current.then(|| (self.samples(), self.read_unix_ns))
    }

    /// All samples, those of the exporter itself included.
    fn samples(&self) -> Vec<Sample> {
        let own = |of, labels: Vec<String>, count: u64| Sample {
            of,
            labels,
            value: Value::Number(count as f64),
            exemplar: None,
        };
        let mut samples = self.samples.clone();
        let answered = self.answered.iter();
        samples.extend(
            answered.map(|(status, count)| {
                own(Name::ExporterRequests, vec![status.to_string()], *count)
            }),
        );
        samples.push(own(Name::ExporterRefused, Vec::new(), self.refused));
        let pushed = self.pushed.iter();
        samples.extend(pushed.map(|((of, signal, outcome), count)| {
            let labels = vec![signal.name().to_owned(), (*outcome).to_owned()];
            own(*of, labels, *count)
        }));
        samples
    }

    /// The metrics in a format.
    pub(super) fn metrics(&mut self, wanted: Wanted) -> Bytes {
        if let Some(made) = self.made.get(&wanted) {
            return made.clone();
        }
        let samples = self.samples();
        let plain = match wanted.format {
            Format::Text => text::write(&samples, Dialect::Prometheus).into_bytes(),
            Format::OpenMetrics => text::write(&samples, Dialect::OpenMetrics).into_bytes(),
            Format::Protobuf => proto::write(&samples),
        };
        let body = match wanted.gzip {
            // Compressing in memory does not fail; if it did, there would be nothing to show.
            true => Bytes::from(compressed(&plain).unwrap_or_default()),
            false => Bytes::from(plain),
        };
        self.made.insert(wanted, body.clone());
        body
    }
}

pub(super) fn compressed(plain: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(plain)?;
    encoder.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_of_what_is_accepted_is_served() {
        let proto = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited";
        for (accept, want) in [
            (String::new(), Format::Text),
            ("*/*".to_owned(), Format::Text),
            ("text/html".to_owned(), Format::Text),
            (
                format!("{proto},application/openmetrics-text;version=1.0.0;q=0.8"),
                Format::Protobuf,
            ),
            (
                format!("{proto};q=0.3, text/plain;version=0.0.4;q=0.5"),
                Format::Text,
            ),
            (
                "application/openmetrics-text; version=1.0.0,text/plain;q=0.5".to_owned(),
                Format::OpenMetrics,
            ),
            (
                "application/openmetrics-text; version=7.0.0,text/plain;q=0.5".to_owned(),
                Format::Text,
            ),
            (
                "application/vnd.google.protobuf;proto=other".to_owned(),
                Format::Text,
            ),
            (format!("{proto};q=0"), Format::Text),
        ] {
            assert_eq!(Format::of(&accept), want, "{accept}");
        }
    }

    #[test]
    fn only_the_token_admits() {
        let open = Pages::new(Settings::default());
        assert!(open.admits(None) && open.admits(Some(b"Basic x")));
        let closed = Pages::new(Settings {
            token: Some("abc".to_owned()),
            max_clients: 1,
            identity: None,
        });
        assert!(closed.admits(Some(b"Bearer abc")));
        for wrong in [
            None,
            Some(&b"Bearer abd"[..]),
            Some(b"Bearer ab"),
            Some(b"abc"),
            Some(b"Bearer "),
        ] {
            assert!(!closed.admits(wrong), "{wrong:?}");
        }
    }

    #[test]
    fn it_is_ready_while_what_was_read_is_fresh() {
        let mut pages = Pages::new(Settings::default());
        assert!(pages.lacks().is_some() && !pages.is_stale());
        pages.take(Samples {
            valid_ms: 60_000,
            ..Samples::default()
        });
        assert!(pages.lacks().is_none());
        pages.take(Samples::default());
        std::thread::sleep(Duration::from_millis(2));
        assert!(pages.lacks().is_some() && pages.is_stale());
    }
}
