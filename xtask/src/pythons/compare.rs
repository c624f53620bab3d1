//! Differences between what a program says of itself and what concmon says of it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

/// Lists whose order means nothing, by what their elements are told apart.
const KEYS: &[(&str, &str)] = &[
    ("threads", "tid"),
    ("loops", "tid"),
    ("tasks", "id"),
    ("executors", "name_prefix"),
    ("running", "tid"),
];
/// Objects that have no other keys than those that are expected.
const WHOLE: &[&str] = &["context"];
/// More are not worth collecting.
const MAX_DIFFERENCES: usize = 1000;
/// The longest value that is shown, characters.
const MAX_SHOWN: usize = 80;

/// What differs, in words; empty when `found` is as `expected`. Keys of objects that are only in
/// `found` do not count.
pub(super) fn differences(expected: &Value, found: &Value) -> Vec<String> {
    let mut all = Vec::new();
    compare(expected, found, &mut Place::default(), &mut all);
    all
}

/// Where in the values.
#[derive(Default)]
struct Place {
    path: String,
    /// The last key of an object on the way.
    key: String,
}

impl Place {
    /// Runs `body` one step further down.
    fn within(&mut self, step: &str, key: Option<&str>, body: impl FnOnce(&mut Self)) {
        let length = self.path.len();
        self.path.push_str(step);
        let before = key.map(|key| std::mem::replace(&mut self.key, key.to_owned()));
        body(self);
        self.path.truncate(length);
        if let Some(before) = before {
            self.key = before;
        }
    }

    fn say(&self, all: &mut Vec<String>, what: &str) {
        if all.len() < MAX_DIFFERENCES {
            all.push(format!("{}: {what}", self.path.trim_start_matches('.')));
        }
    }
}

fn compare(expected: &Value, found: &Value, place: &mut Place, all: &mut Vec<String>) {
    if let Some(answers) = any(expected) {
        if !answers.iter().any(|one| differences(one, found).is_empty()) {
            place.say(all, &unequal(expected, found));
        }
        return;
    }
    match (expected, found) {
        (Value::Object(wanted), Value::Object(given)) => compare_keys(wanted, given, place, all),
        (Value::Array(wanted), Value::Array(given)) => {
            let key = KEYS.iter().find(|(list, _)| *list == place.key);
            match key.and_then(|(_, key)| Some((by_key(wanted, key)?, by_key(given, key)?))) {
                Some((wanted, given)) => compare_elements(&wanted, &given, place, all),
                None => compare_in_order(wanted, given, place, all),
            }
        }
        _ if expected == found => {}
        _ => place.say(all, &unequal(expected, found)),
    }
}

fn compare_keys(
    wanted: &Map<String, Value>,
    given: &Map<String, Value>,
    place: &mut Place,
    all: &mut Vec<String>,
) {
    for (key, wanted) in wanted {
        place.within(&format!(".{key}"), Some(key), |place| {
            match given.get(key) {
                None => place.say(all, "is not there"),
                // A quantity that is not given has a reason.
                Some(Value::Null) if !wanted.is_null() && reason(given, key).is_some() => {
                    let reason = reason(given, key).unwrap_or_default();
                    place.say(
                        all,
                        &format!("{} ({reason})", unequal(wanted, &Value::Null)),
                    );
                }
                Some(given) => compare(wanted, given, place, all),
            }
        });
    }
    if WHOLE.contains(&place.key.as_str()) {
        for key in given.keys().filter(|key| !wanted.contains_key(*key)) {
            place.say(all, &format!("{key} should not be there"));
        }
    }
}

fn compare_elements(
    wanted: &BTreeMap<String, &Value>,
    given: &BTreeMap<String, &Value>,
    place: &mut Place,
    all: &mut Vec<String>,
) {
    for (key, wanted) in wanted {
        place.within(&label(key, wanted), None, |place| match given.get(key) {
            None => place.say(all, "is not there"),
            Some(given) => compare(wanted, given, place, all),
        });
    }
    for (key, given) in given.iter().filter(|(key, _)| !wanted.contains_key(*key)) {
        place.within(&label(key, given), None, |place| {
            place.say(all, "should not be there");
        });
    }
}

fn compare_in_order(wanted: &[Value], given: &[Value], place: &mut Place, all: &mut Vec<String>) {
    // Sets, as far as a list of plain texts is one.
    let sorted = |list: &[Value]| -> Option<BTreeSet<String>> {
        list.iter()
            .map(|one| Some(one.as_str()?.to_owned()))
            .collect()
    };
    if let (Some(wanted_set), Some(given_set)) = (sorted(wanted), sorted(given)) {
        if wanted_set != given_set || wanted.len() != given.len() {
            place.say(all, &unequal(&wanted.into(), &given.into()));
        }
        return;
    }
    if wanted.len() != given.len() {
        place.say(
            all,
            &format!("has {} elements, not {}", given.len(), wanted.len()),
        );
    }
    for (index, (wanted, given)) in wanted.iter().zip(given).enumerate() {
        place.within(&format!("[{index}]"), None, |place| {
            compare(wanted, given, place, all);
        });
    }
}

/// The answers of `{"any": [...]}`.
fn any(expected: &Value) -> Option<&Vec<Value>> {
    let object = expected.as_object().filter(|object| object.len() == 1)?;
    object.get("any")?.as_array()
}

/// Elements by the value of a key; `None` where it does not tell them apart.
fn by_key<'a>(list: &'a [Value], key: &str) -> Option<BTreeMap<String, &'a Value>> {
    let elements: BTreeMap<String, &Value> = list
        .iter()
        .map(|one| Some((one.get(key)?.to_string(), one)))
        .collect::<Option<_>>()?;
    (elements.len() == list.len()).then_some(elements)
}

/// How an element is called: by its name where it has one.
fn label(key: &str, element: &Value) -> String {
    match element.get("name").and_then(Value::as_str) {
        Some(name) => format!("[{}]", shown(&Value::from(name))),
        None => format!("[{key}]"),
    }
}

/// Why the object does not have a quantity.
fn reason<'a>(object: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    object
        .get("limits")?
        .as_array()?
        .iter()
        .find(|limit| limit["field"] == key)?
        .get("reason")?
        .as_str()
}

fn unequal(expected: &Value, found: &Value) -> String {
    format!("{}, not {}", shown(found), shown(expected))
}

fn shown(value: &Value) -> String {
    let text = value.to_string();
    let mut short: String = text.chars().take(MAX_SHOWN).collect();
    if short.len() < text.len() {
        short.push_str("...");
    }
    short
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tells_what_differs_and_where() {
        for (expected, found, said) in [
            (json!({"a": 1}), json!({"a": 1, "b": 2}), vec![]),
            (json!({"a": 1}), json!({"b": 2}), vec!["a: is not there"]),
            (
                json!({"a": [1, 2]}),
                json!({"a": [2, 1]}),
                vec!["a[0]: 2, not 1", "a[1]: 1, not 2"],
            ),
            (
                json!({"a": [1]}),
                json!({"a": []}),
                vec!["a: has 0 elements, not 1"],
            ),
            (json!({"by": ["x", "y"]}), json!({"by": ["y", "x"]}), vec![]),
            (
                json!({"by": ["x"]}),
                json!({"by": ["x", "x"]}),
                vec![r#"by: ["x","x"], not ["x"]"#],
            ),
            (
                json!({"f": {"any": ["x", "A.x"]}}),
                json!({"f": "B.x"}),
                vec![r#"f: "B.x", not {"any":["x","A.x"]}"#],
            ),
            (
                json!({"f": {"any": ["x", "A.x"]}}),
                json!({"f": "A.x"}),
                vec![],
            ),
            (
                json!({"tasks": [{"id": "1", "name": "n"}, {"id": "2", "name": "m"}]}),
                json!({"tasks": [{"id": "3", "name": "k"}, {"id": "1", "name": "p"}]}),
                vec![
                    r#"tasks["n"].name: "p", not "n""#,
                    r#"tasks["m"]: is not there"#,
                    r#"tasks["k"]: should not be there"#,
                ],
            ),
            (
                json!({"running": [{"tid": null}, {"tid": null}]}),
                json!({"running": [{"tid": null}]}),
                vec!["running: has 1 elements, not 2"],
            ),
            (
                json!({"x": 1}),
                json!({"x": null, "limits": [{"field": "x", "reason": "unknown"}]}),
                vec!["x: null, not 1 (unknown)"],
            ),
            (
                json!({"context": {"a": "1"}}),
                json!({"context": {"a": "1", "b": "2"}}),
                vec!["context: b should not be there"],
            ),
        ] {
            assert_eq!(differences(&expected, &found), said, "{expected} {found}");
        }
    }
}
