//! Whether an execution did what it must: end, soon, without a panic, in little memory.

use std::cell::RefCell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use concmon::python::image::Image;

use super::case::Case;
use super::heap;
use super::mutate::Subject;

/// The most CPU time of one execution.
pub(crate) const MAX_CPU: Duration = Duration::from_secs(2);
/// The most memory of one execution, bytes.
const MAX_BYTES: u64 = 64 << 20;

pub(crate) struct Judge {
    pub(crate) subjects: Vec<Arc<Subject>>,
}

/// What one execution took, and what was wrong with it.
pub(crate) struct Verdict {
    pub(crate) cpu: Duration,
    pub(crate) peak_bytes: u64,
    pub(crate) finding: Option<Finding>,
}

/// An execution that failed.
#[derive(Debug)]
pub(crate) struct Finding {
    case: Case,
    what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FINDING {}: {}", self.case, self.what)
    }
}

thread_local! {
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

impl Judge {
    /// Judges with the images of a folder.
    pub(crate) fn new(dir: &Path) -> std::io::Result<Self> {
        let mut subjects = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let path = entry?.path();
            if path.extension().is_none_or(|kind| kind != "image") {
                continue;
            }
            let image = Image::parse(&std::fs::read(&path)?).map_err(std::io::Error::other)?;
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            subjects.push(Arc::new(Subject::new(name.into_owned(), image)));
        }
        if subjects.is_empty() {
            return Err(std::io::Error::other("there are no images"));
        }
        subjects.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(Self { subjects })
    }

    /// Runs a case, which may take `patience` times as long as it may in a release build.
    pub(crate) fn run(&self, case: &Case, patience: u32) -> Verdict {
        let begin = cpu_time();
        let (result, peak_bytes) =
            heap::peak_of(|| catch_unwind(AssertUnwindSafe(|| case.run(&self.subjects))));
        let cpu = cpu_time().saturating_sub(begin);
        let what = if result.is_err() {
            Some(PANIC.with_borrow_mut(std::mem::take))
        } else if cpu > MAX_CPU * patience {
            Some(format!("{} ms of CPU", cpu.as_millis()))
        } else if peak_bytes > MAX_BYTES {
            Some(format!("{} kB of memory", peak_bytes / 1000))
        } else {
            None
        };
        Verdict {
            cpu,
            peak_bytes,
            finding: what.map(|what| Finding {
                case: case.clone(),
                what,
            }),
        }
    }
}

/// Panics are told with their place, once.
pub(crate) fn keep_panics() {
    std::panic::set_hook(Box::new(|info| {
        let message = info.to_string().replace('\n', " ");
        PANIC.with_borrow_mut(|panic| *panic = message);
    }));
}

pub(crate) fn cpu_time() -> Duration {
    clock(libc::CLOCK_THREAD_CPUTIME_ID).unwrap_or_default()
}

pub(crate) fn clock(id: libc::clockid_t) -> Option<Duration> {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the kernel writes to `time` only.
    let done = unsafe { libc::clock_gettime(id, &mut time) };
    (done == 0).then(|| Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}
