//! How values of the file are read that are written as texts.

use std::{fmt::Display, time::Duration};

use serde::{Deserialize as _, Deserializer, de::Error as _};

use crate::cli::duration;

/// A text that says something else.
pub(super) fn said<'de, D: Deserializer<'de>, T, E: Display>(
    deserializer: D,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<Option<T>, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse(&text).map(Some).map_err(D::Error::custom)
}

pub(super) fn interval<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    said(from, duration::parse_interval)
}
