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
const INSTANCE: &str = "service.instance.id";

/// The resources that things are told of: services, and the agent itself.
#[derive(Debug)]
pub(super) struct Resources {
    /// Of all of them.
    common: BTreeMap<String, String>,
    /// Of the agent itself, its name included.
    agent: BTreeMap<String, String>,
    /// What is known of each service.
    services: BTreeMap<String, Vec<(String, String)>>,
}

impl Resources {
    /// `configured` goes before what is found out: the name of the host, which also tells one host's instance of a
    /// service from another's. What of it says which process this is, is said of the agent alone.
    pub(super) fn new(configured: &BTreeMap<String, String>) -> Self {
        let (mut agent, mut common): (BTreeMap<_, _>, BTreeMap<_, _>) = configured
            .clone()
            .into_iter()
            .partition(|(key, _)| is_of_one(key));
        agent
            .entry(SERVICE_NAME.to_owned())
            .or_insert_with(|| AGENT.to_owned());
        agent
            .entry("service.version".to_owned())
            .or_insert_with(|| env!("CARGO_PKG_VERSION").to_owned());
        if !common.contains_key("host.name") {
            let host = rustix::system::uname();
            let host = host.nodename().to_string_lossy().into_owned();
            common.insert("host.name".to_owned(), host);
        }
        let instance = common["host.name"].clone();
        common.entry(INSTANCE.to_owned()).or_insert(instance);
        Self {
            common,
            agent,
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
        let mut all = match service {
            Some(service) => {
                let known = self.services.get(service).into_iter().flatten();
                let mut all: BTreeMap<String, String> = known.cloned().collect();
                all.insert(SERVICE_NAME.to_owned(), service.to_owned());
                all
            }
            None => self.agent.clone(),
        };
        all.extend(self.common.clone());
        Resource {
            attributes: all.into_iter().map(|(key, is)| text(key, is)).collect(),
            ..Resource::default()
        }
    }
}

/// Whether an attribute says which service, pod, container or process it is about. What tells instances of a service
/// apart may be set for a host.
fn is_of_one(key: &str) -> bool {
    const OF_ONE: [&str; 5] = [
        "service.",
        "k8s.pod.",
        "k8s.container.",
        "container.",
        "process.",
    ];
    key != INSTANCE && OF_ONE.iter().any(|prefix| key.starts_with(prefix))
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
