//! The heap of this process: what is large goes back to the system when it is free.

/// From how many bytes on a piece of memory is the system's own, in bytes.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const LARGE: i32 = 1 << 20;

/// Lets large pieces of memory go back when they are free. Called first, while there is one thread.
///
/// The body of a request is tens of megabytes, and several copies of it come and go. By default glibc raises its threshold to
/// the largest piece that was freed, up to 32 MiB, and keeps such pieces in its heaps, between smaller ones: six requests of
/// 30 MB left 600 MiB behind.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "mallopt is C; see SAFETY")]
pub(crate) fn give_back() {
    // SAFETY: It sets a number. Nobody else allocates meanwhile: there is one thread.
    unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE) };
}

/// Other systems do so by themselves.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn give_back() {}
