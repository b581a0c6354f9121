//! Holds an instance to its memory.

use std::sync::Arc;

use wasmtime::ResourceLimiter;

use super::{
    limits::{CORE_INSTANCES, MEMORIES, MemoryLimit, TABLE_ELEMENTS, TABLES},
    memory::{Budget, Share, mib},
};
use crate::{failure::Violation, meter::Meter};

/// What an element of a table takes, in bytes.
const TABLE_ELEMENT: usize = size_of::<usize>();
/// Counts what an instance uses and says no by name: a denied allocation would otherwise end as a bare
/// `unreachable`.
#[derive(Debug)]
pub(crate) struct Limiter {
    memory: MemoryLimit,
    used: usize,
    /// Of all tables.
    elements: usize,
    /// What it has of the memory of all instances.
    share: Option<Share>,
    meter: Arc<Meter>,
}

impl Limiter {
    pub(crate) fn new(memory: MemoryLimit, meter: Arc<Meter>) -> Self {
        Self { memory, used: 0, elements: 0, share: None, meter }
    }

    /// From now on it shares this with all other instances.
    pub(crate) fn share(&mut self, budget: &Arc<Budget>) {
        self.share = Some(budget.share());
    }

    /// Whether the instance may go on.
    pub(crate) fn check(&self) -> Result<(), Violation> {
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
}
