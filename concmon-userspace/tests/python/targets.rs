//! Processes that are more than one interpreter in its own file.

use std::collections::BTreeSet;

use crate::common::{Program, pythons};
use concmon::event::{Pid, PythonFact};
use concmon::python::{Interpreter, ScanOptions};

fn look(pid: Pid) -> PythonFact {
    let mut interpreter =
        Interpreter::attach(pid).unwrap_or_else(|error| panic!("process {pid}: {error}"));
    interpreter.scan(7, &ScanOptions::default())
}

fn tids(pid: Pid) -> BTreeSet<u32> {
    std::fs::read_dir(format!("/proc/{pid}/task"))
        .expect("alive")
        .filter_map(|task| task.ok()?.file_name().to_str()?.parse().ok())
        .collect()
}

/// Each thread has a state in two interpreters, and a part of its stack in each.
#[test]
fn threads_in_sub_interpreters_are_counted_once_with_their_whole_stack() {
    const SOURCE: &str = "
import os, sys, threading
if sys.version_info >= (3, 13):
    import _interpreters as interpreters
    create = lambda: interpreters.create('isolated')
    run = interpreters.exec
else:
    import _xxsubinterpreters as interpreters
    create = lambda: interpreters.create(isolated=True)
    run = interpreters.run_string
read, write = os.pipe()
def go():
    run(create(), f'''
import os, time
def inside():
    os.write({write}, b'x')
    time.sleep(3600)
inside()
''')
for _ in range(2):
    threading.Thread(target=go, daemon=True).start()
    os.read(read, 1)
print('ready', flush=True)
sys.stdin.read()
os._exit(0)
";
    for python in pythons(12..=15) {
        let program = python.run(SOURCE);
        program.line();
        let fact = look(program.pid());
        let found: Vec<u32> = fact.threads.iter().map(|thread| thread.tid.0).collect();
        assert_eq!(found.len(), 3, "{}", python.label());
        assert_eq!(BTreeSet::from_iter(found), tids(program.pid()));
        for thread in fact.threads.iter().filter(|thread| !thread.main) {
            let names: Vec<&str> = thread.stack.iter().map(|f| f.function.as_ref()).collect();
            assert_eq!(names[..3], ["inside", "<module>", "go"], "{names:?}");
            assert_eq!(names.last(), Some(&"Thread._bootstrap"), "{names:?}");
        }
    }
}

/// A forked child has what its parent had, but only one thread; new ones may have the identities
/// of those that were lost.
#[test]
fn a_forked_child_has_no_workers() {
    const SOURCE: &str = "
import concurrent.futures, os, sys, threading, time
pool = concurrent.futures.ThreadPoolExecutor(2)
pool.submit(time.sleep, 3600)
parent = os.getpid()
read, write = os.pipe()
child = os.fork()
if child == 0:
    threading.Thread(target=lambda: os.write(write, b'x') and time.sleep(3600), daemon=True).start()
    while os.getppid() == parent:
        time.sleep(0.05)
    os._exit(0)
os.read(read, 1)
print(child, flush=True)
sys.stdin.read()
os._exit(0)
";
    for python in pythons(8..=15) {
        let program = python.run(SOURCE);
        let child = Pid(program.line().parse().expect("an id"));
        let fact = look(program.pid());
        assert_eq!(fact.executors.len(), 1, "{}", python.label());
        let fact = look(child);
        assert_eq!(fact.executors, vec![], "{}", python.label());
        let found: BTreeSet<u32> = fact.threads.iter().map(|thread| thread.tid.0).collect();
        assert_eq!(found.len(), 2, "{}", python.label());
        assert_eq!(found, tids(child));
    }
}

/// A server that forks in C: Python is not told, and its thread states go on saying what the parent's threads are.
#[test]
fn a_fork_that_python_was_not_told_of_has_its_own_thread() {
    const SOURCE: &str = "
import ctypes, os, sys, threading, time
threading.Thread(target=time.sleep, args=(3600,), name='helper', daemon=True).start()
read, write = os.pipe()
parent = os.getpid()
def serves():
    os.write(write, b'x')
    while os.getppid() == parent:
        time.sleep(0.05)
    os._exit(0)
# It keeps the GIL, which the child has then.
child = ctypes.PyDLL(None).fork()
if child == 0:
    serves()
os.read(read, 1)
print(child, flush=True)
sys.stdin.read()
os._exit(0)
";
    for python in pythons(8..=15) {
        let program = python.run(SOURCE);
        let child = Pid(program.line().parse().expect("an id"));
        let fact = look(child);
        let found: BTreeSet<u32> = fact.threads.iter().map(|thread| thread.tid.0).collect();
        assert_eq!(found, tids(child), "{}", python.label());
        let [main] = &fact.threads[..] else {
            panic!("{}: {:?}", python.label(), fact.threads);
        };
        assert!(main.main && main.name.as_deref() == Some("MainThread"));
        let functions = main.stack.iter().map(|frame| frame.function.as_ref());
        assert!(functions.eq(["serves", "<module>"]), "{:?}", main.stack);
        assert_eq!(fact.reads_failed, 0, "{}", python.label());
        assert_eq!(look(program.pid()).threads.len(), 2, "{}", python.label());
    }
}

/// After an upgrade, the name of a library in use belongs to another file.
#[test]
fn a_replaced_library_is_read_as_it_was_loaded() {
    for python in pythons(8..=13) {
        let Some(executable) = python.executable() else {
            continue;
        };
        let home = std::path::Path::new(executable)
            .ancestors()
            .nth(2)
            .expect("a folder above bin");
        let name = format!("libpython3.{}.so.1.0", python.minor);
        let library = home.join("lib").join(&name);
        if !library.exists() {
            continue;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let copy = folder.path().join(&name);
        std::fs::copy(&library, &copy).expect("copied");
        let program = Program::start(&[
            "env".to_owned(),
            format!("LD_LIBRARY_PATH={}", folder.path().display()),
            executable.to_owned(),
            "-c".to_owned(),
            "import sys, threading; print(1, flush=True); sys.stdin.read()".to_owned(),
        ]);
        program.line();
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", program.pid())).expect("alive");
        if !maps.contains(&copy.display().to_string()) {
            eprintln!("skipped: {executable} has the place of its library in itself");
            continue;
        }
        let other = folder.path().join("new");
        std::fs::write(&other, "another file").expect("written");
        std::fs::rename(&other, &copy).expect("replaced");
        let fact = look(program.pid());
        let name = fact.threads.first().and_then(|thread| thread.name.clone());
        assert_eq!(name.as_deref(), Some("MainThread"), "{:?}", fact.info);
    }
}

#[test]
fn another_implementation_is_named_and_not_read() {
    let pypy = ["/usr/bin/pypy3", "/usr/local/bin/pypy3"]
        .into_iter()
        .find(|path| std::path::Path::new(path).exists());
    let Some(pypy) = pypy else {
        eprintln!("skipped: there is no PyPy");
        return;
    };
    let source = "import sys; print(1, flush=True); sys.stdin.read()";
    let program = Program::start(&[pypy.to_owned(), "-c".to_owned(), source.to_owned()]);
    program.line();
    let info = look(program.pid()).info;
    assert_eq!(info.implementation, "pypy");
    assert!(!info.supported && info.reason.is_some(), "{info:?}");
}

/// Children of `multiprocessing` are called what they call themselves, however they were made.
#[test]
fn children_have_their_names_and_what_they_run() {
    // A spawned child imports what it runs.
    const SOURCE: &str = "
import json, multiprocessing, pathlib, sys, tempfile
folder = tempfile.TemporaryDirectory()
pathlib.Path(folder.name, 'shop.py').write_text('''
import multiprocessing, os, time
def consume(names):
    names.put((os.getpid(), multiprocessing.current_process().name))
    time.sleep(60)
''')
sys.path.insert(0, folder.name)
import os, shop
found = []
for how in ('fork', 'spawn', 'forkserver'):
    context = multiprocessing.get_context(how)
    names = context.SimpleQueue()
    for name in ('consumer-0', None):
        context.Process(target=shop.consume, args=(names,), name=name, daemon=True).start()
        found.append(names.get())
found.append((os.getpid(), multiprocessing.current_process().name))
print(json.dumps(found), flush=True)
sys.stdin.read()
";
    for python in pythons(8..=15) {
        let program = python.run(SOURCE);
        let told: Vec<(u32, String)> = serde_json::from_str(&program.line()).expect("JSON");
        assert_eq!(told.len(), 7, "{}", python.label());
        for (pid, name) in told {
            let process = look(Pid(pid)).process;
            let process = process.unwrap_or_else(|| panic!("{}: {name}", python.label()));
            let target = match name.as_str() {
                "MainProcess" => None,
                _ => Some("shop.consume"),
            };
            assert_eq!(
                (process.name.as_str(), process.target.as_deref()),
                (name.as_str(), target),
                "{}",
                python.label()
            );
        }
    }
}
