//! `doctor`: what works here, what does not, and what mends it. It tries what a watch would do, in its
//! order, and gives its exit code.

mod host;
mod target;

use crate::session::{Failure, output, printed};
use crate::{
    cli::{Doctor as Asked, Options},
    procfs::rights,
    schema::Doctor,
    views::{doctor, json},
};
use rustix::thread::{CapabilitySet, capabilities};

pub(super) fn run(options: &Options, asked: &Asked) -> Result<u8, Failure> {
    let mut sink = output::open(options)?;
    let host = host::look();
    let mut checks = host.checks;
    let mut failure = None;
    for pid in asked.pids() {
        let target = target::look(pid);
        checks.extend(target.checks);
        failure = failure.or(target.failure);
    }
    // A watch looks at its targets before it loads anything.
    let failure = failure.or(host.failure);
    let doctor = Doctor::new(
        checks,
        failure.map(|failure| (failure.code, failure.message)),
    );
    let written = match options.json {
        true => json::write(&doctor, &mut sink.writer),
        false => doctor::write(&doctor, sink.form.paint, &mut sink.writer),
    };
    printed(written.and_then(|()| sink.writer.finish()))?;
    Ok(doctor.exit_code)
}

/// This program as one types it.
fn own_path() -> String {
    std::env::current_exe().map_or_else(
        |_| "concmon-bpf".to_owned(),
        |path| path.to_string_lossy().into_owned(),
    )
}

/// The command that gives this program what it lacks.
fn granting(missing: CapabilitySet) -> String {
    if rights::elsewhere().is_some() {
        return "run it outside of that user namespace: docker run --userns=host --privileged, or on the \
                host"
            .to_owned();
    }
    let names = |set: CapabilitySet| -> Vec<String> {
        set.iter_names().map(|(name, _)| name.to_owned()).collect()
    };
    if rustix::process::geteuid().is_root() {
        let each = names(missing).join(" --cap-add=");
        let all = names(missing).join(", ");
        let unit: Vec<String> = names(missing)
            .iter()
            .map(|name| format!("CAP_{name}"))
            .collect();
        let unit = unit.join(" ");
        return format!(
            "docker run --cap-add={each} ...; kubernetes: securityContext.capabilities.add: [{all}]; \
             systemd: add {unit} to CapabilityBoundingSet= of the unit"
        );
    }
    let has = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.permitted);
    // It takes away what it does not name, so each of several such lines names all.
    let usual = rights::LOADING | CapabilitySet::SYS_PTRACE | CapabilitySet::DAC_READ_SEARCH;
    let wanted: Vec<String> = names(has | usual | missing)
        .iter()
        .map(|name| format!("cap_{}", name.to_lowercase()))
        .collect();
    format!(
        "run it with sudo, or: sudo setcap {}=ep {}",
        wanted.join(","),
        own_path()
    )
}
