//! What the verifier must see, and the compiler would leave out.

/// `index & (N - 1)`, for `N` a power of two. In assembly, for the compiler would leave it out where
/// it knows that the index is small enough: the verifier does not know as much.
#[inline(always)]
pub(crate) fn bounded<const N: i32>(mut index: usize) -> usize {
    // SAFETY: one instruction on one register.
    unsafe {
        core::arch::asm!(
            "{0} &= {1}",
            inout(reg) index,
            const N - 1,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    index
}
