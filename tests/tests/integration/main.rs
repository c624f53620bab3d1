//! Integration tests: the tool against what the watched programs and the kernel say themselves.
//!
//! Quiet trials run several at once, first; then come those that measure, two at a time. Of trials on many
//! versions of Python two run, unless `CONCMON_TESTS_PYTHONS` is set, or the filter names a version.
//! With `CONCMON_TESTS_QUICK` those of `quick.rs` run, and no other.

mod agent;
mod bad_input;
mod blocked;
mod budget;
mod captures;
mod causes;
mod churn;
mod debug;
mod demo;
mod dist;
mod doctor;
mod dump;
mod duty;
mod exact;
mod example;
mod exports;
mod files;
mod findings;
mod flight;
mod frameworks;
mod gil;
mod hangs;
mod healthy;
mod interpreters;
mod lags;
mod ledger;
mod leftovers;
mod life;
mod locks;
mod looks;
mod loops;
mod names;
mod namespaces;
mod on_cpu;
mod otlp;
mod overload;
mod peers;
mod permissions;
mod polls;
mod process;
mod programs;
mod quick;
mod recorders;
mod requests;
mod routes;
mod schema;
mod selectors;
mod servers;
mod services;
mod signals;
mod stalls;
mod stuck;
mod throttling;
mod turnover;
mod untouched;
mod wakeup;
mod whole;
mod workloads;

use std::collections::HashMap;

use concmon_tests::harness::{QUIET, without_matrix};
use concmon_tests::needs::Need;
use libtest_mimic::{Arguments, Trial};

/// Quiet trials at once, per CPU.
const QUIET_PER_CPU: usize = 3;

/// What every test that watches a process needs.
pub(crate) const WATCH: [Need; 2] = [Need::Root, Need::Ebpf];

/// The needs of a test that watches a program of this Python version.
pub(crate) fn watch_python(version: &'static str) -> [Need; 3] {
    [Need::Root, Need::Ebpf, Need::Python(version)]
}

fn main() {
    let mut arguments = Arguments::from_args();
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    // Those that measure take turns all the same; see the harness.
    arguments.test_threads.get_or_insert(QUIET_PER_CPU * cpus);
    let mut trials: Vec<_> = [
        agent::trials(),
        bad_input::trials(),
        blocked::trials(),
        budget::trials(),
        captures::trials(),
        causes::trials(),
        churn::trials(),
        debug::trials(),
        example::trials(),
        recorders::trials(),
        demo::trials(),
        dist::trials(),
        doctor::trials(),
        dump::trials(),
        duty::trials(),
        exact::trials(),
        exports::trials(),
        files::trials(),
        findings::trials(),
        polls::trials(),
        flight::trials(),
        gil::trials(),
        hangs::trials(),
        healthy::trials(),
        interpreters::trials(),
        lags::trials(),
        leftovers::trials(),
        ledger::trials(),
        life::trials(),
        locks::trials(),
        looks::trials(),
        loops::trials(),
        names::trials(),
        otlp::trials(),
        namespaces::trials(),
        on_cpu::trials(),
        overload::trials(),
        peers::trials(),
        permissions::trials(),
        process::trials(),
        programs::trials(),
        schema::trials(),
        selectors::trials(),
        requests::trials(),
        routes::trials(),
        frameworks::trials(),
        servers::trials(),
        services::trials(),
        signals::trials(),
        stalls::trials(),
        stuck::trials(),
        throttling::trials(),
        turnover::trials(),
        untouched::trials(),
        wakeup::trials(),
        whole::trials(),
        workloads::trials(),
    ]
    .into_iter()
    .flatten()
    .collect();
    let is_asked_for = |variable: &str| std::env::var_os(variable).is_some();
    let filter = arguments.filter.as_deref().unwrap_or_default();
    if filter.is_empty() && is_asked_for("CONCMON_TESTS_QUICK") {
        quick::leave_out_others(&mut arguments, &trials);
    } else if !filter.contains("3.") && !is_asked_for("CONCMON_TESTS_PYTHONS") {
        trials = without_matrix(trials);
    }
    libtest_mimic::run(&arguments, in_turn(trials)).exit();
}

/// Quiet ones first. Those of one file take turns with those of others, so that what takes much of the CPUs is not
/// together.
fn in_turn(trials: Vec<Trial>) -> Vec<Trial> {
    let mut counts = HashMap::new();
    let turn = |trial: &Trial| {
        let file = trial.name().split("::").next().unwrap_or_default();
        let count: &mut u32 = counts.entry(file.to_owned()).or_default();
        *count += 1;
        (trial.kind() != QUIET, *count)
    };
    let turns: Vec<_> = trials.iter().map(turn).collect();
    let mut trials: Vec<_> = turns.into_iter().zip(trials).collect();
    trials.sort_by_key(|(turn, _)| *turn);
    trials.into_iter().map(|(_, trial)| trial).collect()
}
