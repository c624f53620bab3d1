//! Limiters of capacity, anyio's and trio's: how many tokens there are, how many are lent, who waits for one.
//!
//! The limiter of `to_thread.run_sync` is a variable of its loop's run. One that a program made for itself is
//! met while a task waits for it.

use crate::event::{ExecutorKind, PyExecutor, PyTask};
use crate::python::objects::Reader;

/// The class, of both libraries.
pub(super) const CLASS: &str = "CapacityLimiter";
/// The most limiters that are read, and variables of runs that are looked at.
const MAX_LIMITERS: usize = 64;
const MAX_VARIABLES: usize = 1024;
/// What they have in a form of its own: all tokens, who has one, who waits (anyio, trio).
const MEMBERS: &[&str] = &["_total_tokens", "_borrowers", "_wait_queue", "_lot"];

/// What the names of threads begin with that a loop's own limiter lets run.
pub(crate) const ANYIO_THREADS: &str = "AnyIO worker thread";
pub(crate) const TRIO_THREADS: &str = "Trio thread";

/// A limiter that was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limiter {
    pub(crate) address: u64,
    /// What the names of threads begin with that it lets run.
    pub(crate) threads: Option<&'static str>,
}

/// The limiters of anyio's runs on asyncio. `module` is the dict of `anyio.lowlevel`.
pub(crate) fn of_anyio(reader: &mut Reader<'_>, module: u64) -> Vec<Limiter> {
    let runs = reader
        .dict_values(module, &["_run_vars"])
        .and_then(|found| reader.attributes_of(found[0]?, &["data"]))
        .and_then(|found| reader.dict(found[0]?));
    let mut found = Vec::new();
    for (_, variables) in runs.unwrap_or_default().into_iter().take(MAX_LIMITERS) {
        if reader.is_over() {
            break;
        }
        found.extend(among_variables(reader, variables, ANYIO_THREADS));
    }
    found
}

/// The limiters that are values of a run's variables, a dict.
pub(crate) fn among_variables(
    reader: &mut Reader<'_>,
    variables: u64,
    threads: &'static str,
) -> Vec<Limiter> {
    let values: Vec<u64> = reader
        .dict(variables)
        .unwrap_or_default()
        .into_iter()
        .map(|(_, value)| value)
        .take(MAX_VARIABLES)
        .collect();
    let types = reader.types_of(&values);
    values
        .into_iter()
        .zip(types)
        .filter(|(_, info)| info.as_ref().is_some_and(|info| &*info.name == CLASS))
        .map(|(address, _)| Limiter {
            address,
            threads: Some(threads),
        })
        .collect()
}

/// Those that tasks wait for.
pub(crate) fn waited_for(tasks: &[PyTask]) -> impl Iterator<Item = Limiter> {
    let waits = tasks.iter().filter_map(|task| task.waits_for.as_ref());
    let limiters = waits.filter(|wait| wait.kind == CLASS);
    limiters.filter_map(|wait| {
        Some(Limiter {
            address: wait.object?,
            threads: None,
        })
    })
}

/// The rows of limiters, each once, however often it was met.
pub(crate) fn read(reader: &mut Reader<'_>, met: impl Iterator<Item = Limiter>) -> Vec<PyExecutor> {
    let mut limiters: Vec<Limiter> = Vec::new();
    for limiter in met {
        if !limiters.iter().any(|one| one.address == limiter.address) {
            if limiters.len() == MAX_LIMITERS {
                let reason =
                    format!("there are more than the {MAX_LIMITERS} limiters that are read");
                reader.limits.insert("executors".to_owned(), reason);
                break;
            }
            limiters.push(limiter);
        }
    }
    let addresses: Vec<u64> = limiters.iter().map(|limiter| limiter.address).collect();
    let members = reader.members(&addresses, MEMBERS);
    limiters
        .into_iter()
        .zip(members)
        .filter_map(|(limiter, members)| {
            let members: [Option<u64>; 4] = members?.try_into().ok()?;
            row(reader, limiter, members)
        })
        .collect()
}

/// `None` for what wraps a limiter, or has another form.
fn row(
    reader: &mut Reader<'_>,
    limiter: Limiter,
    [total, borrowers, queue, lot]: [Option<u64>; 4],
) -> Option<PyExecutor> {
    let (total, borrowers) = (total?, borrowers?);
    let Ok(borrowed) = reader.set(borrowers) else {
        reader.failed += 1;
        return None;
    };
    let waiting = match (queue, lot) {
        (Some(queue), _) => Some(queue),
        (None, Some(lot)) => reader
            .members_of(lot, &["_parked"])
            .and_then(|found| found[0]),
        (None, None) => None,
    };
    Some(PyExecutor {
        id: limiter.address,
        queue: 0,
        kind: ExecutorKind::Limiter,
        name_prefix: limiter.threads.map(str::to_owned),
        workers: borrowed.len() as u64,
        workers_idle: Some(0),
        max_workers: reader.read_number(total).and_then(tokens),
        queued: waiting.and_then(|waiting| reader.dict_length(waiting)),
        running: Vec::new(),
        queued_futures: Vec::new(),
        borrowers: borrowed,
    })
}

/// Tokens that can be counted: a limiter without a limit has infinitely many.
fn tokens(number: f64) -> Option<u64> {
    (number >= 0.0 && number < u64::MAX as f64).then_some(number as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::objects::synthetic::{Noise, World, set_word};

    #[test]
    fn no_limit_is_no_number() {
        assert_eq!(tokens(40.0), Some(40));
        assert_eq!(tokens(f64::INFINITY), None);
        assert_eq!(tokens(f64::NAN), None);
        assert_eq!(tokens(-1.0), None);
    }

    #[test]
    fn each_limiter_among_variables_is_met_once() {
        for minor in 8..=15 {
            let mut world = World::new(minor);
            let class = world.class(CLASS, 1 << 9, 16);
            let other = world.class("CapacityLimiterAdapter", 1 << 9, 16);
            let limiter = world.put(&World::object(class, 16));
            let wrapper = world.put(&World::object(other, 16));
            let name = world.text("_default_thread_limiter");
            let keys = world.keys(0, &[(name, limiter), (name, wrapper)]);
            let variables = world.dict(keys, 0);
            let mut dict = vec![0; 64];
            set_word(&mut dict, 8, limiter);
            let mut reader = world.reader();
            let found = among_variables(&mut reader, variables, ANYIO_THREADS);
            let met = Limiter {
                address: limiter,
                threads: Some(ANYIO_THREADS),
            };
            assert_eq!(found, vec![met], "3.{minor}");
            // It has none of the attributes of one.
            assert_eq!(read(&mut reader, found.into_iter()), vec![]);
        }
    }

    #[test]
    fn reading_noise_ends() {
        Noise::each(60, 4 << 20, |memory, reader| {
            let limiters = (0..200).map(|index| Limiter {
                address: memory.address(index),
                threads: None,
            });
            assert!(read(reader, limiters).len() <= MAX_LIMITERS);
            for index in 0..50 {
                let place = memory.address(index);
                of_anyio(reader, place);
                among_variables(reader, place, TRIO_THREADS);
                let members = [index, index + 1, index + 2, index + 3];
                let members = members.map(|index| Some(memory.address(index)));
                let limiter = Limiter {
                    address: place,
                    threads: None,
                };
                row(reader, limiter, members);
            }
        });
    }
}
