//! The account of `interpreter_trio.py`, which has a form of its own, as a dump would have it.

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// What the dump must say of the process.
pub(super) fn expected(account: &Value) -> Result<Value> {
    let list = |key: &str| {
        account[key]
            .as_array()
            .with_context(|| format!("the account has no {key}"))
    };
    let tasks = list("tasks")?;
    let loops: Vec<Value> = list("runs")?
        .iter()
        .map(|run| {
            let own = tasks.iter().filter(|task| task["loop"] == run["id"]);
            json!({
                "tid": run["tid"],
                "kind": "trio",
                "running": true,
                "ready": run["ready"],
                "scheduled": run["scheduled"],
                "tasks": own.map(task).collect::<Vec<Value>>(),
            })
        })
        .collect();
    Ok(json!({ "loops": loops }))
}

fn task(own: &Value) -> Value {
    let frames: Vec<Value> = own["chain"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|frame| json!({"function": frame[0], "file": frame[1], "line": frame[2]}))
        .collect();
    let parent: Vec<Value> = address(&own["parent"]).into_iter().collect();
    let mut task = json!({
        "id": address(&own["id"]),
        "name": own["name"],
        "coroutine": own["coroutine"],
        "state": own["state"],
        "awaiting": frames,
        "awaited_by": parent,
        "cancel_requested": own["cancelled"],
    });
    if own["waits"] == json!(false) {
        task["waits_for"] = Value::Null;
    } else if !own["waits_for"].is_null() {
        task["waits_for"] = json!({"kind": own["waits_for"]});
    }
    task
}

/// As dumps write it.
fn address(number: &Value) -> Option<Value> {
    Some(format!("{:#x}", number.as_u64()?).into())
}
