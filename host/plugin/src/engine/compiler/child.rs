//! The child's side: nothing of the server is here, and soon nothing of the machine.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    os::fd::RawFd,
    thread,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    process::{Resource, Rlimit, setpriority_process, setrlimit},
};
use wasmtime::{Config, Engine};

use super::{ChildLimits, Outcome, Settings};
use crate::failure::first_line;

/// How much less often a child gets a processor than who serves: a place in the order of `nice`.
const NICE: i32 = 5;
/// Addresses beside those for its memory, in bytes: of the program, and what the allocator reserves for its threads.
const ADDRESSES: u64 = 2 << 30;
/// Where Linux takes how willingly a process is ended when the machine has no memory left, and the most.
const SACRIFICE: (&str, &str) = ("/proc/self/oom_score_adj", "1000");
/// The open files of this process.
const FILES: &str = "/proc/self/fd";

/// Compiles the component on standard input, and writes the code to standard output.
///
/// # Errors
///
/// It cannot be confined, or has nobody to talk to.
pub fn compile(settings: Settings, limits: ChildLimits) -> io::Result<()> {
    close_inherited();
    confine(limits)?;
    thread::Builder::new().stack_size(64 << 10).spawn(end_with_reader)?;
    let mut wasm = Vec::new();
    io::stdin().lock().read_to_end(&mut wasm)?;
    let (outcome, bytes) = match code(settings, &wasm) {
        Ok(code) => (Outcome::Code, code),
        Err(error) if is_memory(&error) => (Outcome::Memory, Vec::new()),
        Err(error) => (Outcome::Refused, first_line(&error).into_bytes()),
    };
    let mut stdout = io::stdout().lock();
    stdout.write_all(&[outcome as u8])?;
    stdout.write_all(&bytes)?;
    stdout.flush()
}

fn code(settings: Settings, wasm: &[u8]) -> wasmtime::Result<Vec<u8>> {
    let mut config = Config::new();
    settings.configure(&mut config);
    Engine::new(&config)?.precompile_component(wasm)
}

/// Whether the system gave no memory.
fn is_memory(error: &wasmtime::Error) -> bool {
    let missing = |error: &io::Error| error.kind() == io::ErrorKind::OutOfMemory;
    let known = |error: &rustix::io::Errno| *error == rustix::io::Errno::NOMEM;
    error.chain().any(|error| {
        error.downcast_ref::<io::Error>().is_some_and(missing)
            || error.downcast_ref::<rustix::io::Errno>().is_some_and(known)
    })
}

/// Takes away from this process what it does not need.
fn confine(limits: ChildLimits) -> io::Result<()> {
    let limit = |resource, most: u64| setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) });
    limit(Resource::Data, limits.memory)?;
    // Not everywhere can it be set below what is there.
    let addresses = limit(Resource::As, limits.memory.saturating_add(ADDRESSES));
    #[cfg(target_os = "linux")]
    addresses?;
    #[cfg(not(target_os = "linux"))]
    drop(addresses);
    // A signal first, by which its end is known.
    setrlimit(Resource::Cpu, Rlimit { current: Some(limits.cpu), maximum: Some(limits.cpu.saturating_add(5)) })?;
    limit(Resource::Core, 0)?;
    limit(Resource::Fsize, 0)?;
    limit(Resource::Nofile, 16)?;
    // Nice to have: where it is not possible, it is as it was.
    let _ = fs::write(SACRIFICE.0, SACRIFICE.1);
    let _ = setpriority_process(None, NICE);
    Ok(())
}

/// Closes what this process was given beside its three standard files.
#[expect(unsafe_code, reason = "files that nobody here has opened have no owner; see SAFETY")]
fn close_inherited() {
    let Ok(files) = fs::read_dir(FILES) else { return };
    let listed: Vec<RawFd> = files.filter_map(|file| file.ok()?.file_name().to_str()?.parse().ok()).collect();
    // The folder itself was one of them, and is closed by now.
    let is_open = |file: &RawFd| fs::symlink_metadata(format!("{FILES}/{file}")).is_ok();
    for file in listed.into_iter().filter(|file| *file > 2 && is_open(file)) {
        // SAFETY: this is the first thing that the process does. It has one thread and keeps nothing open, so nothing in it
        // owns a file above the three standard ones, and this one is open.
        unsafe { rustix::io::close(file) };
    }
}

/// Ends this process when nobody reads what it writes any more: the server has ended, or does not want it.
fn end_with_reader() {
    let stdout = io::stdout();
    // An error is told also where none was asked for.
    let mut files = [PollFd::new(&stdout, PollFlags::empty())];
    while let Ok(_) | Err(rustix::io::Errno::INTR) = poll(&mut files, None) {
        if files[0].revents().intersects(PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL) {
            break;
        }
    }
    std::process::exit(1);
}
