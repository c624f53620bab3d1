//! What the integration tests stand on: requirements, workloads, watches, and the laws of a report.

pub mod agent;
pub mod bpf;
pub mod browser;
pub mod btf;
pub mod certificates;
pub mod clocks;
pub mod exported;
pub mod harness;
pub mod interpreter;
pub mod laws;
pub mod load;
pub mod memory_group;
pub mod needs;
pub mod packages;
pub mod proc;
pub mod prometheus;
pub mod protobuf;
pub mod report;
pub mod schema;
pub mod spawn;
pub mod told;
pub mod watch;
pub mod workload;
