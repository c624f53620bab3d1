//! Paths with what looks like an identifier folded, so that requests of one kind have one path.

/// Parts of a path that are kept, and bytes of one.
const MAX_PARTS: usize = 8;
const MAX_PART: usize = 40;
/// A part with digits in it that is this long is no word.
const LONG: usize = 16;

/// The path of a request's target, folded.
pub(crate) fn fold(target: &str) -> String {
    let path = target.split(['?', '#']).next().unwrap_or_default();
    // The absolute form, as proxies get it.
    let path = match path.split_once("://") {
        Some((_, rest)) if !path.starts_with('/') => rest.find('/').map_or("/", |at| &rest[at..]),
        _ => path,
    };
    if !path.starts_with('/') {
        // `*` of OPTIONS, and the authority of CONNECT.
        return if path == "*" { "*" } else { "-" }.to_owned();
    }
    let mut folded = String::new();
    let mut parts = path[1..].split('/');
    for part in parts.by_ref().take(MAX_PARTS) {
        folded.push('/');
        folded.push_str(fold_part(part));
    }
    if parts.next().is_some() {
        folded.push_str("/...");
    }
    folded
}

/// What a part is folded to that has encoded signs: it may be anything.
pub(crate) const ENCODED: &str = "{encoded}";

/// One part of a path, folded.
pub(crate) fn fold_part(part: &str) -> &str {
    let all = |is: fn(&u8) -> bool| part.bytes().all(|byte| is(&byte));
    let has_digit = part.bytes().any(|byte| byte.is_ascii_digit());
    if part.is_empty() {
        ""
    } else if all(u8::is_ascii_digit) {
        "{number}"
    } else if is_uuid(part) {
        "{uuid}"
    } else if has_digit && part.len() >= 8 && all(u8::is_ascii_hexdigit) {
        "{hash}"
    } else if part.contains('%') {
        ENCODED
    } else if part.len() > MAX_PART || has_digit && part.len() >= LONG || !all(is_plain) {
        "{text}"
    } else {
        part
    }
}

fn is_plain(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.~".contains(byte)
}

/// `8-4-4-4-12` digits.
fn is_uuid(part: &str) -> bool {
    part.len() == 36
        && part.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

#[cfg(test)]
mod tests {
    use super::fold;

    #[test]
    fn identifiers_are_folded() {
        for (target, path) in [
            ("/", "/"),
            ("/items/17?q=1", "/items/{number}"),
            ("/items/17/edit", "/items/{number}/edit"),
            ("/v1/users", "/v1/users"),
            ("/u/6f1e6bd2-9e2d-4a52-8f7a-6c1f0e5d7a10", "/u/{uuid}"),
            ("/blob/9f86d081884c7d65", "/blob/{hash}"),
            ("/mail/someone@example.org", "/mail/{text}"),
            ("/a%20b", "/{encoded}"),
            ("http://host:80/x?y", "/x"),
            ("http://host", "/"),
            ("/fetch/http://host/x", "/fetch/{text}//host/x"),
            ("*", "*"),
            ("host:443", "-"),
            ("/a/b/c/d/e/f/g/h/i/j", "/a/b/c/d/e/f/g/h/..."),
            ("/static/", "/static/"),
        ] {
            assert_eq!(fold(target), path, "{target}");
        }
        let word = "x".repeat(1_000);
        assert_eq!(fold(&format!("/{word}")), "/{text}");
    }
}
