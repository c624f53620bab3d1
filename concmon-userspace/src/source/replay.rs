//! A capture through the pipeline once more.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use crate::{
    capture::{CaptureError, Chunk, Gap, Header, Input, Item, Reader},
    event::{Event, Tick},
    model::snapshot::{Limit, Snapshot},
    source::pipeline::Pipeline,
};

/// Gaps that are told one by one; the others are counted.
const MAX_GAPS: usize = 8;

/// What a replay shows on its way.
#[derive(Debug)]
pub enum Step<'a> {
    /// An event, right before the model gets it.
    Event(&'a Event),
    /// A window, as the live watch showed it.
    Window(Box<Snapshot>),
}

/// A capture being replayed.
#[derive(Debug)]
pub struct Replay<R> {
    reader: Reader<R>,
    pipeline: Pipeline,
    gaps: Vec<Gap>,
    gaps_count: u64,
    /// The capture says itself that it is whole.
    ended: bool,
    skipped: u64,
    inputs: u64,
    until_ns: u64,
    /// The last tick.
    tick_ns: u64,
}

impl Replay<File> {
    /// Opens a capture file.
    ///
    /// # Errors
    /// [`CaptureError`], when nothing in it can be used.
    pub fn open(path: &Path) -> Result<Self, CaptureError> {
        Ok(Self::new(Reader::open(path)?))
    }
}

impl<R: Read> Replay<R> {
    pub fn new(reader: Reader<R>) -> Self {
        let info = reader.header().info.clone();
        let until_ns = info.start_ns;
        let pipeline = if reader.header().joins {
            Pipeline::joining(info)
        } else {
            Pipeline::new(info)
        };
        Self {
            reader,
            pipeline,
            gaps: Vec::new(),
            gaps_count: 0,
            ended: false,
            skipped: 0,
            inputs: 0,
            until_ns,
            tick_ns: until_ns,
        }
    }

    /// How the capture was made.
    pub fn header(&self) -> &Header {
        self.reader.header()
    }

    /// Replays all of it. Gives the summary, which is the live watch's own to the byte; where
    /// something is missing, a limit of it says what.
    ///
    /// # Errors
    /// Those of reading; damage is none.
    pub fn run(mut self, sink: &mut dyn FnMut(Step<'_>)) -> io::Result<Snapshot> {
        while let Some(item) = self.reader.item()? {
            match item {
                Item::Chunk(chunk) => self.chunk(&chunk, sink),
                Item::Gap(gap) => self.gap(gap),
                Item::End => self.ended = true,
            }
        }
        if !self.ended {
            self.close(sink);
        }
        let mut summary = self.pipeline.summary();
        summary.limits.extend(self.limits());
        Ok(summary)
    }

    fn chunk(&mut self, chunk: &Chunk, sink: &mut dyn FnMut(Step<'_>)) {
        self.until_ns = self.until_ns.max(chunk.head.to_ns);
        // It was asked when it was read.
        let Ok(mut inputs) = chunk.inputs() else {
            return;
        };
        for input in inputs.by_ref() {
            match input {
                Ok(input) => self.feed(input, sink),
                Err(_) => {
                    self.gap(Gap {
                        from_ns: chunk.head.from_ns,
                        to_ns: Some(chunk.head.to_ns),
                        frames: 1,
                        bytes: 0,
                    });
                    break;
                }
            }
        }
        self.skipped += inputs.skipped();
    }

    fn feed(&mut self, input: Input, sink: &mut dyn FnMut(Step<'_>)) {
        self.inputs += 1;
        if let Input::Now(Event::Tick(tick)) = &input {
            self.tick_ns = tick.at_ns;
        }
        let window = self
            .pipeline
            .feed(input, &mut |event| sink(Step::Event(event)));
        if let Some(window) = window {
            // As the live watch does, which tells of stalls at once.
            drop(self.pipeline.take_stalls());
            sink(Step::Window(Box::new(window)));
        }
    }

    fn gap(&mut self, gap: Gap) {
        self.gaps_count += 1;
        if self.gaps.len() < MAX_GAPS {
            self.gaps.push(gap);
        }
    }

    /// The recording broke off: what has arrived is passed on, and the last window ends there.
    fn close(&mut self, sink: &mut dyn FnMut(Step<'_>)) {
        let at_ns = self.until_ns.max(self.tick_ns);
        let unix_ns = self.unix_ns(at_ns);
        let until_ns = u64::MAX;
        self.feed(Input::Release { until_ns }, sink);
        self.feed(Input::Now(Event::End), sink);
        self.feed(Input::Now(Event::Tick(Tick { at_ns, unix_ns })), sink);
    }

    fn unix_ns(&self, at_ns: u64) -> u64 {
        let info = &self.reader.header().info;
        let since_ns = at_ns.saturating_sub(info.start_ns);
        info.start_unix_ns.saturating_add(since_ns)
    }

    /// What is missing, for people.
    fn limits(&self) -> Vec<Limit> {
        let start_ns = self.reader.header().info.start_ns;
        let seconds = |ns: u64| ns.saturating_sub(start_ns) as f64 / 1e9;
        let mut reasons = Vec::new();
        for gap in &self.gaps {
            let from = seconds(gap.from_ns);
            let what = match (gap.frames, gap.bytes) {
                (0, bytes) => format!("{bytes} bytes that cannot be read"),
                (frames, 0) => format!("frames missing: {frames}"),
                (frames, bytes) => {
                    format!("frames missing: {frames}, {bytes} bytes cannot be read")
                }
            };
            reasons.push(match gap.to_ns {
                Some(to_ns) => format!(
                    "damaged between {from:.3} s and {:.3} s of the watch ({what}): what came \
                     then is missing",
                    seconds(to_ns)
                ),
                None if gap.bytes == 0 && gap.frames == 0 => format!(
                    "the recording broke off {from:.3} s into the watch: what came then is missing"
                ),
                None => format!(
                    "the recording breaks off {from:.3} s into the watch ({what}): what came then \
                     is missing"
                ),
            });
        }
        if self.gaps_count > self.gaps.len() as u64 {
            let more = self.gaps_count - self.gaps.len() as u64;
            reasons.push(format!("damaged in {more} more places"));
        }
        let unknown = self.skipped + self.reader.unknown_frames();
        if unknown > 0 {
            reasons.push(format!(
                "{unknown} parts are of kinds that this version does not know"
            ));
        }
        let limit = |reason| Limit {
            field: "capture".to_owned(),
            reason,
        };
        reasons.into_iter().map(limit).collect()
    }
}
