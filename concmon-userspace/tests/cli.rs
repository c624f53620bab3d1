//! The command line as a user meets it: what is accepted, what is refused, and the help text.

use std::ffi::OsString;
use std::time::Duration;

use clap::error::ErrorKind;
use concmon::cli::{
    Arrangement, By, Cli, Color, Exact, Format, GroupBy, LookView, Recorded, Selection, Share,
    Target, Watched,
};

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::from_args(std::iter::once("concmon-bpf").chain(line.split_whitespace()))
}

#[test]
fn help_is_pinned() {
    let mut command = Cli::clap_command().term_width(80);
    insta::assert_snapshot!(command.render_help().to_string());
    command.build();
    for name in [
        "dump", "tasks", "record", "report", "export", "diff", "doctor", "agent",
    ] {
        let look = command.find_subcommand_mut(name).expect(name);
        insta::assert_snapshot!(format!("help_of_{name}"), look.render_help().to_string());
    }
    let printed = |flag| parse(flag).expect_err(flag).to_string();
    assert_eq!(printed("-h"), printed("--help"));
}

#[test]
fn targets() {
    let pids = |pids: &[u32]| Watched::Processes(Selection::of_pids(pids.to_vec()));
    let command = |words: &[&str]| Watched::Command(words.iter().map(OsString::from).collect());
    for (line, target) in [
        ("--pid 1", pids(&[1])),
        ("-p 7 -p 3 --pid 7", pids(&[3, 7])),
        (
            "-- python app.py -p 3 --json",
            command(&["python", "app.py", "-p", "3", "--json"]),
        ),
        ("-d 1 -- demo", command(&["demo"])),
        ("demo", Watched::Demo),
        ("--json demo -d 5s", Watched::Demo),
    ] {
        let target = Target::Watch(target);
        assert_eq!(parse(line).expect(line).target(), target, "{line}");
    }
}

/// A number is a process wherever one is wanted, and any word a capture, unless it is an option's value.
#[test]
fn what_hands_type_anyway() {
    for (typed, meant) in [
        ("4242", "--pid 4242"),
        ("-d 30 4242 -i 2", "-d 30 --pid 4242 -i 2"),
        ("7 3", "-p 3 -p 7"),
        ("dump 4242", "dump -p 4242"),
        (
            "dump --context-var 5 4242 --json",
            "dump --context-var 5 -p 4242 --json",
        ),
        ("tasks 4242 --tree", "tasks -p 4242 --tree"),
        ("record 4242", "record -p 4242"),
        ("doctor 4242 --json", "doctor -p 4242 --json"),
        ("record -vd 5 4242 -o 17", "record -v -d 5 -p 4242 -o 17"),
        ("report F", "report -i F"),
        (
            "report F --since -10s --html P",
            "report -i F --since -10s --html P",
        ),
        ("export F -f svg -o 17", "export -i F -f svg -o 17"),
        ("export 17 -fsvg", "export -i 17 -f svg"),
        ("-- 4242", "-- 4242"),
        ("diff 1 2", "diff 1 2"),
        ("explain 1", "explain 1"),
    ] {
        let typed_target = parse(typed).expect(typed).target();
        let meant = parse(meant).expect(meant);
        assert_eq!(typed_target, meant.target(), "{typed}");
        let options = parse(typed).expect(typed).options;
        assert_eq!(options.duration, meant.options.duration, "{typed}");
        assert_eq!(options.output, meant.options.output, "{typed}");
        assert_eq!(options.watching, meant.options.watching, "{typed}");
    }
    for (typed, meant) in [
        ("help", "--help"),
        ("help dump", "dump --help"),
        ("help record", "record --help"),
    ] {
        let (typed, meant) = (parse(typed), parse(meant));
        let typed = typed.expect_err("help");
        assert_eq!(typed.kind(), ErrorKind::DisplayHelp);
        assert_eq!(typed.to_string(), meant.expect_err("help").to_string());
    }
    let error = parse("--pid python").expect_err("no number").to_string();
    assert!(
        error.contains("pgrep -f python") || error.contains("--name python"),
        "{error}"
    );
}

#[test]
fn selections() {
    let selection = |line: &str| match parse(line).expect(line).target() {
        Target::Watch(Watched::Processes(selection))
        | Target::Record(Watched::Processes(selection), _) => selection,
        Target::Look(look, _) => look.processes,
        other => panic!("{line}: {other:?}"),
    };
    for command in ["", "record ", "dump ", "tasks "] {
        for (given, later) in [
            ("--pid 7 --pid 9", false),
            ("--pid 7 --container web", false),
            ("--name app --name shop", true),
            ("--all --exclude celery --exclude beat", true),
            (
                "--pid 7 --unit shop --container a --container b --cgroup /x",
                true,
            ),
        ] {
            for wait in [false, true] {
                let line = format!("{command}{given}{}", if wait { " --wait" } else { "" });
                let found = selection(&line);
                assert_eq!(
                    (found.words().as_str(), found.wait, found.selects_later()),
                    (given, wait, later || given.contains("--unit")),
                    "{line}"
                );
            }
        }
    }
}

#[test]
fn looks() {
    for (line, pids, view) in [
        (
            "dump -p 7 -p 3 --pid 7",
            &[3, 7][..],
            LookView::Dump { heap_scan: false },
        ),
        (
            "--json dump --pid 1",
            &[1],
            LookView::Dump { heap_scan: false },
        ),
        ("tasks -p 1", &[1], LookView::Tasks(Arrangement::Table)),
        (
            "tasks -p 1 --json",
            &[1],
            LookView::Tasks(Arrangement::Table),
        ),
        (
            "tasks --tree -p 1",
            &[1],
            LookView::Tasks(Arrangement::Tree),
        ),
        (
            "tasks -p 1 --group-by await",
            &[1],
            LookView::Tasks(Arrangement::Groups(GroupBy::Await)),
        ),
        (
            "tasks -p 1 --group-by name -o f --color never -q",
            &[1],
            LookView::Tasks(Arrangement::Groups(GroupBy::Name)),
        ),
    ] {
        match parse(line).expect(line).target() {
            Target::Look(look, what) => {
                assert_eq!((&look.processes.pids()[..], what), (pids, view))
            }
            other => panic!("{line}: {other:?}"),
        }
    }
    for (line, on) in [
        ("dump -p 1", false),
        ("dump -p 1 -s", true),
        ("tasks -p 1 --subprocesses", true),
        ("dump -p 1 -s --no-subprocesses", false),
    ] {
        let options = parse(line).expect(line).options;
        assert_eq!(options.follows_descendants(), on, "{line}");
    }
}

#[test]
fn context_variables() {
    for (line, names) in [
        ("-p 1", &["request_id", "correlation_id", "trace_id"][..]),
        ("-p 1 --context-var user", &["user"]),
        ("dump -p 1", &["request_id", "correlation_id", "trace_id"]),
        ("tasks -p 1 --context-var a --context-var b", &["a", "b"]),
        ("--context-var a tasks -p 1", &["a"]),
    ] {
        assert_eq!(
            parse(line).expect(line).options.context_vars,
            names,
            "{line}"
        );
    }
    // What reading begins with, where nobody says anything.
    let defaults = concmon::python::ScanOptions::default().context_vars;
    assert_eq!(parse("-p 1").expect("valid").options.context_vars, defaults);
}

#[test]
fn options_and_defaults() {
    let plain = parse("-p 1").expect("valid").options;
    assert_eq!(plain.watching.interval, Duration::from_secs(1));
    assert_eq!(plain.duration, None);
    assert_eq!(plain.color, Color::Auto);
    assert_eq!((plain.json, plain.quiet, plain.verbose), (false, false, 0));
    assert!(plain.subprocesses() && plain.output.is_none());
    assert!(plain.watching.exact.is_empty());
    let watching = parse("-p 1 --exact tasks").expect("valid").options.watching;
    assert_eq!(watching.exact, [Exact::Tasks]);

    let recorded = parse("record -p 1 -o f --rate 7 -i 200ms --budget-cpu 50% --fail-on any");
    let recorded = recorded.expect("valid").options.watching;
    assert_eq!((recorded.rate, recorded.budget_cpu), (7, Share(0.5)));
    assert_eq!(recorded.interval, Duration::from_millis(200));
    assert_eq!(recorded.fail_on, ["any"]);
    let before = parse("--budget-cpu 50% record -p 1 -o f").expect_err("not behind it");
    assert!(before.to_string().contains("put '--budget-cpu' behind"));

    let set = parse("demo -d 2m -i 250ms --no-subprocesses --json -o out.json --color never -vv");
    let set = set.expect("valid").options;
    assert_eq!(set.watching.interval, Duration::from_millis(250));
    assert_eq!(set.duration, Some(Duration::from_secs(120)));
    assert_eq!(set.color, Color::Never);
    assert_eq!((set.json, set.quiet, set.verbose), (true, false, 2));
    assert!(!set.subprocesses());
    assert_eq!(set.output.as_deref(), Some("out.json".as_ref()));

    for (line, on) in [
        ("-p 1 -s", true),
        ("-p 1 -s --no-subprocesses", false),
        ("-p 1 --no-subprocesses --subprocesses", true),
    ] {
        assert_eq!(
            parse(line).expect(line).options.subprocesses(),
            on,
            "{line}"
        );
    }
}

#[test]
fn wrong_usage_exits_with_2_and_says_why() {
    for (line, kind, says) in [
        (
            "",
            ErrorKind::MissingRequiredArgument,
            "--pid <PID>|--name <REGEX>|--all",
        ),
        (
            "--json",
            ErrorKind::MissingRequiredArgument,
            "--pid <PID>|--name <REGEX>|--all",
        ),
        (
            "--",
            ErrorKind::MissingRequiredArgument,
            "--pid <PID>|--name <REGEX>|--all",
        ),
        (
            "-p 1 -- python",
            ErrorKind::ArgumentConflict,
            "cannot be used with",
        ),
        (
            "-p 1 demo",
            ErrorKind::ArgumentConflict,
            "leave out '--pid'",
        ),
        (
            "--all -- python",
            ErrorKind::ArgumentConflict,
            "cannot be used with",
        ),
        (
            "--name a dump -p 1",
            ErrorKind::ArgumentConflict,
            "put '--name' behind the subcommand 'dump'",
        ),
        ("--name [a", ErrorKind::ValueValidation, "unclosed"),
        ("--unit=", ErrorKind::ValueValidation, "it is empty"),
        (
            "--exclude a",
            ErrorKind::MissingRequiredArgument,
            "--pid <PID>",
        ),
        ("--wait", ErrorKind::MissingRequiredArgument, "--pid <PID>"),
        (
            "--wait -- python",
            ErrorKind::MissingRequiredArgument,
            "--pid <PID>",
        ),
        ("demo -p 1", ErrorKind::UnknownArgument, "-p"),
        ("agent -p 1", ErrorKind::UnknownArgument, "-p"),
        (
            "agent --json",
            ErrorKind::ArgumentConflict,
            "leave out '--json'",
        ),
        (
            "agent -d 5",
            ErrorKind::ArgumentConflict,
            "leave out '--duration'",
        ),
        (
            "--budget-cpu 1% agent",
            ErrorKind::ArgumentConflict,
            "put '--budget-cpu' behind the subcommand 'agent'",
        ),
        (
            "agent --listen here",
            ErrorKind::ValueValidation,
            "invalid socket address",
        ),
        (
            "python app.py",
            ErrorKind::UnknownArgument,
            "put `--` before it",
        ),
        (
            "-p 0",
            ErrorKind::ValueValidation,
            "0 is not in 1..=4194304",
        ),
        (
            "-p 1 --exact threads",
            ErrorKind::InvalidValue,
            "possible values: tasks",
        ),
        ("-p 4194305", ErrorKind::ValueValidation, "not in"),
        ("-p me", ErrorKind::ValueValidation, "invalid digit"),
        ("-p -1", ErrorKind::UnknownArgument, "-1"),
        (
            "-p 1 -i 50ms",
            ErrorKind::ValueValidation,
            "at least 100ms is needed",
        ),
        (
            "-p 1 -d 5x",
            ErrorKind::ValueValidation,
            "`x` is not a unit of time",
        ),
        (
            "-p 1 -v -q",
            ErrorKind::ArgumentConflict,
            "cannot be used with",
        ),
        (
            "-p 1 --color blue",
            ErrorKind::InvalidValue,
            "auto, always, never",
        ),
        ("recall -p 1", ErrorKind::UnknownArgument, "'recall'"),
        ("reccord -p 1", ErrorKind::UnknownArgument, "exists: record"),
        ("exprot -i f", ErrorKind::UnknownArgument, "exists: export"),
        ("top -p 1", ErrorKind::UnknownArgument, "the live view"),
        (
            "record app.py -x",
            ErrorKind::UnknownArgument,
            "concmon-bpf record -- app.py -x",
        ),
        ("dump python", ErrorKind::UnknownArgument, "python"),
        (
            "-p 1 --durations 5",
            ErrorKind::UnknownArgument,
            "--duration",
        ),
        ("report a b", ErrorKind::ArgumentConflict, "--input"),
        (
            "4242 dump 1",
            ErrorKind::ArgumentConflict,
            "behind the subcommand",
        ),
        (
            "-p 1 --tree",
            ErrorKind::UnknownArgument,
            "option of: tasks",
        ),
        ("help dmup", ErrorKind::UnknownArgument, "exists: dump"),
        (
            "-p 1 doctor",
            ErrorKind::ArgumentConflict,
            "behind the subcommand",
        ),
        (
            "--rate 5 doctor",
            ErrorKind::ArgumentConflict,
            "does not watch",
        ),
        ("doctor python", ErrorKind::UnknownArgument, "python"),
        ("help nothing", ErrorKind::UnknownArgument, "'nothing'"),
        ("dump", ErrorKind::MissingRequiredArgument, "--pid"),
        ("dump -p 0", ErrorKind::ValueValidation, "0 is not in"),
        (
            "-p 1 dump -p 1",
            ErrorKind::ArgumentConflict,
            "behind the subcommand 'dump'",
        ),
        (
            "dump -p 1 -d 5s",
            ErrorKind::ArgumentConflict,
            "'dump' looks once",
        ),
        (
            "-i 5s tasks -p 1",
            ErrorKind::ArgumentConflict,
            "leave out '--interval'",
        ),
        (
            "--rate 9 report -i f",
            ErrorKind::ArgumentConflict,
            "'report' does not watch: leave out '--rate'",
        ),
        (
            "--fail-on any explain --list",
            ErrorKind::ArgumentConflict,
            "leave out '--fail-on'",
        ),
        (
            "tasks -p 1 --tree --group-by name",
            ErrorKind::ArgumentConflict,
            "cannot be used with",
        ),
        (
            "tasks -p 1 --json --tree",
            ErrorKind::ArgumentConflict,
            "leave out '--tree'",
        ),
        (
            "tasks -p 1 --json --group-by name",
            ErrorKind::ArgumentConflict,
            "leave out '--group-by'",
        ),
        (
            "tasks -p 1 --group-by age",
            ErrorKind::InvalidValue,
            "await, coroutine, name",
        ),
        ("dump -p 1 --tree", ErrorKind::UnknownArgument, "--tree"),
        (
            "-p 1 --context-var=",
            ErrorKind::InvalidValue,
            "--context-var",
        ),
    ] {
        let error = parse(line).expect_err(line);
        assert_eq!(error.kind(), kind, "{line}: {error}");
        assert_eq!(error.exit_code(), 2, "{line}");
        assert!(error.to_string().contains(says), "{line}: {error}");
    }
}

#[test]
fn help_and_version_are_not_errors() {
    for (line, kind) in [
        ("--help", ErrorKind::DisplayHelp),
        ("-h", ErrorKind::DisplayHelp),
        ("--version", ErrorKind::DisplayVersion),
    ] {
        let error = parse(line).expect_err(line);
        assert_eq!((error.kind(), error.exit_code()), (kind, 0), "{line}");
    }
    let version = parse("-V").expect_err("version").to_string();
    assert_eq!(
        version,
        format!("concmon-bpf {}\n", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn no_color_counts_unless_color_is_asked_for() {
    for (color, terminal, no_color, on) in [
        (Color::Auto, true, None, true),
        (Color::Auto, false, None, false),
        (Color::Auto, true, Some("1"), false),
        (Color::Auto, true, Some(""), true),
        (Color::Always, false, Some("1"), true),
        (Color::Never, true, None, false),
    ] {
        let no_color = no_color.map(std::ffi::OsStr::new);
        assert_eq!(
            color.enabled(terminal, no_color),
            on,
            "{color:?} {terminal} {no_color:?}"
        );
    }
}

#[test]
fn exports_and_diffs() {
    let export = |line: &str| match parse(line).expect(line).target() {
        Target::Export(export) => (export.format, export.by),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        export("export -i F -f perfetto -o T"),
        (Format::Perfetto, By::OnCpu)
    );
    assert_eq!(
        export("export -i F -f svg --by gil"),
        (Format::Svg, By::Gil)
    );
    match parse("diff A B --json").expect("a diff").target() {
        Target::Diff(diff) => assert_eq!(
            (diff.before.to_str(), diff.after.to_str()),
            (Some("A"), Some("B"))
        ),
        other => panic!("{other:?}"),
    }
    let recorded = |line: &str| match parse(line).expect(line).target() {
        Target::Record(_, recorded) => recorded,
        other => panic!("{other:?}"),
    };
    assert_eq!(recorded("record -p 1"), Recorded::Capture);
    assert_eq!(
        recorded("record -p 1 -f svg -o F"),
        Recorded::Export(Format::Svg, By::OnCpu)
    );
    assert_eq!(
        recorded("record 1 -f pprof --by wall"),
        Recorded::Export(Format::Pprof, By::Wall)
    );
    for line in [
        "record -p 1 --by wall",
        "record -p 1 -f svg --ring 5s",
        "record -p 1 -f gif",
        "export -i F",
        "export -f svg",
        "export -i F -f svg --json",
        "export -i F -f svg -d 5s",
        "export -i F -f gif",
        "export -i F -f svg --by cpu",
        "diff A",
        "diff A B C",
        "diff A B -d 5s",
    ] {
        assert!(parse(line).is_err(), "{line}");
    }
}

/// What the program prints.
fn printed(arguments: &[&str]) -> String {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_concmon-bpf"))
        .args(arguments)
        .output()
        .expect("the program");
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// Shells complete every subcommand, and each has a page with all of its options.
#[test]
fn completions_and_manual_pages_have_all_there_is() {
    let mut command = Cli::clap_command();
    command.build();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let text = printed(&["completions", shell]);
        for subcommand in command.get_subcommands() {
            assert!(
                text.contains(subcommand.get_name()),
                "{shell}: {subcommand}"
            );
        }
    }
    let whole = printed(&["man"]);
    assert!(
        whole.starts_with(".ie") && whole.contains("\nconcmon\\-bpf \\-"),
        "{whole:.300}"
    );
    for subcommand in command.get_subcommands() {
        let page = printed(&["man", subcommand.get_name()]);
        assert!(page.contains(&format!("concmon\\-bpf\\-{} ", subcommand.get_name())));
        let shown = subcommand
            .get_arguments()
            .filter(|argument| !argument.is_hide_set());
        for long in shown.filter_map(clap::Arg::get_long) {
            let option = format!("\\-\\-{}", long.replace('-', "\\-"));
            assert!(page.contains(&option), "{subcommand}: {long}");
        }
    }
}
