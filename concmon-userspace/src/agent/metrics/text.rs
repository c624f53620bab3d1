//! The text formats: that of Prometheus, and OpenMetrics.

use std::fmt::Write as _;

use super::{Distribution, Exemplar, Family, Kind, Sample, Value, by_family};

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::agent) enum Dialect {
    Prometheus,
    OpenMetrics,
}

/// Writes all families.
pub(in crate::agent) fn write(samples: &[Sample], dialect: Dialect) -> String {
    let mut out = String::new();
    for (family, samples) in by_family(samples) {
        head(&mut out, family, dialect);
        for sample in samples {
            series(&mut out, family, sample, dialect);
        }
    }
    if dialect == Dialect::OpenMetrics {
        out.push_str("# EOF\n");
    }
    out
}

fn head(out: &mut String, family: &Family, dialect: Dialect) {
    let (suffix, kind) = match (dialect, family.kind) {
        (Dialect::OpenMetrics, Kind::Info) => ("", "info"),
        (Dialect::OpenMetrics, Kind::Counter) => ("", "counter"),
        (Dialect::Prometheus, Kind::Counter) => (family.suffix(), "counter"),
        (Dialect::Prometheus, Kind::Info) => (family.suffix(), "gauge"),
        (_, Kind::UpDown | Kind::Gauge) => ("", "gauge"),
        (_, Kind::Histogram(_)) => ("", "histogram"),
    };
    let name = family.name;
    put(out, format_args!("# HELP {name}{suffix} {}\n", family.help));
    put(out, format_args!("# TYPE {name}{suffix} {kind}\n"));
    if dialect == Dialect::OpenMetrics
        && let Some(unit) = family.unit()
    {
        put(out, format_args!("# UNIT {name} {unit}\n"));
    }
}

fn series(out: &mut String, family: &Family, sample: &Sample, dialect: Dialect) {
    // Only OpenMetrics has them.
    let shown = sample.exemplar.as_ref();
    let shown = shown.filter(|_| dialect == Dialect::OpenMetrics);
    match (&sample.value, family.kind) {
        (Value::Histogram(distribution), Kind::Histogram(buckets)) => {
            histogram(out, family, sample, distribution, buckets.bounds_ns, shown);
        }
        (Value::Number(number), kind) => {
            name(out, family, family.suffix(), sample, None);
            put(out, format_args!(" {number}"));
            exemplar(out, shown.filter(|_| kind == Kind::Counter));
        }
        // It would be no sample of this family, see `Sample::is_sound`.
        (Value::Histogram(_), _) => {}
    }
}

fn histogram(
    out: &mut String,
    family: &Family,
    sample: &Sample,
    of: &Distribution,
    bounds_ns: &[u64],
    shown: Option<&Exemplar>,
) {
    let is_in = |from_ns: u64, bound_ns: u64| {
        shown.filter(|of| from_ns < of.duration_ns && of.duration_ns <= bound_ns)
    };
    let mut from_ns = 0;
    for bound in bounds_ns {
        name(out, family, "_bucket", sample, Some(&le(*bound)));
        put(out, format_args!(" {}", of.up_to(*bound)));
        exemplar(out, is_in(from_ns, *bound));
        from_ns = *bound;
    }
    name(out, family, "_bucket", sample, Some("+Inf"));
    put(out, format_args!(" {}", of.count()));
    exemplar(out, is_in(from_ns, u64::MAX));
    name(out, family, "_sum", sample, None);
    put(out, format_args!(" {}\n", of.sum_s()));
    name(out, family, "_count", sample, None);
    put(out, format_args!(" {}\n", of.count()));
}

/// What stands behind a value, and the end of its line.
fn exemplar(out: &mut String, of: Option<&Exemplar>) {
    if let Some(of) = of {
        let mut mark = " # {";
        for (label, value) in of.labels() {
            put(out, format_args!("{mark}{label}=\"{value}\""));
            mark = ",";
        }
        let at_s = super::seconds(of.at_unix_ns);
        put(out, format_args!("}} {:?} {at_s:.3}", of.value_s()));
    }
    out.push('\n');
}

/// A bound in seconds; whole ones have a point, as OpenMetrics wants it.
fn le(bound_ns: u64) -> String {
    format!("{:?}", super::seconds(bound_ns))
}

fn name(out: &mut String, family: &Family, suffix: &str, sample: &Sample, le: Option<&str>) {
    put(out, format_args!("{}{suffix}", family.name));
    let labels = family.labels.iter().copied();
    let values = sample.labels.iter().map(String::as_str);
    let labels = labels.zip(values).chain(le.map(|le| ("le", le)));
    let mut mark = '{';
    for (label, value) in labels.filter(|(_, value)| !value.is_empty()) {
        put(out, format_args!("{mark}{label}=\""));
        for c in value.chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                '"' => out.push_str("\\\""),
                '\n' => out.push_str("\\n"),
                c => out.push(c),
            }
        }
        out.push('"');
        mark = ',';
    }
    if mark == ',' {
        out.push('}');
    }
}

fn put(out: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    let _ = out.write_fmt(arguments);
}
