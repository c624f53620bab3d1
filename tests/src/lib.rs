//! Integration tests of concmon, their workloads and their helpers.
