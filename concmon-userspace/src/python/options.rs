//! What a scan covers, and how much of it.

use crate::cli::CONTEXT_VARS;

/// What one scan covers, and how much of it.
#[derive(Clone, Debug)]
pub struct ScanOptions {
    /// Tasks that are read.
    pub tasks: usize,
    /// Frames of one await chain; 0: chains are not read.
    pub chain: usize,
    /// Frames of one thread's stack; 0: stacks are not read.
    pub stack: usize,
    /// Bytes of the process's memory that are read; a task with a chain of five takes about
    /// 1,500. What is kept of it, and the frames that are given, take an eighth of it each at most.
    pub bytes: usize,
    /// Names of the context variables whose values are read.
    pub context_vars: Vec<String>,
    /// Whether the heap is searched for futures that failed.
    pub heap_scan: bool,
    /// Whether the routes of the web application are read.
    pub routes: bool,
}

/// Tasks that are read in one scan, unless less is asked for.
pub const MOST_TASKS: usize = 10_000;

impl Default for ScanOptions {
    fn default() -> Self {
        Self {
            tasks: MOST_TASKS,
            chain: 64,
            stack: 256,
            bytes: 256 << 20,
            context_vars: CONTEXT_VARS.map(str::to_owned).to_vec(),
            heap_scan: false,
            routes: false,
        }
    }
}
