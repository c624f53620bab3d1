//! Who has the GIL, while a program that does as it is told has it, fights for it or lets it lie.

use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::program::{self, Program};

/// Looks at each situation, and how many of those must see the GIL taken while threads spin.
const LOOKS: usize = 10;
const MOST: usize = 8;
/// How long threads may take to begin or to cease.
const SETTLE: Duration = Duration::from_millis(200);
/// How often two threads take turns.
const TURNS: u64 = 2000;

/// Compares the dumps with what the program was told to do.
pub(super) fn check(monitor: &Path, program: &mut Program) -> Result<()> {
    let account = program.line()?;
    let spinners: Vec<u64> = account["spinners"]
        .as_array()
        .map(|tids| tids.iter().filter_map(Value::as_u64).collect())
        .context("the program names no threads")?;
    ensure!(spinners.len() == 2, "the program has not two threads");
    let mut looks = |command: &str| -> Result<Vec<Gil>> {
        program.command(command)?;
        thread::sleep(SETTLE);
        (0..LOOKS).map(|_| Gil::read(monitor, program)).collect()
    };
    sleeping(&looks("sleep")?)?;
    spinning("one thread spins", &looks("spin")?, &spinners[..1])?;
    let fight = looks("fight")?;
    spinning("two threads spin", &fight, &spinners)?;
    // On a busy machine one of the two may not get a CPU between two looks.
    let grown = fight
        .windows(2)
        .filter(|two| two[0].switches < two[1].switches);
    ensure!(
        grown.count() >= MOST - 1,
        "switches do not grow while two threads spin"
    );
    let before = looks("sleep")?;
    sleeping(&before)?;
    program.command(&format!("exchange {TURNS}"))?;
    let after = Gil::read(monitor, program)?;
    let grown = after.switches.saturating_sub(before[LOOKS - 1].switches);
    ensure!(
        (2 * TURNS - 1..=3 * TURNS).contains(&grown),
        "two threads took {TURNS} turns each, and switches grew by {grown}"
    );
    Ok(())
}

fn sleeping(looks: &[Gil]) -> Result<()> {
    match looks.iter().find(|gil| gil.locked || gil.holder.is_some()) {
        Some(gil) => bail!("all threads sleep: held by {:?}", gil.holder),
        None => Ok(()),
    }
}

fn spinning(when: &str, looks: &[Gil], spinners: &[u64]) -> Result<()> {
    let mut held = 0;
    for gil in looks.iter().filter(|gil| gil.locked) {
        match gil.holder {
            Some(tid) if spinners.contains(&tid) => held += 1,
            holder => bail!("{when}: held by {holder:?}, not one of {spinners:?}"),
        }
    }
    ensure!(held >= MOST, "{when}: held in {held} of {LOOKS} looks");
    Ok(())
}

/// What one look says.
struct Gil {
    locked: bool,
    holder: Option<u64>,
    switches: u64,
}

impl Gil {
    fn read(monitor: &Path, program: &Program) -> Result<Self> {
        let process = program::dump(monitor, program.pid())?;
        let gil = &process["gil"];
        let reason = || {
            let limits = process["limits"].as_array()?;
            let limit = limits.iter().find(|limit| limit["field"] == "gil")?;
            limit["reason"].as_str()
        };
        Ok(Self {
            locked: gil["locked"]
                .as_bool()
                .with_context(|| format!("gil: {gil} ({})", reason().unwrap_or("no reason")))?,
            holder: gil["holder_tid"].as_u64(),
            switches: gil["switches"].as_u64().context("no switches")?,
        })
    }
}
