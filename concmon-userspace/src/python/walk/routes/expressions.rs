//! Regular expressions of Python, as those that are run here.

/// The expression of a text.
pub(super) fn escape(text: &str) -> String {
    regex::escape(text)
}

/// Everything.
pub(super) const ANY: &str = "(?s:.*)";

/// All that begins as a text does, up to one of these signs or to one that requests have encoded.
pub(super) fn beginning(text: &str, signs: &str) -> String {
    let ends = |sign: char| !sign.is_ascii() || sign == '%' || signs.contains(sign);
    let end = text.find(ends).unwrap_or(text.len());
    escape(&text[..end]) + ANY
}

/// An expression of Python that means the same here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Expression {
    /// It begins with `^` or `\A`.
    pub(super) from_start: bool,
    /// It ends with `$` or `\Z`.
    pub(super) to_end: bool,
    /// What is between these.
    pub(super) body: String,
}

/// The same expression without names of groups; `None`: it has something that is not known to mean the same, or that
/// looks around. A `$` is taken for the end, also in front of a last line break, which only encoded paths have.
pub(super) fn of_python(pattern: &str) -> Option<Expression> {
    let (from_start, rest) = match pattern.strip_prefix('^').or(pattern.strip_prefix("\\A")) {
        Some(rest) => (true, rest),
        None => (false, pattern),
    };
    let mut found = Expression {
        from_start,
        to_end: false,
        body: String::new(),
    };
    let mut rest = rest;
    let mut depth = 0_usize;
    let mut has_alternatives = false;
    while let Some(next) = rest.chars().next() {
        let taken = match next {
            '$' if rest == "$" => {
                found.to_end = true;
                1
            }
            '\\' if rest == "\\Z" || rest == "\\z" => {
                found.to_end = true;
                2
            }
            '^' | '$' => return None,
            '\\' => {
                let length = escaped(rest)?;
                found.body += &rest[..length];
                length
            }
            '[' => {
                let (length, class) = class(rest)?;
                found.body += &class;
                length
            }
            '(' => {
                depth += 1;
                let (length, opened) = group(rest)?;
                found.body += opened;
                length
            }
            '*' | '+' | '?' | '{' => {
                let length = repeated(rest)?;
                found.body += &rest[..length];
                length
            }
            other => {
                depth = match other {
                    ')' => depth.checked_sub(1)?,
                    _ => depth,
                };
                has_alternatives |= other == '|' && depth == 0;
                found.body.push(other);
                other.len_utf8()
            }
        };
        rest = &rest[taken..];
    }
    // Its ends are of its first and last alternative.
    let is_whole = depth == 0 && !(has_alternatives && (found.from_start || found.to_end));
    is_whole.then_some(found)
}

/// Bytes of an escape that means the same.
fn escaped(text: &str) -> Option<usize> {
    let sign = text[1..].chars().next()?;
    let is_same = match sign {
        'd' | 'D' | 'w' | 'W' | 's' | 'S' | 'n' | 't' | 'r' | 'f' | 'v' => true,
        other => other.is_ascii() && !other.is_ascii_alphanumeric() && !"<>".contains(other),
    };
    is_same.then_some(2)
}

/// Bytes of a class in brackets, and what means the same.
fn class(text: &str) -> Option<(usize, String)> {
    let mut length = 1;
    let mut class = "[".to_owned();
    if text[1..].starts_with('^') {
        length += 1;
        class.push('^');
    }
    let mut is_first = true;
    loop {
        let sign = text[length..].chars().next()?;
        match sign {
            ']' if !is_first => {
                class.push(']');
                return Some((length + 1, class));
            }
            '\\' => {
                let escape = escaped(&text[length..])?;
                class += &text[length..length + escape];
                length += escape;
            }
            // A difference of classes here.
            '-' if text[length..].starts_with("--") => return None,
            other => {
                if "[]&~".contains(other) {
                    class.push('\\');
                }
                class.push(other);
                length += other.len_utf8();
            }
        }
        is_first = false;
    }
}

/// Bytes of what opens a group, and what means the same.
fn group(text: &str) -> Option<(usize, &'static str)> {
    if text.starts_with("(?:") {
        return Some((3, "(?:"));
    }
    if let Some(named) = text.strip_prefix("(?P<") {
        return Some((4 + named.find('>')? + 1, "(?:"));
    }
    (!text.starts_with("(?")).then_some((1, "(?:"))
}

/// Bytes of a repetition: as often as possible, or as seldom, which takes the same.
fn repeated(text: &str) -> Option<usize> {
    let mut length = 1;
    if let Some(counts) = text.strip_prefix('{') {
        let end = counts.find('}')?;
        let (least, most) = counts[..end]
            .split_once(',')
            .unwrap_or((&counts[..end], ""));
        let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        (!least.is_empty() && is_number(least) && is_number(most)).then_some(())?;
        length += end + 1;
    }
    match text[length..].chars().next() {
        Some('?') => Some(length + 1),
        // It gives nothing back.
        Some('+') => None,
        _ => Some(length),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_means_the_same_is_taken_over() {
        for (pattern, from_start, to_end, body) in [
            (
                "^articles/(?P<year>[0-9]{4})/$",
                true,
                true,
                "articles/(?:[0-9]{4})/",
            ),
            ("\\Aa\\Z", true, true, "a"),
            ("a/(\\d+)", false, false, "a/(?:\\d+)"),
            ("[][&~a]+?", false, false, "[\\]\\[\\&\\~a]+?"),
            ("(?:a|b)*x\\-y\\.z", false, false, "(?:a|b)*x\\-y\\.z"),
            ("a|b", false, false, "a|b"),
            ("[^{}/]+", false, false, "[^{}/]+"),
            ("", false, false, ""),
        ] {
            let expected = Expression {
                from_start,
                to_end,
                body: body.to_owned(),
            };
            let found = of_python(pattern).unwrap();
            assert_eq!(found, expected, "{pattern}");
            assert!(regex::Regex::new(&found.body).is_ok(), "{pattern}");
        }
    }

    #[test]
    fn what_means_something_else_is_not_taken_over() {
        for pattern in [
            "a(?=b)",
            "a(?!b)",
            "(?<!/)x",
            "(?i)a",
            "(a)\\1",
            "\\bword",
            "a$b",
            "a^b",
            "^a|b",
            "a|b$",
            "a*+",
            "a{,3}",
            "x{y}",
            "[a--b]",
            "(?P=name)",
            "(a",
            "a)",
            "[a",
            "a\\",
            "\\u1234",
            "(?P<name",
            "a{",
        ] {
            assert_eq!(of_python(pattern), None, "{pattern}");
        }
    }
}
