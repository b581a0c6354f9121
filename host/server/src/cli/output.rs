//! What commands print.
//!
//! Much of it was written by somebody else, a plugin for example: what would control a terminal, or show a text in another
//! order than it has, is [escaped](outlast_runtime::text) here, whatever is printed.
//!
//! Who reads it may go away (`| head -1`): that is no failure. What is printed after that goes nowhere, and the command
//! ends as it would have, or sooner. Anything else that keeps a text from being printed, a full disk for example, is an
//! error of the command.

use std::{
    fmt,
    io::{self, ErrorKind, Write as _},
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use outlast_runtime::text;

/// How long a last message may take: who reads standard error may stand still.
const LAST_MESSAGE: Duration = Duration::from_secs(1);

/// Nobody reads standard output any more.
static GONE: AtomicBool = AtomicBool::new(false);

/// Whether nobody reads standard output any more.
pub(super) fn gone() -> bool {
    GONE.load(Ordering::Relaxed)
}

/// Prints a text, at once: whoever reads a pipe reads along.
///
/// # Errors
///
/// It cannot be written, though somebody may be there to read it.
pub(super) fn print(text: impl AsRef<str>) -> Result<(), String> {
    if gone() {
        return Ok(());
    }
    let mut out = io::stdout().lock();
    match out.write_all(text::lines(text.as_ref()).as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {
            GONE.store(true, Ordering::Relaxed);
            Ok(())
        }
        Err(error) => Err(format!("cannot write to standard output: {error}")),
        Ok(()) => Ok(()),
    }
}

/// Prints a line.
///
/// # Errors
///
/// As [`print`].
pub(super) fn line(text: fmt::Arguments<'_>) -> Result<(), String> {
    print(format!("{text}\n"))
}

/// Prints a text on standard error, if somebody reads it.
pub(super) fn note_text(text: fmt::Arguments<'_>) {
    let _ = io::stderr().write_all(text::lines(&text.to_string()).as_bytes());
}

/// Where a command's log is written: standard error, each event as the log of a server has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Events {
    /// Whether the log puts the colours of a terminal in.
    pub coloured: bool,
}

impl io::Write for Events {
    /// Writes what one event says.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let shown = String::from_utf8_lossy(event);
        io::stderr().write_all(text::entry(&shown, self.coloured).as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Shows on standard error how far something is, in place of what was shown there before.
pub(super) fn progress(text: fmt::Arguments<'_>) {
    let _ = write!(io::stderr(), "\r{}", text::line(&text.to_string()));
}

/// Prints a last line on standard error, and waits for it for a moment.
pub(super) fn last(text: String) {
    let (done, wait) = mpsc::channel::<()>();
    let written = thread::Builder::new().spawn(move || {
        note_text(format_args!("{text}\n"));
        drop(done);
    });
    if written.is_ok() {
        let _ = wait.recv_timeout(LAST_MESSAGE);
    }
}

/// Prints a line on standard output; the value says whether that went well.
macro_rules! say {
    ($($text:tt)*) => { $crate::cli::output::line(format_args!($($text)*)) };
}

/// Prints a line on standard error, if somebody reads it.
macro_rules! note {
    ($($text:tt)*) => { $crate::cli::output::note_text(format_args!("{}\n", format_args!($($text)*))) };
}

pub(super) use {note, say};
