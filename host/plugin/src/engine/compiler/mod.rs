//! Compiles components in a process of its own.
//!
//! Who wrote a component decides what there is to compile: some hundred kilobytes can take a minute and gigabytes. So it is
//! done by a child, which is this program once more, with a limit of memory and of time. It has nothing of the server: no
//! environment, no open file, no folder, and it ends when nobody waits for it any more. It gets the component on its
//! standard input and puts the code on its standard output.
//!
//! What is not this program, such as a test of this library, compiles where it is.

mod child;

use std::{
    os::unix::process::ExitStatusExt as _,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    sync::OnceLock,
    thread,
    time::Duration,
};

use bytes::Bytes;
use bytesize::ByteSize;
use rustix::process::Signal;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    process::Command,
};
use wasmtime::Config;

pub use child::compile;

use crate::{
    failure::{first_line, shorten},
    refused::Refused,
    sandbox::PluginLimits,
};

/// The subcommand that compiles.
pub const COMMAND: &str = "compile";
/// Says which program this is.
#[cfg(target_os = "linux")]
const ITSELF: &str = "/proc/self/exe";
/// The most code of a component, in bytes.
const CODE: u64 = 1 << 30;
/// How much of what a child says on its standard error is read, in bytes.
const SAID: u64 = 4 << 10;
/// The most threads of a child. Each has a part of the component.
const THREADS: usize = 4;
/// What says how many threads a child has.
const THREADS_VARIABLE: &str = "RAYON_NUM_THREADS";

/// The program that compiles, if this process is one that can.
static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// This process is the program, and may start itself to compile.
pub fn compile_in_children() {
    // The very file that runs, whatever is at its path by now: another version makes other code.
    #[cfg(target_os = "linux")]
    let program = std::path::Path::new(ITSELF).exists().then(|| PathBuf::from(ITSELF));
    #[cfg(not(target_os = "linux"))]
    let program = None;
    if let Some(program) = program.or_else(|| std::env::current_exe().ok()) {
        let _ = PROGRAM.set(program);
    }
}

/// What of the engine decides how code is made. A child must have the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The addresses of a memory, in bytes, if they are not the usual ones, and those behind it that are never used.
    pub addresses: Option<(u64, u64)>,
}

impl Settings {
    pub(super) fn configure(self, config: &mut Config) {
        config.epoch_interruption(true);
        // Only blocking functions cross the border so far; without support for others, calls are cheaper.
        config.concurrency_support(false);
        // The same component with the same answers from its imports does the same, on every machine.
        config.cranelift_nan_canonicalization(true);
        config.relaxed_simd_deterministic(true);
        if let Some((reservation, guard)) = self.addresses {
            config.memory_reservation(reservation).memory_guard_size(guard);
        }
    }
}

/// What a child may use.
#[derive(Clone, Copy, Debug)]
pub struct ChildLimits {
    /// Memory, in bytes.
    pub memory: u64,
    /// Time of a processor, in seconds.
    pub cpu: u64,
}

/// What a child gives back: one byte that says what comes, and that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// The code.
    Code = 0,
    /// Why there is none.
    Refused = 1,
    /// There was not enough memory.
    Memory = 2,
}

/// Makes the code of a component. It is not for others: whoever can change it decides what this server does.
///
/// Dropping the future ends the child.
///
/// # Errors
///
/// It is not valid, or takes too much.
pub(super) async fn code(
    engine: &wasmtime::Engine,
    settings: Settings,
    wasm: Bytes,
    limits: &PluginLimits,
) -> Result<Vec<u8>, Refused> {
    match PROGRAM.get() {
        Some(program) => by_child(program, settings, wasm, limits).await,
        None => {
            let engine = engine.clone();
            let made = tokio::task::spawn_blocking(move || engine.precompile_component(&wasm));
            let made = made.await.map_err(|error| Refused(format!("compiling it failed: {error}")))?;
            made.map_err(|error| invalid(&first_line(&error)))
        }
    }
}

async fn by_child(
    program: &PathBuf,
    settings: Settings,
    wasm: Bytes,
    limits: &PluginLimits,
) -> Result<Vec<u8>, Refused> {
    let threads = threads();
    let memory = limits.compile_memory as u64;
    let cpu =
        limits.compile_timeout.saturating_mul(u32::try_from(threads).unwrap_or(u32::MAX)) + Duration::from_secs(1);
    let mut command = Command::new(program);
    command.arg(COMMAND).arg(format!("--memory={memory}")).arg(format!("--cpu={}", cpu.as_secs()));
    if let Some((reservation, guard)) = settings.addresses {
        command.arg(format!("--reservation={reservation}")).arg(format!("--guard={guard}"));
    }
    command.env_clear().env(THREADS_VARIABLE, threads.to_string()).current_dir("/");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // Not in the terminal's group: what is meant for the server is not meant for it.
    command.process_group(0).kill_on_drop(true);
    let cannot = |why: String| Refused(format!("it cannot be compiled: the compiler process {why}"));
    let mut child = command.spawn().map_err(|error| cannot(format!("cannot be started: {error}")))?;
    let (Some(mut stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(cannot("has no pipes".to_owned()));
    };
    let feed = async move {
        // One that has ended takes no more; why, is seen below.
        let _ = stdin.write_all(&wasm).await;
    };
    let (_, given, said, status) = tokio::join!(feed, all(stdout, CODE + 1), all(stderr, SAID), child.wait());
    let status = status.map_err(|error| cannot(format!("cannot be waited for: {error}")))?;
    let given = given.map_err(|error| cannot(format!("cannot be read: {error}")))?;
    outcome(status, given, &said.unwrap_or_default(), limits)
}

/// Reads to the end, or as far as allowed; whoever writes more finds nobody to read it.
async fn all(from: impl AsyncRead + Unpin, most: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(most).read_to_end(&mut bytes).await?;
    Ok(bytes)
}

/// What a child that has ended came to.
fn outcome(status: ExitStatus, mut given: Vec<u8>, said: &[u8], limits: &PluginLimits) -> Result<Vec<u8>, Refused> {
    if given.len() as u64 > CODE {
        return Err(Refused(format!("its code exceeds the limit of {} MiB", CODE >> 20)));
    }
    let said = String::from_utf8_lossy(said);
    // So says the standard library where an allocation fails.
    if said.contains("memory allocation of") || given.first() == Some(&(Outcome::Memory as u8)) {
        let size = ByteSize::b(limits.compile_memory as u64).display().iec().to_string();
        return Err(Refused(format!("compiling it takes more than {size} of memory (limits.plugin_compile_memory)")));
    }
    let signal = |signal: Signal| status.signal() == Some(signal.as_raw());
    if signal(Signal::XCPU) {
        return Err(too_long(limits.compile_timeout));
    }
    match given.first() {
        Some(&kind) if kind == Outcome::Code as u8 && status.success() => {
            given.remove(0);
            Ok(given)
        }
        Some(&kind) if kind == Outcome::Refused as u8 && status.success() => {
            Err(invalid(&shorten(&String::from_utf8_lossy(&given[1..]), 500)))
        }
        _ => {
            let said: Vec<_> = said.lines().filter(|line| !line.trim().is_empty()).take(2).collect();
            let why = format!("compiling it failed: its process ended with {status}: {}", said.join(" "));
            Err(Refused(shorten(why.trim_end_matches([':', ' ']), 500)))
        }
    }
}

/// How many threads a child has.
fn threads() -> usize {
    let said = std::env::var(THREADS_VARIABLE).ok().and_then(|said| said.parse().ok());
    said.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from)).clamp(1, THREADS)
}

/// That compiling takes longer than `most`.
pub(super) fn too_long(most: Duration) -> Refused {
    Refused(format!("compiling it takes longer than {most:?} (limits.plugin_compile_timeout)"))
}

fn invalid(why: &str) -> Refused {
    Refused(format!("it is not a valid component: {why}"))
}
