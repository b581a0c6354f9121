//! Descriptors that this process was given by whoever started it.
//!
//! What this program opens is closed in its children. What it was given is not: a shell, a supervisor or a test may have
//! left files and sockets open for it, and they are none of an MCP server's business.

use std::os::fd::BorrowedFd;

use rustix::io::{FdFlags, fcntl_setfd};

/// The first descriptor that is not one of standard input, output and error.
const FIRST: i32 = 3;
/// Where a process finds its descriptors.
const OPEN: &str = if cfg!(target_os = "linux") { "/proc/self/fd" } else { "/dev/fd" };

/// Keeps the descriptors that are open from the children of this process. Called first, while there is one thread.
pub(crate) fn keep_from_children() {
    let Ok(open) = std::fs::read_dir(OPEN) else { return };
    let numbers = open.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    for number in numbers.collect::<Vec<_>>().into_iter().filter(|number| *number >= FIRST) {
        keep_from_child(number);
    }
}

#[expect(unsafe_code, reason = "a descriptor that was inherited has no owner to borrow it from; see SAFETY")]
fn keep_from_child(number: i32) {
    // SAFETY: It was open a moment ago, nobody else runs who could close it, and it is used for this call only. The one that
    // the folder was read with is closed by now: that call fails, and nothing comes of it.
    let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
    let _ = fcntl_setfd(descriptor, FdFlags::CLOEXEC);
}
