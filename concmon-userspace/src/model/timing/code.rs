//! What threads ran when they were sampled on a CPU: whose code, and whether the collector was at work.

use std::collections::BTreeMap;

use crate::event::{CodeKind, Sample, SampleKind, Tid};
use crate::model::window::{Cumulative, Growth, Scope};
use crate::schema::CodeSamples;

/// Threads whose samples are counted by code.
const MAX_THREADS: usize = 8_192;

/// Samples on a CPU of one process.
#[derive(Clone, Debug, Default)]
pub(super) struct CodeCounts {
    threads: BTreeMap<Tid, Cumulative<Code>>,
    /// Those with the collector at work, and all.
    collecting: Cumulative<u64>,
    all: Cumulative<u64>,
    /// Threads whose end was seen.
    ended: Vec<Tid>,
}

impl CodeCounts {
    pub(super) fn sample(&mut self, sample: &Sample) {
        if sample.kind != SampleKind::OnCpu {
            return;
        }
        self.all.now += 1;
        self.collecting.now += u64::from(sample.collecting);
        if self.threads.len() < MAX_THREADS || self.threads.contains_key(&sample.tid) {
            let code = &mut self.threads.entry(sample.tid).or_default().now;
            code.add(sample.code);
        }
    }

    pub(super) fn ended(&mut self, tid: Tid) {
        self.ended.push(tid);
    }

    /// Begins a window.
    pub(super) fn roll(&mut self) {
        self.collecting.roll();
        self.all.roll();
        for code in self.threads.values_mut() {
            code.roll();
        }
        if self.threads.len() >= MAX_THREADS {
            for tid in self.ended.drain(..) {
                self.threads.remove(&tid);
            }
        }
        self.ended.truncate(MAX_THREADS);
    }

    pub(super) fn of(&self, tid: Tid, scope: Scope) -> CodeSamples {
        let code = self.threads.get(&tid);
        code.map(|code| code.over(scope).0).unwrap_or_default()
    }

    /// The part of `cpu_ns` that the collector took; `None`: too little was sampled.
    pub(super) fn collecting_ns(&self, cpu_ns: u64, scope: Scope) -> Option<u64> {
        let (collecting, all) = (self.collecting.over(scope), self.all.over(scope));
        (all > 0).then(|| (u128::from(cpu_ns) * u128::from(collecting) / u128::from(all)) as u64)
    }
}

/// Samples by code, cumulative.
#[derive(Clone, Copy, Debug, Default)]
struct Code(CodeSamples);

impl Code {
    fn add(&mut self, code: Option<CodeKind>) {
        match code {
            Some(CodeKind::Interpreter) => self.0.interpreter += 1,
            Some(CodeKind::Native) => self.0.native += 1,
            Some(CodeKind::Kernel) => self.0.kernel += 1,
            None => {}
        }
    }
}

impl Growth for Code {
    fn since(&self, base: &Self) -> Self {
        Code(CodeSamples {
            interpreter: self.0.interpreter - base.0.interpreter,
            native: self.0.native - base.0.native,
            kernel: self.0.kernel - base.0.kernel,
        })
    }
}
