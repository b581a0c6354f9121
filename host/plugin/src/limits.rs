//! How much a plugin may use.

use std::{sync::Arc, time::Duration};

use wasmtime::ResourceLimiter;

use super::{
    Meter,
    failure::Violation,
    grants::Granted,
    http::HttpLimits,
    memory::{Budget, Share},
    tools::ToolLimits,
};

/// The most elements of all tables of an instance together: functions that can be called indirectly.
pub(super) const TABLE_ELEMENTS: usize = 100_000;
/// What an element of a table takes, in bytes.
const TABLE_ELEMENT: usize = size_of::<usize>();
/// The most core instances of a component. JavaScript and Python components have dozens.
pub(super) const CORE_INSTANCES: usize = 100;
/// The most memories of a component: its own, and those of others that it is composed with.
pub(super) const MEMORIES: usize = 8;
/// The most tables of a component.
pub(super) const TABLES: usize = 32;
/// The most handles that are open at once.
pub(super) const HANDLES: usize = 10_000;

/// What a component may hand over in one call of the host, in bytes, unless a limit of what it is granted is larger.
const HOST_CALL: usize = 4 << 20;
/// What a call has beside its largest text: names, headers and the like, in bytes.
const HOST_CALL_REST: usize = 256 << 10;
/// The most random bytes of one call.
pub(super) const RANDOM_BYTES: u64 = 64 << 10;

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

impl PluginLimits {
    /// How much a component with these grants may hand over in one call of the host, in bytes: it is copied before
    /// anything else can be looked at. What it is not granted it need not hand over.
    pub(super) fn host_call(&self, granted: Option<&Granted>) -> usize {
        let mut most = HOST_CALL.max(self.event_bytes).max(self.tools.result_bytes);
        if let Some(granted) = granted {
            if granted.http.reaches_anything() {
                most = most.max(self.http.request_bytes.saturating_add(self.http.header_bytes));
            }
            if granted.state.bytes.is_some() {
                // The value that is expected, and the new one.
                most = most.max(self.state_value_bytes.saturating_mul(2));
            }
            if granted.tools.is_some() {
                most = most.max(self.tools.argument_bytes);
            }
            if !granted.models.is_nothing() {
                most = most.max(self.models.input_bytes);
            }
        }
        most.saturating_add(HOST_CALL_REST)
    }
}

/// How much memory an instance may have, and the key that says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MemoryLimit {
    /// In bytes.
    pub(super) most: usize,
    /// The key in the configuration: `limits.memory`.
    pub(super) key: String,
}

/// Counts what an instance uses and says no by name: a denied allocation would otherwise end as a bare
/// `unreachable`.
#[derive(Debug)]
pub(super) struct Limiter {
    memory: MemoryLimit,
    used: usize,
    /// Of all tables.
    elements: usize,
    /// What it has of the memory of all instances.
    share: Option<Share>,
    meter: Arc<Meter>,
}

impl Limiter {
    pub(super) fn new(memory: MemoryLimit, meter: Arc<Meter>) -> Self {
        Self { memory, used: 0, elements: 0, share: None, meter }
    }

    /// From now on it shares this with all other instances.
    pub(super) fn share(&mut self, budget: &Arc<Budget>) {
        self.share = Some(budget.share());
    }

    /// Whether the instance may go on.
    pub(super) fn check(&self) -> Result<(), Violation> {
        self.share.as_ref().map_or(Ok(()), Share::check).map_err(Violation)
    }

    fn take(&mut self, more: usize) -> Result<(), Violation> {
        let wanted = self.used.saturating_add(more);
        let MemoryLimit { most, key } = &self.memory;
        if wanted > *most {
            return Err(Violation(format!("asked for {} of memory, limit {} ({key})", mib(wanted), mib(*most))));
        }
        if let Some(share) = &mut self.share {
            share.grow(more).map_err(Violation)?;
        }
        self.used = wanted;
        self.meter.grow(wanted as u64);
        Ok(())
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        self.take(desired.saturating_sub(current))?;
        Ok(true)
    }

    fn table_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        let more = desired.saturating_sub(current);
        let elements = self.elements.saturating_add(more);
        if elements > TABLE_ELEMENTS {
            let message = format!("asked for tables of {elements} elements together, limit {TABLE_ELEMENTS}");
            return Err(Violation(message).into());
        }
        self.take(more.saturating_mul(TABLE_ELEMENT))?;
        self.elements = elements;
        Ok(true)
    }

    fn instances(&self) -> usize {
        CORE_INSTANCES
    }

    fn tables(&self) -> usize {
        TABLES
    }

    fn memories(&self) -> usize {
        MEMORIES
    }
}

/// What an instance with one memory and small tables takes of the mappings of the process: measured, and rounded up.
const MAPPINGS: usize = 8;
/// What each further memory takes.
const MEMORY_MAPPINGS: usize = 3;
/// A table that may have this many elements or more has a mapping of its own.
pub(super) const LARGE_TABLE: u64 = 16_000;

/// How many places an instance with so many memories, and tables that may be large, takes: one for [`MAPPINGS`] mappings,
/// of which the system allows a process only so many.
pub(super) fn places(memories: usize, large_tables: usize) -> u32 {
    let mappings = MAPPINGS + memories.saturating_sub(1) * MEMORY_MAPPINGS + large_tables.saturating_sub(1);
    u32::try_from(mappings.div_ceil(MAPPINGS)).unwrap_or(u32::MAX)
}

/// Bytes as mebibytes, rounded up to a tenth.
pub(super) fn mib(bytes: usize) -> String {
    let tenths = bytes.saturating_mul(10).div_ceil(1 << 20);
    if tenths.is_multiple_of(10) {
        format!("{} MiB", tenths / 10)
    } else {
        format!("{}.{} MiB", tenths / 10, tenths % 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_beyond_the_limit_is_refused_by_name() {
        let memory = MemoryLimit { most: 16 << 20, key: "limits.memory".to_owned() };
        let mut limiter = Limiter::new(memory, Arc::default());
        assert!(limiter.memory_growing(0, 16 << 20, None).unwrap());
        assert_eq!(limiter.meter.used().memory, 16 << 20);
        let error = limiter.memory_growing(16 << 20, (16 << 20) + 65_536, None).unwrap_err();
        assert_eq!(error.to_string(), "asked for 16.1 MiB of memory, limit 16 MiB (limits.memory)");
    }

    #[test]
    fn tables_are_memory_all_together() {
        let memory = MemoryLimit { most: 1 << 20, key: "limits.memory".to_owned() };
        let mut limiter = Limiter::new(memory, Arc::default());
        assert!(limiter.table_growing(0, 60_000, None).unwrap());
        assert_eq!(limiter.meter.used().memory, 60_000 * TABLE_ELEMENT as u64);
        let error = limiter.table_growing(0, 40_001, None).unwrap_err();
        assert_eq!(error.to_string(), "asked for tables of 100001 elements together, limit 100000");
        let error = limiter.memory_growing(0, 1 << 20, None).unwrap_err();
        assert_eq!(error.to_string(), "asked for 1.5 MiB of memory, limit 1 MiB (limits.memory)");
        assert!(limiter.table_growing(60_000, 100_000, None).unwrap());
    }

    #[test]
    fn what_takes_more_mappings_takes_more_places() {
        assert_eq!([places(0, 0), places(1, 1), places(1, 2), places(3, 0), places(8, 32)], [1, 1, 2, 2, 8]);
    }
}
