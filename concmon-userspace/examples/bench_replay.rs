//! Replays a made-up capture of many records and prints what it took, as a JSON line.
//!
//! `bench_replay RECORDS THREADS`: so many slices of so many threads on four CPUs.
#![allow(clippy::print_stdout, reason = "its standard output is its product")]

use std::{
    io::{BufReader, Seek as _},
    time::Instant,
};

use anyhow::{Context, Result, bail};
use concmon::{
    capture::{FileStore, Filters, Header, Input, Reader, Recorder},
    decode::RawBatch,
    event::{Event, HistFact, LedgerFact, Pid, ThreadState, Tick, Tid},
    model::WatchInfo,
    source::replay::Replay,
};
use concmon_ebpf::{
    BatchHeader, Record, RecordHead, SliceRecord, WIRE_VERSION, cause, record_kind, slice_flags,
};
use serde_json::json;

const CPUS: u64 = 4;
const START_NS: u64 = 1_000_000_000;
const BATCH: u64 = 500;
/// Between two slices of a CPU.
const STEP_NS: u64 = 10_000;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [records, threads] = args.as_slice() else {
        bail!("usage: bench_replay RECORDS THREADS");
    };
    let records: u64 = records.parse().context("RECORDS")?;
    let threads: u64 = threads.parse().context("THREADS")?;
    let mut file = tempfile::tempfile()?;
    let store = FileStore::new(file.try_clone()?);
    let begin = Instant::now();
    let bytes = write(store, records, threads.max(1))?;
    let written = begin.elapsed();
    let before = resident()?;
    file.rewind()?;
    let begin = Instant::now();
    let mut events = 0u64;
    let summary = Replay::new(Reader::new(BufReader::new(file))?).run(&mut |_| events += 1)?;
    let replayed = begin.elapsed();
    println!(
        "{}",
        json!({
            "records": records,
            "threads": threads,
            "bytes_per_record": bytes as f64 / records as f64,
            "write_ns_per_record": written.as_nanos() as f64 / records as f64,
            "replay_ns_per_record": replayed.as_nanos() as f64 / records as f64,
            "million_records_per_s": records as f64 / replayed.as_secs_f64() / 1e6,
            "events": events,
            "processes": summary.processes.len(),
            "grown_bytes": resident()?.saturating_sub(before),
        })
    );
    Ok(())
}

fn write(store: FileStore, records: u64, threads: u64) -> Result<u64> {
    let header = Header {
        info: WatchInfo {
            version: env!("CARGO_PKG_VERSION").into(),
            start_ns: START_NS,
            start_unix_ns: START_NS,
            start_boottime_ns: START_NS,
            targets: vec![Pid(1000)],
            stall_threshold_ns: None,
            knows_causes: true,
            place: Default::default(),
            http: Default::default(),
        },
        wire: WIRE_VERSION,
        architecture: std::env::consts::ARCH.to_owned(),
        host: String::new(),
        kernel: String::new(),
        command: Vec::new(),
        filters: Filters::default(),
        joins: false,
        reason: None,
        flight: None,
    };
    let mut recorder = Recorder::new(Box::new(store), &header);
    let mut noise = 1u64;
    let mut random = |below: u64| {
        noise = noise
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (noise >> 33) % below
    };
    for thread in 0..threads {
        recorder.input(&Input::Now(Event::Ledger(Box::new(account(thread)))));
    }
    let mut last_ns = vec![START_NS; threads as usize];
    let (mut made, mut now_ns) = (0, START_NS);
    let mut produced = [0; CPUS as usize];
    let mut ticked_ns = START_NS;
    while made < records {
        for cpu in 0..CPUS {
            let slices: Vec<Record> = (0..BATCH)
                .map(|at| {
                    let thread = (cpu + CPUS * (made + at)) % threads;
                    let in_ns = now_ns + at * STEP_NS + random(1_000);
                    let out_ns = in_ns + 7_000 + random(1_000);
                    let last = &mut last_ns[thread as usize];
                    let off_ns = *last;
                    *last = out_ns;
                    let slice = SliceRecord {
                        head: RecordHead {
                            kind: record_kind::SLICE,
                            cause: cause::LOCK,
                            flags: slice_flags::BLOCKED | slice_flags::VOLUNTARY,
                            reserved: 0,
                            tid: 1000 + thread as u32,
                            at_ns: out_ns,
                        },
                        off_ns: off_ns.min(in_ns),
                        wake_ns: (in_ns - random(900)).max(off_ns.min(in_ns)),
                        in_ns,
                        on_cpu_ns: out_ns - in_ns - random(90),
                        arg0: 0x7f00_0000_0000,
                        waker_tid: 1000 + ((thread + 1) % threads) as u32,
                        syscall: 202,
                    };
                    slice.into()
                })
                .collect();
            let header = BatchHeader {
                version: WIRE_VERSION,
                count: BATCH as u16,
                cpu: cpu as u32,
                produced_before: produced[cpu as usize],
                opened_ns: now_ns,
            };
            produced[cpu as usize] += BATCH;
            made += BATCH;
            let batch = RawBatch {
                header,
                records: slices,
            };
            recorder.input(&Input::Batch(batch));
        }
        now_ns += BATCH * STEP_NS;
        recorder.now(now_ns);
        let until_ns = now_ns.saturating_sub(10_000_000);
        recorder.input(&Input::Release { until_ns });
        if now_ns - ticked_ns >= 1_000_000_000 {
            ticked_ns = now_ns;
            recorder.key(now_ns);
            let tick = Tick {
                at_ns: now_ns,
                unix_ns: now_ns,
            };
            recorder.input(&Input::Now(Event::Tick(tick)));
        }
    }
    Ok(recorder.finish()?)
}

/// The account of a thread that has just begun.
fn account(thread: u64) -> LedgerFact {
    LedgerFact {
        read_ns: START_NS,
        pid: Pid(1000),
        tid: Tid(1000 + thread as u32),
        start_boottime_ns: START_NS,
        seeded: false,
        folded: false,
        start_ns: START_NS,
        since_ns: START_NS,
        state: ThreadState::Running,
        sum_exec_ns: 0,
        on_cpu_ns: 0,
        woken_ns: 0,
        preempted_ns: 0,
        stolen_ns: 0,
        unknown_ns: 0,
        unobserved_ns: 0,
        unobserved_run_ns: 0,
        blocked_ns: [0; cause::COUNT],
        voluntary: 0,
        involuntary: 0,
        migrations: 0,
        hists_since_ns: 0,
        wakeup_latency: HistFact::default(),
        slice: HistFact::default(),
        off_cpu: vec![HistFact::default(); cause::COUNT],
    }
}

fn resident() -> Result<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages = statm.split_whitespace().nth(1).context("statm")?;
    Ok(pages.parse::<u64>()? * 4096)
}
