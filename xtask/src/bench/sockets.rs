//! `cargo xtask bench sockets`: what the programs at sockets add to a send and a receive of somebody who is not watched.
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Result, ensure};

use super::{
    Tools,
    child::Owned,
    switch::{self, median},
    tracer::Tracer,
};

const BYTES: usize = 64;
/// Of a measurement, of which the quickest counts: whatever else runs only makes one longer.
const BATCHES: u32 = 50;
const WATCHED: &str = "print('ready', flush=True); input()";
/// What may be added to a pair, ns.
const GOAL_NS: f64 = 60.0;
const CASES: [(&str, Option<&[&str]>); 3] = [
    ("no tracer", None),
    ("concmon --no-http", Some(&["--no-http"])),
    ("concmon", Some(&[])),
];

/// Cost per send and receive of who is not watched, in ns
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How often each case is measured
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Sends and receives of one measurement
    #[arg(long, default_value_t = 200_000)]
    pairs: u32,
    #[command(flatten)]
    tools: Tools,
}

/// Runs the command; fails when requests cost who has none more than they may.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    ensure!(args.rounds > 0, "--rounds must be at least 1");
    ensure!(args.pairs > 0, "--pairs must be at least 1");
    let binary = args.tools.binary_as_root()?;
    switch::warn_if_busy()?;
    let watched = Owned::start_ready(Command::new(&args.tools.python).args(["-c", WATCHED]))?;
    let pid = watched.0.id().to_string();
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut sender = TcpStream::connect(listener.local_addr()?)?;
    sender.set_nodelay(true)?;
    let (mut receiver, _) = listener.accept()?;
    let batch = (args.pairs / BATCHES).max(1);
    let mut pair_ns = || -> Result<f64> {
        let mut bytes = [b'.'; BYTES];
        let mut least_ns = f64::INFINITY;
        for _ in 0..BATCHES {
            let begin = Instant::now();
            for _ in 0..batch {
                sender.write_all(&bytes)?;
                receiver.read_exact(&mut bytes)?;
            }
            least_ns = least_ns.min(begin.elapsed().as_nanos() as f64 / f64::from(batch));
        }
        Ok(least_ns)
    };
    let mut samples = [const { Vec::new() }; CASES.len()];
    for round in 1..=args.rounds {
        eprintln!("round {round} of {}", args.rounds);
        for ((_, options), samples) in CASES.iter().zip(&mut samples) {
            let tracer = options.map(|options| {
                let mut concmon = Command::new(&binary);
                concmon.args(["--json", "--pid", &pid]).args(options);
                Tracer::start(&mut concmon, true)
            });
            let tracer = tracer.transpose()?;
            samples.push(pair_ns()?);
            if let Some(tracer) = tracer {
                tracer.stop()?;
            }
        }
    }
    println!(
        "{:24} {:>8} {:>19}",
        "ns per send and receive", "median", "min .. max"
    );
    let mut medians = [0.0; CASES.len()];
    for (((name, _), samples), middle) in CASES.iter().zip(&mut samples).zip(&mut medians) {
        samples.sort_by(f64::total_cmp);
        *middle = median(samples);
        let (min, max) = (samples[0], samples[samples.len() - 1]);
        println!(
            "{name:24} {middle:>8.0} {:>19}",
            format!("{min:.0} .. {max:.0}")
        );
    }
    let added_ns = medians[2] - medians[1];
    println!("\nrequests add {added_ns:.0} ns to a pair, by medians; goal: {GOAL_NS:.0} ns");
    Ok(ExitCode::from(u8::from(added_ns > GOAL_NS)))
}
