//! The routes of werkzeug's maps, which Flask's applications have (werkzeug 2.2 and later).
//!
//! The matcher is a tree: from each state a part of the path leads on, by its text, else by one of several expressions in
//! the order of their weights, and what fails further down is tried with the next. So its rules are told in the order in
//! which the search would come to them, each with the expressions on the way.

use std::collections::BTreeSet;

use super::expressions::{ANY, escape, of_python};
use super::{MAX_ROUTES, Place, Walk, is_none, methods, owner};
use crate::event::PyRouteKind;
use crate::event::patterns::Pattern;
use crate::python::objects::Reader;
use crate::python::objects::text::as_bool;

/// How deep the tree is.
const MAX_PARTS: usize = 32;
/// Classes of converters that take all that their expressions take; of numbers if there are no bounds.
const BASE: &str = "werkzeug.routing.converters.BaseConverter";
const UUID: &str = "werkzeug.routing.converters.UUIDConverter";
const NUMBER: &str = "werkzeug.routing.converters.NumberConverter";

/// What is the same for all states of a map.
struct Rules<'a> {
    before: &'a Place,
    /// Requests of these may be led to another rule.
    redirected: BTreeSet<u64>,
}

impl Rules<'_> {
    /// What is before the application, and the parts of a path behind that, of which there are none where it is mounted
    /// and asked for itself. Slashes at the beginning are one.
    fn whole(&self, parts: &str) -> Place {
        match parts.strip_prefix('/') {
            Some(rest) => self.before.with(&format!("/+{rest}")),
            None => self.before.with(parts),
        }
    }
}

/// A state of the matcher.
struct State {
    by_text: Vec<(String, u64)>,
    by_expression: Vec<(u64, u64)>,
    rules: Vec<u64>,
}

/// What a rule does where the path ends with a slash, or lacks one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Slash {
    AsWritten,
    /// Missing: the client is told to ask again, unless the rule is not strict.
    Missing,
    /// One too many, which only rules take that are not strict.
    Surplus,
}

impl Walk {
    /// Adds the rules of a map. `None`: they cannot be read.
    pub(super) fn add_werkzeug(
        &mut self,
        reader: &mut Reader<'_>,
        map: u64,
        before: &Place,
    ) -> Option<()> {
        let names = [
            "_matcher",
            "_remap",
            "redirect_defaults",
            "_rules_by_endpoint",
        ];
        let found = reader.members_of(map, &names)?;
        // Before the first request it is not in order.
        (!flag(reader, found[1]?)?).then_some(())?;
        let redirected = match flag(reader, found[2]?)? {
            true => redirected(reader, found[3]?)?,
            false => BTreeSet::new(),
        };
        let root = reader.members_of(found[0]?, &["_root"])?.pop()??;
        let root = state(reader, root)?;
        let [(domain, first)] = &root.by_text[..] else {
            return None;
        };
        (domain.is_empty() && root.by_expression.is_empty()).then_some(())?;
        let rules = Rules { before, redirected };
        self.add_state(reader, &rules, *first, None, 0)
    }

    /// Adds what is below a state; `parts` are the expressions on the way to it.
    fn add_state(
        &mut self,
        reader: &mut Reader<'_>,
        rules: &Rules<'_>,
        address: u64,
        parts: Option<&str>,
        depth: usize,
    ) -> Option<()> {
        if self.is_full() || reader.is_over() {
            self.found.cut = true;
            return Some(());
        }
        (depth < MAX_PARTS).then_some(())?;
        let here = state(reader, address)?;
        let own = parts.unwrap_or_default();
        let below = |part: &str| match parts {
            Some(parts) => format!("{parts}/{part}"),
            None => part.to_owned(),
        };
        for rule in &here.rules {
            self.add_rule(reader, rules, *rule, own, Slash::AsWritten)?;
        }
        if let Some((_, slash)) = here.by_text.iter().find(|(text, _)| text.is_empty())
            && parts.is_some()
        {
            for rule in state(reader, *slash)?.rules {
                self.add_rule(reader, rules, rule, own, Slash::Missing)?;
            }
        }
        for (text, next) in &here.by_text {
            self.add_state(reader, rules, *next, Some(&below(&escape(text))), depth + 1)?;
        }
        for (part, next) in &here.by_expression {
            let Some((part, is_final)) = expression(reader, *part) else {
                self.push_unknown(rules.whole(&below(ANY)).pattern);
                continue;
            };
            let part = below(&format!("(?:{part})"));
            if !is_final {
                self.add_state(reader, rules, *next, Some(&part), depth + 1)?;
                continue;
            }
            // It has taken all slashes, too.
            for rule in state(reader, *next)?.rules {
                self.add_rule(reader, rules, rule, &part, Slash::AsWritten)?;
            }
        }
        for rule in &here.rules {
            self.add_rule(reader, rules, *rule, own, Slash::Surplus)?;
        }
        Some(())
    }

    fn add_rule(
        &mut self,
        reader: &mut Reader<'_>,
        rules: &Rules<'_>,
        rule: u64,
        parts: &str,
        slash: Slash,
    ) -> Option<()> {
        let names = [
            "rule",
            "websocket",
            "strict_slashes",
            "redirect_to",
            "alias",
        ];
        let found = reader.members_of(rule, &names)?;
        let text = reader.read_text(found[0]?)?;
        let is_strict = flag(reader, found[2]?)?;
        if flag(reader, found[1]?)? || slash == Slash::Surplus && is_strict {
            return Some(());
        }
        let leads_on = !is_none(reader, found[3]?)? || flag(reader, found[4]?)?;
        let is_certain =
            !rules.redirected.contains(&rule) && converts_all(reader, rule).unwrap_or(false);
        let kind = match is_certain {
            _ if leads_on || slash == Slash::Missing && is_strict => PyRouteKind::Closed,
            true => PyRouteKind::Path,
            false => PyRouteKind::Unknown,
        };
        let parts = match slash {
            Slash::Surplus => format!("{parts}/"),
            _ => parts.to_owned(),
        };
        let methods = methods(reader, rule)?;
        let mut place = rules.whole(&parts);
        place.path += &text;
        self.push(place, methods, kind);
        Some(())
    }
}

fn flag(reader: &mut Reader<'_>, object: u64) -> Option<bool> {
    as_bool(reader.integers(&[object])[0])
}

fn state(reader: &mut Reader<'_>, state: u64) -> Option<State> {
    let found = reader.members_of(state, &["static", "dynamic", "rules"])?;
    let by_text = reader.dict(found[0]?)?;
    reader.load_texts(by_text.iter().map(|(text, _)| *text));
    let by_text = by_text
        .into_iter()
        .map(|(text, next)| Some((reader.text(text)?.to_string(), next)));
    let by_text = by_text.collect::<Option<_>>()?;
    let pairs = reader.list(found[1]?, MAX_ROUTES as u64)?;
    let pairs = reader.tuples(&pairs, 2).into_iter();
    let by_expression = pairs.map(|pair| match pair?[..] {
        [part, next] => Some((part, next)),
        _ => None,
    });
    Some(State {
        by_text,
        by_expression: by_expression.collect::<Option<_>>()?,
        rules: reader.list(found[2]?, MAX_ROUTES as u64)?,
    })
}

/// What a part that is no text takes, and whether that is all of the path; `None`: that cannot be told.
fn expression(reader: &mut Reader<'_>, part: u64) -> Option<(String, bool)> {
    let found = reader.members_of(part, &["content", "final", "suffixed"])?;
    let content = reader.read_text(found[0]?)?;
    let (is_final, is_suffixed) = (flag(reader, found[1]?)?, flag(reader, found[2]?)?);
    let found = of_python(&content).filter(|found| found.to_end && !is_suffixed)?;
    // It is asked for one part of the path.
    let is_one = is_final || !Pattern::new(&found.body)?.may_have(b'/');
    is_one.then_some((found.body, is_final))
}

/// Rules of which another one has defaults for the same.
fn redirected(reader: &mut Reader<'_>, by_endpoint: u64) -> Option<BTreeSet<u64>> {
    let mut redirected = BTreeSet::new();
    for (_, list) in reader.dict(by_endpoint)?.into_iter().take(MAX_ROUTES) {
        if reader.is_over() {
            return None;
        }
        let rules = reader.list(list, MAX_ROUTES as u64)?;
        let defaults = reader.members(&rules, &["defaults"]).into_iter();
        let defaults: Vec<u64> = defaults.map(|found| found?.pop()?).collect::<Option<_>>()?;
        let mut plain = Vec::new();
        for (rule, defaults) in rules.iter().zip(defaults) {
            if is_none(reader, defaults)? || reader.dict_length(defaults) == Some(0) {
                plain.push(*rule);
            }
        }
        if plain.len() < rules.len() {
            redirected.extend(plain);
        }
    }
    Some(redirected)
}

/// Whether the converters of a rule take all that their expressions take.
fn converts_all(reader: &mut Reader<'_>, rule: u64) -> Option<bool> {
    let converters = reader.members_of(rule, &["_converters"])?.pop()??;
    for (_, converter) in reader.dict(converters)? {
        match &*owner(reader, converter, "to_python")? {
            BASE | UUID => {}
            NUMBER => {
                let found = reader.members_of(converter, &["fixed_digits", "min", "max"])?;
                let digits = reader.integers(&[found[0]?])[0]?;
                let is_free = is_none(reader, found[1]?)? && is_none(reader, found[2]?)?;
                if digits != 0 || !is_free {
                    return Some(false);
                }
            }
            _ => return Some(false),
        }
    }
    Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::objects::synthetic::Noise;

    #[test]
    fn reading_noise_ends() {
        Noise::each(60, 4 << 20, |memory, reader| {
            let before = Place::root();
            let rules = Rules {
                before: &before,
                redirected: BTreeSet::new(),
            };
            for index in 0..50 {
                let object = memory.address(index);
                let mut walk = Walk::default();
                walk.add_werkzeug(reader, object, &before);
                walk.add_state(reader, &rules, object, Some("/x"), 0);
                walk.add_rule(reader, &rules, object, "/x", Slash::AsWritten);
                state(reader, object);
                expression(reader, object);
                redirected(reader, object);
                converts_all(reader, object);
            }
        });
    }
}
