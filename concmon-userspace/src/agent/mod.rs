//! The daemon that watches all Python processes of a host, and serves sums by service to Prometheus.
//!
//! Two processes. The *collector* is the watch: it has capabilities, and from its start on no network. The
//! *exporter* is its child, forked before there is any thread: it has the network, and from its start on no
//! capability, another user, and a list of system calls that it may make. Between them is one socket pair, on
//! which the collector speaks: settings, after each window the samples of all services, and what has happened in
//! it. So whoever takes over the exporter can read what it shows, and nothing else. Where it pushes, too, a
//! process for each receiver, a *dialer*, makes its connections.
//!
//! What is asked of the collector itself (`debug.rs`) comes over the local socket (`local.rs`), which only its owner can
//! reach; where there is a token, whoever shows it to the exporter may ask, too, and only then does the exporter speak
//! on the pair, in short questions.

pub(crate) mod collector;
pub(crate) mod config;
mod debug;
mod events;
pub(crate) mod exporter;
mod http;
mod link;
pub(crate) mod local;
mod metrics;
mod notify;
mod otlp;
mod profiles;
mod recorders;
mod roster;
mod tls;
mod wire;
