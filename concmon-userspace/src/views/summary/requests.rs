//! The summary's table of HTTP requests: how long each kind took, and lay unread before.

use super::super::table::{Align, Table};
use super::super::{format, requests};
use super::Room;
use crate::schema::{Http, Process};

/// There is nothing to say.
pub(super) fn is_quiet(process: &Process) -> bool {
    let says = |http: &Http| !http.requests.is_empty() || !requests::remarks(http).is_empty();
    !process.http.as_ref().is_some_and(says) && requests::peers(process).next().is_none()
}

pub(super) fn push(text: &mut String, set: &[&Process], room: Room) {
    for process in set {
        let Some(http) = &process.http else { continue };
        if is_quiet(process) {
            continue;
        }
        let remarks = requests::remarks(http);
        text.push('\n');
        if set.len() > 1 {
            text.push_str(&format!("  process {}\n", process.pid));
        }
        let mut table = Table::default();
        table.names("REQUEST", 20);
        for head in ["COUNT", "P50", "P99", "UNREAD P50", "UNREAD P99"] {
            table.column(head, Align::Right);
        }
        for row in http.requests.iter().take(room.rows) {
            let [p50, p99] = requests::percentiles(&row.duration);
            let [unread50, unread99] = requests::percentiles(&row.queue);
            let count = format::count(row.count);
            table.row(vec![
                requests::name(row),
                count,
                p50,
                p99,
                unread50,
                unread99,
            ]);
        }
        if !http.requests.is_empty() {
            text.push_str(&table.render("  ", room.form));
        }
        let left = http.requests.len().saturating_sub(room.rows);
        if left > 0 {
            text.push_str(&format!("  ... and {left} more\n"));
        }
        let said = remarks;
        if !said.is_empty() {
            room.form.wrap(
                text,
                2,
                12,
                &format!("{:12}{}", "requests", said.join(", ")),
            );
        }
        for limit in &http.limits {
            room.form
                .wrap(text, 2, 12, &format!("{:12}{}", "requests", limit.reason));
        }
        for peer in requests::peers(process) {
            room.form
                .wrap(text, 2, 12, &format!("{:12}{peer}", "peers"));
        }
        for active in http.active.iter().take(room.lines) {
            room.form.wrap(text, 4, 6, &requests::under_way(active));
        }
    }
}
