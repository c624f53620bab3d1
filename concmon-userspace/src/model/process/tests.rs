//! How processes have ended.

use super::*;

#[test]
fn status_words() {
    for (status, code, signal) in [
        (Some(0), Some(0), None),
        (Some(3 << 8), Some(3), None),
        (Some(9), None, Some(9)),
        // With a core dump.
        (Some(11 | 0x80), None, Some(11)),
        (None, None, None),
    ] {
        let got = exited(status);
        assert_eq!((got.code, got.signal), (code, signal), "{status:?}");
    }
}
