//! The table.

use std::{
    fmt::{self, Display, Formatter},
    time::Duration,
};

use crate::{
    CLIENTS, WORDS,
    allocators::Figures,
    generator::Measured,
    histories::{Histories, TURNS},
    pace::PACE,
    paced::Row as PacedRow,
    resuming::{ENTRIES, RUNS as RESUMED, Resuming},
    sleeping::Sleeping,
    waiting::{RUNS, Waiting},
};

/// The floor that the server is compared with.
pub const FLOOR: &str = "floor, a write per frame";
/// The floor of a server that has all frames at once.
pub const FLOOR_ONE_WRITE: &str = "floor, one write";

const DURABLE_SQLITE: &str = "durable, SQLite";

/// One line.
#[derive(Debug)]
pub struct Row {
    /// What was measured.
    pub what: String,
    /// How many clients.
    pub clients: usize,
    /// The figures.
    pub result: Measured,
}

/// Writes one part of the report.
type Part = fn(&Report, &mut Formatter<'_>) -> fmt::Result;

/// Everything that was measured.
#[derive(Debug)]
pub struct Report {
    measured: Duration,
    load_before: String,
    rows: Vec<Row>,
    paced: Vec<PacedRow>,
    waiting: Vec<(String, Waiting)>,
    sleeping: Vec<(String, Sleeping)>,
    resuming: Vec<(String, Resuming)>,
    histories: Vec<(String, Histories)>,
    allocators: Vec<Figures>,
}

impl Report {
    /// An empty report of measurements that take so long each.
    pub fn new(measured: Duration) -> Self {
        let load = read("/proc/loadavg");
        let load_before = load.split(' ').next().unwrap_or("?").to_owned();
        let (rows, paced, waiting, sleeping, resuming, histories, allocators) = Default::default();
        Self { measured, load_before, rows, paced, waiting, sleeping, resuming, histories, allocators }
    }

    /// Adds a line.
    pub fn add(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// Adds streams at a model's pace.
    pub fn paced(&mut self, rows: Vec<PacedRow>) {
        self.paced = rows;
    }

    /// Adds the memory of waiting runs.
    pub fn waiting(&mut self, database: &str, waiting: Waiting) {
        self.waiting.push((database.to_owned(), waiting));
    }

    /// Adds runs that slept.
    pub fn sleeping(&mut self, database: &str, sleeping: Sleeping) {
        self.sleeping.push((database.to_owned(), sleeping));
    }

    /// Adds starts that resumed runs.
    pub fn resuming(&mut self, database: &str, resuming: Resuming) {
        self.resuming.push((database.to_owned(), resuming));
    }

    /// Adds turns with a long history.
    pub fn histories(&mut self, database: &str, histories: Histories) {
        self.histories.push((database.to_owned(), histories));
    }

    /// Adds the settings of `allocator`.
    pub fn allocators(&mut self, figures: Vec<Figures>) {
        self.allocators = figures;
    }

    fn row(&self, what: &str, clients: usize) -> Option<&Row> {
        self.rows.iter().find(|row| row.what == what && row.clients == clients)
    }

    /// The kinds of lines, in the order in which they were measured.
    fn kinds(&self) -> Vec<&str> {
        let first = self.rows.iter().filter(|row| row.clients == CLIENTS[0]);
        first.map(|row| row.what.as_str()).collect()
    }

    fn ratio(&self, what: &str, floor: &str, clients: usize) -> Option<f64> {
        Some(self.row(what, clients)?.events_per_second() / self.row(floor, clients)?.events_per_second())
    }

    fn streams(&self, out: &mut Formatter<'_>) -> fmt::Result {
        writeln!(
            out,
            "| `echo`, {WORDS} words | clients | runs/s | events/s | first event p50 · p99 | first delta p50 · p99 | server CPU per run |"
        )?;
        writeln!(out, "|---|--:|--:|--:|--:|--:|--:|")?;
        for kind in self.kinds() {
            for row in CLIENTS.iter().filter_map(|clients| self.row(kind, *clients)) {
                let Row { what, clients, result } = row;
                writeln!(
                    out,
                    "| {what} | {clients} | {} | {} | {} · {} ms | {} · {} ms | {:.2} ms |",
                    thousands(row.runs_per_second()),
                    thousands(row.events_per_second()),
                    ms(percentile(&result.first_event, 50)),
                    ms(percentile(&result.first_event, 99)),
                    ms(percentile(&result.first_delta, 50)),
                    ms(percentile(&result.first_delta, 99)),
                    result.cpu.as_secs_f64() * 1_000.0 / result.runs as f64,
                )?;
            }
        }
        Ok(())
    }

    fn ratios(&self, out: &mut Formatter<'_>) -> fmt::Result {
        write!(out, "| events/s, as a part of |")?;
        for floor in [FLOOR, FLOOR_ONE_WRITE] {
            for clients in CLIENTS {
                write!(out, " {floor}, {clients} |")?;
            }
        }
        writeln!(out, "\n|---|{}", "--:|".repeat(2 * CLIENTS.len()))?;
        for kind in self.kinds().into_iter().filter(|kind| !kind.starts_with("floor")) {
            write!(out, "| {kind} |")?;
            for floor in [FLOOR, FLOOR_ONE_WRITE] {
                for clients in CLIENTS {
                    write!(out, " {:.2} |", self.ratio(kind, floor, clients).unwrap_or(f64::NAN))?;
                }
            }
            writeln!(out)?;
        }
        Ok(())
    }

    fn at_a_pace(&self, out: &mut Formatter<'_>) -> fmt::Result {
        writeln!(
            out,
            "| a token each {} ms | streams | gap p50 · p99 | first delta p50 · p99 | bunched | server CPU per delta | of the floor | switches per delta | commits/s | log per delta | PostgreSQL CPU per delta |",
            PACE.as_millis()
        )?;
        writeln!(out, "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|")?;
        for PacedRow { what, streams, paced } in &self.paced {
            let floor = self.paced.iter().find(|row| row.streams == *streams);
            let floor = floor.map_or(f64::NAN, |row| row.paced.each(row.paced.cpu));
            let dash = || "–".to_owned();
            writeln!(
                out,
                "| {what} | {} | {} · {} ms | {} · {} ms | {:.0} % | {:.0} µs | {:.1} × | {:.1} | {:.0} | {} | {} |",
                thousands(*streams as f64),
                percentile(&paced.gaps, 50).as_millis(),
                percentile(&paced.gaps, 99).as_millis(),
                ms(percentile(&paced.first_delta, 50)),
                ms(percentile(&paced.first_delta, 99)),
                paced.bunched as f64 * 100.0 / paced.deltas.max(1) as f64,
                paced.each(paced.cpu),
                paced.each(paced.cpu) / floor,
                paced.switches as f64 / paced.deltas.max(1) as f64,
                paced.commits as f64 / paced.elapsed.as_secs_f64(),
                paced.log_bytes.map_or_else(dash, |bytes| format!("{} B", bytes / paced.deltas.max(1))),
                paced.database_cpu.map_or_else(dash, |cpu| format!("{:.0} µs", paced.each(cpu))),
            )?;
        }
        Ok(())
    }

    fn memory(&self, out: &mut Formatter<'_>) -> fmt::Result {
        writeln!(out, "| {RUNS} waiting `echo` runs | resident, watched | resident, clients gone | threads |")?;
        writeln!(out, "|---|--:|--:|--:|")?;
        for (database, waiting) in &self.waiting {
            let Waiting { watched, alone, threads, .. } = waiting;
            writeln!(out, "| {database} | {watched:.1} KiB each | {alone:.1} KiB each | {threads} |")?;
        }
        writeln!(out, "\n| runs that sleep without an instance | begun in | resident | all awake and ended after |")?;
        writeln!(out, "|---|--:|--:|--:|")?;
        for (database, Sleeping { runs, begun, resident, woken }) in &self.sleeping {
            let (begun, woken) = (begun.as_secs_f64(), woken.as_secs_f64());
            writeln!(out, "| {database}, {runs} | {begun:.1} s | {resident:.1} KiB each | {woken:.1} s |")?;
        }
        Ok(())
    }

    fn starts(&self, out: &mut Formatter<'_>) -> fmt::Result {
        writeln!(
            out,
            "| from the start of a process to the end of the resumed runs | one run | one of {ENTRIES} entries | {RESUMED} runs |"
        )?;
        writeln!(out, "|---|--:|--:|--:|")?;
        for (database, Resuming { one, entries, runs }) in &self.resuming {
            writeln!(out, "| {database} | {} ms | {} ms | {} ms |", ms(*one), ms(*entries), ms(*runs))?;
        }
        Ok(())
    }

    fn long_histories(&self, out: &mut Formatter<'_>) -> fmt::Result {
        writeln!(out, "| a turn after | {} |", TURNS.map(|turns| turns.to_string()).join(" | "))?;
        writeln!(out, "|---|{}", "--:|".repeat(TURNS.len()))?;
        for (database, Histories { chain, conversation }) in &self.histories {
            for (what, times) in [("`previous_response_id`", chain), ("`conversation`", conversation)] {
                writeln!(out, "| {what}, {database} | {} |", times.map(|time| format!("{} ms", ms(time))).join(" | "))?;
            }
        }
        Ok(())
    }

    fn settings(&self, out: &mut Formatter<'_>) -> fmt::Result {
        writeln!(
            out,
            "| `allocator` | runs of a word/s, 64 clients | server CPU per run | {RUNS} waiting runs | mappings |"
        )?;
        writeln!(out, "|---|--:|--:|--:|--:|")?;
        for Figures { allocator, runs_per_second, cpu, waiting } in &self.allocators {
            writeln!(
                out,
                "| {allocator} | {} | {} ms | {:.1} KiB each | {:.1} each |",
                thousands(*runs_per_second),
                ms(*cpu),
                waiting.alone,
                waiting.mappings
            )?;
        }
        Ok(())
    }

    fn aims(&self, out: &mut Formatter<'_>) -> fmt::Result {
        writeln!(out, "| aim | reached | |")?;
        writeln!(out, "|---|--:|---|")?;
        let mut aim = |aim: &str, reached: String, met: bool| {
            writeln!(out, "| {aim} | {reached} | {} |", if met { "met" } else { "not met" })
        };
        for kind in self.kinds().into_iter().filter(|kind| kind.starts_with("durable")) {
            if let Some(row) = self.row(kind, 1) {
                let delta = percentile(&row.result.first_delta, 50);
                let met = delta < Duration::from_millis(5);
                aim(&format!("{kind}: first delta under 5 ms at 1 client (p50)"), format!("{} ms", ms(delta)), met)?;
            }
        }
        if let Some(ratio) = self.ratio(DURABLE_SQLITE, FLOOR, 64) {
            let what = format!("{DURABLE_SQLITE}: at least a quarter of the floor's events/s at 64 clients");
            aim(&what, format!("{ratio:.2}"), ratio >= 0.25)?;
        }
        for (database, waiting) in &self.waiting {
            let what = format!("{database}: at most 100 KiB resident per waiting run");
            aim(&what, format!("{:.1} KiB", waiting.watched), waiting.watched <= 100.0)?;
        }
        for (database, Resuming { one, entries, runs }) in &self.resuming {
            let replay = entries.saturating_sub(*one);
            let what = format!("{database}: {ENTRIES} entries replayed in less than 50 ms");
            aim(&what, format!("{} ms", ms(replay)), replay < Duration::from_millis(50))?;
            let resume = runs.saturating_sub(*one);
            let what = format!("{database}: {RESUMED} runs resumed in less than 3 s");
            aim(&what, format!("{} ms", ms(resume)), resume < Duration::from_secs(3))?;
        }
        Ok(())
    }
}

impl Display for Report {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let cpu = read("/proc/cpuinfo");
        let cpu = cpu
            .lines()
            .find_map(|line| line.strip_prefix("model name"))
            .map(|line| line.trim_start_matches([' ', '\t', ':']));
        writeln!(
            out,
            "Machine: {cores} cores ({}), Linux {}, load {} before. Each line: {:.1} s after a warm-up. The load \
             generator runs on the same machine.\n",
            cpu.unwrap_or("unknown"),
            read("/proc/sys/kernel/osrelease").trim(),
            self.load_before,
            self.measured.as_secs_f64(),
        )?;
        let parts: [(bool, Part); 8] = [
            (self.rows.is_empty(), Self::streams),
            (self.rows.is_empty(), Self::ratios),
            (self.paced.is_empty(), Self::at_a_pace),
            (self.waiting.is_empty() && self.sleeping.is_empty(), Self::memory),
            (self.resuming.is_empty(), Self::starts),
            (self.histories.is_empty(), Self::long_histories),
            (self.allocators.is_empty(), Self::settings),
            (self.rows.is_empty() && self.waiting.is_empty() && self.resuming.is_empty(), Self::aims),
        ];
        for (empty, part) in parts {
            if !empty {
                part(self, out)?;
                writeln!(out)?;
            }
        }
        Ok(())
    }
}

impl Row {
    fn runs_per_second(&self) -> f64 {
        self.result.runs as f64 / self.result.elapsed.as_secs_f64()
    }

    fn events_per_second(&self) -> f64 {
        self.result.events as f64 / self.result.elapsed.as_secs_f64()
    }
}

/// The value below which `percent` of the sorted values lie.
fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(at).copied().unwrap_or_default()
}

fn ms(duration: Duration) -> String {
    format!("{:.2}", duration.as_secs_f64() * 1_000.0)
}

/// A whole number with commas between the thousands.
fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}
