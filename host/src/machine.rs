//! What this machine allows.

/// Mappings of memory that one waiting run takes, measured with an on-demand instance: 6.8 on average.
const MAPPINGS_PER_RUN: usize = 8;
/// Mappings that are left for everything else.
const MAPPINGS_RESERVED: usize = 5_000;
/// Where Linux says how many mappings a process may have. Beyond it, ordinary allocations fail and the process
/// aborts, so runs are refused before it comes to that.
const MAX_MAP_COUNT: &str = "/proc/sys/vm/max_map_count";

/// How many runs may go on at once: `(vm.max_map_count - 5000) / 8`, 7,566 on a stock kernel.
pub fn live_runs() -> usize {
    let text = std::fs::read_to_string(MAX_MAP_COUNT).unwrap_or_default();
    // Where there is no such limit, memory is the limit, and no file tells how much a run will take.
    let mappings: usize = text.trim().parse().unwrap_or(65_530);
    (mappings.saturating_sub(MAPPINGS_RESERVED) / MAPPINGS_PER_RUN).max(16)
}
