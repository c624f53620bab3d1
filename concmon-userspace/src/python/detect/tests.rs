//! Which interpreters are taken for what.

use super::*;

#[test]
fn names_of_interpreters() {
    for name in [
        "python",
        "python3",
        "python3.13",
        "libpython3.13t.so.1.0",
        "python2.7",
    ] {
        assert!(named_python(name), "{name}");
    }
    for name in [
        "pythonista",
        "python-apt.mo",
        "libpython",
        "lib",
        "ipython",
        "bash",
    ] {
        assert_eq!(named_python(name), name == "libpython", "{name}");
    }
    assert!(named_pypy("libpypy3.10-c.so") && !named_pypy("python3"));
}

#[test]
fn a_process_that_is_not_python() {
    let pid = Pid(std::process::id());
    let error = detect(pid, &ProcessMemory::new(pid)).unwrap_err();
    assert!(matches!(error, DetectError::NotPython), "{error}");
    let none = Pid(u32::MAX);
    let error = detect(none, &ProcessMemory::new(none)).unwrap_err();
    assert!(matches!(error, DetectError::Gone), "{error}");
}
