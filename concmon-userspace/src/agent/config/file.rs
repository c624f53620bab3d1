//! The configuration file: TOML, each key as it stands there. What is not known is refused.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use serde::{Deserialize, Deserializer, de::Error as _};

use super::{
    Account, Flight, NOT_A_NUMBER, Socket, address, groups, otlp, user_id,
    values::{interval, said},
};
use crate::{
    cli::{DutyCycle, Pattern, Share, budget},
    procfs::cgroups,
    targets::Condition,
};

/// Rules of each kind, at most.
const MAX_RULES: usize = 256;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct File {
    #[serde(deserialize_with = "listen")]
    pub(super) listen: Option<SocketAddr>,
    #[serde(deserialize_with = "socket")]
    pub(super) socket: Option<Socket>,
    #[serde(deserialize_with = "interval")]
    pub(super) interval: Option<Duration>,
    #[serde(deserialize_with = "share")]
    pub(super) budget_cpu: Option<Share>,
    #[serde(deserialize_with = "budget_memory")]
    pub(super) budget_memory: Option<u64>,
    #[serde(deserialize_with = "duty")]
    pub(super) duty: Option<DutyCycle>,
    #[serde(deserialize_with = "max_groups")]
    pub(super) max_groups: Option<usize>,
    pub(super) http: Option<bool>,
    pub(super) exporter: Exporter,
    pub(super) otlp: otlp::Table,
    pub(super) flight: Option<Flight>,
    #[serde(deserialize_with = "conditions")]
    pub(super) allow: Vec<Condition>,
    #[serde(deserialize_with = "conditions")]
    pub(super) deny: Vec<Condition>,
    #[serde(deserialize_with = "services")]
    pub(super) service: Vec<(Condition, String)>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Exporter {
    #[serde(deserialize_with = "account")]
    pub(super) user: Option<Account>,
    #[serde(deserialize_with = "max_clients")]
    pub(super) max_clients: Option<usize>,
    pub(super) token_file: Option<PathBuf>,
    pub(super) certificate_file: Option<PathBuf>,
    pub(super) key_file: Option<PathBuf>,
}

/// A rule's condition.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Rule {
    #[serde(deserialize_with = "pattern")]
    name: Option<Pattern>,
    #[serde(deserialize_with = "pattern")]
    command: Option<Pattern>,
    #[serde(deserialize_with = "user")]
    user: Option<u32>,
    #[serde(deserialize_with = "name")]
    unit: Option<String>,
    #[serde(deserialize_with = "name")]
    container: Option<String>,
    #[serde(deserialize_with = "name")]
    cgroup: Option<String>,
}

/// A rule that names a service.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Service {
    /// What the service is called.
    service: String,
    #[serde(default, deserialize_with = "pattern")]
    name: Option<Pattern>,
    #[serde(default, deserialize_with = "pattern")]
    command: Option<Pattern>,
    #[serde(default, deserialize_with = "user")]
    user: Option<u32>,
    #[serde(default, deserialize_with = "name")]
    unit: Option<String>,
    #[serde(default, deserialize_with = "name")]
    container: Option<String>,
    #[serde(default, deserialize_with = "name")]
    cgroup: Option<String>,
}

impl File {
    /// # Errors
    /// The line, from 1 on, and the key with what is wrong.
    pub(super) fn parse(text: &str) -> Result<Self, (usize, String)> {
        toml::from_str(text).map_err(|error: toml::de::Error| {
            let at = error.span().map_or(0, |span| span.start.min(text.len()));
            let before = text.get(..at).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            let written = text.lines().nth(line - 1).unwrap_or_default();
            let reason = error.message().lines().collect::<Vec<_>>().join(": ");
            // The key that stands there, unless the message is about it. Nothing else of the line, which may be a
            // secret: no other keys are known than of these signs.
            let key = written
                .split_once('=')
                .map_or(written, |(key, _)| key)
                .trim();
            let signs = |byte: u8| byte.is_ascii_lowercase() || b"_[]".contains(&byte);
            let key = if key.bytes().all(signs) { key } else { "" };
            match reason.contains(&format!("`{key}`")) || key.is_empty() {
                true => (line, reason),
                false => (line, format!("{key}: {reason}")),
            }
        })
    }
}

fn listen<'de, D: Deserializer<'de>>(from: D) -> Result<Option<SocketAddr>, D::Error> {
    said(from, address)
}

fn socket<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Socket>, D::Error> {
    said(from, Socket::of)
}

fn duty<'de, D: Deserializer<'de>>(from: D) -> Result<Option<DutyCycle>, D::Error> {
    said(from, budget::parse_duty)
}

fn share<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Share>, D::Error> {
    said(from, budget::parse_share)
}

fn budget_memory<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    said(from, budget::parse_bytes)
}

fn pattern<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Pattern>, D::Error> {
    said(from, Pattern::parse)
}

fn name<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    said(from, |text| match text.trim() {
        "" => Err("it is empty"),
        text => Ok(text.to_owned()),
    })
}

fn user<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u32>, D::Error> {
    said(from, user_id)
}

fn account<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Account>, D::Error> {
    said(from, Account::of)
}

fn count<'de, D: Deserializer<'de>>(from: D) -> Result<usize, D::Error> {
    let count = i64::deserialize(from)?;
    usize::try_from(count).map_err(|_| D::Error::custom(NOT_A_NUMBER))
}

fn max_groups<'de, D: Deserializer<'de>>(from: D) -> Result<Option<usize>, D::Error> {
    let count = groups(Ok(count(from)?)).map_err(D::Error::custom)?;
    Ok(Some(count))
}

fn max_clients<'de, D: Deserializer<'de>>(from: D) -> Result<Option<usize>, D::Error> {
    match count(from)? {
        count @ 1..=1_024 => Ok(Some(count)),
        _ => Err(D::Error::custom("it must be 1 to 1024")),
    }
}

fn conditions<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Condition>, D::Error> {
    let rules = Vec::<Rule>::deserialize(from)?;
    if rules.len() > MAX_RULES {
        return Err(too_many());
    }
    rules.into_iter().map(Rule::condition).collect()
}

fn services<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<(Condition, String)>, D::Error> {
    let rules = Vec::<Service>::deserialize(from)?;
    if rules.len() > MAX_RULES {
        return Err(too_many());
    }
    let named = rules.into_iter().map(|rule| {
        let service = rule.service.trim().to_owned();
        if service.is_empty() || service.chars().any(char::is_control) {
            return Err(D::Error::custom("a service needs a name"));
        }
        let condition = Rule {
            name: rule.name,
            command: rule.command,
            user: rule.user,
            unit: rule.unit,
            container: rule.container,
            cgroup: rule.cgroup,
        };
        Ok((condition.condition()?, service))
    });
    named.collect()
}

fn too_many<E: serde::de::Error>() -> E {
    E::custom(format!("at most {MAX_RULES} rules of a kind"))
}

impl Rule {
    fn condition<E: serde::de::Error>(self) -> Result<Condition, E> {
        let condition = Condition {
            name: self.name,
            command: self.command,
            user: self.user,
            unit: self.unit,
            container: self.container,
            cgroup: self.cgroup.map(|path| cgroups::path_of(&path)),
        };
        match condition.is_empty() {
            true => Err(E::custom(
                "a rule needs one of name, command, user, unit, container, cgroup",
            )),
            false => Ok(condition),
        }
    }
}
