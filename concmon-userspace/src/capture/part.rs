//! A part of a watch: the inputs about some of its processes, as if only these had been watched.

use std::collections::{BTreeMap, BTreeSet};

use concmon_ebpf::{Record, Tagged};

use super::Input;
use crate::{
    decode::RawBatch,
    event::{Event, HttpWhat, Pid, Tid},
};

/// Threads that are known, at most.
const MAX_THREADS: usize = 65_536;

/// What of a CPU has been seen.
#[derive(Clone, Copy, Debug, Default)]
struct Cpu {
    /// Records that the CPU had produced with its last batch.
    produced: u64,
    /// Of those, the ones that are of the part, or were lost.
    of_part: u64,
}

/// Knows what is about the processes of a part.
#[derive(Debug)]
pub struct Part {
    processes: BTreeSet<Pid>,
    threads: BTreeMap<Tid, Pid>,
    /// Threads that have ended, with when, ns: in this window, and in the one before.
    exited: [BTreeMap<Tid, u64>; 2],
    cpus: BTreeMap<u32, Cpu>,
    /// Those that were born since the last window, which does not have them.
    born: BTreeSet<Pid>,
}

impl Part {
    pub fn new(processes: BTreeSet<Pid>) -> Self {
        Self {
            processes,
            threads: BTreeMap::new(),
            exited: Default::default(),
            cpus: BTreeMap::new(),
            born: BTreeSet::new(),
        }
    }

    pub const fn processes(&self) -> &BTreeSet<Pid> {
        &self.processes
    }

    /// A window has ended. From now on, these are its processes, and those that they have made since the last window.
    /// Ids of threads that had ended before that are given out again.
    pub fn renew(&mut self, processes: impl IntoIterator<Item = Pid>) {
        let born = std::mem::take(&mut self.born);
        self.processes = processes.into_iter().chain(born).collect();
        let processes = &self.processes;
        let exited = std::mem::take(&mut self.exited[1]);
        self.threads
            .retain(|tid, pid| processes.contains(pid) && !exited.contains_key(tid));
        self.exited.swap(0, 1);
    }

    /// What an input has of the part; `None`: nothing. What [`leave_out`] names is left out.
    pub fn of(&mut self, input: &Input) -> Option<Input> {
        match input {
            Input::Batch(batch) => self.batch(batch).map(Input::Batch),
            Input::Ordered { event, .. } | Input::Now(event) => {
                if !self.has(event) {
                    return None;
                }
                let mut input = input.clone();
                if let Input::Now(event) | Input::Ordered { event, .. } = &mut input {
                    leave_out(event);
                }
                Some(input)
            }
            Input::Release { .. } => Some(input.clone()),
        }
    }

    fn has(&mut self, event: &Event) -> bool {
        let pid = match event {
            Event::Ledger(fact) => {
                let is_of = self.processes.contains(&fact.pid);
                if is_of && !fact.folded {
                    self.add_thread(fact.tid, fact.pid, fact.start_ns);
                }
                return is_of;
            }
            Event::Sample(sample) => sample.pid,
            Event::Step(fact) => fact.pid,
            Event::Still(fact) => fact.pid,
            Event::Process(fact) => Pid(fact.pid),
            Event::Python(fact) => fact.pid,
            Event::Exact(fact) => fact.pid,
            Event::Pools(fact) => fact.pid,
            Event::Http(event) => event.pid,
            Event::Excluded(pid) => *pid,
            Event::Slice(_)
            | Event::Fork(_)
            | Event::Exec(_)
            | Event::Exit(_)
            | Event::Loss(_)
            | Event::Monitor(_)
            | Event::End
            | Event::Tick(_) => return true,
        };
        self.processes.contains(&pid)
    }

    /// A thread of the part, which has begun then.
    fn add_thread(&mut self, tid: Tid, pid: Pid, start_ns: u64) {
        // Another one may have had its id.
        for exited in &mut self.exited {
            if exited.get(&tid).is_some_and(|ended| *ended < start_ns) {
                exited.remove(&tid);
            }
        }
        if self.threads.len() < MAX_THREADS {
            self.threads.insert(tid, pid);
        }
    }

    /// The records of the part; what was lost before them may have been of it.
    fn batch(&mut self, batch: &RawBatch) -> Option<RawBatch> {
        let header = &batch.header;
        let before = self.cpus.get(&header.cpu).copied();
        let known = before.unwrap_or(Cpu {
            produced: header.produced_before,
            of_part: 0,
        });
        let lost = header.produced_before.saturating_sub(known.produced);
        let records: Vec<Record> = batch
            .records
            .iter()
            .filter(|record| self.has_record(record))
            .copied()
            .collect();
        let of_part = known.of_part.saturating_add(lost);
        let produced = header
            .produced_before
            .saturating_add(batch.records.len() as u64);
        let now = Cpu {
            produced: known.produced.max(produced),
            of_part: of_part.saturating_add(records.len() as u64),
        };
        self.cpus.insert(header.cpu, now);
        if records.is_empty() && lost == 0 && before.is_some() {
            return None;
        }
        let mut header = *header;
        header.count = records.len() as u16;
        header.produced_before = of_part;
        Some(RawBatch { header, records })
    }

    fn has_record(&mut self, record: &Record) -> bool {
        let pid = |tgid: i32| Pid(tgid.cast_unsigned());
        match record.tagged() {
            Some(Tagged::Slice(slice)) => self.threads.contains_key(&Tid(slice.head.tid)),
            Some(Tagged::Fork(fork)) => {
                let (child, tid) = (pid(fork.tgid), Tid(fork.head.tid));
                let is_of = self.processes.contains(&child)
                    || self.threads.contains_key(&Tid(fork.parent_tid));
                if is_of {
                    if self.processes.insert(child) {
                        self.born.insert(child);
                    }
                    self.add_thread(tid, child, fork.head.at_ns);
                } else if self.has_ended(tid, fork.head.at_ns) {
                    self.threads.remove(&tid);
                }
                is_of
            }
            Some(Tagged::Exec(exec)) => self.processes.contains(&pid(exec.tgid)),
            Some(Tagged::Exit(exit)) => {
                // A slice of it may come after, from another CPU: its id stays until the next window has ended.
                let is_of = self.processes.contains(&pid(exit.tgid));
                if is_of {
                    let (tid, at_ns) = (Tid(exit.head.tid), exit.head.at_ns);
                    self.exited[0].insert(tid, at_ns);
                }
                is_of
            }
            None => false,
        }
    }

    /// The thread of the part that had this id has ended before.
    fn has_ended(&self, tid: Tid, before_ns: u64) -> bool {
        let mut ended = self.exited.iter().filter_map(|exited| exited.get(&tid));
        ended.any(|ended| *ended < before_ns)
    }
}

/// What recordings of a part have not, for it may be secret and nothing that they are for needs it: command lines and
/// what is taken from them, folders that processes work in, paths of requests, ids of requests and traces.
fn leave_out(event: &mut Event) {
    match event {
        Event::Process(fact) => {
            fact.cmdline.clear();
            fact.entry = None;
            fact.place.folder = None;
        }
        Event::Step(fact) => fact.span = None,
        Event::Http(event) => match &mut event.what {
            HttpWhat::Began { request, ids, .. } => {
                request.path = None;
                ids.clear();
            }
            HttpWhat::Answered { request, .. } => request.path = None,
            _ => {}
        },
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use concmon_ebpf::{ExitRecord, ForkRecord, RecordHead, SliceRecord, record_kind};

    use super::*;
    use crate::{
        capture::{Item, Reader},
        decode::loss::LossMeter,
        event::{HttpEvent, HttpRequest},
    };

    const CAPTURE: &[u8] = include_bytes!("../../../tests/captures/1.0.concmon");

    fn inputs() -> Vec<Input> {
        let mut reader = Reader::embedded(Cursor::new(CAPTURE)).expect("a capture");
        let mut inputs = Vec::new();
        while let Some(item) = reader.item().expect("bytes") {
            if let Item::Chunk(chunk) = item {
                let of_chunk = chunk.inputs().expect("inputs");
                inputs.extend(of_chunk.map(|input| input.expect("an input")));
            }
        }
        inputs
    }

    fn processes(inputs: &[Input]) -> BTreeSet<Pid> {
        let pids = inputs.iter().filter_map(|input| match input {
            Input::Now(Event::Process(fact)) => Some(Pid(fact.pid)),
            _ => None,
        });
        pids.collect()
    }

    fn slices<'a>(inputs: impl Iterator<Item = &'a Input>) -> BTreeMap<u32, usize> {
        let mut slices = BTreeMap::new();
        for input in inputs {
            if let Input::Batch(batch) = input {
                for record in &batch.records {
                    if let Some(Tagged::Slice(slice)) = record.tagged() {
                        *slices.entry(slice.head.tid).or_default() += 1;
                    }
                }
            }
        }
        slices
    }

    /// All of the processes make the whole, none of them nothing, and no part counts what it has not as lost.
    #[test]
    fn a_part_is_what_is_about_its_processes() {
        let inputs = inputs();
        let all = processes(&inputs);
        assert!(!all.is_empty());
        let meter = || LossMeter::joining(0);
        let lost = |inputs: &[Input]| {
            let mut meter = meter();
            for input in inputs {
                if let Input::Batch(batch) = input {
                    meter.batch(&batch.header, batch.header.opened_ns);
                }
            }
            assert_eq!(meter.regressed(), 0);
            meter.lost()
        };
        for part_of in [all.clone(), BTreeSet::new()] {
            let mut part = Part::new(part_of.clone());
            // As at the beginning of any recording, the accounts of all threads come first.
            for input in &inputs {
                if let Input::Now(Event::Ledger(_)) = input {
                    part.of(input);
                }
            }
            let of_part: Vec<Input> = inputs.iter().filter_map(|input| part.of(input)).collect();
            assert_eq!(lost(&of_part), lost(&inputs));
            assert_eq!(processes(&of_part), part_of);
            let (of_part, whole) = (slices(of_part.iter()), slices(inputs.iter()));
            match part_of.is_empty() {
                true => assert!(of_part.is_empty()),
                false => assert_eq!(of_part, whole),
            }
        }
    }

    /// One batch of these records.
    fn of_records(part: &mut Part, records: &[Record]) -> usize {
        let mut batch = inputs()
            .into_iter()
            .find_map(|input| match input {
                Input::Batch(batch) => Some(batch),
                _ => None,
            })
            .expect("a batch");
        batch.records = records.to_vec();
        part.batch(&batch).map_or(0, |batch| batch.records.len())
    }

    /// Ids of threads are given out again, to whom is nobody's business here.
    #[test]
    fn ids_of_ended_threads_are_anybodys() {
        let (own, other) = (Pid(10), 20);
        let head = |kind, tid, at_ns| RecordHead {
            kind,
            tid,
            at_ns,
            ..RecordHead::default()
        };
        let fork = |tid, parent_tid, tgid, at_ns| {
            Record::from(ForkRecord {
                head: head(record_kind::FORK, tid, at_ns),
                tgid,
                parent_tid,
                ..ForkRecord::default()
            })
        };
        let exit = |tid, at_ns| {
            Record::from(ExitRecord {
                head: head(record_kind::EXIT, tid, at_ns),
                tgid: 10,
                ..ExitRecord::default()
            })
        };
        let slice = |tid, at_ns| {
            Record::from(SliceRecord {
                head: head(record_kind::SLICE, tid, at_ns),
                ..SliceRecord::default()
            })
        };
        let mut part = Part::new(BTreeSet::from([own]));
        part.add_thread(Tid(10), own, 0);
        let records = [fork(11, 10, 10, 1), fork(12, 10, 10, 1), slice(11, 2)];
        assert_eq!(of_records(&mut part, &records), 3);
        // What comes late is of it, also after a window.
        assert_eq!(of_records(&mut part, &[exit(11, 3), exit(12, 3)]), 2);
        part.renew([own]);
        assert_eq!(of_records(&mut part, &[slice(11, 2)]), 1);
        // One of the ids is given out again at once, and stays.
        assert_eq!(of_records(&mut part, &[fork(12, 10, 10, 5)]), 1);
        part.renew([own]);
        part.renew([own]);
        let foreign = [slice(11, 9), fork(30, 11, other, 9), slice(30, 9)];
        assert_eq!(of_records(&mut part, &foreign), 0);
        assert_eq!(of_records(&mut part, &[slice(12, 9)]), 1);
        assert_eq!(part.processes, BTreeSet::from([own]));
        // To another process, at once.
        assert_eq!(of_records(&mut part, &[exit(12, 10)]), 1);
        let foreign = [fork(12, 21, other, 11), slice(12, 12)];
        assert_eq!(of_records(&mut part, &foreign), 0);
        assert_eq!(part.threads.len(), 1);
    }

    #[test]
    fn what_may_be_secret_is_left_out() {
        let inputs = inputs();
        let mut part = Part::new(processes(&inputs));
        let mut facts = 0;
        for input in &inputs {
            let Input::Now(Event::Process(fact)) = input else {
                continue;
            };
            let mut fact = fact.clone();
            fact.place.folder = Some("/secret".to_owned());
            (fact.cmdline, fact.entry) = (vec!["secret".to_owned()], Some("secret".to_owned()));
            let of_part = part.of(&Input::Now(Event::Process(fact)));
            assert!(!format!("{of_part:?}").contains("secret"));
            facts += 1;
        }
        assert!(facts > 0);
        let request = HttpRequest {
            method: "GET".into(),
            path: Some("/secret".into()),
            queue_ns: None,
        };
        let mut event = Event::Http(Box::new(HttpEvent {
            at_ns: 1,
            pid: Pid(1),
            tid: Tid(1),
            what: HttpWhat::Began {
                id: 1,
                request,
                ids: BTreeMap::from([("x-request-id".to_owned(), "secret".to_owned())]),
                client_port: None,
            },
        }));
        leave_out(&mut event);
        assert!(!format!("{event:?}").contains("secret"));
    }

    #[test]
    fn what_is_not_renewed_is_of_it_no_more() {
        let inputs = inputs();
        let all = processes(&inputs);
        let mut part = Part::new(all.clone());
        inputs.iter().for_each(|input| drop(part.of(input)));
        assert!(!part.threads.is_empty());
        part.renew([]);
        part.renew([]);
        assert!(part.processes.is_empty() && part.threads.is_empty());
        assert!(
            inputs
                .iter()
                .filter_map(|input| part.of(input))
                .all(|input| !matches!(input, Input::Now(Event::Process(_))))
        );
    }
}
