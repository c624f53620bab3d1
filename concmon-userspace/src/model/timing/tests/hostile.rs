//! Numbers that no kernel and no interpreter gives.

use std::sync::Arc;

use super::simulator::frame;
use crate::event::*;
use crate::model::testing::*;

fn nasty_sample(random: &mut Random) -> Sample {
    let frames: Vec<_> = (0..random.below(3)).map(|_| frame("f", 1)).collect();
    Sample {
        at_ns: random.nasty(),
        pid: Pid(100),
        tid: Tid(100 + random.below(3) as u32),
        kind: match random.chance(50) {
            true => SampleKind::OnCpu,
            false => SampleKind::Block(Cause::ALL[random.below(9) as usize]),
        },
        context_version: random.chance(80).then(|| random.nasty()),
        iteration: random.chance(80).then(|| Iteration {
            start_ns: random.nasty(),
            index: random.chance(50).then(|| random.nasty() as u32),
            count: random.chance(50).then(|| random.nasty() as u32),
        }),
        turns: random.chance(50).then(|| random.nasty() as u32),
        creator: random.chance(20).then(|| random.nasty()),
        collecting: random.chance(30),
        code: random.chance(50).then_some(CodeKind::Native),
        coroutine: random.chance(50).then(|| random.nasty()),
        stack: Arc::new(SampledStack {
            frames,
            // More than there are.
            step_frames: random.below(5) as usize,
            in_loop: random.chance(70),
            truncated: random.chance(10),
        }),
    }
}

fn nasty_slice(random: &mut Random, at: &mut u64) -> Slice {
    // Sometimes in order, so that there are stretches at all.
    let mut instant = || match random.chance(70) {
        true => {
            *at = at.saturating_add(random.below(300 * MS));
            *at
        }
        false => random.nasty(),
    };
    let [off_ns, wake_ns, in_ns, out_ns] = [instant(), instant(), instant(), instant()];
    Slice {
        tid: Tid(100 + random.below(3) as u32),
        cpu: 0,
        wait: random.chance(80).then(|| Wait {
            off_ns,
            wake_ns: random.chance(70).then_some(wake_ns),
            cause: Cause::from_wire(random.below(10) as u8),
            queue: random.chance(70),
            arg0: random.any(),
            waker: Some(Tid(random.below(200) as u32)),
        }),
        in_ns,
        out_ns,
        on_cpu_ns: random.nasty(),
        voluntary: random.chance(50),
    }
}

#[test]
fn no_numbers_panic_or_break_a_law() {
    for seed in 0..200 {
        let mut random = Random::new(seed);
        let mut watch = Fixture::new();
        let mut at = START;
        for step in 0..300 {
            let tid = 100 + random.below(3) as u32;
            match random.below(10) {
                0..4 => {
                    watch.apply(Event::Sample(Box::new(nasty_sample(&mut random))));
                }
                4..7 => {
                    watch.apply(Event::Slice(nasty_slice(&mut random, &mut at)));
                }
                7 => {
                    watch.apply(Event::Step(Box::new(StepFact {
                        read_ns: random.nasty(),
                        pid: Pid(100),
                        tid: Tid(tid),
                        context_version: random.nasty(),
                        task: None,
                        context: Default::default(),
                        span: None,
                        ready: Some(random.nasty()),
                        overdue: None,
                        seen: random.chance(80).then(|| StepSeen {
                            state: match random.chance(60) {
                                true => ThreadState::Blocked(Cause::ALL[random.below(9) as usize]),
                                false => ThreadState::Running,
                            },
                            since_ns: random.nasty(),
                            step_since_ns: random.nasty(),
                            busy_from_ns: random.chance(50).then(|| random.nasty()),
                            idle: random.chance(20),
                            wait: random.chance(50).then(|| StepWait {
                                from_ns: random.nasty(),
                                to_ns: random.nasty(),
                                cause: Cause::ALL[random.below(9) as usize],
                            }),
                            sample: nasty_sample(&mut random),
                        }),
                    })));
                }
                8 => {
                    let mut fact = random_ledger(&mut random);
                    (fact.pid, fact.tid) = (Pid(100), Tid(tid));
                    fact.start_boottime_ns = START_BOOT;
                    watch.apply(Event::Ledger(Box::new(fact)));
                }
                _ => {
                    let mut seen = look(100, random.nasty());
                    let id = random.below(3);
                    seen.loops = vec![py_loop(tid, id), py_loop(101, random.below(200))];
                    seen.loops[0].stall_threshold_ns = random.chance(50).then(|| random.nasty());
                    seen.tasks = vec![py_task(random.nasty(), id, "Task-1"); 2];
                    seen.tasks[1].coroutine_id = random.nasty();
                    watch.apply(Event::Python(Arc::new(seen)));
                }
            }
            if step % 10 == 9 {
                let tick = Tick {
                    at_ns: match random.chance(70) {
                        true => at,
                        false => random.nasty(),
                    },
                    unix_ns: random.nasty(),
                };
                watch.apply(Event::Tick(tick));
                assert_lawful(&watch.model.snapshot());
                assert_lawful(&watch.model.summary());
                watch.model.take_notices();
            }
        }
    }
}
