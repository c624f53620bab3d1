//! The one way from a live watch's sources to its conclusions; a recording is made on it.

use std::io;

use super::taps::{TapId, TapPlan, Taps};
use crate::{
    capture::{Filters, Header, Input, Recorder, Redactor, Store},
    event::Event,
    model::{WatchInfo, intervals::Intervals},
    procfs::host::kernel_setting,
    source::pipeline::{Output, Pipeline},
};

/// Feeds the pipeline, and a recorder with the same.
#[derive(Debug)]
pub(crate) struct Intake {
    pipeline: Pipeline,
    recorder: Option<Recorder>,
    redactor: Option<Redactor>,
    pub(crate) taps: Taps,
    filters: Filters,
}

impl Intake {
    /// A watch that begins; with `store`, a recording of it.
    pub(crate) fn new(info: WatchInfo, filters: Filters, store: Option<Box<dyn Store>>) -> Self {
        let redactor = filters.redacted.then(Redactor::default);
        let kept = filters.clone();
        let recorder = store.map(|store| {
            let mut header = header(&info, filters);
            if redactor.is_some() {
                Redactor::header(&mut header);
            }
            Recorder::new(store, &header)
        });
        Self {
            pipeline: Pipeline::new(info),
            recorder,
            redactor,
            taps: Taps::default(),
            filters: kept,
        }
    }

    /// Begins the recording of a part, with the window that ends next.
    pub(crate) fn open_tap(&mut self, plan: TapPlan) -> TapId {
        let mut header = header(self.pipeline.info(), self.filters.clone());
        header.joins = true;
        // Who gets it need not know where it was made, nor how.
        header.command.clear();
        header.host.clear();
        header.info.place.folder = None;
        self.taps.open(plan, &header)
    }

    pub(crate) fn pipeline(&mut self) -> &mut Pipeline {
        &mut self.pipeline
    }

    pub(crate) fn intervals(&self) -> Option<&Intervals> {
        self.pipeline.intervals()
    }

    /// A fact, which is applied at once; nothing follows from it before the tick.
    pub(crate) fn now(&mut self, fact: Event) {
        self.feed(Input::Now(fact));
    }

    /// Takes the next input in, and gives what follows from it.
    pub(crate) fn feed(&mut self, mut input: Input) -> Vec<Output> {
        if let Some(redactor) = &mut self.redactor {
            redactor.redact(&mut input);
        }
        if let Some(recorder) = &mut self.recorder {
            recorder.input(&input);
        }
        self.taps.input(&input);
        self.pipeline.feed(input)
    }

    /// What is fed from now on arrives at this instant.
    pub(crate) fn at(&mut self, now_ns: u64) {
        if let Some(recorder) = &mut self.recorder {
            recorder.now(now_ns);
        }
        self.taps.at(now_ns);
    }

    /// The facts of a tick come next.
    pub(crate) fn key(&mut self, now_ns: u64) {
        if let Some(recorder) = &mut self.recorder {
            recorder.key(now_ns);
        }
        self.taps.key(now_ns);
    }

    /// What is fed is kept.
    pub(crate) const fn keeps(&self) -> bool {
        self.recorder.is_some()
    }

    /// Bytes recorded so far, or why it goes on no more; `None`: nothing is recorded.
    pub(crate) fn recorded(&self) -> Option<Result<u64, &io::Error>> {
        let recorder = self.recorder.as_ref()?;
        Some(match recorder.failure() {
            Some(error) => Err(error),
            None => Ok(recorder.bytes()),
        })
    }

    /// Ends the recording.
    pub(crate) fn finish(self) -> Option<io::Result<u64>> {
        self.recorder.map(Recorder::finish)
    }
}

/// How a capture of this watch is made.
pub(crate) fn header(info: &WatchInfo, filters: Filters) -> Header {
    let of_kernel = |name: &str| kernel_setting(name).unwrap_or_default();
    Header {
        info: info.clone(),
        wire: concmon_ebpf::WIRE_VERSION,
        architecture: std::env::consts::ARCH.to_owned(),
        host: of_kernel("hostname"),
        kernel: of_kernel("osrelease"),
        command: std::env::args_os()
            .map(|argument| argument.to_string_lossy().into_owned())
            .collect(),
        filters,
        joins: false,
        reason: None,
        flight: None,
    }
}
