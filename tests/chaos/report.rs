//! What happened.

use std::{
    collections::BTreeMap,
    fmt::{self, Display},
    io::Write as _,
    time::Duration,
};

use super::{
    check::Checked,
    clients::{Fate, Seen},
    faults::Faults,
    runs::Kind,
};

/// A round, and how to see it again. Says so when it fails.
#[derive(Debug)]
pub struct Again {
    pub test: &'static str,
    pub seed: u64,
    pub length: Duration,
}

impl Display for Again {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { test, seed, length } = self;
        let seconds = length.as_secs();
        write!(
            f,
            "OUTLAST_CHAOS_SEED={seed} OUTLAST_CHAOS_SECONDS={seconds} cargo test -p outlast --test chaos {test} -- --nocapture"
        )
    }
}

impl Drop for Again {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("chaos: seed {} failed. Once more:\n{self}", self.seed);
        }
    }
}

/// What is printed.
#[derive(Debug)]
pub struct Report<'a> {
    pub again: &'a Again,
    pub took: Duration,
    pub faults: &'a Faults,
    pub seen: &'a [Seen],
    pub checked: Checked,
}

impl Report<'_> {
    /// Writes it to standard error, past the test runner, which keeps the output of tests that pass to itself.
    pub fn print(&self) {
        let _ = writeln!(std::io::stderr(), "\n{self}");
    }

    /// How many runs each start of the server took up.
    fn resumed(&self) -> Vec<u64> {
        let log = self.faults.server.log();
        let lines = log.lines().filter(|line| line.contains("resuming the runs"));
        let count = |line: &str| {
            let (_, rest) = line.split_once("runs=").unwrap_or_default();
            rest.chars().filter(char::is_ascii_digit).collect::<String>().parse().unwrap_or(0)
        };
        lines.map(count).collect()
    }
}

impl Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { again, took, faults, seen, checked } = self;
        let row = |f: &mut fmt::Formatter<'_>, name: &str, value: &dyn Display| writeln!(f, "  {name:<42}{value}");
        writeln!(f, "chaos on {}, seed {}", again.test, again.seed)?;
        row(f, "seconds of faults, and in all", &format!("{}, {:.0}", again.length.as_secs(), took.as_secs_f64()))?;
        for (what, count) in &faults.counts {
            row(f, what, count)?;
        }
        let kinds = |map: &BTreeMap<Kind, usize>| {
            map.iter().map(|(kind, count)| format!("{count} {kind:?}")).collect::<Vec<_>>().join(", ")
        };
        row(f, "runs", &checked.runs.values().sum::<usize>())?;
        row(f, "  by kind", &kinds(&checked.runs))?;
        row(f, "  of conversations", &checked.turns)?;
        let (turns, items) = checked.halls;
        row(f, "  of shared conversations, items between", &format!("{turns}, {items}"))?;
        let gone = format!("{}, {}", checked.deleted, faults.aged.len());
        row(f, "predecessors deleted, expired", &gone)?;
        row(f, "  whose client was cut off at the start", &checked.lost)?;
        row(f, "  given up after five starts", &checked.given_up)?;
        let refused = seen.iter().filter(|seen| seen.fate == Fate::Refused).count();
        row(f, "requests refused", &refused)?;
        row(f, "events", &checked.events)?;
        let resumed = self.resumed();
        let (starts, most) = (resumed.len(), resumed.iter().max().copied().unwrap_or(0));
        let sum: u64 = resumed.iter().sum();
        row(f, "runs resumed", &format!("{sum}, at {starts} starts, {most} at most"))?;
        row(f, "calls of the model, repeated ones", &format!("{}, {}", checked.calls, checked.repeated))?;
        let letters = format!("{}, {}, {}", checked.letters, checked.sent_again, checked.unknown);
        row(f, "letters arrived, sent again, interrupted", &letters)?;
        row(f, "times that clients came back", &seen.iter().map(|seen| seen.returns).sum::<u64>())?;
        let pause = seen.iter().map(|seen| seen.pause).max().unwrap_or_default();
        row(f, "longest time in which a client saw nothing", &format!("{:.1} s", pause.as_secs_f64()))
    }
}
