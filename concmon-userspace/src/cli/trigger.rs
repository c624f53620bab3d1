//! What makes the flight recorder write: `lag>200ms`, `stall`, `gil>0.9 for 10s`, a finding's name.

use std::time::Duration;

use super::duration;

/// A condition that is looked at in each window.
#[derive(Clone, Debug, PartialEq)]
pub enum Trigger {
    /// A loop was later than this.
    Lag(Duration),
    /// A step took longer than this; without a length, than its loop's threshold.
    Stall(Option<Duration>),
    /// A GIL was held for more than this share of the time, for so long.
    Gil { share: f64, patience: Duration },
    /// A finding holds, by its rule.
    Finding(String),
}

/// Why a text is no trigger.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("use lag>200ms, stall, stall>1s, 'gil>0.9 for 10s', or a finding's name")]
pub(crate) struct TriggerError;

/// Parses a trigger. A finding's name is checked where the rules are known.
pub(crate) fn parse(text: &str) -> Result<Trigger, TriggerError> {
    let length = |text: &str| duration::parse(text).map_err(|_| TriggerError);
    let text = text.trim();
    let Some((what, than)) = text.split_once('>') else {
        let named = !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
        return match text {
            "stall" => Ok(Trigger::Stall(None)),
            rule if named => Ok(Trigger::Finding(rule.to_owned())),
            _ => Err(TriggerError),
        };
    };
    match what.trim() {
        "lag" => length(than).map(Trigger::Lag),
        "stall" => length(than).map(|than| Trigger::Stall(Some(than))),
        "gil" => {
            let (share, patience) = than.split_once("for").unwrap_or((than, "0s"));
            let share: f64 = share.trim().parse().map_err(|_| TriggerError)?;
            let patience = length(patience)?;
            (0.0..1.0)
                .contains(&share)
                .then_some(Trigger::Gil { share, patience })
                .ok_or(TriggerError)
        }
        _ => Err(TriggerError),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_accepted() {
        let ms = Duration::from_millis;
        for (text, trigger) in [
            ("lag>200ms", Trigger::Lag(ms(200))),
            ("lag > 1s", Trigger::Lag(ms(1000))),
            ("stall", Trigger::Stall(None)),
            ("stall>1s", Trigger::Stall(Some(ms(1000)))),
            (
                "gil>0.9 for 10s",
                Trigger::Gil {
                    share: 0.9,
                    patience: ms(10_000),
                },
            ),
            ("loop-blocked", Trigger::Finding("loop-blocked".to_owned())),
        ] {
            assert_eq!(parse(text), Ok(trigger), "{text}");
        }
        for text in ["", "lag", "lag>", "gil>2", "cpu>1s", "Loop"] {
            let accepted =
                parse(text).is_ok_and(|trigger| trigger != Trigger::Finding(text.into()));
            assert!(!accepted, "{text}");
        }
    }
}
