//! For how long something has been met whenever that was looked at.

/// How looks have shown something. A look is shown until there is another, so it counts once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sighted {
    /// The first look that has shown it, and the last, ns after 1970.
    first_unix_ns: u64,
    pub(super) last_unix_ns: u64,
    /// How many looks have.
    pub(super) count: u32,
}

impl Sighted {
    pub(super) const fn at(unix_ns: u64) -> Self {
        Sighted {
            first_unix_ns: unix_ns,
            last_unix_ns: unix_ns,
            count: 1,
        }
    }

    /// A look shows it, which `was` known before or not.
    pub(super) fn again(was: Option<Self>, unix_ns: u64) -> Self {
        match was {
            None => Sighted::at(unix_ns),
            Some(was) if was.last_unix_ns == unix_ns => was,
            Some(was) => Sighted {
                count: was.count.saturating_add(1),
                last_unix_ns: unix_ns,
                ..was
            },
        }
    }

    /// For how long it is known, ns.
    pub(super) const fn known_ns(&self) -> u64 {
        self.last_unix_ns.saturating_sub(self.first_unix_ns)
    }
}
