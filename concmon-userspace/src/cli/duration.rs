//! Durations as people type them: `250ms`, `5s`, `2m`, `1h`; a bare number is seconds.

use std::time::Duration;

/// The shortest interval between two reports.
pub const MIN_INTERVAL: Duration = Duration::from_millis(100);
/// The longest interval between two reports.
pub const MAX_INTERVAL: Duration = Duration::from_secs(3600);
/// The shortest threshold for stalls.
pub const MIN_THRESHOLD: Duration = Duration::from_millis(5);
/// The longest watch that can be asked for; one without `--duration` has no end.
pub const MAX_DURATION: Duration = Duration::from_secs(365 * 24 * 3600);

const UNITS: &str = "use ms, s, m or h, as in 250ms, 5s, 1.5m; a bare number is seconds";

/// Why a text is not an acceptable duration.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DurationError {
    #[error("it needs a number; {UNITS}")]
    NoNumber,
    #[error("`{0}` is not a unit of time; {UNITS}")]
    Unit(String),
    #[error("`{0}` is not a number; {UNITS}")]
    Number(String),
    #[error("at least {} is needed", plain(*.0))]
    TooShort(Duration),
    #[error("at most {} is possible", plain(*.0))]
    TooLong(Duration),
}

/// Parses a duration; exact to the nanosecond, digits after that are dropped.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let text = text.trim();
    let split = text
        .find(|c: char| !(c.is_ascii_digit() || c == '.'))
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit_ns: u128 = match unit.trim_start() {
        "" | "s" => 1_000_000_000,
        "ms" => 1_000_000,
        "m" | "min" => 60 * 1_000_000_000,
        "h" => 3600 * 1_000_000_000,
        _ if number.is_empty() => return Err(DurationError::NoNumber),
        other => return Err(DurationError::Unit(other.to_owned())),
    };
    if number.is_empty() {
        return Err(DurationError::NoNumber);
    }
    let bad = || DurationError::Number(number.to_owned());
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
        return Err(bad());
    }
    let too_long = DurationError::TooLong(MAX_DURATION);
    if whole.trim_start_matches('0').len() > 12 {
        return Err(too_long);
    }
    let mut ns = match whole {
        "" => 0,
        digits => digits.parse::<u128>().map_err(|_| bad())? * unit_ns,
    };
    let mut place = unit_ns;
    for digit in fraction.bytes() {
        place /= 10;
        ns += u128::from(digit - b'0') * place;
    }
    match u64::try_from(ns).map(Duration::from_nanos) {
        Ok(duration) if duration <= MAX_DURATION => Ok(duration),
        _ => Err(too_long),
    }
}

/// The value of `--interval`, within [`MIN_INTERVAL`] and [`MAX_INTERVAL`].
pub fn parse_interval(text: &str) -> Result<Duration, DurationError> {
    bounded(parse(text)?, MIN_INTERVAL, MAX_INTERVAL)
}

/// The value of `--stall-threshold`: from what samples can tell on.
pub fn parse_threshold(text: &str) -> Result<Duration, DurationError> {
    bounded(parse(text)?, MIN_THRESHOLD, MAX_INTERVAL)
}

/// The value of `--duration`: more than nothing, at most [`MAX_DURATION`].
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    bounded(parse(text)?, Duration::from_millis(1), MAX_DURATION)
}

fn bounded(value: Duration, min: Duration, max: Duration) -> Result<Duration, DurationError> {
    if value < min {
        Err(DurationError::TooShort(min))
    } else if value > max {
        Err(DurationError::TooLong(max))
    } else {
        Ok(value)
    }
}

fn plain(duration: Duration) -> String {
    let ms = duration.as_millis();
    match () {
        () if ms.is_multiple_of(24 * 3_600_000) => format!("{} days", ms / (24 * 3_600_000)),
        () if ms.is_multiple_of(3_600_000) => format!("{}h", ms / 3_600_000),
        () if ms.is_multiple_of(1000) => format!("{}s", ms / 1000),
        () => format!("{ms}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_take_units() {
        for (text, ns) in [
            ("250ms", 250_000_000),
            ("5s", 5_000_000_000),
            ("2m", 120_000_000_000),
            ("2min", 120_000_000_000),
            ("1h", 3_600_000_000_000),
            ("3", 3_000_000_000),
            ("0.5", 500_000_000),
            (".5s", 500_000_000),
            ("1.", 1_000_000_000),
            ("1.5m", 90_000_000_000),
            ("1.0000000009s", 1_000_000_000),
            ("0.0000000000000000000000001h", 0),
            ("0000000000000000001s", 1_000_000_000),
            (" 5 s ", 5_000_000_000),
            ("0", 0),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_nanos(ns)), "{text}");
        }
    }

    #[test]
    fn errors_say_what_to_type() {
        for (text, message) in [
            ("", "it needs a number"),
            ("ms", "it needs a number"),
            ("-1s", "it needs a number"),
            ("soon", "it needs a number"),
            ("5x", "`x` is not a unit of time"),
            ("5 sec", "`sec` is not a unit of time"),
            ("1e3", "`e3` is not a unit of time"),
            ("1:30", "`:30` is not a unit of time"),
            ("1.2.3s", "`1.2.3` is not a number"),
            (".", "`.` is not a number"),
            ("\u{664}s", "it needs a number"),
            ("999999999999h", "at most 365 days is possible"),
            (
                "99999999999999999999999999999999999999999999",
                "at most 365 days is possible",
            ),
        ] {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.starts_with(message), "{text}: {error}");
        }
    }

    #[test]
    fn intervals_and_durations_have_bounds() {
        assert_eq!(parse_interval("100ms"), Ok(MIN_INTERVAL));
        assert_eq!(parse_interval("1h"), Ok(MAX_INTERVAL));
        assert_eq!(
            parse_interval("99ms").unwrap_err().to_string(),
            "at least 100ms is needed"
        );
        assert_eq!(
            parse_interval("61m").unwrap_err().to_string(),
            "at most 1h is possible"
        );
        assert_eq!(parse_duration("1ms"), Ok(Duration::from_millis(1)));
        assert_eq!(
            parse_duration("0").unwrap_err().to_string(),
            "at least 1ms is needed"
        );
    }
}
