//! What can go wrong while the kernel side is set up.

use super::host::may_load;

/// What can go wrong while the kernel side is set up.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    #[error("loading kernel programs needs root (CAP_BPF and CAP_PERFMON)")]
    Permission,
    #[error("{0}")]
    Unsupported(String),
    #[error("{what}: {cause}")]
    Failed { what: &'static str, cause: String },
}

pub(super) fn failed(what: &'static str) -> impl Fn(&dyn std::error::Error) -> LiveError {
    move |error| {
        let mut cause = error.to_string();
        let mut source = error.source();
        while let Some(inner) = source {
            let text = inner.to_string();
            if !cause.contains(&text) {
                cause = format!("{cause}: {text}");
            }
            source = inner.source();
        }
        LiveError::Failed { what, cause }
    }
}

macro_rules! failing {
    ($what:literal) => {
        |error| $crate::source::error::failed($what)(&error)
    };
}
pub(super) use failing;

/// Says "permission" where any error in the chain is one.
pub(super) fn permission_or(error: &(dyn std::error::Error + 'static)) -> LiveError {
    let mut at: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(inner) = at {
        if let Some(io) = inner.downcast_ref::<std::io::Error>()
            && matches!(io.raw_os_error(), Some(libc::EPERM | libc::EACCES))
            && !may_load()
        {
            return LiveError::Permission;
        }
        at = inner.source();
    }
    failed("loading the kernel programs")(error)
}
