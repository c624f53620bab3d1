//! Versions as file names, numbers and people have them.

use crate::python::layout::Version;

/// The version in a name like `python3.8`, `libpython3.13t.so.1.0`, `python2.7`.
pub(crate) fn version_in_name(basename: &str) -> Option<Version> {
    let digits = basename
        .strip_prefix("lib")
        .unwrap_or(basename)
        .strip_prefix("python")?;
    let (major, rest) = digits.split_once('.')?;
    let end = rest
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len());
    Some(Version {
        major: major.parse().ok()?,
        minor: rest[..end].parse().ok()?,
    })
}

/// `PY_VERSION_HEX` as people write it.
pub(crate) fn version_text(hex: u64) -> String {
    let (major, minor, micro) = ((hex >> 24) & 0xff, (hex >> 16) & 0xff, (hex >> 8) & 0xff);
    let serial = hex & 0xf;
    let level = match (hex >> 4) & 0xf {
        0xa => format!("a{serial}"),
        0xb => format!("b{serial}"),
        0xc => format!("rc{serial}"),
        _ => String::new(),
    };
    format!("{major}.{minor}.{micro}{level}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_in_names() {
        let cases = [
            ("python3.8", Some((3, 8))),
            ("libpython3.13t.so.1.0", Some((3, 13))),
            ("libpython3.11-pic.so", Some((3, 11))),
            ("python2.7", Some((2, 7))),
            ("python3", None),
            ("python", None),
            ("libpythonic.so", None),
        ];
        for (name, expected) in cases {
            let found = version_in_name(name).map(|version| (version.major, version.minor));
            assert_eq!(found, expected, "{name}");
        }
    }

    #[test]
    fn versions_as_text() {
        assert_eq!(version_text(0x030d_00f0), "3.13.0");
        assert_eq!(version_text(0x030f_00b2), "3.15.0b2");
        assert_eq!(version_text(0x030e_01c1), "3.14.1rc1");
    }
}
