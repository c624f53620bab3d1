//! Cases that the fuzzer found once, and some more: none may fail again.
//!
//! A case's meaning depends on the images; after a new recording it is another one, which must not
//! fail either. What a walker got wrong is tested beside it, too.

#[path = "../examples/fuzz/capture.rs"]
mod capture;
#[path = "../examples/fuzz/case.rs"]
mod case;
#[path = "common/crafted.rs"]
mod crafted;
#[path = "../examples/fuzz/elf.rs"]
mod elf;
#[path = "../examples/fuzz/heap.rs"]
mod heap;
#[path = "../examples/fuzz/judge.rs"]
mod judge;
#[path = "../examples/fuzz/mutate.rs"]
mod mutate;
#[path = "../examples/fuzz/random.rs"]
mod random;

use std::path::Path;

use case::{Case, PARSERS};
use judge::Judge;

#[global_allocator]
static HEAP: heap::Counting = heap::Counting;

const FOUND: &str = include_str!("fuzz_cases.txt");
/// Of each image and each parser.
const MORE: u64 = 30;

#[test]
fn cases_that_were_found_do_not_fail_again() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/images");
    let judge = Judge::new(&dir).expect("images");
    let found = FOUND
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.parse().expect("a case"));
    let names = judge.subjects.iter().map(|subject| &*subject.name);
    let more = names.chain(PARSERS).flat_map(|input| {
        (0..MORE).map(|seed| Case {
            input: input.to_owned(),
            seed,
        })
    });
    judge::keep_panics();
    for case in found.chain(more) {
        // A build with debug assertions takes its time.
        let verdict = judge.run(&case, 10);
        if let Some(finding) = verdict.finding {
            let _ = std::panic::take_hook();
            let (cpu, bytes) = (verdict.cpu, verdict.peak_bytes);
            panic!("{finding} ({cpu:?} of CPU, {bytes} bytes)");
        }
    }
}
