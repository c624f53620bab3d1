//! What of inputs is nobody else's business: left out where `--redact` says so.
//!
//! Command lines with what is taken from them, values of context variables, paths and ids of requests, and paths of files that
//! are not Python's own library. Names of functions, threads and tasks stay.

use std::{collections::HashMap, sync::Arc};

use super::{Header, Input};
use crate::event::{Event, HttpWhat, PyFrame, SampledStack, is_library};

/// What stands for a path that was left out.
const REDACTED: &str = "<redacted>";
/// Stacks that are remembered.
const MAX_STACKS: usize = 4_096;

/// Leaves things out of inputs.
#[derive(Debug, Default)]
pub struct Redactor {
    /// By address, with the stack as it was: so none gets the address of another.
    stacks: HashMap<usize, (Arc<SampledStack>, Arc<SampledStack>)>,
}

impl Redactor {
    /// Leaves out of an input what it should not tell.
    pub fn redact(&mut self, input: &mut Input) {
        let (Input::Now(event) | Input::Ordered { event, .. }) = input else {
            return;
        };
        match event {
            Event::Process(fact) => {
                fact.cmdline.clear();
                fact.entry = None;
                fact.place.redact();
            }
            Event::Sample(sample) => sample.stack = self.stack(&sample.stack),
            Event::Step(fact) => {
                fact.context.clear();
                fact.span = None;
                if let Some(seen) = &mut fact.seen {
                    seen.sample.stack = self.stack(&seen.sample.stack);
                }
            }
            Event::Http(event) => match &mut event.what {
                HttpWhat::Began { request, ids, .. } => {
                    request.path = None;
                    ids.clear();
                }
                HttpWhat::Answered { request, .. } => request.path = None,
                HttpWhat::Waited { peer, .. } => peer.address = None,
                HttpWhat::Abandoned { .. }
                | HttpWhat::Unparsed(_)
                | HttpWhat::Lost { .. }
                | HttpWhat::Unclear { .. } => {}
            },
            Event::Python(fact) => {
                let fact = Arc::make_mut(fact);
                fact.routes = None;
                for task in &mut fact.tasks {
                    task.context.clear();
                    task.awaiting.iter_mut().for_each(redact_frame);
                }
                let threads = fact.threads.iter_mut();
                threads
                    .flat_map(|thread| &mut thread.stack)
                    .for_each(redact_frame);
            }
            _ => {}
        }
    }

    /// Leaves out of a header what it should not tell.
    pub fn header(header: &mut Header) {
        header.command.clear();
        header.host.clear();
        header.info.place.redact();
        header.filters.redacted = true;
    }

    fn stack(&mut self, stack: &Arc<SampledStack>) -> Arc<SampledStack> {
        let address = Arc::as_ptr(stack).addr();
        if let Some((_, redacted)) = self.stacks.get(&address) {
            return Arc::clone(redacted);
        }
        let mut redacted = SampledStack::clone(stack);
        redacted.frames.iter_mut().for_each(redact_frame);
        let redacted = Arc::new(redacted);
        if self.stacks.len() >= MAX_STACKS {
            self.stacks.clear();
        }
        self.stacks
            .insert(address, (Arc::clone(stack), Arc::clone(&redacted)));
        redacted
    }
}

fn redact_frame(frame: &mut PyFrame) {
    if !is_library(&frame.file) {
        frame.file = REDACTED.into();
    }
}

#[cfg(test)]
mod tests {
    use super::is_library;

    #[test]
    fn whose_files() {
        for (file, library) in [
            ("/usr/lib/python3.12/asyncio/events.py", true),
            ("<frozen importlib._bootstrap>", true),
            ("/usr/lib/python3/dist-packages/secret.py", false),
            ("/srv/venv/lib/python3.12/site-packages/x/y.py", false),
            ("/home/me/app.py", false),
            ("/home/me/lib/pythonic/app.py", false),
            ("<string>", false),
            ("", false),
        ] {
            assert_eq!(is_library(file), library, "{file}");
        }
    }
}
