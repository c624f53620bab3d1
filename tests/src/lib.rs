//! What the integration tests stand on: requirements, workloads, watches, and the laws of a report.

pub mod bpf;
pub mod browser;
pub mod btf;
pub mod clocks;
pub mod harness;
pub mod interpreter;
pub mod laws;
pub mod needs;
pub mod proc;
pub mod protobuf;
pub mod report;
pub mod spawn;
pub mod watch;
pub mod workload;
