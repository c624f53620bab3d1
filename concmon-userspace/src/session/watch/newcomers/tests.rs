//! Newcomers, of whom some are not looked at in time.

use super::*;
use crate::cli::Selection;

#[test]
fn who_is_not_watched_is_told_with_the_reason_or_counted() {
    let mut child = std::process::Command::new("sleep")
        .arg("60")
        .spawn()
        .expect("a process");
    let pid = Pid(child.id());
    let all = Selection {
        all: true,
        ..Selection::default()
    };
    let tree = Tree::scan().expect("processes");
    let mut newcomers = Newcomers::new(Selector::new(all), &tree);
    let told = |newcomers: &mut Newcomers, has_time: bool| {
        let (told, left_out) = newcomers.unwatched(|_| false, |known| known == pid, || has_time);
        let told: Vec<Unwatched> = told.into_iter().map(|(.., why)| why).collect();
        (told, left_out)
    };
    let count = newcomers.known.len();
    assert_eq!(told(&mut newcomers, false), (Vec::new(), count));
    let looks = std::cell::Cell::new(0);
    let mut seen = 0;
    // Two at a time, each has its turn.
    for _ in 0..count.div_ceil(2) {
        looks.set(0);
        let has_time = || looks.replace(looks.get() + 1) < 2;
        seen += newcomers
            .unwatched(|_| false, |known| known == pid, has_time)
            .0
            .len();
    }
    assert_eq!(seen, 1);
    let no_interpreter = vec![Unwatched::NoInterpreter];
    assert_eq!(told(&mut newcomers, true), (no_interpreter, 0));
    newcomers.began(pid, 0);
    assert_eq!(told(&mut newcomers, true), (vec![Unwatched::Short], 0));
    newcomers.denied.insert(pid);
    let no_permission = vec![Unwatched::NoPermission];
    assert_eq!(told(&mut newcomers, true), (no_permission, 0));
    child.kill().expect("it is ours");
    child.wait().expect("it is ours");
}
