//! Addresses in the memory of a watched process: text in JSON, where numbers are no longer exact.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Serialize, Serializer};

/// Where an object is, printed as `0x...`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(pub u64);

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // There may be millions of them.
        let mut text = *b"0x0000000000000000";
        let digits = self.0.checked_ilog(16).unwrap_or(0) as usize + 1;
        let text = &mut text[..2 + digits];
        let mut left = self.0;
        for digit in text[2..].iter_mut().rev() {
            *digit = b"0123456789abcdef"[(left % 16) as usize];
            left /= 16;
        }
        match std::str::from_utf8(text) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => serializer.collect_str(self),
        }
    }
}

impl JsonSchema for Address {
    fn schema_name() -> Cow<'static, str> {
        "Address".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        String::json_schema(generator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_the_same_everywhere() {
        for address in [0, 1, 15, 16, 0x7f00_a010, u64::MAX >> 4, u64::MAX] {
            let address = Address(address);
            let text = serde_json::to_string(&address).unwrap();
            assert_eq!(text, format!("\"{address}\""));
        }
    }
}
