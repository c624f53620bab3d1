//! Loading: the kernel programs for the kernel that runs, with as much of it as it has.

use std::{panic, thread, time::Duration};

use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::Array,
    util::{nr_cpus, online_cpus},
};
use aya_log::EbpfLogger;
use concmon_ebpf::{KernelConfig, SLOTS_PER_PAGE, SelfTest, SocketConfig, SyscallEntry};

use super::{
    Live,
    accounts::{self, Accounts},
    buffers::Buffers,
    chunks::Chunks,
    hooks, sockets,
    switches::Switches,
};
use crate::{
    kernel::{
        features::{Feature, Features, TABLE},
        offsets::{Offsets, btf_path},
        self_test, syscalls,
    },
    source::{
        error::{LiveError, failed, failing, permission_or},
        exact::{self, ExactLive},
        host::{HIGHEST_TID, highest_tid, kernel_config, lift_memlock, socket_config},
        object::{PREBUILT, Wire, mapped, opened},
        run_time::RunTime,
        run_time_switch::Switch,
    },
};

/// What the kernel side is sized for. Room for threads grows with them.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Threads that are there when the watch begins.
    pub threads: usize,
    /// Processes that can be watched at one time.
    pub processes: u32,
    /// Tasks can be counted exactly.
    pub exact: bool,
    /// Requests are looked for at sockets, where the kernel tells.
    pub requests: bool,
    /// It is told who begins to run a program, of processes that are not watched.
    pub tells_execs: bool,
}

impl Sizes {
    /// For `threads` that are there; `exact`: tasks can be counted exactly.
    pub fn for_threads(threads: usize, exact: bool) -> Self {
        Self {
            threads,
            processes: 4_096,
            exact,
            requests: false,
            tells_execs: false,
        }
    }
}

/// Pages of slots up to the highest id that any kernel gives out: a PID namespace may have a lower limit of its
/// own than the kernel's.
const MAX_SLOT_PAGES: u32 = HIGHEST_TID / SLOTS_PER_PAGE as u32 + 1;
/// Batches older than this are sent with the next event or tick.
const BATCH_AGE: Duration = Duration::from_millis(150);
/// Pages of each CPU's buffer of samples.
const SAMPLE_PAGES: usize = 64;

/// Loads the kernel programs for this kernel and checks them on this process itself.
pub(super) fn load(sizes: Sizes) -> Result<Live, LiveError> {
    // It is read three times, each for another reader: by two threads in half the time.
    let (offsets, loader, btf) = thread::scope(|scope| {
        let parsing = scope.spawn(|| Btf::parse_file(btf_path(), aya::Endianness::default()));
        let offsets = Offsets::of_running_kernel();
        (offsets, EbpfLoader::new(), parsing.join())
    });
    let (offsets, switch_arguments) =
        offsets.map_err(|error| LiveError::Unsupported(error.to_string()))?;
    let btf = btf
        .unwrap_or_else(|reason| panic::resume_unwind(reason))
        .map_err(failing!("reading the kernel's BTF"))?;
    let mut loader = Some(loader);

    // It is forked, so it comes before what a child would hold, too.
    let mut run_time = Some(RunTime::new(Switch::new(sizes.exact)));
    let mut last_error = None;
    let found = Features::new(offsets, switch_arguments);
    let loaded = first_that_loads(
        (found, sizes.requests),
        &mut last_error,
        |features, requests| {
            let config = KernelConfig {
                batch_age_ns: BATCH_AGE.as_nanos() as u32,
                tells_execs: u32::from(sizes.tells_execs),
                ..kernel_config(&offsets, &features)
            };
            let loader = loader.take().unwrap_or_else(EbpfLoader::new);
            let sockets = socket_config(&offsets, requests);
            load_with(loader, (&config, &sockets), features, sizes, &btf)
        },
    );
    let (mut live, no_requests) = loaded?;
    if let Some(run_time) = run_time.take() {
        live.run_time = run_time;
    }
    if let Some(reason) = no_requests {
        live.sockets = Some(Err(reason));
    }
    if let Some(error) = &last_error {
        log::info!("loaded without newer kernel features; the first try said: {error}");
    }
    for row in &TABLE {
        if let Some(said) = live.features.lacks(row.feature) {
            log::debug!("without {}: {said}", row.gives);
        }
    }
    drop(btf);
    // SAFETY: gives free heap pages back; has no other effect.
    unsafe { libc::malloc_trim(0) };
    Ok(live)
}

/// Tries to load with all that the kernel seems to have; then with the same, but not looking for requests, where that
/// was asked for; then without helpers. What requests take must not keep anything else from being seen: where it is
/// they that fail, for whatever reason, that reason is given along.
fn first_that_loads<T>(
    (found, requests): (Features, bool),
    last_error: &mut Option<LiveError>,
    mut load: impl FnMut(Features, bool) -> Result<T, LiveError>,
) -> Result<(T, Option<String>), LiveError> {
    let mut no_requests = None;
    for features in [found, found.without_helpers()] {
        if requests && features.has(Feature::Requests) {
            match load(features, true) {
                Ok(loaded) => return Ok((loaded, None)),
                Err(error) => no_requests = Some(sockets::reason(&error)),
            }
        }
        match load(features, false) {
            Ok(loaded) => {
                // Without helpers it is their lack that is said.
                let reason = no_requests.filter(|_| features.has(Feature::Requests));
                return Ok((loaded, reason));
            }
            Err(error @ LiveError::Failed { .. }) => *last_error = Some(error),
            Err(error) => return Err(error),
        }
    }
    let error = last_error
        .as_ref()
        .map_or(String::new(), |error| format!(": {error}"));
    Err(LiveError::Unsupported(format!(
        "this kernel does not take the kernel programs{error}"
    )))
}

fn load_with(
    loader: EbpfLoader<'static>,
    (config, sockets): (&KernelConfig, &SocketConfig),
    features: Features,
    sizes: Sizes,
    btf: &Btf,
) -> Result<Live, LiveError> {
    let has_own_ids = config.in_namespace != 0;
    let (config, socket_config) = (Wire(*config), Wire(*sockets));
    let looks_at_sockets = sockets.enabled != 0;
    let slot_pages = highest_tid().map_err(failing!("reading the range of thread ids"))?
        / SLOTS_PER_PAGE as u32
        + 1;
    let cpu_count = nr_cpus().map_err(|(_, error)| failed("counting CPUs")(&error))?;
    lift_memlock();
    // What it is told of lives as long as this.
    let mut loader: EbpfLoader<'_> = loader;
    loader
        .btf(Some(btf))
        .override_global("CONFIG", &config, true)
        .override_global("SOCKET_CONFIG", &socket_config, true);
    let of_exact = sizes.exact.then_some(exact::entries(sizes.processes));
    for (name, entries) in [
        ("PROCESSES", sizes.processes),
        ("PYTHONS", sizes.processes),
        ("BATCHES", cpu_count as u32),
        ("SAMPLE_BATCHES", cpu_count as u32),
        // Slots of the kernel's ids, which all its namespaces share.
        (
            "SLOTS",
            if has_own_ids {
                MAX_SLOT_PAGES
            } else {
                slot_pages
            },
        ),
        ("SEEN_SLOTS", if has_own_ids { slot_pages } else { 1 }),
    ]
    .into_iter()
    .chain(of_exact.into_iter().flatten())
    .chain(
        looks_at_sockets
            .then_some(sockets::entries(cpu_count as u32))
            .into_iter()
            .flatten(),
    ) {
        loader.map_max_entries(name, entries);
    }
    let mut ebpf = loader
        .load(PREBUILT)
        .map_err(|error| permission_or(&error))?;
    hooks::load(&mut ebpf, btf)?;
    if looks_at_sockets {
        sockets::load(&mut ebpf, btf)?;
    }
    if sizes.exact {
        exact::load_programs(&mut ebpf)?;
    }

    let mut syscalls: Array<_, Wire<SyscallEntry>> = opened(&mut ebpf, "SYSCALLS")?;
    for (number, entry) in (0..).zip(syscalls::table()) {
        syscalls
            .set(number, Wire(entry), 0)
            .map_err(failing!("filling a map"))?;
    }
    let pages = slot_pages as usize;
    let (slots, kernel_slots) = match has_own_ids {
        false => (
            mapped(&mut ebpf, "SLOTS", pages, "mapping the slots")?,
            None,
        ),
        true => (
            mapped(&mut ebpf, "SEEN_SLOTS", pages, "mapping the slots")?,
            Some(mapped(
                &mut ebpf,
                "SLOTS",
                MAX_SLOT_PAGES as usize,
                "mapping the slots",
            )?),
        ),
    };
    let accounts = Accounts::new(
        Chunks::new(
            opened(&mut ebpf, "LEDGERS")?,
            opened(&mut ebpf, "FREE_SLOTS")?,
            accounts::LEDGERS,
        ),
        Chunks::new(
            opened(&mut ebpf, "HISTS")?,
            opened(&mut ebpf, "FREE_HISTS")?,
            accounts::HISTS,
        ),
        mapped(&mut ebpf, "CONTROL", 1, "mapping the counters")?,
        slots,
        kernel_slots,
        sizes.threads,
    )
    .map_err(failing!("making room for threads"))?;
    let batches = mapped(&mut ebpf, "BATCHES", cpu_count, "mapping the batches")?;
    let sample_batches = mapped(
        &mut ebpf,
        "SAMPLE_BATCHES",
        cpu_count,
        "mapping the batches of samples",
    )?;
    let cpus = online_cpus().map_err(|(_, error)| failed("listing CPUs")(&error))?;
    let pages = if cpus.len() <= 32 { 256 } else { 128 };
    let records = Buffers::open(opened(&mut ebpf, "RECORDS")?, &cpus, pages, batches)?;
    let samples = Buffers::open(
        opened(&mut ebpf, "SAMPLES")?,
        &cpus,
        SAMPLE_PAGES,
        sample_batches,
    )?;

    let mut live = Live {
        records,
        samples,
        sockets: None,
        accounts,
        processes: opened(&mut ebpf, "PROCESSES")?,
        pythons: opened(&mut ebpf, "PYTHONS")?,
        execs: opened(&mut ebpf, "EXECS")?,
        sample_links: Vec::new(),
        socket_links: Vec::new(),
        rate: 0,
        switches: Switches::default(),
        features,
        faults: opened(&mut ebpf, "FAULTS")?,
        warnings: EbpfLogger::init(&mut ebpf)
            .inspect_err(|error| log::debug!("no warnings from kernel programs: {error}"))
            .ok(),
        exact: sizes
            .exact
            .then(|| ExactLive::new(&mut ebpf, &features))
            .transpose()?,
        run_time: RunTime::new(Switch::Own(None)),
        ebpf,
    };
    self_test(&mut live.ebpf, features.has(Feature::Causes), has_own_ids)?;
    if looks_at_sockets {
        live.sockets = Some(sockets::open(&mut live.ebpf, &cpus, cpu_count)?);
    }
    Ok(live)
}

/// Runs the self-test program over this process, and compares what it read by offsets with
/// what the kernel says of us elsewhere.
fn self_test(ebpf: &mut Ebpf, has_registers: bool, has_own_ids: bool) -> Result<(), LiveError> {
    let expected =
        self_test::Expected::before().map_err(failing!("reading this process's own state"))?;
    let fd = hooks::walk_tasks(ebpf, hooks::SELF_TEST)?;
    let results: Array<_, Wire<SelfTest>> = opened(ebpf, "SELF_TEST")?;
    let Wire(seen) = results
        .get(&0, 0)
        .map_err(failing!("reading the self-test"))?;
    expected
        .check(&seen, fd, has_registers, has_own_ids)
        .map_err(|error| LiveError::Unsupported(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kernel that has all there is, as far as is needed here.
    fn kernel() -> Option<Features> {
        let (offsets, arguments) = Offsets::of_running_kernel().ok()?;
        let features = Features::new(offsets, arguments);
        features.has(Feature::Requests).then_some(features)
    }

    fn fails(cause: &str) -> LiveError {
        LiveError::Failed {
            what: "loading",
            cause: cause.to_owned(),
        }
    }

    /// Whether there are helpers, and why there are no requests.
    type Loaded = Result<(bool, Option<String>), LiveError>;

    /// What is loaded has causes, and why it has no requests; and what was tried.
    fn tried(
        found: Features,
        takes: impl Fn(bool, bool) -> Result<(), LiveError>,
    ) -> (Loaded, Vec<(bool, bool)>) {
        let mut tries = Vec::new();
        let loaded = first_that_loads((found, true), &mut None, |features, requests| {
            let causes = features.has(Feature::Causes);
            tries.push((causes, requests));
            takes(causes, requests).map(|()| causes)
        });
        (loaded, tries)
    }

    #[test]
    fn requests_that_do_not_load_take_nothing_else_along() {
        let Some(found) = kernel() else {
            eprintln!("SKIPPED requests_that_do_not_load_take_nothing_else_along: no sockets here");
            return;
        };
        type Fails = fn() -> LiveError;
        let kinds: [(Fails, &str); 3] = [
            (
                || fails("BPF_PROG_LOAD failed. Verifier output: 0: R1=ctx()\n1: (bf)"),
                "loading: BPF_PROG_LOAD failed",
            ),
            (
                || LiveError::Permission("more locked memory".to_owned()),
                "more locked memory",
            ),
            (|| LiveError::Unsupported("odd".to_owned()), "odd"),
        ];
        for (error, said) in kinds {
            let (loaded, tries) = tried(found, |_, requests| match requests {
                true => Err(error()),
                false => Ok(()),
            });
            let (causes, reason) = loaded.expect("the rest loads");
            assert!(causes);
            assert_eq!(reason.as_deref(), Some(said));
            assert_eq!(tries, [(true, true), (true, false)]);
        }
    }

    #[test]
    fn what_fails_with_and_without_requests_is_not_for_them() {
        let Some(found) = kernel() else {
            eprintln!("SKIPPED what_fails_with_and_without_requests_is_not_for_them: no sockets");
            return;
        };
        let (loaded, tries) = tried(found, |causes, _| match causes {
            true => Err(fails("unknown func")),
            false => Ok(()),
        });
        assert_eq!(loaded.expect("it loads without helpers"), (false, None));
        assert_eq!(tries, [(true, true), (true, false), (false, false)]);
        let (loaded, _) = tried(found, |_, _| {
            Err(LiveError::Permission("denied".to_owned()))
        });
        assert!(matches!(loaded, Err(LiveError::Permission(_))));
        let (loaded, _) = tried(found, |_, _| Err(fails("no")));
        assert!(matches!(loaded, Err(LiveError::Unsupported(_))));
    }
}
