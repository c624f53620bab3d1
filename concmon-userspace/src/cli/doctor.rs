//! The command line of `doctor`.

use clap::Args;

use super::MAX_PID;

/// Whether it works here, and for whom.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct Doctor {
    /// Process that is to be watched; may be repeated
    #[arg(short, long = "pid", value_name = "PID", value_parser = clap::value_parser!(u32).range(1..=MAX_PID))]
    pids: Vec<u32>,

    /// Print one JSON object instead of text
    #[arg(id = "json", long = "json")]
    _json: bool,
}

impl Doctor {
    /// Sorted, without doubles.
    pub fn pids(&self) -> Vec<u32> {
        let mut pids = self.pids.clone();
        pids.sort_unstable();
        pids.dedup();
        pids
    }
}
