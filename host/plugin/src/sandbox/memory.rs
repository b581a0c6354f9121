//! The memory of all instances together: `limits.instances_memory`.
//!
//! Each instance has a limit of its own, and there may be thousands of them. As long as what they have asked for together
//! fits, nobody is asked anything. Most of what they ask for they never touch, so beyond that it is looked at how much
//! memory the process has really taken for them, and as long as that fits, they go on. Where it does not, whoever wants
//! more than its share, or computes with more than its share, ends; the others do not notice. A share is half of the whole
//! by the number of instances.
//!
//! So the instances have at most the whole, half of it once more for small ones, and what is written until the next look,
//! within a millisecond or two.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// How old what is known of the process may be.
const LOOK: Duration = Duration::from_millis(1);
/// Where Linux says how much memory a process has that is no file's.
const STATUS: &str = "/proc/self/status";
const ANONYMOUS: &str = "RssAnon:";

/// What all instances have.
#[derive(Debug)]
pub(crate) struct Budget {
    /// The most, in bytes.
    most: usize,
    /// What they have asked for.
    asked: AtomicUsize,
    instances: AtomicUsize,
    /// What the process had when there was no instance.
    base: AtomicUsize,
    looked: Mutex<Option<(Instant, usize)>>,
    resident: fn() -> Option<usize>,
}

impl Budget {
    /// So many bytes for all instances together.
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Self::measured_by(most, resident)
    }

    fn measured_by(most: usize, resident: fn() -> Option<usize>) -> Arc<Self> {
        let zero = || AtomicUsize::new(0);
        Arc::new(Self { most, asked: zero(), instances: zero(), base: zero(), looked: Mutex::default(), resident })
    }

    /// The part of an instance that begins.
    pub(crate) fn share(self: &Arc<Self>) -> Share {
        if self.instances.fetch_add(1, Relaxed) == 0 && self.most < usize::MAX {
            self.base.store((self.resident)().unwrap_or_default(), Relaxed);
        }
        Share { budget: self.clone(), bytes: 0 }
    }

    /// What each instance may have, whatever the others have.
    fn least(&self) -> usize {
        self.most / 2 / self.instances.load(Relaxed).max(1)
    }

    /// What the process has taken for instances; what they have asked for, where nobody tells.
    fn used(&self) -> usize {
        let mut looked = self.looked.lock();
        if let Some((when, used)) = *looked
            && when.elapsed() < LOOK
        {
            return used;
        }
        let resident = (self.resident)().map(|bytes| bytes.saturating_sub(self.base.load(Relaxed)));
        let used = resident.unwrap_or_else(|| self.asked.load(Relaxed));
        *looked = Some((Instant::now(), used));
        used
    }
}

/// What an instance has of the whole. It gives it back when it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Share {
    /// Takes more. An error is what is to be said of it, behind “it”.
    pub(crate) fn grow(&mut self, more: usize) -> Result<(), String> {
        let (budget, wanted) = (&self.budget, self.bytes.saturating_add(more));
        let asked = budget.asked.fetch_add(more, Relaxed).saturating_add(more);
        let fits =
            asked <= budget.most || wanted <= budget.least() || budget.used().saturating_add(more) <= budget.most;
        if !fits {
            budget.asked.fetch_sub(more, Relaxed);
            return Err(format!(
                "asked for {} of memory, but the {} for all runs together are in use (limits.instances_memory)",
                mib(wanted),
                mib(budget.most)
            ));
        }
        self.bytes = wanted;
        Ok(())
    }

    /// Whether its instance must end, because all of them use more than there is, and it has more than its share. An error
    /// is what is to be said of it, behind “it”.
    pub(crate) fn check(&self) -> Result<(), String> {
        let budget = &self.budget;
        let pressed = budget.asked.load(Relaxed) > budget.most && self.bytes > budget.least();
        if !pressed || budget.used() <= budget.most {
            return Ok(());
        }
        Err(format!(
            "has {} of memory, and all runs together exceed {} (limits.instances_memory)",
            mib(self.bytes),
            mib(budget.most)
        ))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.asked.fetch_sub(self.bytes, Relaxed);
        self.budget.instances.fetch_sub(1, Relaxed);
    }
}

/// The memory of this process that is no file's, in bytes; none where nobody tells.
fn resident() -> Option<usize> {
    let status = fs::read_to_string(STATUS).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(ANONYMOUS))?;
    Some(line.split_whitespace().next()?.parse::<usize>().ok()?.saturating_mul(1_024))
}

/// Bytes as mebibytes, rounded up to a tenth.
pub(crate) fn mib(bytes: usize) -> String {
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
    fn what_is_asked_for_and_not_used_is_not_missing() {
        let budget = Budget::measured_by(100, || Some(40));
        let (mut first, mut second) = (budget.share(), budget.share());
        // Forty bytes were there before.
        first.grow(90).unwrap();
        second.grow(90).unwrap();
        assert_eq!((first.check(), second.check()), (Ok(()), Ok(())));
    }

    #[test]
    fn where_all_is_used_small_ones_go_on_and_large_ones_do_not() {
        let budget = Budget::measured_by(100, || None);
        let (mut large, mut small) = (budget.share(), budget.share());
        large.grow(100).unwrap();
        small.grow(25).unwrap();
        let why = small.grow(1).unwrap_err();
        assert!(why.contains("limits.instances_memory"), "{why}");
        assert_eq!(small.check(), Ok(()));
        assert!(large.check().unwrap_err().contains("limits.instances_memory"));
        drop(large);
        std::thread::sleep(LOOK);
        small.grow(75).unwrap();
        drop(small);
        assert_eq!((budget.asked.load(Relaxed), budget.instances.load(Relaxed)), (0, 0));
    }

    #[test]
    fn this_process_has_memory() {
        assert!(cfg!(not(target_os = "linux")) || resident().unwrap() > 0);
    }
}
