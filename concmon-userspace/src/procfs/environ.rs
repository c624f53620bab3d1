//! What the environment of a process says of its service: the two variables that OpenTelemetry has for it,
//! and nothing else is kept.

use std::os::fd::AsFd;

use super::file;

/// Bytes of an environment that are read; what is behind is not found.
const MAX_BYTES: u64 = 256 << 10;
/// Longer names are cut.
const MAX_NAME: usize = 128;

/// The name in `OTEL_SERVICE_NAME`, else `service.name` in `OTEL_RESOURCE_ATTRIBUTES`.
pub(super) fn service(dir: impl AsFd) -> Option<String> {
    name_in(&file::bytes(dir, "environ", MAX_BYTES).ok()?)
}

fn name_in(environ: &[u8]) -> Option<String> {
    let value = |name: &str| {
        let mut variables = environ.split(|byte| *byte == 0);
        let value = variables
            .find_map(|variable| variable.strip_prefix(name.as_bytes())?.strip_prefix(b"="))?;
        let value = String::from_utf8_lossy(value).trim().to_owned();
        (!value.is_empty()).then_some(value)
    };
    let attribute = || {
        let attributes = value("OTEL_RESOURCE_ATTRIBUTES")?;
        let mut pairs = attributes
            .split(',')
            .filter_map(|pair| pair.split_once('='));
        let (_, name) = pairs.find(|(key, _)| key.trim() == "service.name")?;
        let name = percent_decoded(name.trim());
        (!name.is_empty()).then_some(name)
    };
    let name = value("OTEL_SERVICE_NAME").or_else(attribute)?;
    Some(name.chars().take(MAX_NAME).collect())
}

/// `%2C` for a comma: attributes are encoded like baggage (W3C).
fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let code = after.get(..2).filter(|_| first == b'%');
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
            ("", None),
        ] {
            assert_eq!(name_in(environ.as_bytes()).as_deref(), name, "{environ:?}");
        }
        let long = format!("OTEL_SERVICE_NAME={}", "ü".repeat(1_000));
        assert_eq!(name_in(long.as_bytes()), Some("ü".repeat(MAX_NAME)));
    }
}
