//! Tests of the BTF reader: made-up types, damage, and the running kernel against bpftool.

use super::builder::Builder;
use super::*;
use crate::testing::Rng;

/// Enough types before the ones of interest that ids reach beyond one step of the index.
const FILLERS: usize = 70;

/// One of everything: anonymous nesting, arrays, typedefs, bit fields, a tracepoint.
fn sample() -> Vec<u8> {
    let mut b = Builder::new();
    for _ in 0..FILLERS {
        b.int("", 4);
    }
    let int = b.int("int", 4);
    let long = b.int("long", 8);
    let volatile = b.volatile(long);
    let state_t = b.typedef("state_t", volatile);
    let matrix = b.array(int, 3);
    let matrix = b.array(matrix, 2);
    let pair = b.structure("pair", 16, &[("x", long, 0), ("y", state_t, 64)]);
    let pairs = b.array(pair, 4);
    let deep = b.structure("", 16, &[("p", int, 0), ("q", long, 64)]);
    let either = b.union("", 16, &[("whole", long, 0), ("", deep, 0)]);
    let pointer = b.pointer(pair);
    b.structure(
        "outer",
        152,
        &[
            ("first", int, 0),
            ("", either, 64),
            ("pairs", pairs, 192),
            ("matrix", matrix, 704),
            ("link", pointer, 896),
        ],
    );
    let one_bit_at = |bit: u32| 1 << 24 | bit;
    b.flagged(
        "flagged",
        16,
        &[
            ("bit", int, one_bit_at(3)),
            ("plain", int, 32),
            ("odd", int, 33),
        ],
    );
    let narrow = b.record("int", 1 << 24, 4, &[5]);
    b.structure("old", 4, &[("bits", narrow, 0)]);
    b.structure("twin", 8, &[("a", int, 0), ("b", int, 32)]);
    b.structure("twin", 8, &[("a", int, 0), ("b", int, 0)]);
    let proto = b.prototype(5);
    let proto = b.pointer(proto);
    b.typedef("btf_trace_sched_switch", proto);
    b.typedef("btf_trace_nonsense", int);
    b.bytes()
}

#[test]
fn fields_of_the_sample() {
    let bytes = sample();
    let btf = Btf::parse(&bytes).unwrap();
    use FieldError::*;
    for (outer, path, expected) in [
        ("outer", "first", Ok((0, 4))),
        ("outer", "whole", Ok((8, 8))),
        ("outer", "p", Ok((8, 4))),
        ("outer", "q", Ok((16, 8))),
        ("outer", "pairs", Ok((24, 64))),
        ("outer", "pairs[0]", Ok((24, 16))),
        ("outer", "pairs[3].y", Ok((24 + 48 + 8, 8))),
        ("outer", "pairs[4].y", Err(NoMember)),
        ("outer", "pairs[-1].y", Err(NoMember)),
        ("outer", "pairs[0", Err(NoMember)),
        ("outer", "pairs[0]x.y", Err(NoMember)),
        ("outer", "pairs.y", Err(NoMember)),
        ("outer", "matrix[1][2]", Ok((88 + 12 + 8, 4))),
        ("outer", "matrix[1]", Ok((100, 12))),
        ("outer", "matrix[1][3]", Err(NoMember)),
        ("outer", "link", Ok((112, 8))),
        ("outer", "link.x", Err(NoMember)),
        ("outer", "first[0]", Err(NoMember)),
        ("outer", "firs", Err(NoMember)),
        ("outer", "first.", Err(NoMember)),
        ("outer", "", Err(NoMember)),
        ("oute", "first", Err(NoStruct)),
        ("int", "first", Err(NoStruct)),
        ("flagged", "bit", Err(Bitfield)),
        ("flagged", "odd", Err(Bitfield)),
        ("flagged", "plain", Ok((4, 4))),
        ("old", "bits", Err(Bitfield)),
        ("twin", "a", Ok((0, 4))),
        ("twin", "b", Err(Ambiguous)),
    ] {
        let found = btf.field(outer, path);
        let expected = expected.map(|(offset, size)| Field {
            offset,
            size: Some(size),
        });
        assert_eq!(found, expected, "{outer}.{path}");
    }
    assert_eq!(btf.offset_of("outer", "pairs[1].x"), Some(40));
    assert_eq!(btf.offset_of("outer", "none"), None);
}

#[test]
fn tracepoint_arguments() {
    let bytes = sample();
    let btf = Btf::parse(&bytes).unwrap();
    assert_eq!(btf.tracepoint_args("sched_switch"), Some(5));
    assert_eq!(btf.tracepoint_args("sched_wakeup"), None);
    assert_eq!(btf.tracepoint_args("nonsense"), None);
}

#[test]
fn what_is_no_btf_is_refused() {
    let good = sample();
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    let error = |bytes: &[u8]| Btf::parse(bytes).err();
    assert_eq!(error(&[]), Some(BtfError::Magic));
    assert_eq!(error(b"\x7fELF"), Some(BtfError::Magic));
    assert_eq!(error(&with(2, 2)), Some(BtfError::Version(2)));
    assert_eq!(error(&good[..20]), Some(BtfError::Header(20)));
    assert_eq!(error(&with(15, 1)), Some(BtfError::Header(good.len())));
    assert_eq!(
        error(&with(24 + 7, 31)),
        Some(BtfError::Kind { kind: 31, at: 0 })
    );
    // A type section that ends four bytes early.
    let short = error(&with(12, good[12] - 4));
    assert!(matches!(short, Some(BtfError::Truncated(_))), "{short:?}");
}

/// An anonymous struct that contains itself, and a typedef of itself.
#[test]
fn cycles_end() {
    let mut b = Builder::new();
    b.structure("", 8, &[("", 1, 0), ("", 1, 0)]);
    b.structure("outer", 8, &[("loop", 3, 0), ("", 1, 0)]);
    b.typedef("loop", 3);
    let bytes = b.bytes();
    let btf = Btf::parse(&bytes).unwrap();
    assert_eq!(btf.field("outer", "x"), Err(FieldError::Malformed));
    assert_eq!(btf.field("outer", "loop.x"), Err(FieldError::NoMember));
    assert_eq!(
        btf.field("outer", "loop"),
        Ok(Field {
            offset: 0,
            size: None
        })
    );
}

fn ask_everything(bytes: &[u8]) {
    if let Ok(btf) = Btf::parse(bytes) {
        for found in btf.structs(["outer", "flagged", "old", "twin"]) {
            for path in ["p", "pairs[3].y", "matrix[1][2]", "bit"] {
                let _ = found.field(path);
            }
        }
        let _ = btf.tracepoint_args("sched_switch");
    }
}

#[test]
fn damage_never_panics() {
    let good = sample();
    for len in 0..good.len() {
        assert!(Btf::parse(&good[..len]).is_err(), "cut at {len}");
    }
    let fillers = 24 + 16 * (FILLERS - 1);
    for at in (0..24).chain(fillers..good.len()) {
        for bit in 0..8 {
            let mut bytes = good.clone();
            bytes[at] ^= 1 << bit;
            ask_everything(&bytes);
        }
    }
    let mut rng = Rng::new(1);
    for _ in 0..1000 {
        let mut bytes = good.clone();
        for _ in 0..8 {
            let at = rng.below(bytes.len());
            bytes[at] = rng.next() as u8;
        }
        ask_everything(&bytes);
    }
}

/// Ground truth: `bpftool`'s own reading of the running kernel's BTF.
#[test]
fn agrees_with_bpftool() {
    const PATH: &str = "/sys/kernel/btf/vmlinux";
    let Ok(bytes) = std::fs::read(PATH) else {
        eprintln!("SKIPPED agrees_with_bpftool: this kernel has no {PATH}");
        return;
    };
    let Ok(dump) = std::process::Command::new("bpftool")
        .args(["btf", "dump", "file", PATH, "format", "raw"])
        .output()
    else {
        eprintln!("SKIPPED agrees_with_bpftool: bpftool is not installed");
        return;
    };
    let dump = String::from_utf8(dump.stdout).unwrap();
    let btf = Btf::parse(&bytes).unwrap();
    let mut checked = 0;
    for wanted in [
        "task_struct",
        "signal_struct",
        "sched_entity",
        "pt_regs",
        "upid",
    ] {
        let heading = format!("] STRUCT '{wanted}' ");
        let mut lines = dump.lines().skip_while(|line| !line.contains(&heading));
        assert!(lines.next().is_some(), "bpftool knows no {wanted}");
        let [found] = btf.structs([wanted]);
        for line in lines.take_while(|line| line.starts_with('\t')) {
            let name = line.split('\'').nth(1).unwrap();
            if name == "(anon)" {
                continue;
            }
            let bits = line.split("bits_offset=").nth(1).unwrap();
            let bits: u32 = bits.split(' ').next().unwrap().parse().unwrap();
            let expected = match line.contains("bitfield_size=") {
                true => Err(FieldError::Bitfield),
                false => Ok(bits / 8),
            };
            assert_eq!(
                found.field(name).map(|f| f.offset),
                expected,
                "{wanted}.{name}"
            );
            checked += 1;
        }
    }
    assert!(checked > 200, "only {checked} members compared");
}
