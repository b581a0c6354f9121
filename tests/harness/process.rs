//! Processes that end with the tests, however the tests end.
//!
//! The kernel can send a process a signal when its parent dies (`PR_SET_PDEATHSIG`), but takes the *thread* that
//! started it for the parent. Test threads come and go, so all processes are started from one thread that never
//! ends.

use std::{
    io,
    os::unix::process::CommandExt as _,
    process::{Child, Command},
    sync::{
        OnceLock,
        mpsc::{Sender, SyncSender, channel, sync_channel},
    },
    time::Duration,
};

pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};

type Order = (Command, SyncSender<io::Result<Child>>);

/// Starts a process that gets `last` when this process dies.
pub fn spawn(mut command: Command, last: Signal) -> io::Result<Child> {
    static SPAWNER: OnceLock<Sender<Order>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, orders) = channel::<Order>();
        std::thread::Builder::new()
            .name("spawner".to_owned())
            .spawn(move || {
                for (mut command, answer) in orders {
                    let _ = answer.send(command.spawn());
                }
            })
            .unwrap();
        sender
    });
    // SAFETY: the closure runs between fork and exec and makes one system call, which is allowed there. It runs
    // after a change of the user, which would take the setting back.
    #[cfg(target_os = "linux")]
    unsafe {
        command.pre_exec(move || Ok(rustix::process::set_parent_process_death_signal(Some(last))?));
    }
    let (sender, answer) = sync_channel(1);
    spawner.send((command, sender)).unwrap();
    answer.recv().unwrap()
}

/// Sends a signal to a process that may have ended already.
pub fn signal(child: &Child, signal: Signal) {
    let _ = kill_process(pid(child), signal);
}

/// The id of a process.
pub fn pid(child: &Child) -> Pid {
    Pid::from_child(child)
}

/// Lets this process, and those that it starts, open as many files as the system allows: a thousand connections
/// are more than the usual default.
pub fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// Resident memory of a process, in KiB.
pub fn rss(id: u32) -> u64 {
    status(id, "VmRSS:")
}

/// The most resident memory that a process has had, in KiB.
pub fn highest_rss(id: u32) -> u64 {
    status(id, "VmHWM:")
}

/// How many mappings of memory a process has.
pub fn mappings(id: u32) -> usize {
    std::fs::read_to_string(format!("/proc/{id}/maps")).unwrap().lines().count()
}

/// How many threads a process has.
pub fn threads(id: u32) -> u64 {
    status(id, "Threads:")
}

/// Processor time that a process has used, in user and kernel mode. Counted in steps of 10 ms.
pub fn cpu_time(id: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
    // The name, in parentheses, may contain spaces.
    let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 1_000 / rustix::param::clock_ticks_per_second())
}

/// How often the threads of a process have given up their processor, or lost it. Those that have ended do not count.
pub fn switches(id: u32) -> u64 {
    let threads = std::fs::read_dir(format!("/proc/{id}/task")).unwrap();
    let of = |status: String| -> u64 {
        let lines = status.lines().filter_map(|line| line.split_once("ctxt_switches:"));
        lines.map(|(_, count)| count.trim().parse::<u64>().unwrap()).sum()
    };
    threads.filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("status")).ok()).map(of).sum()
}

/// Bytes that a process has had written to disks; none where the system does not say.
pub fn written_bytes(id: u32) -> Option<u64> {
    let io = std::fs::read_to_string(format!("/proc/{id}/io")).ok()?;
    io.lines().find_map(|line| line.strip_prefix("write_bytes:"))?.trim().parse().ok()
}

/// The processes that a process has started and that live.
pub fn children(id: u32) -> Vec<u32> {
    let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
    children.split_whitespace().filter_map(|child| child.parse().ok()).collect()
}

fn status(id: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}
