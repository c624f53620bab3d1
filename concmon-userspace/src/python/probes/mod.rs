//! Where probes can be attached that count tasks, and what fails in thread pools, exactly.

pub(super) mod futures;
pub(super) mod returns;
pub(super) mod tasks;
