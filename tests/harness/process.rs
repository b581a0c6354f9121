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
