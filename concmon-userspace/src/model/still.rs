//! Whether a process stands still: nothing has come of it for a window, and the one before.

/// Whether anything has come of a process but that it stands still.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Standing {
    /// In this window: that it stands, and something else.
    is_told: bool,
    is_touched: bool,
    /// It stood still for the whole window before.
    stood_before: bool,
}

impl Standing {
    /// It is said that it stands still.
    pub(super) const fn tell(&mut self) {
        self.is_told = true;
    }

    /// Something has come of it.
    pub(super) const fn touch(&mut self) {
        self.is_touched = true;
    }

    /// Begins a window.
    pub(super) const fn roll(&mut self) {
        *self = Self {
            is_told: false,
            is_touched: false,
            stood_before: self.is_still(),
        };
    }

    /// It stands still in this window.
    pub(super) const fn is_still(self) -> bool {
        self.is_told && !self.is_touched
    }

    /// It does since before this window: its last row says what there is to be said.
    pub(super) const fn is_lasting(self) -> bool {
        self.stood_before && self.is_still()
    }
}
