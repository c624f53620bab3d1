//! Names that differ in their numbers only.

/// A name with `#` in place of its numbers: `ThreadPoolExecutor-#_#`.
pub(super) fn stem(name: &str) -> String {
    let mut stem = String::with_capacity(name.len());
    let mut in_number = false;
    for c in name.chars() {
        let is_digit = c.is_ascii_digit();
        match (is_digit, in_number) {
            (true, false) => stem.push('#'),
            (true, true) => {}
            (false, _) => stem.push(c),
        }
        in_number = is_digit;
    }
    stem
}

/// What names of one stem have in common, with `#` for the numbers that differ.
pub(super) fn common<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let numbers = |name: &str| -> Vec<String> {
        let parts = name.split(|c: char| !c.is_ascii_digit());
        parts
            .filter(|part| !part.is_empty())
            .map(str::to_owned)
            .collect()
    };
    let mut names = names;
    let Some(first) = names.next() else {
        return String::new();
    };
    let mut names = names.peekable();
    if names.peek().is_none() {
        return first.to_owned();
    }
    let mut shared: Vec<Option<String>> = numbers(first).into_iter().map(Some).collect();
    for name in names {
        for (known, number) in shared.iter_mut().zip(numbers(name)) {
            *known = known.take().filter(|known| *known == number);
        }
    }
    let mut shared = shared.into_iter();
    let mut text = String::new();
    let mut in_number = false;
    for c in first.chars() {
        let is_digit = c.is_ascii_digit();
        match (is_digit, in_number) {
            (true, false) => text.push_str(shared.next().flatten().as_deref().unwrap_or("#")),
            (true, true) => {}
            (false, _) => text.push(c),
        }
        in_number = is_digit;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_without_their_numbers() {
        for (name, expected) in [
            ("MainThread", "MainThread"),
            ("ThreadPoolExecutor-0_17", "ThreadPoolExecutor-#_#"),
            ("Thread-12 (handle)", "Thread-# (handle)"),
            ("42", "#"),
            ("", ""),
        ] {
            assert_eq!(stem(name), expected);
        }
        for (names, expected) in [
            (&["pool-0_1", "pool-0_12", "pool-0_3"][..], "pool-0_#"),
            (
                &["AnyIO worker thread", "AnyIO worker thread"],
                "AnyIO worker thread",
            ),
            (&["Thread-1 (f)", "Thread-2 (f)"], "Thread-# (f)"),
            (&["w-7"], "w-7"),
            (&[], ""),
        ] {
            assert_eq!(common(names.iter().copied()), expected, "{names:?}");
        }
    }
}
