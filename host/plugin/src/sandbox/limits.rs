//! How much a plugin may use.

use std::time::Duration;

use bytesize::ByteSize;
use outlast_runtime::{
    limits::{Count, DAY, MOMENT, MOST_BYTES, MOST_EVENTS, MOST_MEMORY, MOST_PLACES, Number, Size, Time, YEAR},
    units::bytes,
};

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

outlast_runtime::limits! {
    /// Limits of the runs of all agents. Some of them an agent may have of its own.
    pub struct PluginLimits {
        /// The largest component, in bytes.
        plugin_bytes => plugin_bytes: Size = 128 << 20, 1 => MOST_BYTES;
        /// The longest that fetching one from a registry may take.
        plugin_fetch_timeout => fetch_timeout: Time = Duration::from_secs(300), Duration::from_secs(1) => DAY;
        /// The longest that compiling one may take.
        plugin_compile_timeout => compile_timeout: Time = Duration::from_secs(600), Duration::from_secs(1) => DAY;
        /// All memories and tables of an instance together, in bytes.
        memory => memory: Size = 256 << 20, 1 => MOST_MEMORY;
        /// CPU time of a run, all its executions and the tool components that it calls together.
        cpu_time => cpu_time: Time = Duration::from_secs(60), MOMENT => YEAR;
        /// The longest that an execution may take.
        run_timeout => run_timeout: Time = Duration::from_secs(600), MOMENT => YEAR;
        /// The most lines in the log of a run.
        log_lines => log_lines: Number = 10_000, 0 => MOST_EVENTS;
        /// The largest text that an agent may write in one call, in bytes.
        event_bytes => event_bytes: Size = 1 << 20, 1 => MOST_BYTES;
        /// What an agent may keep for a principal where `[agents.NAME]` says `state = true`.
        state_bytes => state_bytes: Size = 1 << 20, 0 => MOST_BYTES;
        /// The largest value that an agent keeps.
        state_value_bytes => state_value_bytes: Size = 256 << 10, 0 => MOST_BYTES;
        /// The longest key, in bytes.
        state_key_bytes => state_key_bytes: Count = 512, 1 => 1_024;
    }
    within {
        /// Of its HTTP requests.
        http: HttpLimits;
        /// Of its calls of tools.
        tools: ToolLimits;
        /// Of its calls of models.
        models: CallLimits;
    }
    besides {
        /// The most memory that compiling a component may take, in bytes. The server finds it out from the machine.
        compile_memory: usize = 2 << 30;
        /// The longest line in the log, in bytes.
        log_line: usize = 8_192;
    }
}

outlast_runtime::limits! {
    /// Limits of the calls of models of a run.
    pub struct CallLimits {
        /// The input, the instructions and the options of a call, in bytes, and of all calls together that a run holds.
        model_input_bytes => input_bytes: Size = 48 << 20, 1 => MOST_BYTES;
        /// The most calls that a run holds.
        model_calls => calls: Count = 16, 1 => MOST_PLACES;
    }
}

outlast_runtime::limits! {
    /// Limits of tools.
    pub struct ToolLimits {
        /// The arguments of a call, in bytes.
        tool_argument_bytes => argument_bytes: Size = 256 << 10, 0 => MOST_BYTES;
        /// Its answer, in bytes.
        tool_result_bytes => result_bytes: Size = 1 << 20, 0 => MOST_BYTES;
        /// The calls that are open at the same time in a run.
        tool_calls => calls: Count = 16, 1 => MOST_PLACES;
        /// The concurrent calls of tool components in all runs.
        tool_instances => instances: Count = 256, 1 => MOST_PLACES;
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
