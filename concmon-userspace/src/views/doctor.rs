//! What `doctor` says to people: a line for each check, and what mends it below.

use std::io::{self, Write};

use super::{
    Paint,
    escape::{escape, left},
};
use crate::schema::{Check, CheckStatus, Doctor};

/// Cells of the first two columns.
const STATUS: usize = 9;
const NAME: usize = 22;

/// Writes the checks, those of the host first, and what they come to.
///
/// # Errors
/// Those of the writer.
pub fn write(doctor: &Doctor, paint: Paint, out: &mut dyn Write) -> io::Result<()> {
    let mut pid = None;
    for check in &doctor.checks {
        if check.pid != pid {
            pid = check.pid;
            if let Some(pid) = pid {
                writeln!(out, "\n{}", paint.bold(&format!("process {pid}")))?;
            }
        }
        line(check, paint, out)?;
    }
    match &doctor.reason {
        Some(reason) => writeln!(
            out,
            "\n{} (exit code {}): {}",
            paint.alarm("A watch would not work"),
            doctor.exit_code,
            escape(reason)
        ),
        None => {
            let degraded = |check: &&Check| check.status == CheckStatus::Degraded;
            let less = match doctor.checks.iter().filter(degraded).count() {
                0 => String::new(),
                1 => ", without what one line above says".to_owned(),
                lines => format!(", without what {lines} lines above say"),
            };
            writeln!(out, "\nA watch works here{less}.")
        }
    }
}

fn line(check: &Check, paint: Paint, out: &mut dyn Write) -> io::Result<()> {
    let word = match check.status {
        CheckStatus::Ok | CheckStatus::Unknown => check.status.name().to_owned(),
        // Without color it has to stand out, too.
        CheckStatus::Degraded | CheckStatus::Failed => check.status.name().to_uppercase(),
    };
    let word = left(&word, STATUS);
    let word = match check.status {
        CheckStatus::Failed => paint.alarm(&word),
        CheckStatus::Degraded => paint.bold(&word),
        CheckStatus::Ok | CheckStatus::Unknown => word,
    };
    let mut text = escape(&check.found).into_owned();
    if check.status != CheckStatus::Ok {
        for (before, more) in [("it gives ", &check.gives), ("it needs ", &check.needs)] {
            if let Some(more) = more {
                text += &format!("; {before}{}", escape(more));
            }
        }
    }
    writeln!(out, "{word} {} {text}", left(check.name, NAME))?;
    if let Some(fix) = &check.fix {
        writeln!(out, "{:1$} -> {2}", "", STATUS + NAME + 1, escape(fix))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(checks: Vec<Check>, failure: Option<(u8, String)>) -> String {
        let mut out = Vec::new();
        write(&Doctor::new(checks, failure), Paint::Plain, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn what_is_missing_stands_out_and_is_mended() {
        let mut python = Check::not_ok(
            "python",
            CheckStatus::Failed,
            "process 7 (\x1b[31m) is not Python",
            Some("pgrep -af python".to_owned()),
        );
        python.pid = Some(7);
        let checks = vec![
            Check::ok("btf", "there").giving("offsets"),
            Check::not_ok(
                "samples",
                CheckStatus::Degraded,
                "none",
                Some("boot".to_owned()),
            )
            .giving("stacks")
            .needing("a helper"),
            python,
        ];
        assert_eq!(
            text(checks.clone(), Some((3, "it is not Python".to_owned()))),
            r"ok        btf                    there
DEGRADED  samples                none; it gives stacks; it needs a helper
                                 -> boot

process 7
FAILED    python                 process 7 (\x1b[31m) is not Python
                                 -> pgrep -af python

A watch would not work (exit code 3): it is not Python
"
        );
        assert!(text(checks[..2].to_vec(), None).ends_with("without what one line above says.\n"));
        assert!(text(checks[..1].to_vec(), None).ends_with("A watch works here.\n"));
    }
}
