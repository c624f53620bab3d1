//! `[flight]`: flight recorders of services.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Deserializer, de::Error as _};

use crate::cli::{Trigger, duration, parse_size, parse_trigger};

/// Services and triggers that are named, at most.
const MAX_NAMED: usize = 64;
/// A recorder keeps at most so long.
const MAX_SPAN: Duration = Duration::from_secs(3600);

/// Flight recorders as they are wanted.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Flight {
    /// Of these services; none: of all.
    #[serde(deserialize_with = "names")]
    pub(crate) services: Vec<String>,
    /// What each keeps.
    #[serde(deserialize_with = "span")]
    pub(crate) span: Duration,
    /// What all take together, bytes.
    #[serde(deserialize_with = "bytes")]
    pub(crate) memory: u64,
    /// Where files go; `None`: none are written unasked.
    pub(crate) folder: Option<PathBuf>,
    /// What the files there take, bytes.
    #[serde(deserialize_with = "bytes")]
    pub(crate) folder_size: u64,
    /// What makes a recorder write, beside the death of a process.
    #[serde(deserialize_with = "triggers")]
    pub(crate) triggers: Vec<Trigger>,
}

impl Default for Flight {
    fn default() -> Self {
        Self {
            services: Vec::new(),
            span: Duration::from_secs(60),
            memory: 32_000_000,
            folder: None,
            folder_size: 256_000_000,
            triggers: Vec::new(),
        }
    }
}

fn names<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    few(Vec::deserialize(from)?)
}

fn few<T, E: serde::de::Error>(list: Vec<T>) -> Result<Vec<T>, E> {
    match list.len() {
        0..=MAX_NAMED => Ok(list),
        _ => Err(E::custom(format!("at most {MAX_NAMED}"))),
    }
}

fn span<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(from)?;
    let span = duration::parse_duration(&text).map_err(D::Error::custom)?;
    match span <= MAX_SPAN {
        true => Ok(span),
        false => Err(D::Error::custom("at most 1h")),
    }
}

fn bytes<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    parse_size(&String::deserialize(from)?).map_err(D::Error::custom)
}

fn triggers<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Trigger>, D::Error> {
    let texts: Vec<String> = few(Vec::deserialize(from)?)?;
    let triggers = texts.iter().map(|text| {
        let trigger = parse_trigger(text).map_err(D::Error::custom)?;
        match &trigger {
            Trigger::Finding(rule) if !crate::findings::rules().any(|(name, _)| name == rule) => {
                Err(D::Error::custom(format!("{rule} is no finding")))
            }
            _ => Ok(trigger),
        }
    });
    triggers.collect()
}
