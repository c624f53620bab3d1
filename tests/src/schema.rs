//! Lines of the tool against the JSON Schema that the tool itself prints.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, bail, ensure};
use jsonschema::Validator;
use serde_json::{Map, Value, json};

use crate::watch::binary;

/// One validator for each type of line.
static VALIDATORS: OnceLock<Result<BTreeMap<String, Validator>, String>> = OnceLock::new();

/// Demands that a line is one of the published schema, and has no field that the schema does not name.
///
/// # Errors
/// What is wrong with it, and where.
pub fn validate(line: &Value) -> Result<()> {
    let validators = VALIDATORS.get_or_init(|| validators().map_err(|error| format!("{error:#}")));
    let validators = match validators {
        Ok(validators) => validators,
        Err(error) => bail!("the schema: {error}"),
    };
    let kind = line["type"].as_str().context("a line without a type")?;
    let validator = validators
        .get(kind)
        .with_context(|| format!("the schema has no line of type {kind}"))?;
    let wrong: Vec<String> = validator
        .iter_errors(line)
        .take(5)
        .map(|error| format!("{}: {error:.300}", error.instance_path()))
        .collect();
    ensure!(wrong.is_empty(), "not as the schema says: {wrong:?}");
    Ok(())
}

/// Reads a line, and demands that it is one of the published schema.
///
/// # Errors
/// As for [`validate`].
pub fn line(text: &[u8]) -> Result<Value> {
    let line = serde_json::from_slice(text)?;
    validate(&line)?;
    Ok(line)
}

fn validators() -> Result<BTreeMap<String, Validator>> {
    let out = Command::new(binary()?).arg("schema").output()?;
    ensure!(out.status.success(), "`schema` ended with {}", out.status);
    let mut document: Value = serde_json::from_slice(&out.stdout)?;
    jsonschema::meta::validate(&document).map_err(|error| anyhow::anyhow!("{error}"))?;
    close(&mut document);
    let definitions = document["$defs"].as_object().context("no definitions")?;
    let mut found = BTreeMap::new();
    for line in document["anyOf"].as_array().context("no kinds of lines")? {
        let target = line["$ref"].as_str().context("a line without a name")?;
        let name = target.trim_start_matches("#/$defs/");
        for word in words(definitions, name)? {
            let schema = json!({ "$ref": target, "$defs": document["$defs"] });
            found.insert(word, jsonschema::validator_for(&schema)?);
        }
    }
    Ok(found)
}

/// The values that `type` may have in a kind of line.
fn words(definitions: &Map<String, Value>, line: &str) -> Result<Vec<String>> {
    let kind = &definitions[line]["properties"]["type"];
    let target = kind["$ref"].as_str().context("a line without a type")?;
    let kind = &definitions[target.trim_start_matches("#/$defs/")];
    let plain = kind["enum"].as_array().into_iter().flatten();
    // Words with a description of their own.
    let described = kind["oneOf"].as_array().into_iter().flatten();
    let described = described.flat_map(|one| {
        let listed = one["enum"].as_array().into_iter().flatten();
        listed.chain(one.get("const"))
    });
    Ok(plain
        .chain(described)
        .filter_map(|word| word.as_str().map(str::to_owned))
        .collect())
}

/// Forbids fields that have no description. The published schema allows them, for there may be more in
/// later versions.
fn close(value: &mut Value) {
    match value {
        Value::Object(object) => {
            if object.contains_key("properties") && !object.contains_key("additionalProperties") {
                object.insert("additionalProperties".to_owned(), Value::Bool(false));
            }
            object.values_mut().for_each(close);
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}
