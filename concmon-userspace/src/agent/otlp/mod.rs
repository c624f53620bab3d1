//! What is pushed, in OpenTelemetry's own messages.

pub(super) mod events;
pub(super) mod metrics;

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value},
    resource::v1::Resource,
};

use super::metrics::{Name, Sample, families::dotted};

/// What all that is pushed is said to be from.
const SCOPE: &str = "concmon";
/// The agent itself, unless it is named otherwise.
const AGENT: &str = "concmon-agent";
const SERVICE_NAME: &str = "service.name";

/// The resources that things are told of: services, and the agent itself.
#[derive(Debug)]
pub(super) struct Resources {
    /// Of all of them.
    common: BTreeMap<String, String>,
    /// The agent's own name.
    agent: String,
    /// What is known of each service.
    services: BTreeMap<String, Vec<(String, String)>>,
}

impl Resources {
    /// `configured` goes before what is found out: the name of the host, which also tells one host's instance of a
    /// service from another's.
    pub(super) fn new(configured: &BTreeMap<String, String>) -> Self {
        let mut common = configured.clone();
        let agent = common.remove(SERVICE_NAME);
        if !common.contains_key("host.name") {
            let host = rustix::system::uname();
            let host = host.nodename().to_string_lossy().into_owned();
            common.insert("host.name".to_owned(), host);
        }
        let instance = common["host.name"].clone();
        common
            .entry("service.instance.id".to_owned())
            .or_insert(instance);
        Self {
            common,
            agent: agent.unwrap_or_else(|| AGENT.to_owned()),
            services: BTreeMap::new(),
        }
    }

    /// Takes over what samples tell of services.
    pub(super) fn learn(&mut self, samples: &[Sample]) {
        let infos = samples.iter().filter(|sample| sample.of == Name::GroupInfo);
        self.services = infos
            .filter_map(|sample| {
                let attributes = attributes(sample);
                Some((sample.service()?.to_owned(), attributes.collect()))
            })
            .collect();
    }

    /// That of a service; `None`: the agent's.
    pub(super) fn of(&self, service: Option<&str>) -> Resource {
        let mut all = self.common.clone();
        let name = match service {
            Some(service) => {
                let known = self.services.get(service).into_iter().flatten();
                all.extend(known.cloned());
                service
            }
            None => {
                let version = env!("CARGO_PKG_VERSION").to_owned();
                all.insert("service.version".to_owned(), version);
                &self.agent
            }
        };
        all.insert(SERVICE_NAME.to_owned(), name.to_owned());
        Resource {
            attributes: all.into_iter().map(|(key, is)| text(key, is)).collect(),
            ..Resource::default()
        }
    }
}

/// The attributes that labels are, but for the service's name, which is the resource's.
fn attributes(sample: &Sample) -> impl Iterator<Item = (String, String)> {
    let labels = sample.of.family().labels.iter().zip(&sample.labels);
    let labels = labels.filter(|(name, value)| **name != "service_name" && !value.is_empty());
    labels.map(|(name, value)| (dotted(name), value.clone()))
}

fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: SCOPE.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    }
}

fn text(key: impl Into<String>, value: impl Into<String>) -> KeyValue {
    pair(key, any_value::Value::StringValue(value.into()))
}

fn pair(key: impl Into<String>, value: any_value::Value) -> KeyValue {
    KeyValue {
        key: key.into(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}
