//! Where and how the agent pushes by OTLP/HTTP: the standard variables of OpenTelemetry, then the file's `[otlp]`.

use std::{collections::BTreeMap, fmt, time::Duration};

use hyper::{
    Uri,
    header::{HeaderMap, HeaderName, HeaderValue},
};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use tokio_rustls::rustls::pki_types::ServerName;

use super::{
    values::{interval, said},
    wrong,
};
use crate::session::Failure;

/// Between two pushes of metrics, as OpenTelemetry's SDKs have it.
const INTERVAL: Duration = Duration::from_secs(60);
/// For one request, as there.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What is pushed, each to its own endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Signal {
    Metrics,
    Logs,
    Traces,
}

impl Signal {
    pub(crate) const ALL: [Self; 3] = [Self::Metrics, Self::Logs, Self::Traces];

    /// As it stands in paths, variables and labels.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Metrics => "metrics",
            Self::Logs => "logs",
            Self::Traces => "traces",
        }
    }
}

/// Since when sums count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Temporality {
    /// Since they began.
    #[default]
    Cumulative,
    /// Since the last push that was taken.
    Delta,
}

/// The push.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Otlp {
    /// A signal without one is not pushed.
    pub(crate) destinations: BTreeMap<Signal, Destination>,
    /// Between two pushes of metrics.
    pub(crate) interval: Duration,
    pub(crate) temporality: Temporality,
    /// Context variables whose values may be told.
    pub(crate) context_vars: Vec<String>,
    /// Attributes of every resource.
    pub(crate) resource: BTreeMap<String, String>,
}

impl Default for Otlp {
    fn default() -> Self {
        Self {
            destinations: BTreeMap::new(),
            interval: INTERVAL,
            temporality: Temporality::default(),
            context_vars: Vec::new(),
            resource: BTreeMap::new(),
        }
    }
}

impl Otlp {
    /// Whether anybody wants to know what happens.
    pub(crate) fn has_events(&self) -> bool {
        let signals = [Signal::Logs, Signal::Traces];
        signals
            .iter()
            .any(|signal| self.destinations.contains_key(signal))
    }
}

/// Where a signal goes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Destination {
    pub(crate) endpoint: Endpoint,
    pub(crate) headers: HeaderMap,
    /// For one request, its connection included.
    pub(crate) timeout: Duration,
    pub(crate) gzip: bool,
}

/// An address of HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) tls: bool,
    /// A name or an address, without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// As it stands in the URL: the header `Host`.
    pub(crate) authority: String,
    /// With the query, if there is one.
    pub(crate) path: String,
}

/// Without the path and the query, which may have a secret.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority)
    }
}

impl Endpoint {
    fn parse(text: &str) -> Result<Self, String> {
        let usage = "use http://HOST:PORT or https://HOST:PORT, with a path or without";
        let url: Uri = text.trim().parse().map_err(|_| usage.to_owned())?;
        let tls = match url.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(usage.to_owned()),
        };
        let authority = url.authority().ok_or(usage)?;
        if authority.as_str().contains('@') {
            return Err("credentials belong into headers".to_owned());
        }
        let host = authority.host().trim_matches(['[', ']']);
        if host.is_empty() || tls && ServerName::try_from(host).is_err() {
            return Err(usage.to_owned());
        }
        // One of more digits than it can have is left out by the parser.
        let written = authority.as_str().rsplit_once(':');
        let written = written.filter(|(_, port)| !port.ends_with(']'));
        let port = match (written, authority.port_u16()) {
            (Some(_), None | Some(0)) => return Err("its port must be 1 to 65535".to_owned()),
            (_, port) => port.unwrap_or(if tls { 443 } else { 80 }),
        };
        Ok(Self {
            tls,
            host: host.to_owned(),
            port,
            authority: authority.as_str().to_owned(),
            path: url
                .path_and_query()
                .map_or("/", |path| path.as_str())
                .to_owned(),
        })
    }

    /// That of a signal below a general one.
    fn of(&self, signal: Signal) -> Self {
        let (path, query) = match self.path.split_once('?') {
            Some((path, query)) => (path, format!("?{query}")),
            None => (&*self.path, String::new()),
        };
        let base = path.trim_end_matches('/');
        Self {
            path: format!("{base}/v1/{}{query}", signal.name()),
            ..self.clone()
        }
    }
}

/// The table of the file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Table {
    #[serde(deserialize_with = "endpoint")]
    endpoint: Option<Endpoint>,
    #[serde(deserialize_with = "endpoint")]
    metrics_endpoint: Option<Endpoint>,
    #[serde(deserialize_with = "endpoint")]
    logs_endpoint: Option<Endpoint>,
    #[serde(deserialize_with = "endpoint")]
    traces_endpoint: Option<Endpoint>,
    #[serde(deserialize_with = "headers")]
    headers: HeaderMap,
    #[serde(deserialize_with = "interval")]
    interval: Option<Duration>,
    #[serde(deserialize_with = "interval")]
    timeout: Option<Duration>,
    temporality: Option<Temporality>,
    gzip: Option<bool>,
    context_vars: Vec<String>,
}

fn endpoint<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Endpoint>, D::Error> {
    said(from, Endpoint::parse)
}

fn headers<'de, D: serde::Deserializer<'de>>(from: D) -> Result<HeaderMap, D::Error> {
    // What is wrong with them could be told only with what stands there, which may be a secret.
    let pairs = BTreeMap::<String, String>::deserialize(from)
        .map_err(|_| serde::de::Error::custom("use { NAME = \"VALUE\", NAME = \"VALUE\" }"))?;
    header_map(pairs).map_err(serde::de::Error::custom)
}

impl Table {
    /// `variable` reads the environment.
    ///
    /// # Errors
    /// A variable says what it must not, which the failure names.
    pub(super) fn read(self, variable: impl Fn(&str) -> Option<String>) -> Result<Otlp, Failure> {
        let mut otlp = Otlp::default();
        otlp.interval = self.interval.unwrap_or(otlp.interval);
        otlp.temporality = self.temporality.unwrap_or_default();
        otlp.context_vars = self.context_vars;
        for signal in Signal::ALL {
            let upper = signal.name().to_uppercase();
            // What is said of the signal goes before what is said of all; gives the name, too.
            let said = |what: &str| {
                let names = [
                    format!("OTEL_EXPORTER_OTLP_{upper}_{what}"),
                    format!("OTEL_EXPORTER_OTLP_{what}"),
                ];
                let mut said = names.into_iter();
                said.find_map(|name| Some((variable(&name)?, name)))
            };
            let own = match signal {
                Signal::Metrics => &self.metrics_endpoint,
                Signal::Logs => &self.logs_endpoint,
                Signal::Traces => &self.traces_endpoint,
            };
            let endpoint = match said("ENDPOINT") {
                Some((text, name)) => {
                    let parsed = Endpoint::parse(&text).map_err(|why| wrong(&name, why))?;
                    let is_general = !name.contains(&upper);
                    Some(if is_general {
                        parsed.of(signal)
                    } else {
                        parsed
                    })
                }
                None => {
                    let general = self.endpoint.as_ref().map(|general| general.of(signal));
                    own.clone().or(general)
                }
            };
            let Some(endpoint) = endpoint else { continue };
            if let Some((protocol, name)) = said("PROTOCOL")
                && protocol != "http/protobuf"
            {
                let text = format!("`{protocol}` is not spoken, only http/protobuf is");
                return Err(wrong(name, text));
            }
            let mut destination = Destination {
                endpoint,
                headers: self.headers.clone(),
                timeout: self.timeout.unwrap_or(TIMEOUT),
                gzip: self.gzip.unwrap_or(false),
            };
            if let Some((text, name)) = said("HEADERS") {
                let parsed = pairs(&text).and_then(header_map);
                destination.headers = parsed.map_err(|why| wrong(name, why))?;
            }
            if let Some((text, name)) = said("TIMEOUT") {
                destination.timeout = milliseconds(&text).map_err(|why| wrong(name, why))?;
            }
            if let Some((text, name)) = said("COMPRESSION") {
                destination.gzip = match &*text {
                    "gzip" => true,
                    "none" => false,
                    _ => return Err(wrong(name, "use gzip or none")),
                };
            }
            otlp.destinations.insert(signal, destination);
        }
        if otlp.destinations.is_empty() {
            return Ok(otlp);
        }
        let name = "OTEL_METRIC_EXPORT_INTERVAL";
        if let Some(text) = variable(name) {
            otlp.interval = milliseconds(&text).map_err(|why| wrong(name, why))?;
        }
        let name = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE";
        if let Some(text) = variable(name) {
            otlp.temporality = match &*text.to_ascii_lowercase() {
                "cumulative" => Temporality::Cumulative,
                "delta" => Temporality::Delta,
                _ => return Err(wrong(name, "use cumulative or delta")),
            };
        }
        let name = "OTEL_RESOURCE_ATTRIBUTES";
        if let Some(text) = variable(name) {
            otlp.resource = pairs(&text).map_err(|why| wrong(name, why))?;
        }
        if let Some(name) = variable("OTEL_SERVICE_NAME") {
            otlp.resource.insert("service.name".to_owned(), name);
        }
        Ok(otlp)
    }
}

/// `name=value,name=value`, values with `%XX` for what would part them.
fn pairs(text: &str) -> Result<BTreeMap<String, String>, String> {
    let parts = text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty());
    let pairs = parts.map(|part| {
        let parted = part
            .split_once('=')
            .map(|(name, value)| (name.trim(), value));
        let (name, value) = parted
            .filter(|(name, _)| !name.is_empty())
            .ok_or("use NAME=VALUE,NAME=VALUE")?;
        let value = percent_decode_str(value.trim()).decode_utf8();
        let value = value.map_err(|_| "a value is no text")?;
        Ok((name.to_owned(), value.into_owned()))
    });
    pairs.collect()
}

/// They may be secrets, so no message has a value, and none a name that can be none: `Name: SECRET==` has a part of
/// its value there.
fn header_map(pairs: BTreeMap<String, String>) -> Result<HeaderMap, String> {
    let headers = pairs.into_iter().map(|(name, value)| {
        let name = HeaderName::try_from(name).map_err(|_| "what stands before = is no header")?;
        let value = HeaderValue::try_from(value);
        let value = value.map_err(|_| format!("the value of `{name}` is none of a header"))?;
        Ok((name, value))
    });
    let mut headers: HeaderMap = headers.collect::<Result<_, String>>()?;
    headers
        .values_mut()
        .for_each(|value| value.set_sensitive(true));
    Ok(headers)
}

fn milliseconds(text: &str) -> Result<Duration, &'static str> {
    match text.trim().parse() {
        Ok(ms @ 1..=3_600_000) => Ok(Duration::from_millis(ms)),
        _ => Err("it must be milliseconds, 1 to 3600000"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(file: &str, variables: &[(&str, &str)]) -> Result<Otlp, Failure> {
        let table: Table = toml::from_str(file).expect("a table");
        table.read(|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    fn endpoints(otlp: &Otlp) -> Vec<String> {
        let destinations = otlp.destinations.values();
        destinations
            .map(|to| format!("{}{}", to.endpoint, to.endpoint.path))
            .collect()
    }

    #[test]
    fn what_is_shown_of_an_endpoint_is_no_secret() {
        let otlp = read("endpoint = \"https://h:1/secret?key=secret\"", &[]);
        let otlp = otlp.expect("it is right");
        let shown = otlp.destinations[&Signal::Logs].endpoint.to_string();
        assert_eq!(shown, "https://h:1");
    }

    #[test]
    fn nothing_is_pushed_unless_an_endpoint_is_set() {
        let otlp = read("gzip = true", &[("OTEL_EXPORTER_OTLP_TIMEOUT", "x")]);
        assert_eq!(otlp.expect("nothing").destinations.len(), 0);
    }

    #[test]
    fn a_signal_goes_where_that_is_said_of_it_first() {
        let file = "endpoint = \"http://file:4318/base/\"\nlogs_endpoint = \"http://file/logs\"";
        let otlp = read(file, &[]).expect("it is right");
        let of_file = [
            "http://file:4318/base/v1/metrics",
            "http://file/logs",
            "http://file:4318/base/v1/traces",
        ];
        assert_eq!(endpoints(&otlp), of_file);
        let general = ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://[::1]:4318?x=1");
        let own = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://traces:9");
        let otlp = read(file, &[general, own]).expect("it is right");
        let of_variables = [
            "https://[::1]:4318/v1/metrics?x=1",
            "https://[::1]:4318/v1/logs?x=1",
            "http://traces:9/",
        ];
        assert_eq!(endpoints(&otlp), of_variables);
        let first = &otlp.destinations[&Signal::Metrics].endpoint;
        assert_eq!((first.tls, &*first.host, first.port), (true, "::1", 4_318));
        let otlp = read("logs_endpoint = \"https://host\"", &[]).expect("it is right");
        assert_eq!(endpoints(&otlp), ["https://host/"]);
        assert_eq!(otlp.destinations[&Signal::Logs].endpoint.port, 443);
    }

    #[test]
    fn variables_go_before_the_file() {
        let file = "endpoint = \"http://h:1\"\ntimeout = \"2s\"\ninterval = \"5s\"\ngzip = true\n\
            temporality = \"delta\"\nheaders = { a = \"file\" }";
        let otlp = read(file, &[]).expect("it is right");
        let of_file = &otlp.destinations[&Signal::Logs];
        assert_eq!(
            (of_file.timeout, of_file.gzip),
            (Duration::from_secs(2), true)
        );
        assert_eq!(of_file.headers["a"], "file");
        assert_eq!(otlp.temporality, Temporality::Delta);
        let variables = [
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "300"),
            ("OTEL_EXPORTER_OTLP_LOGS_TIMEOUT", "400"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "none"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=a%2Cb, Other = c"),
            (
                "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
                "Cumulative",
            ),
            ("OTEL_METRIC_EXPORT_INTERVAL", "1500"),
            (
                "OTEL_RESOURCE_ATTRIBUTES",
                "service.name=a,host.name=box%201",
            ),
            ("OTEL_SERVICE_NAME", "agents"),
        ];
        let otlp = read(file, &variables).expect("it is right");
        let logs = &otlp.destinations[&Signal::Logs];
        assert_eq!(
            (logs.timeout, logs.gzip),
            (Duration::from_millis(400), false)
        );
        assert_eq!(
            (&logs.headers["api-key"], &logs.headers["other"]),
            (
                &HeaderValue::from_static("a,b"),
                &HeaderValue::from_static("c")
            )
        );
        assert_eq!(logs.headers.len(), 2);
        assert!(!format!("{otlp:?}").contains("a,b"), "headers are secrets");
        assert_eq!(
            otlp.destinations[&Signal::Traces].timeout,
            Duration::from_millis(300)
        );
        assert_eq!(otlp.temporality, Temporality::Cumulative);
        assert_eq!(otlp.interval, Duration::from_millis(1_500));
        assert_eq!(otlp.resource["service.name"], "agents");
        assert_eq!(otlp.resource["host.name"], "box 1");
    }

    #[test]
    fn mistakes_name_their_variable() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://h:4318");
        for (name, value, says) in [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "h:4318", "use http://"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://u:p@h", "credentials"),
            ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "http://h:99999", "port"),
            ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "ftp://h", "use http://"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "http/protobuf"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "1s", "milliseconds"),
            ("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "0", "milliseconds"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd", "gzip or none"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "secret", "NAME=VALUE"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a b=secret", "no header"),
            (
                "OTEL_EXPORTER_OTLP_HEADERS",
                "Authorization: Bearer secret==",
                "no header",
            ),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a secret=%ff", "no text"),
            (
                "OTEL_EXPORTER_OTLP_HEADERS",
                "api-key=secret%00",
                "`api-key`",
            ),
            ("OTEL_METRIC_EXPORT_INTERVAL", "-1", "milliseconds"),
            (
                "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
                "lowmemory",
                "cumulative or delta",
            ),
            ("OTEL_RESOURCE_ATTRIBUTES", "=x", "NAME=VALUE"),
        ] {
            let failure = read("", &[(name, value), endpoint]).expect_err(name);
            assert!(
                failure.message.starts_with(&format!("{name}: ")),
                "{failure}"
            );
            assert!(failure.message.contains(says), "{failure}");
            assert!(!failure.message.contains("secret"), "{failure}");
        }
    }
}
