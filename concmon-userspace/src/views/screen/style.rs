//! The looks of the live view. Emphasis is bold or reversed first; color only adds to it.

use ratatui::style::{Color, Modifier, Style};

use super::super::columns::Column;
use super::state::ScreenState;

pub(super) fn title(state: &ScreenState) -> Style {
    color(
        state,
        Style::new().add_modifier(Modifier::BOLD),
        Color::Cyan,
    )
}

/// The line with the names of columns.
pub(super) fn head() -> Style {
    Style::new().add_modifier(Modifier::REVERSED)
}

/// The row that `Enter` opens.
pub(super) fn selected() -> Style {
    Style::new().add_modifier(Modifier::REVERSED)
}

pub(super) fn strong() -> Style {
    Style::new().add_modifier(Modifier::BOLD)
}

pub(super) fn faint() -> Style {
    Style::new().add_modifier(Modifier::DIM)
}

/// For what needs attention.
pub(super) fn alarm(state: &ScreenState) -> Style {
    color(state, strong(), Color::Red)
}

pub(super) fn bar(state: &ScreenState, column: Column) -> Style {
    let hue = match column {
        Column::OnCpu => Color::Green,
        Column::Runnable => Color::Yellow,
        Column::Gil => Color::Red,
        Column::Lock => Color::Magenta,
        Column::Io | Column::Child => Color::Blue,
        Column::Disk => Color::LightRed,
        Column::Poll | Column::Sleep | Column::Stopped | Column::Unobserved => return faint(),
        Column::Other | Column::Unknown => Color::Reset,
    };
    color(state, Style::new(), hue)
}

fn color(state: &ScreenState, style: Style, color: Color) -> Style {
    if state.color { style.fg(color) } else { style }
}
