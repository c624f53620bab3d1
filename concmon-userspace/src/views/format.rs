//! Numbers in few characters: durations, counts, bytes, percents, instants.

use jiff::{Timestamp, tz::TimeZone};

const UTC: TimeZone = TimeZone::UTC;

/// A duration in at most six characters up to 100 days: `0`, `12ns`, `1.23ms`, `2m03s`, `3d04h`.
pub(super) fn duration(ns: u64) -> String {
    const SECOND: u64 = 1_000_000_000;
    let s = ns / SECOND;
    match ns {
        0 => "0".to_owned(),
        1..1000 => format!("{ns}ns"),
        // The limits are where three digits would round up to the next unit.
        1000..999_500 => three_digits(ns, 1e3, "us"),
        999_500..999_500_000 => three_digits(ns, 1e6, "ms"),
        _ if ns < 100 * SECOND => three_digits(ns, 1e9, "s"),
        _ if s < 3600 => format!("{}m{:02}s", s / 60, s % 60),
        _ if s < 86_400 => format!("{}h{:02}m", s / 3600, s / 60 % 60),
        _ => format!("{}d{:02}h", s / 86_400, s / 3600 % 24),
    }
}

/// A duration that may not be known: `-` when it is not.
pub(super) fn maybe_duration(ns: Option<u64>) -> String {
    ns.map_or_else(|| "-".to_owned(), duration)
}

/// A count in at most five characters up to 10^15: `9999`, `12.3k`, `4.56M`.
pub(super) fn count(n: u64) -> String {
    match n {
        0..10_000 => n.to_string(),
        10_000..999_500 => three_digits(n, 1e3, "k"),
        999_500..999_500_000 => three_digits(n, 1e6, "M"),
        999_500_000..999_500_000_000 => three_digits(n, 1e9, "G"),
        _ => three_digits(n, 1e12, "T"),
    }
}

/// A count that may not be known: `-` when it is not.
pub(super) fn maybe_count(n: Option<u64>) -> String {
    n.map_or_else(|| "-".to_owned(), count)
}

/// How many per second, over `duration_ns`.
pub(super) fn rate(n: u64, duration_ns: u64) -> String {
    match duration_ns {
        0 => "-".to_owned(),
        ns => count((n as f64 * 1e9 / ns as f64).round() as u64),
    }
}

/// A size in powers of 1024, in at most five characters: `512B`, `44.1M`, `1023M`.
pub(super) fn bytes(n: u64) -> String {
    let mut scaled = n as f64;
    for unit in ["B", "K", "M", "G", "T", "P"] {
        if scaled < 1023.5 {
            return match n {
                0..1024 => format!("{n}B"),
                _ => digits(scaled, unit),
            };
        }
        scaled /= 1024.0;
    }
    digits(scaled, "E")
}

/// A size that may not be known: `-` when it is not.
pub(super) fn maybe_bytes(n: Option<u64>) -> String {
    n.map_or_else(|| "-".to_owned(), bytes)
}

/// `part` of `whole` in percent; `None` when there is no whole.
pub(super) fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 * 100.0 / whole as f64)
}

/// A percent number: `0%`, `<1%`, `62%`, `1200%`.
pub(super) fn percent(value: f64) -> String {
    format!("{}%", percent_digits(value))
}

/// `part` of `whole` as a percent number; `-` when there is no whole.
pub(super) fn share_percent(part: u64, whole: u64) -> String {
    share(part, whole).map_or_else(|| "-".to_owned(), percent)
}

/// A small percent number with one digit more: `0%`, `0.04%`, `0.4%`, `12%`; the tool's own cost.
pub(super) fn fine_percent(value: f64) -> String {
    match value {
        v if v <= 0.0 || !v.is_finite() => "0%".to_owned(),
        v if v < 0.01 => "<0.01%".to_owned(),
        v if v < 0.095 => format!("{v:.2}%"),
        v if v < 9.95 => format!("{v:.1}%"),
        v => format!("{v:.0}%"),
    }
}

/// [`percent`] without the sign.
pub(super) fn percent_digits(value: f64) -> String {
    match value {
        v if v <= 0.0 || !v.is_finite() => "0".to_owned(),
        v if v < 1.0 => "<1".to_owned(),
        v => format!("{v:.0}"),
    }
}

/// An instant in ns after 1970 as `2026-01-02T03:04:05.678Z`.
pub(super) fn utc(unix_ns: u64) -> String {
    format!("{:.3}", timestamp(unix_ns))
}

/// The time of day of an instant in ns after 1970, `03:04:05Z`.
pub(super) fn time_of_day(unix_ns: u64) -> String {
    format!("{:.0}Z", UTC.to_datetime(timestamp(unix_ns)).time())
}

/// As [`time_of_day`], to the millisecond: `03:04:05.678Z`.
pub(super) fn precise_time_of_day(unix_ns: u64) -> String {
    format!("{:.3}Z", UTC.to_datetime(timestamp(unix_ns)).time())
}

fn timestamp(unix_ns: u64) -> Timestamp {
    // It fits: the latest is in 2554.
    Timestamp::from_nanosecond(i128::from(unix_ns)).unwrap_or(Timestamp::MAX)
}

fn three_digits(n: u64, unit: f64, name: &str) -> String {
    digits(n as f64 / unit, name)
}

fn digits(scaled: f64, unit: &str) -> String {
    let decimals = match scaled {
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    format!("{scaled:.decimals$}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (ns, text) in [
            (0, "0"),
            (999, "999ns"),
            (1000, "1.00us"),
            (9_996, "10.0us"),
            (999_499, "999us"),
            (999_500, "1.00ms"),
            (1_234_567, "1.23ms"),
            (999_500_000, "1.00s"),
            (12_345_678_901, "12.3s"),
            (99_960_000_000, "100s"),
            (123_000_000_000, "2m03s"),
            (3_600_000_000_000, "1h00m"),
            (86_400_000_000_000 * 3 + 4 * 3_600_000_000_000, "3d04h"),
            (u64::MAX, "213503d23h"),
        ] {
            assert_eq!(duration(ns), text, "{ns}");
        }
        assert_eq!(maybe_duration(None), "-");
    }

    #[test]
    fn counts_and_sizes() {
        for (n, as_count, as_bytes) in [
            (0, "0", "0B"),
            (1023, "1023", "1023B"),
            (1024, "1024", "1.00K"),
            (9_999, "9999", "9.76K"),
            (10_000, "10.0k", "9.77K"),
            (999_500, "1.00M", "976K"),
            (46_240_000, "46.2M", "44.1M"),
            (1_073_000_000, "1.07G", "1023M"),
            (1_073_741_823, "1.07G", "1.00G"),
        ] {
            assert_eq!(
                (count(n).as_str(), bytes(n).as_str()),
                (as_count, as_bytes),
                "{n}"
            );
        }
        assert_eq!(rate(500, 250_000_000), "2000");
        assert_eq!(rate(500, 0), "-");
    }

    #[test]
    fn percents() {
        for (value, text) in [
            (0.0, "0%"),
            (0.2, "<1%"),
            (0.5, "<1%"),
            (0.999, "<1%"),
            (61.6, "62%"),
            (1200.0, "1200%"),
            (f64::NAN, "0%"),
        ] {
            assert_eq!(percent(value), text, "{value}");
        }
        assert_eq!(share_percent(1, 0), "-");
        assert_eq!(share_percent(3, 4), "75%");
        for (value, text) in [
            (0.001, "<0.01%"),
            (0.042, "0.04%"),
            (0.42, "0.4%"),
            (9.96, "10%"),
        ] {
            assert_eq!(fine_percent(value), text, "{value}");
        }
    }

    /// Expected values from `date -u -d @SECONDS`.
    #[test]
    fn instants() {
        for (s, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (1_709_164_799, "2024-02-28T23:59:59.000Z"),
            (1_767_323_045, "2026-01-02T03:04:05.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
            (18_446_744_073, "2554-07-21T23:34:33.000Z"),
        ] {
            assert_eq!(utc(s * 1_000_000_000), text);
        }
        assert_eq!(utc(1_767_323_045_678_999_999), "2026-01-02T03:04:05.678Z");
        assert_eq!(time_of_day(1_767_323_045_678_999_999), "03:04:05Z");
        let precise = precise_time_of_day(1_767_323_045_078_999_999);
        assert_eq!(precise, "03:04:05.078Z");
    }
}
