//! The columns of a ledger as data: their names, their letters, and arithmetic on them.

use crate::schema::LedgerSum;

/// One column of the closed ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Column {
    OnCpu,
    Runnable,
    Gil,
    Lock,
    Poll,
    Sleep,
    Io,
    Child,
    Disk,
    Stopped,
    Other,
    Unknown,
    Unobserved,
}

impl Column {
    pub(super) const ALL: [Column; 13] = [
        Column::OnCpu,
        Column::Runnable,
        Column::Gil,
        Column::Lock,
        Column::Poll,
        Column::Sleep,
        Column::Io,
        Column::Child,
        Column::Disk,
        Column::Stopped,
        Column::Other,
        Column::Unknown,
        Column::Unobserved,
    ];

    /// Those of a live watch, which looks all the time.
    pub(super) const LIVE: [Column; 12] = {
        let [live @ .., _unobserved] = Self::ALL;
        live
    };

    /// The name in JSON, without its unit.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Column::OnCpu => "on_cpu",
            Column::Runnable => "runnable",
            Column::Gil => "gil",
            Column::Lock => "lock",
            Column::Poll => "poll",
            Column::Sleep => "sleep",
            Column::Io => "io",
            Column::Child => "child",
            Column::Disk => "disk",
            Column::Stopped => "stopped",
            Column::Other => "other",
            Column::Unknown => "unknown",
            Column::Unobserved => "unobserved",
        }
    }

    /// The name in at most five cells.
    pub(super) const fn short(self) -> &'static str {
        match self {
            Column::OnCpu => "CPU",
            Column::Runnable => "RUNQ",
            Column::Gil => "GIL",
            Column::Lock => "LOCK",
            Column::Poll => "POLL",
            Column::Sleep => "SLEEP",
            Column::Io => "IO",
            Column::Child => "CHILD",
            Column::Disk => "DISK",
            Column::Stopped => "STOP",
            Column::Other => "OTHER",
            Column::Unknown => "UNKN",
            Column::Unobserved => "UNOBS",
        }
    }

    /// Its character in a bar.
    pub(super) const fn letter(self) -> char {
        match self {
            Column::OnCpu => '#',
            Column::Runnable => 'r',
            Column::Gil => 'G',
            Column::Lock => 'L',
            Column::Poll => '.',
            Column::Sleep => 'z',
            Column::Io => 'i',
            Column::Child => 'c',
            Column::Disk => 'D',
            Column::Stopped => 's',
            Column::Other => 'o',
            Column::Unknown => '?',
            Column::Unobserved => '-',
        }
    }

    /// Time in which a thread had work and was kept from it by something scarce.
    pub(super) const fn is_contention(self) -> bool {
        matches!(self, Column::Runnable | Column::Gil | Column::Disk)
    }

    /// Its value in ns.
    pub(super) const fn of(self, ledger: &LedgerSum) -> u64 {
        match self {
            Column::OnCpu => ledger.on_cpu_ns,
            Column::Runnable => ledger.runnable_ns,
            Column::Gil => ledger.blocked_ns.gil,
            Column::Lock => ledger.blocked_ns.lock,
            Column::Poll => ledger.blocked_ns.poll,
            Column::Sleep => ledger.blocked_ns.sleep,
            Column::Io => ledger.blocked_ns.io,
            Column::Child => ledger.blocked_ns.child,
            Column::Disk => ledger.blocked_ns.disk,
            Column::Stopped => ledger.blocked_ns.stopped,
            Column::Other => ledger.blocked_ns.other,
            Column::Unknown => ledger.unknown_ns,
            Column::Unobserved => ledger.unobserved_ns,
        }
    }
}

/// The sum of several ledgers, column by column.
pub(super) fn sum<'a>(ledgers: impl Iterator<Item = &'a LedgerSum>) -> LedgerSum {
    let mut total = LedgerSum::default();
    for l in ledgers {
        let add = |to: &mut u64, ns: u64| *to = to.saturating_add(ns);
        add(&mut total.wall_ns, l.wall_ns);
        add(&mut total.on_cpu_ns, l.on_cpu_ns);
        add(&mut total.runnable_ns, l.runnable_ns);
        add(&mut total.preempted_ns, l.preempted_ns);
        add(&mut total.stolen_ns, l.stolen_ns);
        add(&mut total.unknown_ns, l.unknown_ns);
        add(&mut total.unobserved_ns, l.unobserved_ns);
        add(&mut total.unobserved_on_cpu_ns, l.unobserved_on_cpu_ns);
        let (to, from) = (&mut total.blocked_ns, &l.blocked_ns);
        add(&mut to.gil, from.gil);
        add(&mut to.lock, from.lock);
        add(&mut to.poll, from.poll);
        add(&mut to.sleep, from.sleep);
        add(&mut to.io, from.io);
        add(&mut to.child, from.child);
        add(&mut to.disk, from.disk);
        add(&mut to.stopped, from.stopped);
        add(&mut to.other, from.other);
    }
    total
}

/// A bar of exactly `cells` columns, each as wide as its share of wall, in the order of
/// [`Column::ALL`]; empty without wall.
///
/// The bounds are rounded, not the widths, so that errors do not add up.
pub(super) fn bar(ledger: &LedgerSum, cells: usize) -> Vec<(Column, usize)> {
    let whole: u128 = Column::ALL.iter().map(|c| u128::from(c.of(ledger))).sum();
    if whole == 0 {
        return Vec::new();
    }
    let mut passed = 0;
    let mut drawn = 0;
    let mut parts = Vec::new();
    for column in Column::ALL {
        passed += u128::from(column.of(ledger));
        let until = ((passed * cells as u128 * 2 + whole) / (whole * 2)) as usize;
        if until > drawn {
            parts.push((column, until - drawn));
            drawn = until;
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::Blocked;

    #[test]
    fn sums_keep_every_column() {
        let blocked_ns = Blocked {
            gil: 3,
            lock: 4,
            poll: 5,
            sleep: 6,
            io: 7,
            child: 8,
            disk: 9,
            stopped: 10,
            other: 11,
        };
        let one = LedgerSum {
            wall_ns: 91,
            on_cpu_ns: 1,
            runnable_ns: 2,
            preempted_ns: 1,
            stolen_ns: 1,
            blocked_ns,
            unknown_ns: 12,
            unobserved_ns: 13,
            unobserved_on_cpu_ns: 5,
        };
        let values: Vec<u64> = Column::ALL.iter().map(|c| c.of(&one)).collect();
        assert_eq!(values, (1..=13).collect::<Vec<u64>>());
        assert_eq!(sum([].into_iter()), LedgerSum::default());
        assert_eq!(sum([&one].into_iter()), one);
        let twice = sum([&one, &one].into_iter());
        let values: Vec<u64> = Column::ALL.iter().map(|c| c.of(&twice)).collect();
        assert_eq!(values, (1..=13).map(|n| n * 2).collect::<Vec<u64>>());
        assert_eq!(twice.wall_ns, 182);
    }

    #[test]
    fn bars_fill_their_cells() {
        let ledger = LedgerSum {
            wall_ns: 100,
            on_cpu_ns: 25,
            runnable_ns: 1,
            blocked_ns: Blocked {
                gil: 74,
                ..Blocked::default()
            },
            ..LedgerSum::default()
        };
        assert_eq!(bar(&ledger, 8), [(Column::OnCpu, 2), (Column::Gil, 6)]);
        assert_eq!(bar(&LedgerSum::default(), 8), []);
        let huge = LedgerSum {
            on_cpu_ns: u64::MAX,
            unknown_ns: u64::MAX,
            ..LedgerSum::default()
        };
        assert_eq!(bar(&huge, 3), [(Column::OnCpu, 2), (Column::Unknown, 1)]);
        for cells in 0..50 {
            let drawn: usize = bar(&ledger, cells).iter().map(|(_, n)| n).sum();
            assert_eq!(drawn, cells);
        }
    }
}
