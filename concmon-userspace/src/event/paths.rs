//! Paths with what looks like an identifier folded, so that requests of one kind have one path.

/// Parts of a path that are kept, and bytes of one.
const MAX_PARTS: usize = 8;
const MAX_PART: u8 = 40;
/// A part with digits in it that is this long is no word.
const LONG: u8 = 16;
const UUID_LEN: u8 = 36;
const MIN_HASH: u8 = 8;

/// The path of a request's target, folded.
pub(crate) fn fold(target: &str) -> String {
    let path = target.split(['?', '#']).next().unwrap_or_default();
    // The absolute form, as proxies get it.
    let path = match path.split_once("://") {
        Some((_, rest)) if !path.starts_with('/') => rest.find('/').map_or("/", |at| &rest[at..]),
        _ => path,
    };
    // What has line breaks is taken by expressions that mean the end of the line; nobody wants these.
    if !path.starts_with('/') || has_encoded(path, b"%0a") {
        // `*` of OPTIONS, and the authority of CONNECT.
        return if path == "*" { "*" } else { "-" }.to_owned();
    }
    let mut folded = String::new();
    for (index, part) in path[1..].split('/').enumerate() {
        folded.push('/');
        if index == MAX_PARTS || has_encoded(part, b"%2f") {
            folded.push_str(MORE);
            break;
        }
        folded.push_str(match is_above(part) {
            true => ABOVE,
            false => fold_part(part),
        });
    }
    folded
}

/// What a path is folded to behind its first parts: one part more, or several.
pub(crate) const MORE: &str = "...";
/// What a part is folded to that has encoded signs: it may be anything.
pub(crate) const ENCODED: &str = "{encoded}";

/// A part that takes away the one before it, where that is done.
pub(crate) const ABOVE: &str = "..";

fn is_above(part: &str) -> bool {
    part.len() <= 2 * "%2e".len() && part.to_ascii_lowercase().replace("%2e", ".") == ABOVE
}

fn has_encoded(text: &str, sign: &[u8; 3]) -> bool {
    let mut threes = text.as_bytes().windows(3);
    threes.any(|three| three.eq_ignore_ascii_case(sign))
}

/// One part of a path, folded.
fn fold_part(part: &str) -> &str {
    let shape = part.bytes().fold(Shape::default(), Shape::then);
    shape.folded().unwrap_or(part)
}

/// What decides what a part of a path is folded to, byte by byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Shape {
    /// Up to one more than [`MAX_PART`].
    len: u8,
    has_digit: bool,
    has_other_than_digits: bool,
    has_other_than_hex: bool,
    has_other_than_plain: bool,
    /// It is no uuid, nor the beginning of one.
    is_no_uuid: bool,
    is_encoded: bool,
}

impl Shape {
    pub(crate) fn then(self, byte: u8) -> Self {
        let is_dash = matches!(self.len, 8 | 13 | 18 | 23);
        let fits_uuid = match byte {
            b'-' => is_dash,
            b'0'..=b'9' | b'a'..=b'f' => !is_dash,
            _ => false,
        };
        Self {
            len: (self.len + 1).min(MAX_PART + 1),
            has_digit: self.has_digit || byte.is_ascii_digit(),
            has_other_than_digits: self.has_other_than_digits || !byte.is_ascii_digit(),
            has_other_than_hex: self.has_other_than_hex || !byte.is_ascii_hexdigit(),
            has_other_than_plain: self.has_other_than_plain || !is_plain(byte),
            is_no_uuid: self.is_no_uuid || !fits_uuid,
            is_encoded: self.is_encoded || byte == b'%' || !byte.is_ascii(),
        }
    }

    /// Whether a part that begins with this may be folded to that, unless anything in it is encoded.
    pub(crate) fn may_become(self, folded: &str) -> bool {
        match folded {
            "{number}" => !self.has_other_than_digits,
            "{uuid}" => !self.is_no_uuid && self.len <= UUID_LEN,
            "{hash}" => !self.has_other_than_hex,
            _ => true,
        }
    }

    /// The same; one for all that are text, whatever comes.
    pub(crate) fn settled(self) -> Self {
        let is_long = self.len > MAX_PART || self.has_digit && self.len >= LONG;
        let is_word = self.is_no_uuid && self.has_other_than_hex;
        if self.is_encoded || !(self.has_other_than_plain || is_word && is_long) {
            return self;
        }
        Self {
            len: MAX_PART + 1,
            has_digit: true,
            has_other_than_digits: true,
            has_other_than_hex: true,
            has_other_than_plain: true,
            is_no_uuid: true,
            is_encoded: false,
        }
    }

    /// What a part of this shape is folded to; `None`: it is kept.
    pub(crate) fn folded(self) -> Option<&'static str> {
        let is_long = self.len > MAX_PART || self.has_digit && self.len >= LONG;
        if self.len == 0 {
            None
        } else if !self.has_other_than_digits {
            Some("{number}")
        } else if self.len == UUID_LEN && !self.is_no_uuid {
            Some("{uuid}")
        } else if self.has_digit && self.len >= MIN_HASH && !self.has_other_than_hex {
            Some("{hash}")
        } else if self.is_encoded {
            Some(ENCODED)
        } else if is_long || self.has_other_than_plain {
            Some("{text}")
        } else {
            None
        }
    }
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte)
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
            ("/u/6F1E6BD2-9E2D-4A52-8F7A-6C1F0E5D7A10", "/u/{text}"),
            ("/a%20b", "/{encoded}"),
            ("/caf\u{e9}", "/{encoded}"),
            ("/a%2Fb/c", "/..."),
            ("/a/b%0Ac", "-"),
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
