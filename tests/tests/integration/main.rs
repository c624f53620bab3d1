//! Integration tests: the tool against what the watched programs and the kernel say themselves.
//!
//! They measure, so they run one at a time unless `--test-threads` says otherwise.

mod bad_input;
mod blocked;
mod budget;
mod captures;
mod causes;
mod churn;
mod demo;
mod dump;
mod exact;
mod exports;
mod files;
mod findings;
mod flight;
mod gil;
mod ledger;
mod leftovers;
mod life;
mod locks;
mod looks;
mod loops;
mod names;
mod on_cpu;
mod overload;
mod permissions;
mod process;
mod programs;
mod schema;
mod servers;
mod signals;
mod stalls;
mod turnover;
mod untouched;
mod wakeup;
mod workloads;

use concmon_tests::needs::Need;
use libtest_mimic::Arguments;

/// What every test that watches a process needs.
pub(crate) const WATCH: [Need; 2] = [Need::Root, Need::Ebpf];

/// The needs of a test that watches a program of this Python version.
pub(crate) fn watch_python(version: &'static str) -> [Need; 3] {
    [Need::Root, Need::Ebpf, Need::Python(version)]
}

fn main() {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(1);
    let trials: Vec<_> = [
        bad_input::trials(),
        blocked::trials(),
        budget::trials(),
        captures::trials(),
        causes::trials(),
        churn::trials(),
        demo::trials(),
        dump::trials(),
        exact::trials(),
        exports::trials(),
        files::trials(),
        findings::trials(),
        flight::trials(),
        gil::trials(),
        leftovers::trials(),
        ledger::trials(),
        life::trials(),
        locks::trials(),
        looks::trials(),
        loops::trials(),
        names::trials(),
        on_cpu::trials(),
        overload::trials(),
        permissions::trials(),
        process::trials(),
        programs::trials(),
        schema::trials(),
        servers::trials(),
        signals::trials(),
        stalls::trials(),
        turnover::trials(),
        untouched::trials(),
        wakeup::trials(),
        workloads::trials(),
    ]
    .into_iter()
    .flatten()
    .collect();
    libtest_mimic::run(&arguments, trials).exit();
}
