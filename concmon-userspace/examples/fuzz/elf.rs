//! A small ELF file with everything in it that a detection looks at.

const SECTIONS: &[(&str, u32, &[u8])] = &[
    (".dynsym", 11, &[]),
    (
        ".dynstr",
        3,
        b"\0_PyRuntime\0Py_Version\0libpython3.12.so.1.0\0",
    ),
    (".dynamic", 6, &[]),
    (".rodata", 1, b"x\x003.10.13\0/opt/3.8.18\0"),
    (".PyRuntime", 1, b"xdebugpy"),
    (".AsyncioDebug", 1, &[0; 104]),
    (".shstrtab", 3, &[]),
];
const DYNAMIC_STRINGS: u32 = 2;
const NEEDED: u64 = 1;
const NAME_OF_LIBRARY: u64 = 23;

pub(crate) fn with_interpreter() -> Vec<u8> {
    let mut names = vec![0];
    let mut file = vec![0; 64 + 2 * 56];
    let mut headers = vec![0; 64];
    for (index, (name, kind, bytes)) in SECTIONS.iter().enumerate() {
        let name_at = names.len() as u32;
        names.extend(name.as_bytes());
        names.push(0);
        let bytes = match *name {
            ".dynsym" => symbols(),
            ".dynamic" => [NEEDED, NAME_OF_LIBRARY, 0, 0]
                .iter()
                .flat_map(|word| word.to_le_bytes())
                .collect(),
            ".shstrtab" => names.clone(),
            _ => bytes.to_vec(),
        };
        file.resize(file.len().next_multiple_of(16), 0);
        let entry: u64 = match *name {
            ".dynsym" => 24,
            ".dynamic" => 16,
            _ => 0,
        };
        let address = 0x1000 * (index as u64 + 1);
        headers.extend(name_at.to_le_bytes());
        headers.extend(kind.to_le_bytes());
        for word in [2, address, file.len() as u64, bytes.len() as u64] {
            headers.extend(u64::to_le_bytes(word));
        }
        headers.extend(DYNAMIC_STRINGS.to_le_bytes());
        headers.extend(u32::to_le_bytes(1));
        headers.extend(u64::to_le_bytes(8));
        headers.extend(entry.to_le_bytes());
        file.extend(bytes);
    }
    file.resize(file.len().next_multiple_of(16), 0);
    let table = file.len() as u64;
    file.extend(headers);
    let header = header(table);
    file[..header.len()].copy_from_slice(&header);
    file
}

fn symbols() -> Vec<u8> {
    let mut bytes = vec![0; 24];
    for (name, address) in [(1u32, 0x5000u64), (12, 0x5100)] {
        bytes.extend(name.to_le_bytes());
        // A global object in section 5.
        bytes.extend([0x11, 0, 5, 0]);
        bytes.extend(address.to_le_bytes());
        bytes.extend(8u64.to_le_bytes());
    }
    bytes
}

fn header(sections_at: u64) -> Vec<u8> {
    let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
    bytes.resize(16, 0);
    // A shared library for x86-64.
    bytes.extend([3, 0, 62, 0, 1, 0, 0, 0]);
    for word in [0, 64, sections_at] {
        bytes.extend(u64::to_le_bytes(word));
    }
    bytes.extend([0; 4]);
    let count = SECTIONS.len() as u16 + 1;
    for half in [64, 56, 2, 64, count, count - 1] {
        bytes.extend(u16::to_le_bytes(half));
    }
    for offset in [0u64, 0x1000] {
        // Loadable, readable.
        bytes.extend([1, 0, 0, 0, 4, 0, 0, 0]);
        for word in [offset, offset, offset, 0x1000, 0x1000, 0x1000] {
            bytes.extend(word.to_le_bytes());
        }
    }
    bytes
}
