//! Instants as people type them: `2026-01-02T03:04:05Z`, seconds after 1970, or `-10s` from the end.

use jiff::{civil::Date, tz::TimeZone};

use super::duration;

/// An instant of a capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instant {
    /// On the wall clock, ns after 1970.
    Unix(u64),
    /// So many ns before the end.
    BeforeEnd(u64),
}

/// Why a text is no instant.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("use 2026-01-02T03:04:05Z, seconds after 1970, or -10s from the end")]
pub struct InstantError;

/// Parses an instant; days are UTC.
pub fn parse(text: &str) -> Result<Instant, InstantError> {
    let text = text.trim();
    if let Some(back) = text.strip_prefix('-') {
        let back = duration::parse(back).map_err(|_| InstantError)?;
        let ns = u64::try_from(back.as_nanos()).map_err(|_| InstantError)?;
        return Ok(Instant::BeforeEnd(ns));
    }
    let ns = match text.split_once(['T', ' ']) {
        Some((day, time)) => {
            let midnight = midnight(day).ok_or(InstantError)?;
            let time = time.strip_suffix('Z').unwrap_or(time);
            let of_day = of_day(time).ok_or(InstantError)?;
            midnight.checked_add(of_day)
        }
        None => nanoseconds(text),
    };
    ns.map(Instant::Unix).ok_or(InstantError)
}

/// Decimal seconds in ns; digits after the ninth are dropped.
fn nanoseconds(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) {
        return None;
    }
    let nine = format!("{:0<9}", fraction.get(..9).unwrap_or(fraction));
    let ns: u64 = nine.parse().ok()?;
    whole
        .parse::<u64>()
        .ok()?
        .checked_mul(1_000_000_000)?
        .checked_add(ns)
}

/// `03:04:05.678` in ns after midnight.
fn of_day(text: &str) -> Option<u64> {
    let (hour, rest) = text.split_once(':')?;
    let (minute, second) = rest.split_once(':').unwrap_or((rest, "0"));
    let (hour, minute): (u64, u64) = (hour.parse().ok()?, minute.parse().ok()?);
    let second = nanoseconds(second)?;
    (hour < 24 && minute < 60 && second < 61_000_000_000)
        .then(|| (hour * 60 + minute) * 60_000_000_000 + second)
}

/// The begin of the day `2026-01-02`, ns after 1970.
fn midnight(text: &str) -> Option<u64> {
    let mut parts = text.splitn(3, '-');
    let (year, month, day) = (parts.next()?, parts.next()?, parts.next()?);
    let date = Date::new(year.parse().ok()?, month.parse().ok()?, day.parse().ok()?).ok()?;
    let begin = TimeZone::UTC.to_timestamp(date.at(0, 0, 0, 0)).ok()?;
    u64::try_from(begin.as_nanosecond()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_accepted() {
        for (text, instant) in [
            ("-10s", Instant::BeforeEnd(10_000_000_000)),
            ("-250ms", Instant::BeforeEnd(250_000_000)),
            ("1700000000.25", Instant::Unix(1_700_000_000_250_000_000)),
            // `date -u -d @1709210096.5`.
            (
                "2024-02-29T12:34:56.5Z",
                Instant::Unix(1_709_210_096_500_000_000),
            ),
            ("1970-01-01 00:00", Instant::Unix(0)),
        ] {
            assert_eq!(parse(text), Ok(instant), "{text}");
        }
        for text in [
            "",
            "-",
            "10s",
            "2024-13-01T00:00Z",
            "2024-01-01T25:00Z",
            "2023-02-29T00:00Z",
            "2024-1-1-1T00:00Z",
            "1969-12-31T23:59Z",
            "9999-01-01T00:00Z",
            "x",
        ] {
            assert_eq!(parse(text), Err(InstantError), "{text}");
        }
    }
}
