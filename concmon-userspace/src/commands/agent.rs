//! `agent`: the daemon, from its configuration to its end.

use std::{
    io::{self, Write as _},
    path::Path,
};

use rustix::thread::CapabilitySet;
use tokio::task::LocalSet;

use super::select::present;
use crate::{
    agent::{
        collector::{Collector, EXPORTER_ENDED},
        config::{Config, DEFAULT_FILE, Socket},
        exporter,
        local::{DEFAULT_PATH, Local},
    },
    cli::Agent,
    event::Pid,
    procfs::rights,
    python::ScanOptions,
    session::{
        Failure, code, confine, printed, privileges,
        watch::{HttpPlan, Plan, Watch},
    },
    targets::{Targets, Wants},
};

/// In a unit of systemd, with a `User=` of its own.
const GRANT: &str = "AmbientCapabilities=CAP_BPF CAP_PERFMON CAP_SYS_PTRACE CAP_DAC_READ_SEARCH";

/// Samples per second and CPU.
const RATE: u32 = 99;

pub(super) fn run(flags: &Agent) -> Result<u8, Failure> {
    let config = Config::read(flags, |name| std::env::var(name).ok())?;
    if flags.check_config {
        return check(&config);
    }
    // Before there is any thread.
    let (owners, refused) = match local(&config) {
        Ok(local) => (local, None),
        Err(failure) if config.socket == Socket::Default => (None, Some(failure.message)),
        Err(failure) => return Err(failure),
    };
    let exporter = exporter::start(&config)?;
    if let Some(reason) = refused {
        log::warn!("{reason}: the agent goes on without");
    }
    if let Some(local) = &owners {
        log::info!("its owner can ask at {}", local.path().display());
    }
    let socket = exporter.socket;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let local = LocalSet::new();
    let ended = local.block_on(&runtime, async {
        let collector = Collector::new(socket, owners, flags.clone(), config.clone())?;
        let watch = start(&config).map_err(|mut failure| {
            if failure.code == code::PERMISSION
                && let Some(grant) = grant()
            {
                failure.message = format!("{}; {grant}", failure.message);
            }
            failure
        })?;
        if let Some(grant) = grant() {
            log::warn!("{grant}");
        }
        privileges::give_up_but(rights::LOOKS | CapabilitySet::BPF | CapabilitySet::PERFMON);
        confine::confine_collector_or_warn();
        collector.run(watch).await
    });
    // With what waits in them, its end of the socket goes.
    drop(local);
    let how = exporter::wait(exporter.pid);
    ended.map_err(|mut failure| {
        if failure.message == EXPORTER_ENDED
            && let Some(how) = how
        {
            failure.message = format!("{EXPORTER_ENDED} {how}");
        }
        failure
    })
}

/// The local socket. Nothing is logged yet, which takes a thread.
fn local(config: &Config) -> Result<Option<Local>, Failure> {
    let path = match &config.socket {
        Socket::Nowhere => return Ok(None),
        Socket::Default => Path::new(DEFAULT_PATH),
        Socket::At(path) => path,
    };
    let failed = |error: io::Error| {
        let kind = match error.kind() {
            io::ErrorKind::PermissionDenied => code::PERMISSION,
            _ => code::FAILURE,
        };
        let text = format!("no local socket {}: {error}", path.display());
        Failure::new(kind, crate::escape::escape(&text).into_owned())
    };
    Local::bind(path).map(Some).map_err(failed)
}

/// What of its capabilities is missing, and the line that grants them; `None`: it has all.
fn grant() -> Option<String> {
    let looks = CapabilitySet::SYS_PTRACE | CapabilitySet::DAC_READ_SEARCH;
    let missing = rights::lacking(rights::LOADING | looks);
    (!missing.is_empty()).then(|| {
        format!(
            "without {}, less is watched, or nothing; a unit of systemd grants all that is needed by the line {GRANT}",
            rights::names(missing)
        )
    })
}

fn start(config: &Config) -> Result<Watch, Failure> {
    let wants = Wants {
        samples: true,
        stall_threshold_ns: None,
        exact_tasks: false,
        exact_futures: false,
    };
    let mut targets = Targets::new(wants, scan_options(config));
    let selected = present(config.rules.clone(), |pid| targets.try_adopt(pid))?;
    let plan = Plan {
        selector: selected.selector,
        seen: selected.seen,
        targets: selected.pids.into_iter().map(Pid).collect(),
        follow_children: true,
        rate: RATE,
        budget_cpu: config.budget_cpu,
        budget_memory_bytes: config.budget_memory,
        stall_threshold_ns: None,
        exact: false,
        http: (config.http != Some(false)).then(|| HttpPlan {
            // None is kept: ids are in no metric.
            headers: Vec::new(),
            is_asked_for: config.http.is_some(),
        }),
        redact: false,
    };
    Watch::start(plan, targets, None)
}

/// No context variable is read but those whose values may be told: not those either that a watch shows unasked.
fn scan_options(config: &Config) -> ScanOptions {
    ScanOptions {
        context_vars: config.otlp.context_vars.clone(),
        routes: config.http != Some(false),
        ..ScanOptions::default()
    }
}

/// Says that the configuration is right.
fn check(config: &Config) -> Result<u8, Failure> {
    let text = match &config.file {
        Some(path) => format!("{}: ok\n", path.display()),
        None => format!("{DEFAULT_FILE} is not there: defaults hold\n"),
    };
    let text = crate::escape::escape(text.trim_end()).into_owned() + "\n";
    printed(io::stdout().write_all(text.as_bytes()))?;
    Ok(code::OK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_context_variables_that_may_be_told_are_read() {
        let mut config = Config::default();
        assert!(scan_options(&config).context_vars.is_empty());
        config.otlp.context_vars = vec!["tenant".to_owned()];
        assert_eq!(scan_options(&config).context_vars, ["tenant"]);
    }
}
