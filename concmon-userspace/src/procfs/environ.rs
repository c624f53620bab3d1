//! What the environment of a process says of its service: the variables that OpenTelemetry and Datadog have for it,
//! and nothing else is kept.

use std::os::fd::AsFd;

use super::file;

/// Bytes of an environment that are read; what is behind is not found.
const MAX_BYTES: u64 = 256 << 10;
/// Longer names are cut.
const MAX_NAME: usize = 128;

/// What is kept of an environment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Said {
    /// `OTEL_SERVICE_NAME`, else `service.name` in `OTEL_RESOURCE_ATTRIBUTES`.
    pub(super) service: Option<String>,
    /// `DD_SERVICE`
    pub(super) datadog: Option<String>,
    /// `service.version` and `deployment.environment.name` in `OTEL_RESOURCE_ATTRIBUTES`, else `DD_VERSION` and
    /// `DD_ENV`.
    pub(super) version: Option<String>,
    pub(super) environment: Option<String>,
}

/// What the environment of a process says; nothing where it cannot be read.
pub(super) fn said(dir: impl AsFd) -> Said {
    let environ = file::bytes(dir, "environ", MAX_BYTES);
    environ.map_or_else(|_| Said::default(), |environ| said_in(&environ))
}

/// A name as it is kept; `None`: it is empty.
pub(super) fn name(text: &str) -> Option<String> {
    let name: String = text.trim().chars().take(MAX_NAME).collect();
    (!name.is_empty()).then_some(name)
}

fn said_in(environ: &[u8]) -> Said {
    let value = |name: &str| {
        let mut variables = environ.split(|byte| *byte == 0);
        let value = variables
            .find_map(|variable| variable.strip_prefix(name.as_bytes())?.strip_prefix(b"="))?;
        Some(String::from_utf8_lossy(value).into_owned())
    };
    let named = |variable: &str| name(&value(variable)?);
    let attributes = value("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
    let attribute = |wanted: &str| {
        let mut pairs = attributes
            .split(',')
            .filter_map(|pair| pair.split_once('='));
        let (_, text) = pairs.find(|(key, _)| key.trim() == wanted)?;
        name(&percent_decoded(text.trim()))
    };
    let environment =
        || attribute("deployment.environment.name").or_else(|| attribute("deployment.environment"));
    Said {
        service: named("OTEL_SERVICE_NAME").or_else(|| attribute("service.name")),
        datadog: named("DD_SERVICE"),
        version: attribute("service.version").or_else(|| named("DD_VERSION")),
        environment: environment().or_else(|| named("DD_ENV")),
    }
}

/// `%2C` for a comma: attributes are encoded like baggage (W3C).
fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let code = after
            .get(..2)
            .filter(|code| first == b'%' && code.iter().all(u8::is_ascii_hexdigit));
        let code = code.and_then(|code| std::str::from_utf8(code).ok());
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (environ, name) in [
            ("PATH=/bin\0OTEL_SERVICE_NAME=shop\0", Some("shop")),
            (
                "OTEL_RESOURCE_ATTRIBUTES=a=b, service.name=my%20shop%2C1 ,x=y\0",
                Some("my shop,1"),
            ),
            (
                "OTEL_RESOURCE_ATTRIBUTES=service.name=a\0OTEL_SERVICE_NAME=b",
                Some("b"),
            ),
            (
                "OTEL_SERVICE_NAME=\0OTEL_RESOURCE_ATTRIBUTES=service.name\0",
                None,
            ),
            ("XOTEL_SERVICE_NAME=a\0OTEL_SERVICE_NAMES=b", None),
            (
                "OTEL_RESOURCE_ATTRIBUTES=service.name=100%zz%4",
                Some("100%zz%4"),
            ),
            ("OTEL_RESOURCE_ATTRIBUTES=service.name=a%+1b", Some("a%+1b")),
            ("", None),
        ] {
            let said = said_in(environ.as_bytes());
            assert_eq!(said.service.as_deref(), name, "{environ:?}");
        }
        let long = format!("OTEL_SERVICE_NAME={}", "ü".repeat(1_000));
        let said = said_in(long.as_bytes());
        assert_eq!(said.service, Some("ü".repeat(MAX_NAME)));
    }

    #[test]
    fn versions_and_environments() {
        let said = |environ: &str| {
            let Said {
                service,
                datadog,
                version,
                environment,
            } = said_in(environ.as_bytes());
            [service, datadog, version, environment].map(Option::unwrap_or_default)
        };
        assert_eq!(
            said("DD_SERVICE=a\0DD_VERSION=1.2\0DD_ENV=prod\0DD_API_KEY=secret\0"),
            ["", "a", "1.2", "prod"]
        );
        assert_eq!(
            said(
                "OTEL_RESOURCE_ATTRIBUTES=service.version=3,deployment.environment.name=test,token=x\0\
                 DD_VERSION=1\0DD_ENV=prod\0"
            ),
            ["", "", "3", "test"]
        );
        assert_eq!(
            said("OTEL_RESOURCE_ATTRIBUTES=deployment.environment=old"),
            ["", "", "", "old"]
        );
    }
}
