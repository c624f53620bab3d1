//! What requests are handed through: whether it leaves their paths as they are, as far as its own methods tell.

use super::attribute;
use crate::python::memory::at;
use crate::python::objects::{Kind, Reader};

/// What has one of these among its constants may change the path, or have another application for it.
const OF_PATHS: &[&str] = &["PATH_INFO", "SCRIPT_NAME", "path", "raw_path", "root_path"];
/// What has one of these among its names or constants may do so in Django.
const OF_DJANGO: &[&str] = &["urlconf", "path_info"];
/// These do not, although they look at it.
const TRANSPARENT: &[&str] = &[
    "werkzeug.middleware.proxy_fix.ProxyFix",
    "werkzeug.middleware.profiler.ProfilerMiddleware",
    "opentelemetry.instrumentation.wsgi.OpenTelemetryMiddleware",
    "opentelemetry.instrumentation.asgi.OpenTelemetryMiddleware",
];
/// Nor do Starlette's own.
const STARLETTE: &str = "starlette.middleware.";
/// The methods of Django's middleware that are called before a view is.
const DJANGO_METHODS: &[&str] = &["__call__", "__acall__", "process_request", "process_view"];
/// Constants and names of a function, functions that are in it, and arguments and middleware that are looked at.
const MAX_CONSTANTS: u64 = 256;
const MAX_CODES: usize = 64;
const MAX_MIDDLEWARE: u64 = 256;

/// Whether an object gives on paths as they are. `class`: whose method it is called by.
pub(super) fn leaves_paths(reader: &mut Reader<'_>, object: u64, class: &str) -> Option<()> {
    if TRANSPARENT.contains(&class) {
        return Some(());
    }
    let of = reader.classes_of(&[object]).pop()??;
    let (_, method) = reader.class_attribute(of, "__call__")?;
    has_none_of(reader, method, OF_PATHS, false)
}

/// Whether the middleware of one of Starlette's applications does.
pub(super) fn starlette_leaves_paths(reader: &mut Reader<'_>, application: u64) -> Option<()> {
    let Some(list) = attribute(reader, application, "user_middleware") else {
        return Some(());
    };
    for middleware in reader.list(list, MAX_MIDDLEWARE)? {
        // Arguments are called as before its release 0.35, too.
        let found = reader.members_of(middleware, &["cls", "kwargs", "options"])?;
        let class = found[0]?;
        let (owner, method) = reader.class_attribute(class, "__call__")?;
        let name = reader.type_name(owner)?;
        if !name.starts_with(STARLETTE) && !TRANSPARENT.contains(&&*name) {
            has_none_of(reader, method, OF_PATHS, false)?;
        }
        // Of `BaseHTTPMiddleware`: its own, or an argument.
        if let Some((_, dispatch)) = reader.class_attribute(class, "dispatch") {
            has_none_of(reader, dispatch, OF_PATHS, false)?;
        }
        let arguments = found[1].or(found[2])?;
        if let Some(dispatch) = reader.dict_values(arguments, &["dispatch"])?.pop()? {
            has_none_of(reader, dispatch, OF_PATHS, false)?;
        }
    }
    Some(())
}

/// Whether a middleware of Django's does: a class, or a function that makes one.
pub(super) fn django_leaves_paths(reader: &mut Reader<'_>, middleware: u64) -> Option<()> {
    if reader.types_of(&[middleware]).pop()??.kind == Kind::Function {
        return has_none_of(reader, middleware, OF_DJANGO, true);
    }
    let mut methods = DJANGO_METHODS.iter();
    methods.try_for_each(|name| match reader.class_attribute(middleware, name) {
        Some((_, method)) => has_none_of(reader, method, OF_DJANGO, true),
        None => Some(()),
    })
}

/// A function, with those in it, has none of these among its constants, nor, if wanted, its names; `None`: or it cannot be told.
fn has_none_of(
    reader: &mut Reader<'_>,
    function: u64,
    words: &[&str],
    with_names: bool,
) -> Option<()> {
    (reader.types_of(&[function]).pop()??.kind == Kind::Function).then_some(())?;
    let code = reader.pointer(at(function, reader.walk.callable.function_code));
    let mut left = vec![code.ok()?];
    let mut count = 0;
    while let Some(code) = left.pop() {
        count += 1;
        let is_code = reader.types_of(&[code]).pop()??.kind == Kind::Code;
        (count <= MAX_CODES && is_code).then_some(())?;
        let layout = reader.walk.code;
        let constants = reader.pointer(at(code, layout.constants)).ok()?;
        let names = reader.pointer(at(code, layout.names())).ok()?;
        let mut tuples = vec![constants];
        tuples.extend(with_names.then_some(names));
        while let Some(tuple) = tuples.pop() {
            count += 1;
            (count <= MAX_CODES).then_some(())?;
            let items = reader.tuple(tuple, MAX_CONSTANTS)?;
            (items.len() < MAX_CONSTANTS as usize).then_some(())?;
            reader.load_texts(items.iter().copied());
            let mut texts = items.iter().filter_map(|item| reader.text(*item));
            (!texts.any(|text| words.contains(&&**text))).then_some(())?;
            for (item, info) in items.iter().zip(reader.types_of(&items)) {
                match info?.kind {
                    Kind::Code => left.push(*item),
                    Kind::Tuple => tuples.push(*item),
                    _ => {}
                }
            }
        }
    }
    Some(())
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
                leaves_paths(reader, object, "");
                starlette_leaves_paths(reader, object);
                django_leaves_paths(reader, object);
                has_none_of(reader, object, OF_PATHS, true);
            }
        });
    }
}
