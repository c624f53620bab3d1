//! Which trials `cargo xtask test --quick` runs: one of each file, where that has one that is short.

use libtest_mimic::{Arguments, Trial};

/// Names of trials, as declared in their files.
const QUICK: &[&str] = &[];

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
