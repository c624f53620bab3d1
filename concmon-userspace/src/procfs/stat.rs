//! The line of `/proc/PID/stat` and `/proc/PID/task/TID/stat`.

/// What is used of it; field numbers are those of `proc_pid_stat(5)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    pub pid: u32,
    pub comm: String,
    /// `R`, `S`, `D`, `Z`, ... (3)
    pub state: u8,
    pub ppid: u32,
    /// `PF_*` (9).
    pub flags: u32,
    pub user_ticks: u64,
    pub system_ticks: u64,
    /// Threads of the process that are not collected yet (20).
    pub threads: u64,
    /// Clock ticks after boot (22).
    pub start_ticks: u64,
}

/// `PF_KTHREAD` of `include/linux/sched.h`.
const PF_KTHREAD: u32 = 0x0020_0000;

impl Stat {
    /// Reads one line; `None` when it has not the documented form.
    ///
    /// The name in parentheses may itself hold spaces and parentheses.
    pub fn parse(line: &[u8]) -> Option<Self> {
        let open = line.iter().position(|b| *b == b'(')?;
        let close = line.iter().rposition(|b| *b == b')')?;
        let comm = line.get(open + 1..close)?;
        let pid = std::str::from_utf8(&line[..open])
            .ok()?
            .trim_end()
            .parse()
            .ok()?;
        let rest = std::str::from_utf8(&line[close + 1..]).ok()?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().take(20).collect();
        // The first field behind the name is number 3.
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        Some(Stat {
            pid,
            comm: String::from_utf8_lossy(comm).into_owned(),
            state: *fields.first()?.as_bytes().first()?,
            ppid: number(4)?.try_into().ok()?,
            flags: number(9)?.try_into().ok()?,
            user_ticks: number(14)?,
            system_ticks: number(15)?,
            threads: number(20)?,
            start_ticks: number(22)?,
        })
    }

    /// Ended and not collected. A process whose first thread alone has ended shows `Z` too.
    pub fn is_zombie(&self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x') && self.threads <= 1
    }

    pub fn is_kernel_thread(&self) -> bool {
        self.flags & PF_KTHREAD != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Rng;

    const LINE: &[u8] =
        b"4242 (a) S (b) S 17 4242 4242 0 -1 4194560 103 0 0 0 250 31 0 0 20 0 7 0 \
        1234567 8192000 550 18446744073709551615 1 1 0 0 0 0 0 16781312 2 0 0 0 17 1 0 0 0 0 0\n";

    #[test]
    fn a_name_with_parentheses() {
        let stat = Stat::parse(LINE).unwrap();
        let expected = Stat {
            pid: 4242,
            comm: "a) S (b".to_owned(),
            state: b'S',
            ppid: 17,
            flags: 4_194_560,
            user_ticks: 250,
            system_ticks: 31,
            threads: 7,
            start_ticks: 1_234_567,
        };
        assert_eq!(stat, expected);
        assert!(!stat.is_zombie() && !stat.is_kernel_thread());
    }

    #[test]
    fn zombies() {
        let with = |state, threads| Stat {
            state,
            threads,
            ..Stat::parse(LINE).unwrap()
        };
        assert!(with(b'Z', 1).is_zombie());
        assert!(!with(b'Z', 2).is_zombie());
        assert!(!with(b'S', 1).is_zombie());
    }

    #[test]
    fn kernel_threads() {
        let Ok(line) = std::fs::read("/proc/2/stat") else {
            eprintln!("SKIPPED kernel_threads: no process 2 in this PID namespace");
            return;
        };
        let stat = Stat::parse(&line).unwrap();
        assert_eq!(stat.is_kernel_thread(), stat.comm == "kthreadd");
    }

    #[test]
    fn damage_never_panics() {
        // The first digits of the start time are a start time.
        let start = LINE.windows(7).position(|w| w == b"1234567").unwrap();
        for len in 0..=start {
            assert_eq!(Stat::parse(&LINE[..len]), None, "cut at {len}");
        }
        let mut rng = Rng::new(2);
        for _ in 0..20_000 {
            let mut line = LINE.to_vec();
            for _ in 0..1 + rng.below(4) {
                let at = rng.below(line.len());
                line[at] = rng.next() as u8;
            }
            let _ = Stat::parse(&line);
        }
    }
}
