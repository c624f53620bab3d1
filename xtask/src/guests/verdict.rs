//! Judges what concmon-bpf printed in a guest: is there a summary, and does every ledger close?
use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// What a summary shows.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) threads: usize,
    /// Threads whose columns do not add up to their wall time: name and difference in ns.
    pub(crate) open: Vec<(String, i128)>,
    /// Causes with blocked time in any thread.
    pub(crate) causes: BTreeSet<String>,
    /// Time in the column `unknown` over all threads, ns.
    pub(crate) unknown_ns: i128,
    /// Tasks whose end was counted by probes.
    pub(crate) tasks: i128,
    /// HTTP requests that were seen, each with how long it lay unread; `None`: they cannot be seen, which is said.
    pub(crate) requests: Option<i128>,
    /// Why some of that is not known.
    pub(crate) limits: Vec<String>,
}

/// Reads NDJSON as `--json` writes it.
pub(crate) fn judge(stdout: &[u8]) -> Result<Verdict> {
    let text = std::str::from_utf8(stdout).context("the output is not UTF-8")?;
    let last = text.lines().last().context("there is no output")?;
    let summary: Value = serde_json::from_str(last).context("the last line is not JSON")?;
    ensure!(
        summary["type"] == "summary",
        "the last line is no summary but {}",
        summary["type"]
    );
    let mut verdict = Verdict {
        threads: 0,
        open: Vec::new(),
        causes: BTreeSet::new(),
        unknown_ns: 0,
        tasks: 0,
        requests: None,
        limits: Vec::new(),
    };
    for process in list(&summary, "processes")? {
        let exact = &process["exact"];
        for row in exact["tasks"].as_array().into_iter().flatten() {
            verdict.tasks += ns(row, "finished")?;
        }
        let requests = process["http"]["requests"].as_array();
        for row in requests.into_iter().flatten() {
            let (count, unread) = (ns(row, "count")?, ns(&row["queue"], "count")?);
            *verdict.requests.get_or_insert(0) += count.min(unread);
        }
        let own = process["limits"].as_array().into_iter().flatten();
        let own = own.filter(|limit| limit["field"] == "http");
        let reasons = own.filter_map(|limit| limit["reason"].as_str());
        verdict.limits.extend(reasons.map(str::to_owned));
        let limits = exact["limits"].as_array().into_iter().flatten();
        let reasons = limits.filter_map(|limit| limit["reason"].as_str());
        verdict.limits.extend(reasons.map(str::to_owned));
        for thread in list(process, "threads")? {
            let unknown = ns(thread, "unknown_ns")?;
            let mut columns = ns(thread, "on_cpu_ns")? + ns(thread, "runnable_ns")? + unknown;
            let blocked = thread["blocked_ns"]
                .as_object()
                .context("a thread has no blocked_ns")?;
            for cause in blocked.keys() {
                let value = ns(&thread["blocked_ns"], cause)?;
                columns += value;
                if value > 0 {
                    verdict.causes.insert(cause.clone());
                }
            }
            let difference = ns(thread, "wall_ns")? - columns;
            if difference != 0 {
                verdict.open.push((thread["name"].to_string(), difference));
            }
            verdict.threads += 1;
            verdict.unknown_ns += unknown;
        }
    }
    ensure!(verdict.threads > 0, "the summary has no threads");
    Ok(verdict)
}

fn list<'a>(object: &'a Value, key: &str) -> Result<&'a Vec<Value>> {
    object[key]
        .as_array()
        .with_context(|| format!("there is no list `{key}`"))
}

fn ns(object: &Value, key: &str) -> Result<i128> {
    object[key]
        .as_i64()
        .map(i128::from)
        .with_context(|| format!("`{key}` is no number but {}", object[key]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(wall_ns: u64) -> String {
        format!(
            r#"{{"type":"snapshot"}}
{{"type":"summary","processes":[{{"exact":{{"tasks":[{{"finished":7}},{{"finished":2}}],"limits":[]}},"threads":[{{"name":"a","wall_ns":{wall_ns},"on_cpu_ns":5,"runnable_ns":3,"blocked_ns":{{"gil":2,"io":0}},"unknown_ns":1}}]}}]}}
"#
        )
    }

    #[test]
    fn a_ledger_closes_or_does_not() {
        let verdict = judge(summary(11).as_bytes()).expect("a summary");
        assert!(verdict.open.is_empty());
        assert_eq!(verdict.causes, BTreeSet::from(["gil".to_owned()]));
        assert_eq!((verdict.threads, verdict.unknown_ns), (1, 1));
        assert_eq!((verdict.tasks, verdict.limits.len()), (9, 0));

        let verdict = judge(summary(12).as_bytes()).expect("a summary");
        assert_eq!(verdict.open, [("\"a\"".to_owned(), 1)]);
    }

    #[test]
    fn what_is_no_summary_is_an_error() {
        for text in [
            "",
            "not json",
            r#"{"type":"snapshot"}"#,
            r#"{"type":"summary","processes":[]}"#,
            r#"{"type":"summary","processes":[{"threads":[{"wall_ns":null}]}]}"#,
        ] {
            assert!(judge(text.as_bytes()).is_err(), "{text}");
        }
    }
}
