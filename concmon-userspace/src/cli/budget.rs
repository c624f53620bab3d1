//! Budgets as people type them: `1%`, `128MB`.

/// A part of a whole, 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share(pub f64);

/// For which part of the time switches are told.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum DutyCycle {
    /// As much as the budget allows.
    Auto,
    Fixed(Share),
}

/// Why a text is no acceptable budget.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum BudgetError {
    #[error("use percent, as in 1% or 0.5%")]
    Percent,
    #[error("use auto, or percent, as in 10%")]
    DutyCycle,
    #[error("it must be more than 0% and at most 100%")]
    Range,
    #[error("use kB, MB or GB (or KiB, MiB, GiB), as in 128MB; a bare number is bytes")]
    Size,
    #[error("at least {}MB is needed", MIN_BYTES / 1_000_000)]
    TooSmall,
}

/// What the tool needs to run at all.
const MIN_BYTES: u64 = 32_000_000;

/// The value of `--budget-cpu`.
pub(crate) fn parse_share(text: &str) -> Result<Share, BudgetError> {
    let text = text.trim();
    let number = text.strip_suffix('%').unwrap_or(text).trim_end();
    let percent: f64 = number.parse().map_err(|_| BudgetError::Percent)?;
    if percent > 0.0 && percent <= 100.0 {
        Ok(Share(percent / 100.0))
    } else {
        Err(BudgetError::Range)
    }
}

/// The value of `--duty`.
pub(crate) fn parse_duty(text: &str) -> Result<DutyCycle, BudgetError> {
    if text.trim() == "auto" {
        return Ok(DutyCycle::Auto);
    }
    match parse_share(text) {
        Err(BudgetError::Percent) => Err(BudgetError::DutyCycle),
        share => share.map(DutyCycle::Fixed),
    }
}

/// The value of `--budget-memory`, bytes.
pub(crate) fn parse_bytes(text: &str) -> Result<u64, BudgetError> {
    let text = text.trim();
    let split = text
        .find(|c: char| !(c.is_ascii_digit() || c == '.'))
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit: f64 = match unit.trim_start() {
        "" | "B" => 1.0,
        "kB" | "KB" | "k" | "K" => 1e3,
        "MB" | "M" => 1e6,
        "GB" | "G" => 1e9,
        "KiB" => 1024.0,
        "MiB" => 1024.0 * 1024.0,
        "GiB" => 1024.0 * 1024.0 * 1024.0,
        _ => return Err(BudgetError::Size),
    };
    let number: f64 = number.parse().map_err(|_| BudgetError::Size)?;
    // Saturates.
    let bytes = (number * unit) as u64;
    if bytes < MIN_BYTES {
        return Err(BudgetError::TooSmall);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent() {
        assert_eq!(parse_share("1%"), Ok(Share(0.01)));
        assert_eq!(parse_share(" 12.5 % "), Ok(Share(0.125)));
        assert_eq!(parse_share("2"), Ok(Share(0.02)));
        for text in ["0%", "-1%", "101%", "nan"] {
            assert_eq!(parse_share(text), Err(BudgetError::Range), "{text}");
        }
        for text in ["", "%", "1%%", "one"] {
            assert_eq!(parse_share(text), Err(BudgetError::Percent), "{text}");
        }
    }

    #[test]
    fn duty_cycles() {
        assert_eq!(parse_duty(" auto "), Ok(DutyCycle::Auto));
        assert_eq!(parse_duty("10%"), Ok(DutyCycle::Fixed(Share(0.1))));
        assert_eq!(parse_duty("0%"), Err(BudgetError::Range));
        assert_eq!(parse_duty("always"), Err(BudgetError::DutyCycle));
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_bytes("128MB"), Ok(128_000_000));
        assert_eq!(parse_bytes("64MiB"), Ok(64 << 20));
        assert_eq!(parse_bytes("1.5 GB"), Ok(1_500_000_000));
        assert_eq!(parse_bytes("50000000"), Ok(50_000_000));
        assert_eq!(parse_bytes("1MB"), Err(BudgetError::TooSmall));
        for text in ["", "MB", "1.2.3MB", "128XB", "-5MB"] {
            assert_eq!(parse_bytes(text), Err(BudgetError::Size), "{text}");
        }
        assert_eq!(parse_bytes("99999999999999999999GB"), Ok(u64::MAX));
    }
}
