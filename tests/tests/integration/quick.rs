//! Which trials `cargo xtask test --quick` runs: one of each file, where that has one that is short.

use libtest_mimic::{Arguments, Trial};

/// Names of trials, as declared in their files.
const QUICK: &[&str] = &[
    "agent::both_are_confined",
    "bad_input::no_btf",
    "blocked::waits_have_their_age::py3.11",
    "budget::a_large_one_leaves_nothing_out",
    "captures::a_range_is_its_windows",
    "causes::each_thread_has_its_own::py3.11",
    "churn::all_threads_and_processes_are_counted::py3.11",
    "demo::program_ends_on_sigterm::py3.11",
    "dist::names_are_served",
    "dump::threads_and_tasks_equal_the_programs_own_account::py3.11",
    "exact::futures_3.11",
    "exports::agree_with_the_report",
    "files::what_is_refused",
    "findings::fail_on_gives_its_exit_code",
    "flight::a_killed_program",
    "gil::victims_and_report_agree_and_the_hog_is_named::py3.11",
    "hangs::begun_before_the_watch::sleep::py3.11",
    "lags::eager_tasks_are_steps_of_their_own::py3.13",
    "leftovers::nothing_is_left_in_the_kernel_after::sigkill",
    "ledger::is_closed_and_sums_up::clocks.py::py3.11",
    "life::sigint_gives_the_summary",
    "locks::an_idle_pool_waits_for_work::py3.11",
    "looks::those_who_wait_equal_the_programs_own_account::py3.11",
    "loops::what_blocks_one_is_its_own::asyncio::py3.11",
    "namespaces::watch_inside::all",
    "names::tasks_equal_the_programs_own_account::py3.11",
    "on_cpu::equals_the_threads_own_clock::busy::py3.11",
    "overload::totals_survive_a_stopped_reader",
    "permissions::given_up",
    "polls::vanish_on_3.13",
    "process::first_snapshot_is_right::py3.11",
    "programs::seccomp-strict::py3.11",
    "schema::lines_of_files_are_as_published",
    "selectors::what_a_shell_runs",
    "servers::stalls_name_their_requests::asyncio::py3.11",
    "signals::a_dumb_terminal",
    "stalls::every_culprit_is_named::py3.11",
    "turnover::nothing_is_kept_of_what_has_gone::zombies",
    "untouched::never_traced_or_stopped::py3.11",
    "wakeup::counts_equal_voluntary_switches_beside_hogs::py3.11",
    "workloads::give_their_account::py3.11",
];

/// Filters all other trials out.
///
/// # Panics
/// When one of them is no trial.
pub(crate) fn leave_out_others(arguments: &mut Arguments, trials: &[Trial]) {
    for name in QUICK {
        let is_there = trials.iter().any(|trial| trial.name() == *name);
        assert!(is_there, "{name} is to be quick, and is no trial");
    }
    let others = trials.iter().map(Trial::name);
    let others = others.filter(|name| !QUICK.contains(name));
    arguments.skip.extend(others.map(str::to_owned));
    // Names are whole ones.
    arguments.exact = true;
}
