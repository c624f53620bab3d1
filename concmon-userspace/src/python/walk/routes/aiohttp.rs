//! The routes of aiohttp's applications (3.9 and later, which have an index of resources).

use super::expressions::{ANY, beginning, of_python};
use super::{MAX_DEPTH, MAX_ROUTES, Place, Walk, attribute, escape_path, owner, sorted_texts};
use crate::event::PyRouteKind;
use crate::python::memory::at;
use crate::python::objects::{Kind, Reader};

/// `PatternObject` (Modules/_sre, 3.8 to 3.15): the text of the expression, its flags, and the least size.
const PATTERN: &str = "re.Pattern";
const PATTERN_TEXT: u32 = 48;
const PATTERN_FLAGS: u32 = 56;
const PATTERN_BYTES: u64 = 80;
/// `re.UNICODE`, which texts always have.
const UNICODE: u32 = 32;

/// The router of an application, if it is one of aiohttp's.
pub(super) fn router(reader: &mut Reader<'_>, application: u64) -> Option<u64> {
    let router = attribute(reader, application, "_router")?;
    (owner(reader, router, "resolve")? == "aiohttp.web_urldispatcher.UrlDispatcher")
        .then_some(router)
}

impl Walk {
    /// Adds the resources of a router in the order in which they are tried: those with the longest fixed beginning first,
    /// of which one at most is the request's. `None`: they cannot be read.
    pub(super) fn add_aiohttp(
        &mut self,
        reader: &mut Reader<'_>,
        router: u64,
        depth: usize,
    ) -> Option<()> {
        (depth < MAX_DEPTH).then_some(())?;
        let names = ["_resource_index", "_matched_sub_app_resources"];
        let found = reader.members_of(router, &names)?;
        // Those are chosen by more than the path, and before all others.
        if reader.length(found[1]?)? > 0 {
            self.push_unknown(Some(ANY.to_owned()));
        }
        let index = reader.dict(found[0]?)?;
        reader.load_texts(index.iter().map(|(key, _)| *key));
        let mut lists = Vec::new();
        for (key, list) in index {
            let length = reader.text(key)?.len();
            lists.push((length, reader.list(list, MAX_ROUTES as u64)?));
        }
        lists.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
        for resource in lists.into_iter().flat_map(|(_, resources)| resources) {
            if self.is_full() || reader.is_over() {
                self.found.cut = true;
                break;
            }
            if self.resource(reader, resource, depth).is_none() {
                self.push_unknown(Some(ANY.to_owned()));
            }
        }
        Some(())
    }

    /// `None`: what it takes cannot be told.
    pub(super) fn resource(
        &mut self,
        reader: &mut Reader<'_>,
        resource: u64,
        depth: usize,
    ) -> Option<()> {
        let class = owner(reader, resource, "resolve")?;
        match class.strip_prefix("aiohttp.web_urldispatcher.")? {
            "Resource" => {
                let methods = methods(reader, resource)?;
                let (place, kind) = place(reader, resource)?;
                self.push(place, methods, kind);
            }
            "StaticResource" => {
                let place = below(reader, resource)?;
                let methods = methods(reader, resource)?;
                self.push(place, methods, PyRouteKind::Path);
            }
            "PrefixedSubAppResource" => {
                let place = below(reader, resource)?;
                let inside = attribute(reader, resource, "_app")?;
                // The paths of its resources are whole.
                let router = router(reader, inside)?;
                self.add_aiohttp(reader, router, depth + 1)?;
                self.push(place, None, PyRouteKind::Closed);
            }
            _ => return None,
        }
        Some(())
    }
}

/// What a resource takes, and how it is called.
fn place(reader: &mut Reader<'_>, resource: u64) -> Option<(Place, PyRouteKind)> {
    let class = owner(reader, resource, "_match")?;
    let (path, pattern) = match class.strip_prefix("aiohttp.web_urldispatcher.")? {
        "PlainResource" => {
            let path = attribute(reader, resource, "_path")?;
            let path = reader.read_text(path)?;
            let pattern = escape_path(&path);
            (path, pattern)
        }
        "DynamicResource" => {
            let found = reader.members_of(resource, &["_formatter", "_pattern"])?;
            let pattern = expression(reader, found[1]?)?;
            let pattern = of_python(&pattern).map(|expression| expression.body);
            (reader.read_text(found[0]?)?, pattern)
        }
        _ => return None,
    };
    let kind = match pattern {
        Some(_) => PyRouteKind::Path,
        None => PyRouteKind::Unknown,
    };
    let pattern = pattern.or_else(|| Some(beginning(&path, "{")));
    let path = path.to_string();
    Some((Place { path, pattern }, kind))
}

/// A prefix, and all that is below it.
fn below(reader: &mut Reader<'_>, resource: u64) -> Option<Place> {
    let prefix = attribute(reader, resource, "_prefix")?;
    let prefix = reader.read_text(prefix)?;
    Some(Place::literal(&prefix).with("(?:/(?s:.*))?"))
}

/// The methods of a resource's routes; within: `None` where one takes any.
fn methods(reader: &mut Reader<'_>, resource: u64) -> Option<Option<Vec<String>>> {
    let routes = attribute(reader, resource, "_routes")?;
    let names: Vec<u64> = match reader.types_of(&[routes]).pop()??.kind {
        Kind::Dict => reader.dict(routes)?.iter().map(|(key, _)| *key).collect(),
        Kind::List => {
            let routes = reader.list(routes, MAX_ROUTES as u64)?;
            let found = reader.members(&routes, &["_method"]);
            let names = found.into_iter().map(|found| found?.pop()?);
            names.collect::<Option<_>>()?
        }
        _ => return None,
    };
    let names = sorted_texts(reader, &names)?;
    Some(Some(names).filter(|names| !names.iter().any(|name| name == "*")))
}

/// The text of a compiled expression without flags.
fn expression(reader: &mut Reader<'_>, pattern: u64) -> Option<String> {
    let info = reader.types_of(&[pattern]).pop()??;
    (&*info.name == PATTERN && info.basic_size >= PATTERN_BYTES).then_some(())?;
    let flags = reader.pointer(at(pattern, PATTERN_FLAGS)).ok()? as u32;
    (flags == UNICODE).then_some(())?;
    let text = reader.pointer(at(pattern, PATTERN_TEXT)).ok()?;
    Some(reader.read_text(text)?.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::objects::synthetic::Noise;

    #[test]
    fn reading_noise_ends() {
        Noise::each(60, 4 << 20, |memory, reader| {
            for index in 0..50 {
                let object = memory.address(index);
                router(reader, object);
                place(reader, object);
                below(reader, object);
                methods(reader, object);
                expression(reader, object);
            }
        });
    }
}
