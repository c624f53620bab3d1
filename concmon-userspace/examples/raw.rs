use concmon::{event::Pid, source::live::*};
fn mono() -> u64 {
    let mut t = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    unsafe { libc::clock_gettime(1, &mut t) };
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}
fn main() {
    let pid: u32 = std::env::args().nth(1).unwrap().parse().unwrap();
    let secs: u64 = std::env::args().nth(2).unwrap().parse().unwrap();
    let t = std::time::Instant::now();
    let mut live = match Live::load(Sizes::for_threads(100)) {
        Ok(l) => l,
        Err(e) => {
            println!("{e}");
            return;
        }
    };
    println!("load {:?}", t.elapsed());
    live.watch(Pid(pid), &[], true).unwrap();
    live.attach().unwrap();
    live.seed().unwrap();
    println!("attached {:?}", t.elapsed());
    let mut records = 0u64;
    let mut batches = 0;
    for _ in 0..secs * 10 {
        std::thread::sleep(std::time::Duration::from_millis(100));
        live.drain(|b| {
            records += (b.len() / 64) as u64;
            batches += 1;
        });
        live.kernel_run_ns(mono());
    }
    let now = mono();
    live.read_ledgers(|l| { let cols=l.on_cpu_ns+l.woken_ns+l.preempted_ns+l.stolen_ns+l.unknown_ns+l.blocked_ns.iter().sum::<u64>();
      println!("tid {} state {} cause {} wall {} law {} on_cpu {:.4} woken {:.4} pre {:.4} stolen {:.4} unk {} blocked {:?} v {} i {} mig {} lat n {} sum {} sys {}", l.tid,l.state,l.cause,(now-l.start_ns) as f64/1e9, (l.since_ns-l.start_ns) as i64-cols as i64, l.on_cpu_ns as f64/1e9,l.woken_ns as f64/1e9,l.preempted_ns as f64/1e9,l.stolen_ns as f64/1e9,l.unknown_ns,l.blocked_ns.map(|b|(b as f64/1e6) as u64),l.voluntary,l.involuntary,l.migrations,l.wakeup_latency.count,l.wakeup_latency.sum_ns,l.syscall);
      Collected::Keep });
    let run = live.kernel_run_ns(mono());
    println!(
        "records {records} batches {batches} faults {:?} failed {} run {:?}",
        named_faults(&live.faults()),
        live.reads_failed,
        run
    );
}
