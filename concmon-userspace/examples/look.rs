#![allow(clippy::print_stdout, reason = "temporary")]
fn main() {
    let pid = std::env::args().nth(1).unwrap().parse().unwrap();
    let mut i = concmon::python::Interpreter::attach(concmon::event::Pid(pid)).unwrap();
    for _ in 0..2 {
        let t = std::time::Instant::now();
        let f = i.look(0, &concmon::python::LookOptions::default());
        println!("{:?}", t.elapsed());
        if f.tasks.len() > 100 {
            continue;
        }
        for t in &f.tasks {
            println!(
                "{} {:?} {} waits={:?} by={:x?} cancel={} exc={:?} retr={:?} ctx={:?} [{}]",
                t.name,
                t.state,
                t.coroutine,
                t.waits_for.as_ref().map(|w| (&w.kind, w.object.is_some())),
                t.awaited_by,
                t.cancel_requested,
                t.exception,
                t.retrieved,
                t.context,
                t.awaiting
                    .iter()
                    .map(|f| format!("{}:{}", f.function, f.line))
                    .collect::<Vec<_>>()
                    .join(" ")
            );
        }
        println!("{:?} {:?} {}", f.loops, f.limits, f.reads_failed);
    }
}
