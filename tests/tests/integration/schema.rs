//! The published JSON Schema, and the lines of commands that read files or nothing at all. What watches and
//! looks print is validated wherever other tests read it.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use concmon_tests::harness::quiet;
use concmon_tests::schema;
use concmon_tests::watch::binary;
use libtest_mimic::Trial;
use serde_json::{Value, json};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        quiet(
            "schema::lines_of_files_are_as_published",
            &[],
            lines_of_files,
        ),
        quiet("schema::what_is_not_as_published_is_seen", &[], wrong_lines),
    ]
}

fn lines(args: &[&str]) -> Result<Vec<Value>> {
    let out = Command::new(binary()?).args(args).output()?;
    ensure!(out.status.success(), "{args:?}: {out:?}");
    let lines = std::str::from_utf8(&out.stdout)?.lines();
    lines.map(|line| schema::line(line.as_bytes())).collect()
}

fn capture() -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("captures/1.0.concmon");
    Ok(path.to_string_lossy().into_owned())
}

fn lines_of_files() -> Result<()> {
    let file = capture()?;
    for (args, kinds) in [
        (
            &["report", "-i", &file, "--json", "--per", "1s"][..],
            &["snapshot", "summary"][..],
        ),
        (&["diff", &file, &file, "--json"], &["diff"]),
        (&["explain", "--list", "--json"], &["rule"]),
    ] {
        let found = lines(args)?;
        for kind in kinds {
            ensure!(
                found.iter().any(|line| line["type"] == *kind),
                "no {kind} of {args:?}"
            );
        }
    }
    Ok(())
}

/// The validator is not one that takes everything.
fn wrong_lines() -> Result<()> {
    let file = capture()?;
    let line = lines(&["report", "-i", &file, "--json"])?.remove(0);
    type Change = fn(&mut Value);
    let changes: [(&str, Change); 5] = [
        ("a field that is not named", |line| {
            line["processes"][0]["threads"][0]["colour"] = json!("red");
        }),
        ("a field less", |line| {
            line["processes"][0]["threads"][0]
                .as_object_mut()
                .expect("a row")
                .remove("wall_ns");
        }),
        ("null where there is always a value", |line| {
            line["window"]["duration_ns"] = Value::Null;
        }),
        ("a word that is not listed", |line| {
            line["processes"][0]["threads"][0]["role"] = json!("chief");
        }),
        ("text for a number", |line| {
            line["monitor"]["cpu_ns"] = json!("1");
        }),
    ];
    for (what, change) in changes {
        let mut wrong = line.clone();
        change(&mut wrong);
        ensure!(schema::validate(&wrong).is_err(), "{what} was not seen");
    }
    schema::validate(&line)
}
