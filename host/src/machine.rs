//! What this machine allows.

use std::{fmt, fs, path::Path};

use crate::plugin::Allocator;

/// Mappings that are left for everything else.
const MAPPINGS_RESERVED: u64 = 5_000;
/// Memory that one waiting run takes, with all that belongs to it, and some room: 90 KiB were measured.
const MEMORY_PER_RUN: u64 = 128 << 10;
/// Where Linux says how many mappings a process may have. Beyond it, ordinary allocations fail and the process
/// aborts, so runs are refused before it comes to that.
const MAX_MAP_COUNT: &str = "/proc/sys/vm/max_map_count";
/// Where a container is told how much memory it has.
const CONTAINERS: [&str; 2] = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];

/// What counts for the number of runs.
#[derive(Clone, Copy, Debug)]
struct Machine {
    /// `vm.max_map_count`; none where there is no such limit.
    mappings: Option<u64>,
    /// In bytes: of the machine, or of the container; none where nobody tells.
    memory: Option<u64>,
}

/// How many runs may go on at once, and why not more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveRuns {
    /// So many.
    pub most: usize,
    because: Because,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Because {
    Said,
    Mappings(u64),
    Memory(u64),
    Nothing,
}

impl LiveRuns {
    /// What the operator says.
    pub fn said(most: usize) -> Self {
        Self { most, because: Because::Said }
    }

    /// What this machine allows.
    pub fn allowed(allocator: Allocator) -> Self {
        Machine::read().live_runs(allocator)
    }
}

impl fmt::Display for LiveRuns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} runs at once, ", self.most)?;
        match self.because {
            Because::Said => write!(f, "as limits.max_live_runs says"),
            Because::Mappings(count) => write!(f, "by vm.max_map_count = {count}"),
            Because::Memory(bytes) => write!(f, "by {} MiB of memory", bytes >> 20),
            Because::Nothing => write!(f, "by nothing that this machine tells"),
        }
    }
}

impl Machine {
    fn read() -> Self {
        let number = |path: &str| fs::read_to_string(Path::new(path)).ok()?.trim().parse::<u64>().ok();
        let information = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let total = information.lines().find_map(|line| line.strip_prefix("MemTotal:"));
        let total = total.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).map(|kib| kib << 10);
        let memory = CONTAINERS.iter().filter_map(|path| number(path)).chain(total).min();
        Self { mappings: number(MAX_MAP_COUNT), memory }
    }

    /// The least of what the mappings allow, and of what half of the memory does.
    fn live_runs(self, allocator: Allocator) -> LiveRuns {
        // Measured with instances that wait, and rounded up.
        let each = match allocator {
            Allocator::OnDemand => 8,
            Allocator::Pooling => 7,
        };
        let mappings =
            self.mappings.map(|count| (count.saturating_sub(MAPPINGS_RESERVED) / each, Because::Mappings(count)));
        let memory = self.memory.map(|bytes| (bytes / 2 / MEMORY_PER_RUN, Because::Memory(bytes)));
        let least = mappings.into_iter().chain(memory).min_by_key(|(runs, _)| *runs);
        let (runs, because) = least.unwrap_or((10_000, Because::Nothing));
        LiveRuns { most: usize::try_from(runs).unwrap_or(usize::MAX).clamp(16, 1_000_000), because }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scarcest_decides() {
        let runs = |mappings, memory, allocator| Machine { mappings, memory }.live_runs(allocator).to_string();
        let stock = Some(65_530);
        assert_eq!(runs(stock, Some(16 << 30), Allocator::OnDemand), "7566 runs at once, by vm.max_map_count = 65530");
        assert_eq!(runs(stock, Some(16 << 30), Allocator::Pooling), "8647 runs at once, by vm.max_map_count = 65530");
        assert_eq!(runs(stock, Some(512 << 20), Allocator::OnDemand), "2048 runs at once, by 512 MiB of memory");
        assert_eq!(runs(Some(0), None, Allocator::OnDemand), "16 runs at once, by vm.max_map_count = 0");
        assert_eq!(runs(None, None, Allocator::OnDemand), "10000 runs at once, by nothing that this machine tells");
    }
}
