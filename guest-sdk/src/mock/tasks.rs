//! Waiting, which takes no time.

use std::time::Duration;

use super::with;
use crate::{Failure, bindings};

/// Something to be waited for: it ends when the agent has slept for so long.
#[derive(Debug)]
pub struct Task {
    ends: Duration,
}

impl Task {
    /// One that has ended.
    pub(super) fn ended() -> Self {
        Self { ends: Duration::ZERO }
    }
}

pub(crate) fn wait_any(tasks: &[&Task]) -> Result<Vec<u32>, bindings::Failure> {
    let Some(first) = tasks.iter().map(|task| task.ends).min() else {
        return Err(Failure::invalid("no_tasks", "There is no task to wait for: the list is empty.").into());
    };
    let slept = with("tasks::wait_any", |host| {
        let left = first.saturating_sub(host.clock.slept);
        host.clock.sleep(left).then_some(host.clock.slept)
    });
    let slept = slept.ok_or_else(cancelled)?;
    Ok((0..).zip(tasks).filter(|(_, task)| task.ends <= slept).map(|(place, _)| place).collect())
}

pub(crate) fn after(milliseconds: u64) -> Task {
    let ends = with("tasks::after", |host| host.clock.slept.saturating_add(Duration::from_millis(milliseconds)));
    Task { ends }
}

pub(crate) fn sleep(milliseconds: u64) -> Result<(), bindings::Failure> {
    match with("tasks::sleep", |host| host.clock.sleep(Duration::from_millis(milliseconds))) {
        true => Ok(()),
        false => Err(cancelled()),
    }
}

/// What every call that waits answers when the run is cancelled.
pub(super) fn cancelled() -> bindings::Failure {
    Failure::cancelled("cancelled", "the run is being cancelled").into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{mock::Mock, tasks};

    #[test]
    fn the_first_timer_ends_first() {
        let run = Mock::new().call(|| {
            let (long, short) = (tasks::after(Duration::from_secs(9)), tasks::after(Duration::from_secs(3)));
            (tasks::wait_any([&long, &short]).unwrap(), tasks::wait_any([&long]).unwrap())
        });
        assert_eq!((run.result, run.slept), ((vec![1], vec![0]), Duration::from_secs(9)));
    }
}
