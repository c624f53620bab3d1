//! Takes a terminal for the live view, and gives it back whatever happens.

use std::io::{self, IsTerminal, Write};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use crossterm::cursor::{Hide, Show};
use crossterm::execute;
use crossterm::terminal::{
    DisableLineWrap, EnableLineWrap, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode,
    enable_raw_mode,
};

static TAKEN: AtomicBool = AtomicBool::new(false);
static HOOK: Once = Once::new();

/// The terminal is in raw mode and shows the alternate screen as long as this lives.
pub struct TerminalGuard {
    out: Box<dyn Write>,
}

impl std::fmt::Debug for TerminalGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TerminalGuard").finish_non_exhaustive()
    }
}

impl TerminalGuard {
    /// Takes the terminal of standard output, to which `out` writes.
    ///
    /// # Errors
    /// When it is taken already, or cannot be set up; nothing stays changed then.
    pub fn enter(out: Box<dyn Write>) -> io::Result<Self> {
        // Before the message of a panic, or it would vanish with the alternate screen.
        HOOK.call_once(|| {
            let previous = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                let _ = give_back(&mut io::stdout());
                previous(panic);
            }));
        });
        if !io::stdout().is_terminal() {
            return Err(io::Error::other("standard output is not a terminal"));
        }
        if TAKEN.swap(true, Ordering::SeqCst) {
            return Err(io::Error::other("the terminal is taken already"));
        }
        if let Err(error) = enable_raw_mode() {
            TAKEN.store(false, Ordering::SeqCst);
            return Err(error);
        }
        let mut guard = Self { out };
        execute!(guard.out, EnterAlternateScreen, DisableLineWrap, Hide)?;
        Ok(guard)
    }
}

impl Drop for TerminalGuard {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing back.
        let _ = give_back(&mut self.out);
    }
}

fn give_back(out: &mut impl Write) -> io::Result<()> {
    if !TAKEN.swap(false, Ordering::SeqCst) {
        return Ok(());
    }
    let screen = execute!(out, Show, EnableLineWrap, LeaveAlternateScreen);
    disable_raw_mode().and(screen)
}
