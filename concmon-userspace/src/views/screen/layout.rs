//! Shares the screen out: header, footer, and how many rows each section gets.

use std::collections::BTreeSet;

use ratatui::layout::Rect;

use super::super::{digest, gaps};
use super::state::{SECTIONS, ScreenState, Section};
use super::{detail, findings, functions, gil, help, requests, tasks};
use crate::schema::Snapshot;

/// The fixed parts of the screen; each may be empty.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parts {
    pub(super) header: Rect,
    pub(super) body: Rect,
    pub(super) footer: Rect,
}

/// Two header lines and a footer where there is room; a third line for `troubles`.
pub(super) fn split(area: Rect, troubles: bool) -> Parts {
    let header = match area.height {
        0..3 => 0,
        3..8 => 1,
        8..14 => 2,
        _ => 2 + u16::from(troubles),
    };
    let footer = u16::from(area.height >= 6);
    let line = |y, height| Rect {
        y: area.y + y,
        height,
        ..area
    };
    Parts {
        header: line(0, header),
        body: line(header, area.height - header - footer),
        footer: line(area.height - footer, footer),
    }
}

/// What the third header line says: trouble of the tool, gaps of the targets, gaps of the watch.
pub(super) fn troubles(snapshot: &Snapshot) -> Vec<String> {
    let mut troubles: Vec<String> = findings::worst(snapshot).into_iter().collect();
    troubles.extend(digest::troubles(&snapshot.monitor));
    let gaps = snapshot.processes.iter().flat_map(gaps::process_gaps);
    let mut said = BTreeSet::new();
    for gap in gaps.chain(gaps::watch_gaps(snapshot)) {
        let gap = format!("{}: {}", gap.field, gap.reason);
        if said.insert(gap.clone()) {
            troubles.push(gap);
        }
    }
    troubles
}

/// Where each section stands and how many rows it has.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) parts: Parts,
    pub(super) troubles: Vec<String>,
    /// Head and rows of a section, by [`Section::index`]; empty for a hidden one.
    areas: [Rect; SECTIONS],
    rows: [usize; SECTIONS],
}

impl Plan {
    pub(super) fn new(snapshot: &Snapshot, state: &ScreenState, area: Rect) -> Self {
        let troubles = troubles(snapshot);
        let parts = split(area, !troubles.is_empty());
        let processes = &snapshot.processes;
        let left = processes.iter().filter(|one| state.leaves_process(one));
        let threads = processes.iter().map(|one| state.threads(one).count());
        let rows = [
            left.count(),
            threads.sum(),
            tasks::count(snapshot, state),
            gil::count(snapshot, state),
            findings::count(snapshot, state, usize::from(area.width)),
            functions::count(state),
            requests::count(snapshot, state),
        ];
        let heights = match state.zoom {
            true => Section::ALL.map(|section| {
                if section == state.focus {
                    parts.body.height
                } else {
                    0
                }
            }),
            false => {
                let [processes, threads, tasks, ..] = rows;
                let shown = [processes, threads, tasks];
                let [a, b, c] = share_out(shown, state.focus, parts.body.height);
                [a, b, c, 0, 0, 0, 0]
            }
        };
        let mut y = parts.body.y;
        let areas = heights.map(|height| {
            let area = Rect {
                y,
                height,
                ..parts.body
            };
            y += height;
            area
        });
        Self {
            parts,
            troubles,
            areas,
            rows,
        }
    }

    pub(super) fn area(&self, section: Section) -> Rect {
        self.areas[section.index()]
    }

    /// All rows of a section.
    pub(super) fn rows(&self, section: Section) -> usize {
        self.rows[section.index()]
    }

    /// Rows that fit on the screen below the head.
    pub(super) fn visible(&self, section: Section) -> usize {
        usize::from(self.area(section).height.saturating_sub(1))
    }
}

impl ScreenState {
    /// Bounds the scroll positions to what there is to see on a screen of this size.
    pub fn settle(&mut self, snapshot: &Snapshot, area: Rect) {
        if self.help {
            let body = split(area, false).body;
            let troubles = troubles(snapshot);
            let lines = help::lines(usize::from(body.width), &troubles).len();
            self.page = usize::from(body.height).max(1);
            self.help_scroll = self.help_scroll.min(lines.saturating_sub(self.page));
            return;
        }
        if std::mem::take(&mut self.opens) {
            self.detail = detail::selected(snapshot, self);
        }
        let plan = Plan::new(snapshot, self, area);
        if self.detail.is_some() {
            self.page = usize::from(plan.parts.body.height).max(1);
            return;
        }
        for section in Section::ALL {
            let visible = plan.visible(section);
            let last = plan.rows(section).saturating_sub(visible);
            let index = section.index();
            let rows = plan.rows(section);
            self.selected[index] = self.selected[index].min(rows.saturating_sub(1));
            let mut scroll = self.scroll[index].min(last);
            if section == self.focus && !section.sorts().is_empty() {
                let selected = self.selected[index];
                scroll = scroll
                    .min(selected)
                    .max((selected + 1).saturating_sub(visible.max(1)));
            }
            self.scroll[index] = scroll.min(last);
            if section == self.focus {
                self.page = visible.max(1);
            }
        }
    }
}

/// Heights of the sections with their heads. A section without rows is hidden, except that of
/// threads. Each gets a fair part; what one does not need goes to the next, the one in focus first.
fn share_out(rows: [usize; 3], focus: Section, height: u16) -> [u16; 3] {
    let mut wanted = rows.map(|rows| {
        if rows == 0 {
            0
        } else {
            u16::try_from(rows + 1).unwrap_or(u16::MAX)
        }
    });
    if rows.iter().all(|rows| *rows == 0) {
        wanted[Section::Threads.index()] = 1;
    }
    // A head without a row below it says nothing: on a tiny screen the last section goes first.
    for section in [Section::Processes, Section::Tasks] {
        let shown = wanted.iter().filter(|wanted| **wanted > 0).count() as u16;
        if shown * 2 > height && section != focus {
            wanted[section.index()] = 0;
        }
    }
    let fair = [height / 4, height / 2, height / 4].map(|part| part.max(2));
    let mut heights = [0; 3];
    let mut left = height;
    for index in 0..heights.len() {
        heights[index] = wanted[index].min(fair[index]).min(left);
        left -= heights[index];
    }
    for section in [focus, Section::Threads, Section::Tasks, Section::Processes] {
        let index = section.index().min(heights.len() - 1);
        let more = (wanted[index] - heights[index]).min(left);
        heights[index] += more;
        left -= more;
    }
    heights
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_share_the_height() {
        let threads = Section::Threads;
        for (rows, focus, height, heights) in [
            ([1, 5, 12], threads, 20, [2, 6, 12]),
            ([1, 50, 50], threads, 20, [2, 13, 5]),
            ([1, 50, 50], Section::Tasks, 20, [2, 10, 8]),
            ([30, 3, 0], threads, 20, [16, 4, 0]),
            ([1, 0, 0], threads, 20, [2, 0, 0]),
            ([0, 0, 0], threads, 20, [0, 1, 0]),
            ([4, 9, 9], threads, 7, [2, 3, 2]),
            ([4, 9, 9], threads, 4, [0, 2, 2]),
            ([4, 9, 9], threads, 2, [0, 2, 0]),
            ([4, 9, 9], Section::Processes, 2, [2, 0, 0]),
            ([4, 9, 9], threads, 1, [0, 1, 0]),
            ([4, 9, 9], threads, 0, [0, 0, 0]),
            ([1, usize::MAX - 1, 1], threads, 20, [2, 16, 2]),
        ] {
            let got = share_out(rows, focus, height);
            assert!(
                got.iter().sum::<u16>() <= height,
                "{rows:?} {height} {got:?}"
            );
            assert_eq!(got, heights, "{rows:?} {focus:?} {height}");
        }
    }
}
