//! How instances get their memory.
//!
//! On demand, each instance makes its mappings and takes them down. A pool makes them once, for as many runs as there may
//! be, and hands them out: an instance is there sooner and takes fewer mappings, of which the system allows a process only
//! so many. What a pool reserves is addresses, not memory.

use serde::Deserialize;
use wasmtime::{Config, InstanceAllocationStrategy, PoolingAllocationConfig};

use super::compiler::Settings;
use crate::sandbox::{CORE_INSTANCES, TABLE_ELEMENTS};

/// Instances beside those of runs: of components that are asked what they are.
const BESIDE: usize = 64;
/// The most memories of a component: its own, and those of a second one that it is composed with.
const MEMORIES: usize = 2;
/// The most tables of a component.
const TABLES: usize = 8;
/// What an instance may take of the host's own memory, in bytes. Interpreters have tens of thousands of functions.
const INSTANCE_BYTES: usize = 16 << 20;
/// The addresses that memories may take together, in bytes. A process has 128 TiB.
const ADDRESSES: u64 = 96 << 40;
/// What a memory takes of them so that code needs no bounds checks.
const RESERVATION: u64 = 4 << 30;
/// What is between two memories.
const GUARD: u64 = 32 << 20;
/// Memories are multiples of this.
const PAGE: u64 = 64 << 10;

/// How instances get their memory: `allocator`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Allocator {
    /// Each for itself.
    #[default]
    OnDemand,
    /// From a pool that is made at the start.
    Pooling,
}

/// How large a pool is.
#[derive(Clone, Copy, Debug)]
pub struct Pool {
    /// Runs that have an instance: `limits.max_live_runs`.
    pub runs: usize,
    /// Calls of tool components: `limits.tool_instances`.
    pub tools: usize,
    /// The most memory that a run or a call may have, in bytes.
    pub memory: usize,
}

impl Pool {
    /// Configures an engine, and says how code is made for it. An error is why that is not possible.
    pub(super) fn configure(self, config: &mut Config) -> Result<Settings, String> {
        let count =
            |number: usize| u32::try_from(number).map_err(|_| format!("a pool for {} runs is too large", self.runs));
        let instances = self.runs.saturating_add(self.tools).saturating_add(BESIDE);
        let memories = instances.saturating_mul(MEMORIES);
        let each = (ADDRESSES / memories as u64).saturating_sub(GUARD) / PAGE * PAGE;
        let reservation = each.min(RESERVATION);
        if reservation < self.memory as u64 {
            return Err(format!(
                "a pool for {} runs (limits.max_live_runs) with up to {} MiB each (limits.memory) does not fit into \
                 the address space of a process: lower one of them, or set `allocator = \"on-demand\"`",
                self.runs,
                self.memory >> 20
            ));
        }
        let mut pool = PoolingAllocationConfig::new();
        pool.total_component_instances(count(instances)?)
            .total_core_instances(count(instances.saturating_mul(CORE_INSTANCES))?)
            .total_memories(count(memories)?)
            .total_tables(count(instances.saturating_mul(TABLES))?)
            .total_stacks(count(instances)?)
            .max_core_instances_per_component(count(CORE_INSTANCES)?)
            .max_memories_per_component(count(MEMORIES)?)
            .max_tables_per_component(count(TABLES)?)
            .max_memories_per_module(count(MEMORIES)?)
            .max_tables_per_module(count(TABLES)?)
            .max_component_instance_size(INSTANCE_BYTES)
            .max_core_instance_size(INSTANCE_BYTES)
            .table_elements(TABLE_ELEMENTS)
            .max_memory_size(usize::try_from(reservation).unwrap_or(usize::MAX));
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
        Ok(Settings { addresses: Some((reservation, GUARD)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_told() {
        let configured = |runs, memory| Pool { runs, tools: 256, memory }.configure(&mut Config::new());
        assert!(configured(10_000, 1 << 30).is_ok());
        assert!(configured(100_000, 64 << 20).is_ok(), "with smaller reservations");
        let error = configured(100_000, 1 << 30).unwrap_err();
        assert!(error.contains("limits.max_live_runs") && error.contains("1024 MiB"), "{error}");
    }
}
