//! What requests are handed through: whether it leaves their paths as they are, as far as its own methods tell.

use super::attribute;
use crate::python::memory::at;
use crate::python::objects::{Kind, OBJECT_SIZE, Reader};

/// What has one of these among its constants may change the path, or have another application for it.
const OF_PATHS: &[&str] = &["PATH_INFO", "SCRIPT_NAME", "path", "raw_path", "root_path"];
/// What has one of these among its names or constants may do so in Django.
const OF_DJANGO: &[&str] = &["urlconf", "path_info"];
/// These do not, although they look at it (read in their releases up to 2026).
const TRANSPARENT: &[&str] = &[
    "werkzeug.middleware.proxy_fix.ProxyFix",
    "werkzeug.middleware.profiler.ProfilerMiddleware",
    "opentelemetry.instrumentation.wsgi.OpenTelemetryMiddleware",
    "opentelemetry.instrumentation.asgi.OpenTelemetryMiddleware",
    // Has its method as a slot of each object.
    "sentry_sdk.integrations.asgi.SentryAsgiMiddleware",
    "elasticapm.contrib.starlette.ElasticAPM",
    "ddtrace.contrib.asgi.middleware.TraceMiddleware",
    "ddtrace.contrib.internal.asgi.middleware.TraceMiddleware",
    "aioprometheus.asgi.middleware.MetricsMiddleware",
];
/// Nor do Starlette's own.
const STARLETTE: &str = "starlette.middleware.";
/// By what a function that has a request, but not its scope, may come to the latter, or hand on another one.
const TO_SCOPE: &[&str] = &["scope", "app", "__dict__", "vars", "eval", "exec"];
/// The methods of Django's middleware that are called before a view is.
const DJANGO_METHODS: &[&str] = &["__call__", "__acall__", "process_request", "process_view"];
/// Constants and names of a function, functions that are in it and around which it was made, and arguments and middleware that
/// are looked at.
const MAX_CONSTANTS: u64 = 256;
const MAX_CODES: usize = 64;
const MAX_FUNCTIONS: usize = 16;
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
            dispatch_leaves_paths(reader, class, dispatch)?;
        }
        let arguments = found[1].or(found[2])?;
        if let Some(dispatch) = reader.dict_values(arguments, &["dispatch"])?.pop()? {
            dispatch_leaves_paths(reader, class, dispatch)?;
        }
    }
    Some(())
}

/// Whether a function that `BaseHTTPMiddleware` calls with a request does. It may name paths, as those do that log them,
/// where it has no way to the scope, which is what is handed on; before Starlette 0.15, when that was a method, a new request
/// could take its place.
fn dispatch_leaves_paths(reader: &mut Reader<'_>, class: u64, function: u64) -> Option<()> {
    if has_none_of(reader, function, OF_PATHS, false).is_some() {
        return Some(());
    }
    reader
        .class_attribute(class, "call_next")
        .is_none()
        .then_some(())?;
    has_none_of(reader, function, TO_SCOPE, true)
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

/// A function, with those in it and those that it was made around, has none of these among its constants, nor, if wanted, its
/// names; `None`: or it cannot be told.
fn has_none_of(
    reader: &mut Reader<'_>,
    function: u64,
    words: &[&str],
    with_names: bool,
) -> Option<()> {
    (reader.types_of(&[function]).pop()??.kind == Kind::Function).then_some(())?;
    let mut functions = vec![function];
    let mut count = 0;
    // A decorated one is in a cell of what is called in its place.
    while let Some(function) = functions.get(count).copied() {
        count += 1;
        (count <= MAX_FUNCTIONS).then_some(())?;
        let fields = reader.walk.callable;
        let code = reader.pointer(at(function, fields.function_code)).ok()?;
        code_has_none_of(reader, code, words, with_names)?;
        for found in enclosed(reader, at(function, fields.function_closure))? {
            if !functions.contains(&found) {
                functions.push(found);
            }
        }
    }
    Some(())
}

/// The functions in the cells of one, whose tuple is at `place`.
fn enclosed(reader: &mut Reader<'_>, place: u64) -> Option<Vec<u64>> {
    let Some(closure) = Some(reader.pointer(place).ok()?).filter(|closure| *closure != 0) else {
        return Some(Vec::new());
    };
    let cells = reader.tuple(closure, MAX_CONSTANTS)?;
    (cells.len() < MAX_CONSTANTS as usize).then_some(())?;
    // `PyCellObject.ob_ref` is its first field.
    let contents = cells
        .iter()
        .map(|cell| reader.pointer(at(*cell, OBJECT_SIZE)).ok());
    let mut contents = contents.collect::<Option<Vec<u64>>>()?;
    contents.retain(|content| *content != 0);
    let kinds = reader.types_of(&contents).into_iter();
    let kinds = kinds.map(|info| info.map(|info| info.kind));
    let kinds = kinds.collect::<Option<Vec<Kind>>>()?;
    let found = contents.into_iter().zip(kinds);
    let found = found.filter(|(_, kind)| *kind == Kind::Function);
    Some(found.map(|(content, _)| content).collect())
}

/// The same of code, with what is in it.
fn code_has_none_of(
    reader: &mut Reader<'_>,
    code: u64,
    words: &[&str],
    with_names: bool,
) -> Option<()> {
    let mut left = vec![code];
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
    use crate::python::objects::expected_size;
    use crate::python::objects::synthetic::{Noise, World, set_word};

    /// A function with these constants and names, made around another one.
    fn function(world: &mut World, constants: &[&str], names: &[&str], around: Option<u64>) -> u64 {
        let (code, fields) = (world.walk.code, world.walk.callable);
        let size = expected_size(&world.walk, Kind::Code).map_or(160, |size| size.bytes);
        let class = world.class("code", 0, size.into());
        let mut bytes = World::object(class, size as usize);
        for (offset, texts) in [(code.constants, constants), (code.names(), names)] {
            let texts: Vec<u64> = texts.iter().map(|text| world.text(text)).collect();
            let tuple = world.tuple(&texts);
            set_word(&mut bytes, offset, tuple);
        }
        let code = world.put(&bytes);
        let closure = around.map_or(0, |inner| {
            let class = world.class("cell", 0, 24);
            let mut cell = World::object(class, 24);
            set_word(&mut cell, OBJECT_SIZE, inner);
            let cell = world.put(&cell);
            world.tuple(&[cell])
        });
        let class = world.class("function", 0, 160);
        let mut bytes = World::object(class, 160);
        set_word(&mut bytes, fields.function_code, code);
        set_word(&mut bytes, fields.function_closure, closure);
        world.put(&bytes)
    }

    #[test]
    fn who_has_no_scope_may_name_paths() {
        for minor in [8, 10, 11, 13] {
            let mut world = World::new(minor);
            let mut leaves = |constants: &[&str], names: &[&str], is_decorated: bool| {
                let mut made = function(&mut world, constants, names, None);
                if is_decorated {
                    made = function(&mut world, &["took"], &["scope"], Some(made));
                }
                let bare = world.class("Bare", 0, 16);
                let mut reader = world.reader();
                [
                    has_none_of(&mut reader, made, OF_PATHS, false).is_some(),
                    dispatch_leaves_paths(&mut reader, bare, made).is_some(),
                ]
            };
            assert_eq!(leaves(&["GET"], &["scope"], false), [true, true]);
            assert_eq!(leaves(&["GET"], &[], true), [true, true]);
            assert_eq!(leaves(&["path"], &["url", "path"], false), [false, true]);
            assert_eq!(leaves(&["path"], &["scope"], false), [false, false]);
            assert_eq!(leaves(&["path", "scope"], &["getattr"], false), [false; 2]);
            // Decorated, it is what is in the cell that is judged as well.
            assert_eq!(leaves(&["raw_path"], &["app"], true), [false, false]);
        }
    }

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
