//! The kinds of lines, and the JSON Schema that describes all of them.

use schemars::{JsonSchema, generate::SchemaSettings};
use serde::Serialize;
use serde_json::Value;

use super::diff::Diff;
use super::dump::Dump;
use super::words::words;
use super::{Doctor, Hang, LoopKind, RuleLine, SCHEMA, Snapshot, Stall};

/// A line of its own for each stall, as soon as it is over.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "StallLine")]
pub struct StallLine<'a> {
    /// `concmon/1`.
    schema: &'static str,
    #[serde(rename = "type")]
    line: StallKind,
    /// The loop's process.
    pid: u32,
    /// The loop's thread.
    tid: u32,
    kind: LoopKind,
    #[serde(flatten)]
    stall: &'a Stall,
}

words! {
    /// The kind of the line.
    pub enum StallKind {
        Stall = "stall",
    }
}

impl<'a> StallLine<'a> {
    /// The line of a stall of this loop.
    pub fn new(pid: u32, tid: u32, kind: LoopKind, stall: &'a Stall) -> Self {
        Self {
            schema: SCHEMA,
            line: StallKind::Stall,
            pid,
            tid,
            kind,
            stall,
        }
    }
}

/// A line of its own for each hang, as soon as it is one: its stall's line comes when it is over.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "HangLine")]
pub struct HangLine<'a> {
    /// `concmon/1`.
    schema: &'static str,
    #[serde(rename = "type")]
    line: HangKind,
    /// The loop's process.
    pid: u32,
    /// The loop's thread.
    tid: u32,
    kind: LoopKind,
    #[serde(flatten)]
    hang: &'a Hang,
}

words! {
    /// The kind of the line.
    pub enum HangKind {
        Hang = "hang",
    }
}

impl<'a> HangLine<'a> {
    /// The line of a hang of this loop.
    pub fn new(pid: u32, tid: u32, kind: LoopKind, hang: &'a Hang) -> Self {
        Self {
            schema: SCHEMA,
            line: HangKind::Hang,
            pid,
            tid,
            kind,
            hang,
        }
    }
}

/// Any line that the tool prints.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its description is used")]
#[schemars(untagged)]
enum Line<'a> {
    Report(Snapshot),
    Stall(StallLine<'a>),
    Hang(HangLine<'a>),
    Look(Dump),
    Diff(Diff),
    Rule(RuleLine),
    Doctor(Doctor),
}

/// The JSON Schema (draft 2020-12) of every line of this version.
///
/// Further fields and words may come within `concmon/1`, so it allows fields that it does not name.
pub fn document() -> Value {
    let settings = SchemaSettings::draft2020_12().for_serialize();
    let mut schema = settings.into_generator().into_root_schema_for::<Line<'_>>();
    schema.insert("title".to_owned(), SCHEMA.into());
    schema.to_value()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every field and word says what it is: fields of another type of the contract may leave it to that.
    #[test]
    fn every_field_of_the_contract_is_described() {
        fn missing(path: &str, value: &Value, found: &mut Vec<String>) {
            let Value::Object(object) = value else {
                return;
            };
            if let Some(Value::Object(fields)) = object.get("properties") {
                for (name, field) in fields {
                    let described = ["description", "$ref", "anyOf", "const"]
                        .iter()
                        .any(|key| field.get(key).is_some());
                    let of_type = field
                        .get("items")
                        .is_some_and(|of| of.get("$ref").is_some());
                    if !described && !of_type {
                        found.push(format!("{path}.{name}"));
                    }
                }
            }
            for (key, inner) in object {
                missing(&format!("{path}/{key}"), inner, found);
            }
        }
        let mut found = Vec::new();
        missing("", &document(), &mut found);
        assert_eq!(found, Vec::<String>::new());
    }

    #[test]
    fn durations_and_sizes_say_their_unit() {
        fn check(path: &str, value: &Value, found: &mut Vec<String>) {
            let Value::Object(object) = value else {
                return;
            };
            if let Some(Value::Object(fields)) = object.get("properties") {
                for (name, field) in fields {
                    let text = field["description"].as_str().unwrap_or_default();
                    let plain = name.ends_with("_ns") && !name.ends_with("_unix_ns");
                    if plain && field.get("$ref").is_none() && !text.contains("ns") {
                        found.push(format!("{path}.{name}: ns"));
                    }
                    for (end, unit) in [("_bytes", "bytes"), ("_percent", "percent")] {
                        if name.ends_with(end) && !text.contains(unit) {
                            found.push(format!("{path}.{name}: {unit}"));
                        }
                    }
                }
            }
            for (key, inner) in object {
                check(&format!("{path}/{key}"), inner, found);
            }
        }
        let mut found = Vec::new();
        check("", &document(), &mut found);
        assert_eq!(found, Vec::<String>::new());
    }
}
