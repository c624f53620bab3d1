//! A thread's bins in few characters: runs of equal bins, each with the shares of what was done.
//!
//! A run is `length - 1, n`, then n times `activity, share`, in bytes; shares are in 255ths of a bin. The
//! bytes are in base64 (RFC 4648).

use crate::model::intervals::bins::{Cell, Row};

/// Encodes the bins of a row.
pub(super) fn encode(row: &Row, width_ns: u64) -> String {
    let mut bytes = Vec::new();
    let mut cells = row
        .cells
        .iter()
        .map(|cell| shares(cell, width_ns))
        .peekable();
    while let Some(one) = cells.next() {
        let mut more = 0u8;
        while more < u8::MAX && cells.next_if_eq(&one).is_some() {
            more += 1;
        }
        bytes.push(more);
        bytes.push(one.len() as u8);
        for (activity, share) in one {
            bytes.extend([activity, share]);
        }
    }
    base64(&bytes)
}

/// Activities and their shares in 255ths. What is less than one is left out; the rest is rounded so that
/// the bin as a whole is as full as it was.
fn shares(cell: &Cell, width_ns: u64) -> Vec<(u8, u8)> {
    let part = |ns: u64| (u128::from(ns) * 255 / u128::from(width_ns.max(1))).min(255) as u64;
    let whole = part(cell.iter().fold(0, |sum: u64, ns| sum.saturating_add(*ns)));
    let mut shares: Vec<(u8, u64)> = cell
        .iter()
        .enumerate()
        .map(|(activity, ns)| (activity as u8, part(*ns)))
        .filter(|(_, share)| *share > 0)
        .collect();
    let told: u64 = shares.iter().map(|(_, share)| share).sum();
    if let Some((_, largest)) = shares.iter_mut().max_by_key(|(_, share)| *share) {
        *largest += whole.saturating_sub(told);
    }
    shares
        .into_iter()
        .map(|(activity, share)| (activity, share as u8))
        .collect()
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let mut word = [0; 4];
        word[1..=group.len()].copy_from_slice(group);
        let word = u32::from_be_bytes(word);
        for digit in 0..4 {
            if digit > group.len() {
                text.push('=');
            } else {
                text.push(DIGITS[(word >> (18 - 6 * digit) & 63) as usize] as char);
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::intervals::ACTIVITIES;

    #[test]
    fn base64_is_that_of_the_standard() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }

    #[test]
    fn equal_bins_are_one_run() {
        let mut cell = [0; ACTIVITIES];
        (cell[0], cell[3]) = (300, 700);
        let row = Row {
            first: 0,
            cells: vec![cell; 300],
        };
        let want = [255, 2, 0, 76, 3, 179, 43, 2, 0, 76, 3, 179];
        assert_eq!(encode(&row, 1000), base64(&want));
    }

    #[test]
    fn a_full_bin_stays_full() {
        let cell = [77; ACTIVITIES];
        let sum: u32 = shares(&cell, 77 * ACTIVITIES as u64)
            .iter()
            .map(|(_, s)| u32::from(*s))
            .sum();
        assert_eq!(sum, 255);
    }
}
