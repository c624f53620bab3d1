//! A capture through the pipeline once more.

use std::{
    io::{self, Read},
    path::Path,
};

use crate::{
    capture::{
        CaptureError, CaptureInput, Chunk, Gap, Header, Input, Item, Outline, Reader, Redactor,
    },
    event::{Event, Tick},
    findings::Judge,
    kernel::Arch,
    schema::{Kind, Limit, Snapshot},
    source::{
        arrivals::Arrivals,
        pipeline::{Conclusions, settles},
        room::Room,
    },
};

/// Gaps that are told one by one; the others are counted.
const MAX_GAPS: usize = 8;
/// A range is told from the facts of a tick that is this much before it, ns: by then names, holders
/// and what findings are patient for are known.
const WARM_NS: u64 = 15_000_000_000;
/// Rows that windows may go through for each byte of the file: a recorder reads the account of each
/// thread anew in each window, which takes 10 bytes at the least, and tells tasks less often at times.
const ROWS_PER_BYTE: usize = 64;
/// Rows for nothing.
const FREE_ROWS: usize = 4_000_000;

/// What a replay shows on its way.
#[derive(Debug)]
pub enum Step<'a> {
    /// An event from before the range, which says who is there when it begins.
    Before(&'a Event),
    /// An event, right before the model gets it.
    Event(&'a Event),
    /// A window, as the live watch showed it.
    Window(Box<Snapshot>),
}

/// What of a capture is asked for: from the end of one window to the end of another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// Instants of `CLOCK_MONOTONIC`, ns; `None`: the beginning, the end.
    pub since_ns: Option<u64>,
    pub until_ns: Option<u64>,
    /// Windows of at least this length, ns; 0: as they were recorded.
    pub per_ns: u64,
}

/// A capture being replayed.
#[derive(Debug)]
pub struct Replay<R> {
    reader: Reader<R>,
    arrivals: Arrivals,
    /// Sees all of it,
    all: Conclusions,
    range: Range,
    /// the range as one window, from the tick on that it begins with,
    wide: Option<Conclusions>,
    /// and in windows of the length that was asked for.
    series: Option<(Conclusions, u64)>,
    /// Judges the windows of the range alone.
    judge: Judge,
    /// The last tick of the range was seen.
    over: bool,
    redactor: Option<Redactor>,
    gaps: Vec<Gap>,
    gaps_count: u64,
    /// The capture says itself that it is whole.
    ended: bool,
    skipped: u64,
    /// How many rows windows may still go through, and how many windows would have been too much.
    rows_left: usize,
    ticks_left_out: u64,
    /// `None`: whoever replays sees to memory.
    room: Option<Room>,
    /// Where there was no room for more, ns.
    full_ns: Option<u64>,
    /// Inputs that a chunk's head counts and its content has not.
    left_out: u64,
    until_ns: u64,
    /// The last tick.
    tick_ns: u64,
}

impl Replay<CaptureInput> {
    /// Opens a capture file.
    ///
    /// # Errors
    /// [`CaptureError`], when nothing in it can be used.
    pub fn open(path: &Path) -> Result<Self, CaptureError> {
        let mut replay = Self::new(Reader::open(path)?);
        replay.room = Some(Room::new(0));
        Ok(replay)
    }

    /// Opens a capture file for a part of it, which `choose` gives by what there is; instants are
    /// moved outwards to ticks. What lies long before is not read.
    ///
    /// # Errors
    /// [`CaptureError`], when nothing in it can be used.
    pub fn open_range(
        path: &Path,
        choose: impl FnOnce(&Header, &Outline) -> Range,
    ) -> Result<Self, CaptureError> {
        let mut reader = Reader::open_anywhere(path)?;
        let outline = reader.outline()?;
        let mut range = choose(reader.header(), &outline);
        let begin = range.since_ns.and_then(|since_ns| outline.before(since_ns));
        range.since_ns = begin.map(|key| key.at_ns);
        let end = range.until_ns.and_then(|until_ns| outline.after(until_ns));
        range.until_ns = end.map(|key| key.at_ns);
        let warm = begin.and_then(|key| outline.before(key.at_ns.saturating_sub(WARM_NS)));
        if let Some(key) = warm {
            reader.skip_to(key)?;
        }
        let mut replay = Self::new(reader);
        replay.room = Some(Room::new(0));
        if warm.is_some() {
            replay.join();
        }
        replay.range = Range {
            since_ns: range.since_ns.or(replay.range.since_ns),
            ..range
        };
        if range.per_ns > 0 && replay.range.since_ns.is_none() {
            let begin_ns = replay.tick_ns;
            replay.series = Some((replay.all.clone(), begin_ns));
        }
        Ok(replay)
    }
}

/// What arrived in a watch.
fn arrivals(header: &Header, joining: bool) -> Arrivals {
    let arch = Arch::named(&header.architecture);
    Arrivals::new(header.info.start_ns, arch, joining)
}

/// An event, of the range or before it.
const fn step(begun: bool, event: &Event) -> Step<'_> {
    match begun {
        true => Step::Event(event),
        false => Step::Before(event),
    }
}

impl<R: Read> Replay<R> {
    pub fn new(reader: Reader<R>) -> Self {
        let info = reader.header().info.clone();
        let start_ns = info.start_ns;
        let joins = reader.header().joins;
        let mut replay = Self {
            arrivals: arrivals(reader.header(), false),
            reader,
            all: Conclusions::new(info),
            range: Range::default(),
            wide: None,
            series: None,
            judge: Judge::default(),
            over: false,
            redactor: None,
            gaps: Vec::new(),
            gaps_count: 0,
            ended: false,
            skipped: 0,
            rows_left: FREE_ROWS,
            ticks_left_out: 0,
            room: None,
            full_ns: None,
            left_out: 0,
            until_ns: start_ns,
            tick_ns: start_ns,
        };
        if joins {
            replay.join();
        }
        replay
    }

    /// It does not begin at the beginning: the first tick is the earliest that it can tell from.
    fn join(&mut self) {
        self.arrivals = arrivals(self.reader.header(), true);
        // Any tick is later.
        self.range.since_ns = self.range.since_ns.or(Some(0));
    }

    /// Lets it take so much memory, bytes, even where the file is not worth it.
    #[must_use]
    pub fn granted(mut self, bytes: Option<u64>) -> Self {
        if let Some(bytes) = bytes {
            self.room = Some(Room::new(bytes));
        }
        self
    }

    /// Leaves out what is nobody else's business.
    #[must_use]
    pub fn redacted(mut self) -> Self {
        self.redactor = Some(Redactor::default());
        self
    }

    /// How the capture was made.
    pub fn header(&self) -> &Header {
        self.reader.header()
    }

    /// Replays all of it, or the range. Gives the summary, which is the live watch's own to the
    /// byte; where something is missing, a limit of it says what.
    ///
    /// # Errors
    /// Those of reading; damage is none.
    pub fn run(mut self, sink: &mut dyn FnMut(Step<'_>)) -> io::Result<Snapshot> {
        while !self.over
            && self.full_ns.is_none()
            && let Some(item) = self.reader.item()?
        {
            match item {
                Item::Chunk(chunk) => self.chunk(&chunk, sink),
                Item::Gap(gap) => self.gap(gap),
                Item::End => self.ended = true,
            }
        }
        if !self.over {
            self.close(sink);
        }
        let mut summary = match &mut self.wide {
            Some(wide) => {
                let mut summary = wide.window();
                summary.kind = Kind::Summary;
                self.judge.judge(&mut summary);
                summary
            }
            None => self.all.summary(),
        };
        summary.limits.extend(self.limits());
        Ok(summary)
    }

    fn chunk(&mut self, chunk: &Chunk, sink: &mut dyn FnMut(Step<'_>)) {
        self.until_ns = self.until_ns.max(chunk.head.to_ns);
        let rows = chunk.stored_bytes().saturating_mul(ROWS_PER_BYTE);
        self.rows_left = self.rows_left.saturating_add(rows);
        if let Some(room) = &mut self.room {
            room.read(chunk.stored_bytes() as u64);
        }
        // It was asked when it was read.
        let Ok(mut inputs) = chunk.inputs() else {
            return;
        };
        let mut count = 0;
        for input in inputs.by_ref() {
            let Ok(mut input) = input else {
                self.gap(Gap {
                    from_ns: chunk.head.from_ns,
                    to_ns: Some(chunk.head.to_ns),
                    frames: 1,
                    bytes: 0,
                });
                return;
            };
            count += 1;
            if let Some(redactor) = &mut self.redactor {
                redactor.redact(&mut input);
            }
            self.feed(input, sink);
            if self.over {
                return;
            }
            let (copies, rows) = (self.copies(), self.all.row_bytes());
            let room = self.room.as_mut();
            if room.is_some_and(|room| room.is_full(copies, rows)) {
                self.full_ns = Some(self.tick_ns);
                return;
            }
        }
        self.skipped += inputs.skipped();
        let known = count + inputs.skipped();
        self.left_out += u64::from(chunk.head.inputs).saturating_sub(known);
    }

    /// How many copies of the conclusions the range will take yet.
    fn copies(&self) -> u64 {
        match self.range.since_ns.is_some() && self.wide.is_none() {
            true => 1 + u64::from(self.range.per_ns > 0),
            false => 0,
        }
    }

    fn feed(&mut self, input: Input, sink: &mut dyn FnMut(Step<'_>)) {
        if let Input::Now(Event::Tick(tick)) = &input {
            match self.rows_left.checked_sub(self.all.rows()) {
                Some(left) => {
                    self.rows_left = left;
                    self.tick(*tick, sink);
                }
                None => self.ticks_left_out += 1,
            }
            return;
        }
        let begun = self.has_begun();
        let settles = settles(&input);
        let series = self.series.as_mut().map(|(series, _)| series);
        let mut followers: Vec<&mut Conclusions> = std::iter::once(&mut self.all)
            .chain(&mut self.wide)
            .chain(series)
            .collect();
        self.arrivals.take(input, |event| {
            sink(step(begun, event));
            for follower in &mut followers {
                follower.apply(event);
            }
        });
        if settles {
            // As the live watch did, which has told of them.
            for follower in followers {
                drop(follower.notices());
            }
        }
    }

    /// What comes is of the range.
    fn has_begun(&self) -> bool {
        self.range.since_ns.is_none() || self.wide.is_some()
    }

    fn tick(&mut self, tick: Tick, sink: &mut dyn FnMut(Step<'_>)) {
        self.tick_ns = tick.at_ns;
        let begun = self.has_begun();
        sink(step(begun, &Event::Tick(tick)));
        let mut window = self.all.tick(tick);
        // The live watch has told of them at once.
        drop(self.all.notices());
        if begun {
            self.judge.judge(&mut window);
            if let Some((series, last_ns)) = &mut self.series {
                let per_ns = self.range.per_ns;
                // Windows end a little before or after their time.
                if tick.at_ns.saturating_sub(*last_ns) + per_ns / 8 >= per_ns {
                    *last_ns = tick.at_ns;
                    // Judged, it makes room for the one that is shown.
                    drop(window);
                    let long = series.tick(tick);
                    sink(Step::Window(Box::new(long)));
                }
            } else {
                sink(Step::Window(Box::new(window)));
            }
        } else if self.range.since_ns.is_some_and(|ns| tick.at_ns >= ns) {
            self.wide = Some(self.all.clone());
            if self.range.per_ns > 0 {
                self.series = Some((self.all.clone(), tick.at_ns));
            }
        }
        let over = self.range.until_ns.is_some_and(|ns| tick.at_ns >= ns);
        if over {
            self.end(tick);
        }
    }

    /// The range ends with this tick.
    fn end(&mut self, tick: Tick) {
        self.over = true;
        if let Some(wide) = &mut self.wide
            && wide.ticked_ns() < tick.at_ns
        {
            wide.tick(tick);
        }
    }

    fn gap(&mut self, gap: Gap) {
        self.gaps_count += 1;
        if self.gaps.len() < MAX_GAPS {
            self.gaps.push(gap);
        }
    }

    /// The end of the file. Where the recording broke off, what has arrived is passed on, and the
    /// last window ends there.
    fn close(&mut self, sink: &mut dyn FnMut(Step<'_>)) {
        if !self.ended {
            let at_ns = self.until_ns.max(self.tick_ns);
            let unix_ns = self.unix_ns(at_ns);
            let until_ns = u64::MAX;
            self.feed(Input::Release { until_ns }, sink);
            self.feed(Input::Now(Event::End), sink);
            self.tick(Tick { at_ns, unix_ns }, sink);
        }
        let at_ns = self.tick_ns;
        let unix_ns = self.unix_ns(at_ns);
        self.end(Tick { at_ns, unix_ns });
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
        if self.left_out > 0 {
            reasons.push(format!(
                "{} inputs were too long to be recorded",
                self.left_out
            ));
        }
        if let Some(full_ns) = self.full_ns {
            reasons.push(format!(
                "not read further than {:.3} s into the watch: what comes then takes more memory than \
                 a file of this length is worth; --budget-memory allows for more",
                seconds(full_ns)
            ));
        }
        if self.ticks_left_out > 0 {
            reasons.push(format!(
                "{} windows are not told, each is part of the next one: they have more in them than \
                 the file has room for",
                self.ticks_left_out
            ));
        }
        let unknown = self.skipped + self.reader.unknown_frames();
        if unknown > 0 {
            reasons.push(format!(
                "{unknown} parts are of kinds that this version does not know"
            ));
        }
        let limit = |reason: String| Limit {
            field: "capture".into(),
            reason: reason.into(),
        };
        reasons.into_iter().map(limit).collect()
    }
}
