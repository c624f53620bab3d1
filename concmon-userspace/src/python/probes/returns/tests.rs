//! Functions of made-up code, and where their calls end.

use super::*;

const ENTRY: u64 = 0x7f00_0000_1000;

fn walker(code: &[u8]) -> Walker<impl FnMut(u64) -> Option<[u8; LONGEST]>> {
    Walker::new(move |address| {
        let index = usize::try_from(address.checked_sub(ENTRY)?).ok()?;
        let rest = code.get(index..).filter(|rest| !rest.is_empty())?;
        let mut bytes = [0; LONGEST];
        let length = rest.len().min(LONGEST);
        bytes[..length].copy_from_slice(&rest[..length]);
        Some(bytes)
    })
}

/// Places by their offset from the entry, and what is on the stack there.
fn ends(code: &[u8]) -> Result<Vec<(u64, u64)>, Unclear> {
    let places = walker(code).ends(ENTRY)?;
    Ok(places
        .iter()
        .map(|p| (p.address - ENTRY, p.depth))
        .collect())
}

fn begin(code: &[u8], arguments: &[Register]) -> (u64, u64) {
    let place = walker(code).begin(ENTRY, arguments);
    (place.address - ENTRY, place.depth)
}

#[test]
fn the_last_jumps_before_a_return_are_its_ends() {
    let code = [
        0x53, // push rbx
        0x48, 0x83, 0xec, 0x08, // sub rsp, 8
        0x48, 0x85, 0xd2, // test rdx, rdx
        0x75, 0x0f, // jne 0x19
        0xe8, 0x11, 0x01, 0x00, 0x00, // call elsewhere
        0x85, 0xc0, // test eax, eax
        0x78, 0x06, // 0x11: js 0x19
        0x48, 0x83, 0xc4, 0x08, // 0x13: add rsp, 8
        0x5b, 0xc3, // pop rbx; ret
        0xe8, 0x02, 0x02, 0x00, 0x00, // 0x19: call elsewhere
        0xeb, 0xf3, // 0x1e: jmp 0x13
    ];
    assert_eq!(ends(&code), Ok(vec![(0x11, 16), (0x1e, 16)]));
}

#[test]
fn a_function_that_goes_on_in_another_ends_there() {
    let mut code = [0xcc_u8; 0x50];
    let text = [
        0x53, // push rbx
        0xe8, 0x3a, 0x00, 0x00, 0x00, // call 0x40
        0x5b, // pop rbx
        0xeb, 0x01, 0xcc, // jmp 0x0a; int3
        0xe8, 0x31, 0x00, 0x00, 0x00, // 0x0a: call 0x40
        0x85, 0xc0, // test eax, eax
        0x74, 0x01, // 0x11: je 0x14
        0x90, 0xc3, // nop; 0x14: ret
    ];
    code[..text.len()].copy_from_slice(&text);
    assert_eq!(ends(&code), Ok(vec![(0x11, 0)]));
}

#[test]
fn a_call_that_comes_last_ends_where_its_function_does() {
    let code = [
        0x48, 0x83, 0xec, 0x08, // sub rsp, 8
        0xe8, 0x05, 0x00, 0x00, 0x00, // call 0x0e
        0x48, 0x83, 0xc4, 0x08, // 0x09: add rsp, 8
        0xc3, // ret
        0x53, // 0x0e: push rbx
        0xe8, 0x2c, 0x00, 0x00, 0x00, // call what cannot be read
        0x85, 0xc0, // test eax, eax
        0x74, 0x02, // 0x16: je 0x1a
        0x31, 0xc0, // xor eax, eax
        0x5b, 0xc3, // 0x1a: pop rbx; ret
    ];
    // Its own 8, the return address, and what the other one pushed.
    assert_eq!(ends(&code), Ok(vec![(0x16, 24)]));
    // Without that function, it is where the call comes back to.
    assert_eq!(ends(&code[..0x0e]), Ok(vec![(0x09, 8)]));
}

#[test]
fn what_is_written_last_is_seen() {
    let code = [
        0x48, 0x85, 0xff, // test rdi, rdi
        0x74, 0x06, // je 0x0b
        0x48, 0x89, 0x47, 0x10, // mov [rdi+0x10], rax
        0x31, 0xc0, // 0x09: xor eax, eax
        0xc3, // ret
    ];
    assert_eq!(ends(&code), Ok(vec![(0x09, 0)]));
}

#[test]
fn frames_are_known_as_far_as_they_are_counted() {
    let code = [
        0x55, // push rbp
        0x48, 0x89, 0xe5, // mov rbp, rsp
        0x48, 0x83, 0xe4, 0xf0, // and rsp, -16
        0xff, 0xd0, // call rax
        0xc9, 0xc3, // leave; 0x0b: ret
    ];
    assert_eq!(ends(&code), Ok(vec![(0x0b, 0)]));
}

#[test]
fn what_cannot_be_followed_is_refused() {
    assert_eq!(ends(&[0x90, 0xff, 0xe0]), Err(Unclear::Indirect(1)));
    assert_eq!(ends(&[0x90]), Err(Unclear::NoInstruction(1)));
    assert_eq!(ends(&[0x06]), Err(Unclear::NoInstruction(0)));
    assert_eq!(ends(&[0xeb, 0xfe]), Err(Unclear::Endless));
    assert_eq!(ends(&[0xcb]), Err(Unclear::Return(0)));
    // Jumps before its entry, where nothing is.
    assert_eq!(ends(&[0xeb, 0xf0]), Err(Unclear::NoInstruction(-14)));
    // je into the middle of the next instruction.
    let overlapping = [0x74, 0x01, 0xb8, 0xc3, 0xc3, 0xc3, 0xc3, 0xc3];
    assert_eq!(ends(&overlapping), Err(Unclear::Overlap(3)));
    let endless = vec![0x90; MAX_INSTRUCTIONS + 1];
    assert_eq!(ends(&endless), Err(Unclear::Length));
}

#[test]
fn a_call_is_seen_before_its_arguments_are_lost() {
    const ARGUMENTS: &[Register] = &[Register::RDI, Register::RSI];
    // endbr64; mov rax, rsi; push rbx; pop rbx; ret
    let pushes = [0xf3, 0x0f, 0x1e, 0xfa, 0x48, 0x89, 0xf0, 0x53, 0x5b, 0xc3];
    assert_eq!(begin(&pushes, ARGUMENTS), (7, 0));
    // The same with mov rsi, rax.
    let loses = [0xf3, 0x0f, 0x1e, 0xfa, 0x48, 0x89, 0xc6, 0x53, 0x5b, 0xc3];
    assert_eq!(begin(&loses, ARGUMENTS), (0, 0));
    assert_eq!(begin(&loses, &[Register::RDI]), (7, 0));
    // endbr64; 4: dec rdx; jne 4; ret
    let repeats = [0xf3, 0x0f, 0x1e, 0xfa, 0x48, 0xff, 0xca, 0x75, 0xfb, 0xc3];
    assert_eq!(begin(&repeats, ARGUMENTS), (0, 0));
    let frame = [
        0x48, 0x83, 0xec, 0x28, // sub rsp, 0x28
        0x48, 0x89, 0x5c, 0x24, 0x08, // mov [rsp+8], rbx
        0x48, 0x85, 0xd2, // test rdx, rdx
        0x75, 0x00, // 0x0c: jne 0x0e
        0x48, 0x83, 0xc4, 0x28, 0xc3, // add rsp, 0x28; ret
    ];
    assert_eq!(begin(&frame, ARGUMENTS), (0x0c, 0x28));
    // What cannot be followed begins where it begins.
    assert_eq!(begin(&[0x53, 0xff, 0xe0], ARGUMENTS), (0, 0));
}
