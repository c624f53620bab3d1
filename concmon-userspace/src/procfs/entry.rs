//! What a Python process was started to run, from its command line.

/// Options with an argument, besides `-c` and `-m`, which end the options.
///
/// `Python/getopt.c` of CPython 3.8 to 3.15: `+bBc:dEhiIJm:OPqRsStuvVW:xX:?`.
const WITH_ARGUMENT: [char; 2] = ['W', 'X'];
/// The only long option of the interpreter that takes an argument (in the next word).
const LONG_WITH_ARGUMENT: &str = "--check-hash-based-pycs";

/// What the interpreter runs: the script's path as given, `-m module`, `-c`, or `<stdin>` where
/// it reads its program from there (`-`, or no argument at all, interactive or not).
///
/// `None` when the first word is no Python interpreter: another program, one that embeds Python,
/// or a process that has changed its title.
pub fn entry_of(cmdline: &[String]) -> Option<String> {
    let (program, arguments) = cmdline.split_first()?;
    if !is_interpreter(program) {
        return None;
    }
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        if argument == "-" {
            return Some("<stdin>".to_owned());
        }
        if argument == "--" {
            return Some(match arguments.next().map(String::as_str) {
                None | Some("-") => "<stdin>".to_owned(),
                Some(script) => script.to_owned(),
            });
        }
        if argument.starts_with("--") {
            if argument == LONG_WITH_ARGUMENT {
                arguments.next();
            }
            continue;
        }
        let Some(options) = argument.strip_prefix('-') else {
            return Some(argument.clone());
        };
        // `-Bum module`, `-Wignore`, `-W ignore`: an argument is the rest of the word, or the next.
        for (at, option) in options.char_indices() {
            let rest = &options[at + option.len_utf8()..];
            match option {
                'c' => return Some("-c".to_owned()),
                'm' => {
                    let module = if rest.is_empty() {
                        arguments.next()?.as_str()
                    } else {
                        rest
                    };
                    return Some(format!("-m {module}"));
                }
                _ if WITH_ARGUMENT.contains(&option) => {
                    if rest.is_empty() {
                        arguments.next();
                    }
                    break;
                }
                _ => {}
            }
        }
    }
    Some("<stdin>".to_owned())
}

/// `python3`, `/opt/x/bin/python3.13t`, `pypy3.10`; not `python: worker 3`, a title.
fn is_interpreter(program: &str) -> bool {
    let name = program
        .rsplit('/')
        .next()
        .unwrap_or(program)
        .to_ascii_lowercase();
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    (name.starts_with("python") || name.starts_with("pypy")) && name.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries() {
        for (words, expected) in [
            ("python3 app.py", Some("app.py")),
            ("/usr/bin/python3.13t ./app.py -m x -c y", Some("./app.py")),
            ("python -u -B -E app.py", Some("app.py")),
            ("python -X dev app.py", Some("app.py")),
            ("python -Xdev app.py", Some("app.py")),
            (
                "python -X dev -W ignore -m http.server 80",
                Some("-m http.server"),
            ),
            ("python -mhttp.server", Some("-m http.server")),
            ("python -Bum pkg.mod arg", Some("-m pkg.mod")),
            ("python -BX importtime app.py", Some("app.py")),
            ("python -uc print(1)", Some("-c")),
            ("python -c print(1) app.py", Some("-c")),
            ("python -Walways::DeprecationWarning app.py", Some("app.py")),
            ("python -i app.py", Some("app.py")),
            ("python -i", Some("<stdin>")),
            ("python", Some("<stdin>")),
            ("python - app.py", Some("<stdin>")),
            ("python -- -odd.py", Some("-odd.py")),
            ("python -- -", Some("<stdin>")),
            ("python --", Some("<stdin>")),
            (
                "python --check-hash-based-pycs never app.py",
                Some("app.py"),
            ),
            ("python --help-all app.py", Some("app.py")),
            ("python -m", None),
            ("pypy3 app.py", Some("app.py")),
            (
                "/v/bin/python /v/bin/gunicorn app:app",
                Some("/v/bin/gunicorn"),
            ),
            ("uwsgi --ini x.ini", None),
            ("python: worker", None),
            ("/a/python/bin/node x.js", None),
        ] {
            let words: Vec<String> = words.split(' ').map(str::to_owned).collect();
            assert_eq!(entry_of(&words).as_deref(), expected, "{words:?}");
        }
        assert_eq!(entry_of(&[]), None);
        assert_eq!(entry_of(&["python: worker 3".to_owned()]), None);
        assert_eq!(
            entry_of(&["python".to_owned(), String::new()]).as_deref(),
            Some("")
        );
    }

    /// Ground truth: what interpreters themselves take for their program.
    #[test]
    fn agrees_with_the_interpreter() {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("app.py");
        let body = "import sys; print(__file__ if '__file__' in globals() else '<none>', end='')";
        std::fs::write(&script, body).unwrap();
        for options in [
            &["-X", "dev"][..],
            &["-Xdev"],
            &["-BX", "dev"],
            &["-W", "ignore"],
            &["-Wignore", "-uB"],
            &["-E", "-s", "-S"],
            &["--check-hash-based-pycs", "never"],
            &["--"],
        ] {
            let mut words = vec!["python3".to_owned()];
            words.extend(options.iter().map(|o| (*o).to_owned()));
            words.push(script.display().to_string());
            let output = std::process::Command::new(&words[0])
                .args(&words[1..])
                .output();
            let Ok(output) = output else {
                eprintln!("SKIPPED agrees_with_the_interpreter: no python3");
                return;
            };
            let ran = String::from_utf8(output.stdout).unwrap();
            assert_eq!(entry_of(&words), Some(ran), "{words:?}");
        }
    }
}
