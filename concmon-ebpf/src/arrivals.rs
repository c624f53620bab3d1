//! Who begins to run a program, watched or not: told while a watch takes in processes that appear later.

use concmon_ebpf::fault;

use crate::{
    maps::{EXECS, count_fault},
    namespace,
    task::{Task, config},
};

/// Tells of a process that nobody watches. It costs an exec one more store, and no switch anything.
#[inline(always)]
pub(crate) fn tell(task: Task) {
    if config!(tells_execs) == 0 {
        return;
    }
    let tgid = namespace::tgid(task);
    if tgid != 0 && EXECS.push(&tgid, 0).is_err() {
        // User space searches all of `/proc` then.
        count_fault(fault::EXEC_ROOM);
    }
}
