//! Scans of an interpreter: all that can be read of it at one time, as a fact.

mod entered;
mod others;
mod pass;
mod permits;
mod remembered;
mod statements;
mod tasks;
#[cfg(test)]
mod tests;
mod threads;

use std::collections::HashMap;
use std::sync::Arc;

use super::attached::Attached;
use super::layout::described::{self, ASYNCIO_TABLE_BYTES};
use super::memory::process::ProcessView;
use super::memory::{IsOver, Memory, ReadError, UntilOver, at};
use super::objects::code::CodeCache;
use super::objects::{KEPT_ALL, Reader, kept_of};
use super::options::ScanOptions;
use super::walk::{collector, heap, thread_states};
use crate::event::{PyHeapScan, PythonFact};
use pass::Scan;
use remembered::Remembered;

/// Scans of one interpreter, one after the other.
#[derive(Debug)]
pub(super) struct Scanner {
    process: ProcessView,
    codes: CodeCache,
    asyncio: AsyncioTable,
    /// What was found out about each interpreter of the process, by address.
    remembered: HashMap<u64, Remembered>,
}

/// Whether asyncio has been asked for its own offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AsyncioTable {
    /// It has none, or they are in the layout.
    Settled,
    /// It will have one when it is imported.
    Expected,
}

impl Scanner {
    pub(super) fn new(attached: &Attached, process: ProcessView) -> Self {
        // Whoever keeps tasks in lists says where: the table came together with the lists.
        let has_lists = attached
            .runtime
            .as_ref()
            .is_some_and(|(_, layout)| layout.walk.task.node.is_some());
        Self {
            process,
            codes: CodeCache::default(),
            asyncio: if has_lists {
                AsyncioTable::Expected
            } else {
                AsyncioTable::Settled
            },
            remembered: HashMap::new(),
        }
    }

    /// One scan, until `is_over` gives a reason.
    pub(super) fn scan(
        &mut self,
        attached: &mut Attached,
        read_ns: u64,
        options: &ScanOptions,
        is_over: &IsOver<'_>,
    ) -> PythonFact {
        let mut fact = PythonFact::new(attached.pid, read_ns, attached.info.clone());
        let Some((runtime, layout)) = attached.runtime else {
            return fact;
        };
        self.codes.begin(kept_of(options.bytes));
        self.process.begin();
        let memory = Arc::clone(&attached.memory);
        let until = UntilOver {
            memory: &*memory,
            is_over,
        };
        let mut reader = Reader::new(&until, layout.walk, options.bytes);
        let scanned = self.scan_all(attached, &until, &mut reader, options, &mut fact);
        if let Err(error) = scanned {
            pass::note_over(&mut reader, error);
        }
        if options.heap_scan {
            fact.heap = self.scan_heap(attached, &mut reader);
        }
        // What a walker could not read may be absent or gone: this says which.
        let is_there = memory.read_u64(runtime);
        if let Err(error) = scanned.and(is_there.map(drop))
            && error != ReadError::Over
        {
            reader.failed += 1;
            reader.limits.insert("python".to_owned(), error.to_string());
        }
        if self.codes.is_exhausted() {
            for field in ["python", "tasks"] {
                let reason = reader.limits.entry(field.to_owned());
                reason.or_insert_with(|| KEPT_ALL.to_owned());
            }
        }
        fact.reads_failed = reader.failed;
        fact.limits = reader.limits;
        fact
    }

    fn scan_heap(&self, attached: &Attached, reader: &mut Reader<'_>) -> Option<PyHeapScan> {
        let (_, layout, main) = attached.main()?;
        let modules = at(main, layout.interpreter.modules);
        let modules = attached.memory.read_u64(modules).ok()?;
        heap::scan(reader, attached.pid, &self.process.all_mappings(), modules)
    }

    fn scan_all(
        &mut self,
        attached: &mut Attached,
        memory: &dyn Memory,
        reader: &mut Reader<'_>,
        options: &ScanOptions,
        fact: &mut PythonFact,
    ) -> Result<(), ReadError> {
        let Some((runtime, mut layout)) = attached.runtime else {
            return Ok(());
        };
        let interpreters = thread_states::interpreters(memory, runtime, &layout)?;
        self.remembered
            .retain(|address, _| interpreters.contains(address));
        for interpreter in &interpreters {
            let remembered = self.remembered.entry(*interpreter).or_default();
            remembered.find_modules(reader, *interpreter, &layout);
        }
        if self.asyncio == AsyncioTable::Expected
            && self.remembered.values().any(Remembered::has_asyncio)
        {
            self.asyncio = AsyncioTable::Settled;
            self.describe_asyncio(attached, reader);
            if let Some((_, described)) = &attached.runtime {
                layout = *described;
            }
        }
        if let Some(main) = interpreters.first() {
            match collector::read(reader, runtime, *main, &layout.collector) {
                Ok(collector) => fact.gc = Some(collector),
                Err(error) => {
                    reader.failed += 1;
                    reader.limits.insert("gc".to_owned(), error.to_string());
                }
            }
        }
        let main = interpreters.first().copied();
        for interpreter in interpreters {
            let remembered = self.remembered.entry(interpreter).or_default();
            Scan {
                memory,
                runtime,
                layout: &layout,
                interpreter,
                is_entered: Some(interpreter) != main,
                process: &mut self.process,
                codes: &mut self.codes,
                remembered,
                options,
            }
            .run(reader, fact);
        }
        Ok(())
    }

    /// Takes asyncio's own offsets over. Without them the layout's row stays, and is used only as
    /// long as the size of tasks fits.
    fn describe_asyncio(&self, attached: &mut Attached, reader: &mut Reader<'_>) {
        let Some((_, layout)) = &mut attached.runtime else {
            return;
        };
        let Some(address) = self.process.asyncio_table() else {
            return;
        };
        let mut table = [0; ASYNCIO_TABLE_BYTES];
        let mut described = *layout;
        if attached.memory.read(address, &mut table).is_ok()
            && described::apply_asyncio(&mut described, &table).is_ok()
        {
            *layout = described;
            reader.set_layout(layout.walk);
        }
    }
}
