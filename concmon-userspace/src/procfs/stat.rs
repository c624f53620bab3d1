//! The line of `/proc/PID/stat` and `/proc/PID/task/TID/stat`.

/// What is used of it; field numbers are those of `proc_pid_stat(5)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat<'a> {
    pub comm: &'a [u8],
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
    /// Addresses of the stack (28) and of the arguments (48): with most kernels others after each exec;
    /// 0 for who may not know.
    pub image: [u64; 2],
}

/// `PF_KTHREAD` of `include/linux/sched.h`.
const PF_KTHREAD: u32 = 0x0020_0000;
/// `PF_FORKNOEXEC`.
const PF_FORKNOEXEC: u32 = 0x0000_0040;

impl<'a> Stat<'a> {
    /// Reads one line; `None` when it has not the documented form.
    ///
    /// The name in parentheses may itself hold spaces and parentheses.
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        let open = line.iter().position(|b| *b == b'(')?;
        let close = line.iter().rposition(|b| *b == b')')?;
        let comm = line.get(open + 1..close)?;
        let rest = std::str::from_utf8(&line[close + 1..]).ok()?;
        let mut fields = rest.split_ascii_whitespace();
        let state = *fields.next()?.as_bytes().first()?;
        // The first field behind the name is number 3.
        let mut before = 3;
        let mut number = |field: usize| {
            let skipped = field - before - 1;
            before = field;
            fields.nth(skipped)?.parse::<u64>().ok()
        };
        Some(Stat {
            comm,
            state,
            ppid: number(4)?.try_into().ok()?,
            flags: number(9)?.try_into().ok()?,
            user_ticks: number(14)?,
            system_ticks: number(15)?,
            threads: number(20)?,
            start_ticks: number(22)?,
            image: [28, 48].map(|field| number(field).unwrap_or(0)),
        })
    }

    /// It runs the program of the process that has forked it.
    pub const fn is_fork(&self) -> bool {
        self.flags & PF_FORKNOEXEC != 0
    }

    /// What the process or thread calls itself.
    pub fn name(&self) -> String {
        String::from_utf8_lossy(self.comm).into_owned()
    }

    /// Whether it has ended. A process whose first thread alone has ended shows that, too.
    pub fn has_ended(&self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x')
    }

    /// Ended and not collected.
    pub fn is_zombie(&self) -> bool {
        self.has_ended() && self.threads <= 1
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
        1234567 8192000 550 18446744073709551615 1 1 81 0 0 0 0 16781312 2 0 0 0 17 1 0 0 0 0 0 2 3 4 \
        91 92 93 94 0\n";

    #[test]
    fn a_name_with_parentheses() {
        let stat = Stat::parse(LINE).unwrap();
        let expected = Stat {
            comm: b"a) S (b",
            state: b'S',
            ppid: 17,
            flags: 4_194_560,
            user_ticks: 250,
            system_ticks: 31,
            threads: 7,
            start_ticks: 1_234_567,
            image: [81, 91],
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
        assert_eq!(stat.is_kernel_thread(), stat.comm == b"kthreadd");
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
