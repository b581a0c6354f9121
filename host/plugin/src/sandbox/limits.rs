//! How much a plugin may use.

use std::time::Duration;

use bytesize::ByteSize;
use outlast_runtime::units::bytes;

use crate::{grants::Section, outbound::HttpLimits};

/// The most elements of all tables of an instance together: functions that can be called indirectly.
pub(crate) const TABLE_ELEMENTS: usize = 100_000;
/// The most core instances of a component. JavaScript and Python components have dozens.
pub(crate) const CORE_INSTANCES: usize = 100;
/// The most memories of a component: its own, and those of others that it is composed with.
pub(crate) const MEMORIES: usize = 8;
/// The most tables of a component.
pub(crate) const TABLES: usize = 32;
/// The most handles that are open at once.
pub(crate) const HANDLES: usize = 10_000;

/// The most random bytes of one call.
pub(crate) const RANDOM_BYTES: u64 = 64 << 10;

/// Limits of the runs of all agents, from the configuration. Some of them an agent may have of its own.
#[derive(Clone, Copy, Debug)]
pub struct PluginLimits {
    /// The largest component, in bytes: `limits.plugin_bytes`.
    pub plugin_bytes: usize,
    /// The longest that compiling one may take: `limits.plugin_compile_timeout`.
    pub compile_timeout: Duration,
    /// The most memory that compiling one may take, in bytes: `limits.plugin_compile_memory`.
    pub compile_memory: usize,
    /// All memories and tables of an instance together, in bytes: `limits.memory`.
    pub memory: usize,
    /// Time of a processor of a run: `limits.cpu_time`.
    pub cpu_time: Duration,
    /// The longest that an execution may take: `limits.run_timeout`.
    pub run_timeout: Duration,
    /// The longest line in the log, in bytes.
    pub log_line: usize,
    /// The most lines in the log of a run: `limits.log_lines`.
    pub log_lines: u64,
    /// Of its HTTP requests.
    pub http: HttpLimits,
    /// Of its calls of tools.
    pub tools: ToolLimits,
    /// Of its calls of models.
    pub models: CallLimits,
    /// The largest text that it may write at once, in bytes: `limits.event_bytes`.
    pub event_bytes: usize,
    /// What an agent may keep for a principal when it is granted what all may: `limits.state_bytes`.
    pub state_bytes: usize,
    /// The largest value that an agent keeps: `limits.state_value_bytes`.
    pub state_value_bytes: usize,
    /// The longest key, in bytes: `limits.state_key_bytes`.
    pub state_key_bytes: usize,
}

impl Default for PluginLimits {
    fn default() -> Self {
        Self {
            plugin_bytes: 128 << 20,
            compile_timeout: Duration::from_secs(600),
            compile_memory: 2 << 30,
            memory: 256 << 20,
            cpu_time: Duration::from_secs(60),
            run_timeout: Duration::from_secs(600),
            log_line: 8_192,
            log_lines: 10_000,
            http: HttpLimits::default(),
            tools: ToolLimits::default(),
            models: CallLimits::default(),
            event_bytes: 1 << 20,
            state_bytes: 1 << 20,
            state_value_bytes: 256 << 10,
            state_key_bytes: 512,
        }
    }
}

/// Limits of the calls of models of a run, from the configuration.
#[derive(Clone, Copy, Debug)]
pub struct CallLimits {
    /// The input, the instructions and the options of a call, in bytes, and of all calls together that a run holds:
    /// `limits.model_input_bytes`.
    pub input_bytes: usize,
    /// The most calls that a run holds: `limits.model_calls`.
    pub calls: usize,
}

impl Default for CallLimits {
    fn default() -> Self {
        Self { input_bytes: 48 << 20, calls: 16 }
    }
}

/// Limits of tools, from the configuration.
#[derive(Clone, Copy, Debug)]
pub struct ToolLimits {
    /// The arguments of a call, in bytes: `limits.tool_argument_bytes`.
    pub argument_bytes: usize,
    /// Its answer, in bytes: `limits.tool_result_bytes`.
    pub result_bytes: usize,
    /// The calls that are open at the same time in a run: `limits.tool_calls`.
    pub calls: usize,
    /// The calls of tool components that go on at once in all runs: `limits.tool_instances`.
    pub instances: usize,
}

impl Default for ToolLimits {
    fn default() -> Self {
        Self { argument_bytes: 256 << 10, result_bytes: 1 << 20, calls: 16, instances: 256 }
    }
}

/// How much memory an instance may have, and the key that says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MemoryLimit {
    /// In bytes.
    pub(crate) most: usize,
    /// The key in the configuration: `limits.memory`.
    pub(crate) key: String,
}

impl MemoryLimit {
    /// What a section says, or what holds for all.
    pub(crate) fn of(said: Option<ByteSize>, section: &Section, limits: &PluginLimits) -> Self {
        match said {
            Some(size) => Self { most: bytes(size), key: format!("{}.memory", section.key()) },
            None => Self { most: limits.memory, key: "limits.memory".to_owned() },
        }
    }
}

/// How long something may take, and the key that says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeLimit {
    /// How long.
    pub most: Duration,
    /// The key in the configuration: `limits.run_timeout`.
    pub key: String,
}

/// What an instance with one memory and small tables takes of the mappings of the process: measured, and rounded up.
const MAPPINGS: usize = 8;
/// What each further memory takes.
const MEMORY_MAPPINGS: usize = 3;
/// A table that may have this many elements or more has a mapping of its own.
pub(crate) const LARGE_TABLE: u64 = 16_000;

/// How many places an instance with so many memories, and tables that may be large, takes: one for [`MAPPINGS`] mappings,
/// of which the system allows a process only so many.
pub(crate) fn places(memories: usize, large_tables: usize) -> u32 {
    let mappings = MAPPINGS + memories.saturating_sub(1) * MEMORY_MAPPINGS + large_tables.saturating_sub(1);
    u32::try_from(mappings.div_ceil(MAPPINGS)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_more_mappings_takes_more_places() {
        assert_eq!([places(0, 0), places(1, 1), places(1, 2), places(3, 0), places(8, 32)], [1, 1, 2, 2, 8]);
    }
}
