//! Emphasis in plain text output: escape sequences, or nothing at all.

/// Whether and how emphasis is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paint {
    /// Only text; for files, pipes and `--color never`.
    Plain,
    /// ANSI bold and red.
    Ansi,
}

impl Paint {
    /// For headings.
    pub(super) fn bold(self, text: &str) -> String {
        self.wrap("\x1b[1m", text)
    }

    /// For what needs attention. The text itself has to say so, too.
    pub(super) fn alarm(self, text: &str) -> String {
        self.wrap("\x1b[1;31m", text)
    }

    fn wrap(self, sequence: &str, text: &str) -> String {
        match self {
            Paint::Plain => text.to_owned(),
            Paint::Ansi => format!("{sequence}{text}\x1b[0m"),
        }
    }
}
