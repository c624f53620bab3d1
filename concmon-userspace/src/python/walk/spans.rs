//! The span that a context is in, as OpenTelemetry's API keeps it: one context variable holds a mapping, one key of
//! which has the current span.

use crate::event::SpanContext;
use crate::python::objects::{Kind, Reader};

/// The variable (`opentelemetry/context/contextvars_context.py`).
pub(crate) const VARIABLE: &str = "current_context";
/// The key: a UUID follows (`opentelemetry/trace/propagation/__init__.py`).
const KEY: &str = "current-span-";
/// Entries of a mapping that are looked at.
const MAX_ENTRIES: usize = 256;
/// Fields of a `SpanContext` (`opentelemetry/trace/span.py`), and which they are.
const FIELDS: u64 = 8;
const TRACE_ID: usize = 0;
const SPAN_ID: usize = 1;
const FLAGS: usize = 3;
/// Of the flags (W3C Trace Context): the trace is kept.
const SAMPLED: u128 = 1;

/// The span in the value of [`VARIABLE`].
pub(crate) fn current(reader: &mut Reader<'_>, value: u64) -> Option<SpanContext> {
    let mut entries = reader.dict(value)?;
    entries.truncate(MAX_ENTRIES);
    reader.load_texts(entries.iter().map(|(key, _)| *key));
    let is_key = |key: u64| reader.text(key).is_some_and(|text| text.starts_with(KEY));
    let (_, span) = *entries.iter().find(|(key, _)| is_key(*key))?;
    let context = reader.members_of(span, &["_context"])?[0]?;
    let info = reader.types_of(&[context]).pop()??;
    (info.kind == Kind::Tuple && &*info.name == "SpanContext").then_some(())?;
    let fields = reader.tuple(context, FIELDS)?;
    let fields = [TRACE_ID, SPAN_ID, FLAGS].map(|field| fields.get(field).copied().unwrap_or(0));
    let numbers = reader.longs(&fields);
    let number = |index: usize| match numbers.get(index)? {
        Some((false, number)) => Some(*number),
        _ => None,
    };
    let flags = number(2)?;
    let span = u64::try_from(number(1)?).ok()?;
    SpanContext::new(number(0)?, Some(span), Some(flags & SAMPLED != 0))
}

/// The span that the text of a variable of the program's own names: a `traceparent` (W3C Trace Context), or, where the
/// variable's name says so, the id of a trace.
pub(crate) fn named(variable: &str, text: &str) -> Option<SpanContext> {
    let digits = |text: &str, length: usize| {
        let are = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let is_it = text.len() == length && text.bytes().all(are);
        is_it.then(|| u128::from_str_radix(text, 16).ok())?
    };
    let mut parts = text.trim().split('-');
    let (first, trace, span, flags) = (parts.next()?, parts.next(), parts.next(), parts.next());
    match (trace, span, flags) {
        (Some(trace), Some(span), Some(flags)) => {
            let version = digits(first, 2)?;
            // The first version ends there; later ones may have more, and 255 is none.
            (version != 0xff && (version != 0 || parts.next().is_none())).then_some(())?;
            let sampled = digits(flags, 2)? & SAMPLED != 0;
            let span = u64::try_from(digits(span, 16)?).ok()?;
            SpanContext::new(digits(trace, 32)?, Some(span), Some(sampled))
        }
        (None, None, None) if variable.to_ascii_lowercase().contains("trace") => {
            SpanContext::new(digits(first, 32)?, None, None)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::layout::IntegerShape;
    use crate::python::objects::OBJECT_SIZE;
    use crate::python::objects::flags;
    use crate::python::objects::synthetic::{Noise, World, set_word};

    const TRACE: u128 = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736;
    const SPAN: u64 = 0x00f0_67aa_0ba9_02b7;

    #[test]
    fn a_variable_of_the_programs_own_names_the_trace() {
        let both = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-";
        let whole = |sampled| SpanContext::new(TRACE, Some(SPAN), Some(sampled));
        assert_eq!(named("x", &format!("{both}01")), whole(true));
        assert_eq!(named("x", &format!("{both}00")), whole(false));
        assert_eq!(
            named("x", &format!("{}03-what", both.replacen("00", "cc", 1))),
            whole(true)
        );
        assert_eq!(
            named("my_trace_id", "4bf92f3577b34da6a3ce929d0e0e4736"),
            SpanContext::new(TRACE, None, None)
        );
        for (variable, text) in [
            ("request_id", "4bf92f3577b34da6a3ce929d0e0e4736"),
            ("trace_id", "4bf92f35-77b3-4da6-a3ce-929d0e0e4736"),
            ("trace_id", "4BF92F3577B34DA6A3CE929D0E0E4736"),
            ("trace_id", "00000000000000000000000000000000"),
            ("trace_id", "+bf92f3577b34da6a3ce929d0e0e4736"),
            ("trace_id", ""),
            (
                "x",
                "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            ),
            (
                "x",
                "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            ),
            (
                "x",
                "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            ),
            ("x", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7"),
        ] {
            assert_eq!(named(variable, text), None, "{variable} {text}");
        }
    }

    /// An integer of up to 128 bits, in digits of 30.
    fn integer(world: &mut World, class: u64, value: u128) -> u64 {
        let digits: Vec<u32> = (0..5)
            .map(|digit| (value >> (30 * digit)) as u32 & ((1 << 30) - 1))
            .collect();
        let used = digits
            .iter()
            .rposition(|digit| *digit != 0)
            .map_or(0, |last| last + 1);
        let (head, at) = match world.walk.integer {
            IntegerShape::SignedSize { digits, .. } => (used as u64, digits),
            IntegerShape::Tag { digits, .. } => {
                let sign = if used == 0 { 1 } else { 0 };
                ((used as u64) << 3 | sign, digits)
            }
        };
        let mut bytes = World::object(class, at as usize);
        set_word(&mut bytes, OBJECT_SIZE, head);
        bytes.extend(digits.iter().flat_map(|digit| digit.to_le_bytes()));
        bytes.resize(at as usize + 64, 0);
        world.put(&bytes)
    }

    /// The value of the variable: a mapping with the span, whose context has these fields.
    fn value(world: &mut World, class: &str, fields: &[u128]) -> u64 {
        let number = world.class("int", flags::LONG_SUBCLASS, 24);
        let of_flags = world.class("TraceFlags", flags::LONG_SUBCLASS | flags::HEAP_TYPE, 32);
        let fields: Vec<u64> = (0..)
            .zip(fields)
            .map(|(index, field)| {
                let class = if index == FLAGS { of_flags } else { number };
                integer(world, class, *field)
            })
            .collect();
        let items = world.walk.containers.tuple_items;
        let class = world.class(class, flags::TUPLE_SUBCLASS | flags::HEAP_TYPE, 24);
        let mut context = World::object(class, items as usize);
        set_word(&mut context, OBJECT_SIZE, fields.len() as u64);
        context.extend(fields.iter().flat_map(|field| field.to_le_bytes()));
        let context = world.put(&context);
        // The span has its attributes in a dict of its own.
        let name = world.text("_context");
        let keys = world.keys(1, &[(name, context)]);
        let attributes = world.dict(keys, 0);
        let place = world.walk.types.dict_offset;
        let class = world.reserve();
        world.class_at(class, "_Span", flags::HEAP_TYPE, 32, &[(place, 16)]);
        let mut span = World::object(class, 32);
        set_word(&mut span, 16, attributes);
        let span = world.put(&span);
        let (other, key) = (world.text("baggage"), world.text("current-span-1234"));
        let keys = world.keys(1, &[(other, 7), (key, span)]);
        world.dict(keys, 0)
    }

    #[test]
    fn the_current_span_is_found_in_the_mapping() {
        for minor in 8..=15 {
            for (class, fields, expected) in [
                (
                    "SpanContext",
                    &[TRACE, SPAN.into(), 0, 1][..],
                    SpanContext::new(TRACE, Some(SPAN), Some(true)),
                ),
                (
                    "SpanContext",
                    &[TRACE, SPAN.into(), 0, 2],
                    SpanContext::new(TRACE, Some(SPAN), Some(false)),
                ),
                // What is no valid context of a span, and what is none at all.
                ("SpanContext", &[0, SPAN.into(), 0, 1], None),
                ("SpanContext", &[TRACE, u128::MAX >> 8, 0, 1], None),
                ("SpanContext", &[TRACE, SPAN.into()], None),
                ("Point", &[TRACE, SPAN.into(), 0, 1], None),
            ] {
                let mut world = World::new(minor);
                let value = value(&mut world, class, fields);
                let found = current(&mut world.reader(), value);
                assert_eq!(found, expected, "3.{minor} {class} {fields:x?}");
            }
            let mut world = World::new(minor);
            let text = world.text("current-span-");
            assert_eq!(current(&mut world.reader(), text), None);
        }
    }

    #[test]
    fn noise_is_no_span() {
        for seed in 0..100 {
            let minor = 8 + (seed % 8) as u8;
            let memory = Noise::new(minor, seed);
            let mut reader = Reader::new(&memory, World::new(minor).walk, 1 << 20);
            for index in 0..200 {
                let found = current(&mut reader, memory.address(index));
                assert_eq!(found, None, "3.{minor}, seed {seed}");
            }
        }
    }
}
