//! The log of a server: lines on standard error, which a thread of their own writes.
//!
//! Whoever logs a line must not depend on who reads it. A terminal is closed, a collector of logs dies, a disk is full, a
//! reader stands still: none of this may stop or end a run. So a line goes into a queue, which is bounded by
//! [`QUEUE_BYTES`], and what logs it goes on at once. What does not fit, and what cannot be written, is lost and counted:
//! in the metric `outlast_log_lines_lost_total`, and in a line of the log as soon as one can be written again.
//!
//! The cost: what a process that is killed has logged in its last moment may be missing. One that ends in order waits
//! for its last lines, at most [`LAST_LINES`].

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd as _, OwnedFd},
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime},
};

use outlast_metrics::LogMetrics;
use outlast_runtime::text;
use parking_lot::{Condvar, Mutex};
use prometheus_client::metrics::counter::Counter;
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
};
use tracing_subscriber::fmt::MakeWriter;

use crate::config::LogFormat;

/// How much may wait to be written.
const QUEUE_BYTES: usize = 4 << 20;
/// What a line in the queue takes beside its bytes.
const LINE_OVERHEAD: usize = 64;
/// How long an end in order waits for lines that were not written yet.
const LAST_LINES: Duration = Duration::from_secs(1);
/// The pause between two lines that say how many were lost.
const TELL: Duration = Duration::from_secs(1);

/// Takes lines. Copies write the same log.
#[derive(Clone, Debug)]
pub(crate) struct Log(Arc<Shared>);

/// Waits for the last lines when it is dropped.
#[derive(Debug)]
pub(crate) struct Flush(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Whether the colours of a terminal are in the lines. They are the log's own: what an event says was escaped before.
    coloured: bool,
    queue: Mutex<Queue>,
    /// There is something to write.
    filled: Condvar,
    /// Everything has been tried.
    written: Condvar,
    lost: Counter,
}

#[derive(Debug, Default)]
struct Queue {
    lines: VecDeque<Box<[u8]>>,
    bytes: usize,
    /// A line is being written.
    writing: bool,
    /// Lines that were lost and that the log does not speak of yet.
    untold: u64,
}

impl Log {
    /// Writes to standard error from now on.
    ///
    /// # Errors
    ///
    /// The process has too many open files, or cannot start a thread.
    pub(crate) fn start(format: LogFormat, coloured: bool) -> io::Result<(Self, Flush)> {
        let out = io::stderr().as_fd().try_clone_to_owned()?;
        let shared = Self::to(out, format, coloured, LogMetrics::default().lost().clone())?;
        Ok((Self(shared.clone()), Flush(shared)))
    }

    fn to(out: OwnedFd, format: LogFormat, coloured: bool, lost: Counter) -> io::Result<Arc<Shared>> {
        let (filled, written) = (Condvar::new(), Condvar::new());
        let shared = Arc::new(Shared { coloured, queue: Mutex::default(), filled, written, lost });
        let writer = Writer { shared: shared.clone(), out: Out { fd: out, torn: false }, format };
        // It lives as long as the process: nothing is left to do behind it.
        thread::Builder::new().name("outlast-log".to_owned()).spawn(move || writer.run())?;
        Ok(shared)
    }
}

impl io::Write for &Log {
    /// Takes what one event says. It is never refused.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match std::str::from_utf8(line) {
            Ok(text) => self.0.push(text::entry(text, self.0.coloured).as_bytes()),
            Err(_) => self.0.push(text::entry(&String::from_utf8_lossy(line), self.0.coloured).as_bytes()),
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

impl Drop for Flush {
    fn drop(&mut self) {
        self.0.wait_until_written(LAST_LINES);
    }
}

impl Shared {
    fn push(&self, line: &[u8]) {
        let mut queue = self.queue.lock();
        if queue.bytes + line.len() + LINE_OVERHEAD > QUEUE_BYTES {
            queue.untold += 1;
            self.lost.inc();
            return;
        }
        queue.bytes += line.len() + LINE_OVERHEAD;
        queue.lines.push_back(line.into());
        self.filled.notify_one();
    }

    /// Waits until every line was tried. Whether that was in time.
    fn wait_until_written(&self, most: Duration) -> bool {
        let until = Instant::now() + most;
        let mut queue = self.queue.lock();
        while !queue.lines.is_empty() || queue.writing {
            if self.written.wait_until(&mut queue, until).timed_out() {
                return false;
            }
        }
        true
    }
}

/// The thread.
struct Writer {
    shared: Arc<Shared>,
    out: Out,
    format: LogFormat,
}

impl Writer {
    fn run(mut self) {
        let mut told = Instant::now();
        loop {
            let line = self.next();
            if let Some(line) = &line
                && self.out.write(line).is_err()
            {
                self.shared.queue.lock().untold += 1;
                self.shared.lost.inc();
            }
            let (untold, idle) = {
                let queue = self.shared.queue.lock();
                (queue.untold, queue.lines.is_empty())
            };
            // Behind the lines that came before the loss, and not behind each of them.
            if untold > 0 && (idle || told.elapsed() >= TELL) {
                told = Instant::now();
                if self.out.write(self.notice(untold).as_bytes()).is_ok() {
                    self.shared.queue.lock().untold -= untold;
                }
            }
            let mut queue = self.shared.queue.lock();
            queue.writing = false;
            if queue.lines.is_empty() {
                self.shared.written.notify_all();
            }
        }
    }

    /// Waits for a line; none when it is time to try to tell of lost ones.
    fn next(&self) -> Option<Box<[u8]>> {
        let mut queue = self.shared.queue.lock();
        loop {
            if let Some(line) = queue.lines.pop_front() {
                queue.bytes -= line.len() + LINE_OVERHEAD;
                queue.writing = true;
                return Some(line);
            }
            if queue.untold == 0 {
                self.shared.filled.wait(&mut queue);
            } else if self.shared.filled.wait_for(&mut queue, TELL).timed_out() && queue.lines.is_empty() {
                queue.writing = true;
                return None;
            }
        }
    }

    fn notice(&self, lost: u64) -> String {
        let now = humantime::format_rfc3339_micros(SystemTime::now());
        let lines = if lost == 1 { "line of the log was" } else { "lines of the log were" };
        let message = format!("{lost} {lines} lost: standard error was not read, or could not be written");
        match self.format {
            LogFormat::Text => format!("{now}  WARN {}: {message}\n", module_path!()),
            LogFormat::Json => {
                let fields = serde_json::json!({"message": message, "lost": lost});
                let (level, target) = ("WARN", module_path!());
                let line = serde_json::json!({"timestamp": now.to_string(), "level": level, "fields": fields, "target": target});
                format!("{line}\n")
            }
        }
    }
}

/// Where lines go.
struct Out {
    fd: OwnedFd,
    /// A line was written in part.
    torn: bool,
}

impl Out {
    /// Writes a whole line, however long that takes. After a line that was cut off it begins a new one.
    fn write(&mut self, line: &[u8]) -> Result<(), Errno> {
        if self.torn {
            self.put(b"\n")?;
            self.torn = false;
        }
        self.put(line)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Errno> {
        let mut rest = bytes;
        while !rest.is_empty() {
            match rustix::io::write(&self.fd, rest) {
                Ok(0) => return Err(Errno::IO),
                Ok(length) => {
                    rest = &rest[length..];
                    self.torn = !rest.is_empty();
                }
                Err(Errno::INTR) => {}
                // Somebody who shares it has made it non-blocking, and its reader is slow.
                Err(Errno::AGAIN) => self.wait()?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn wait(&self) -> Result<(), Errno> {
        let mut fds = [PollFd::new(&self.fd, PollFlags::OUT)];
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};

    use super::*;

    fn log_to(out: impl Into<OwnedFd>) -> (Log, Counter) {
        let lost = Counter::default();
        (Log(Log::to(out.into(), LogFormat::Text, false, lost.clone()).unwrap()), lost)
    }

    fn put(log: &Log, line: &str) {
        (&mut &*log).write_all(line.as_bytes()).unwrap();
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn lines_come_in_order_and_whole() {
        let (reader, writer) = io::pipe().unwrap();
        let (log, lost) = log_to(writer);
        let lines: Vec<_> = (0..1_000).map(|number| format!("line {number}\n")).collect();
        lines.iter().for_each(|line| put(&log, line));
        let read: Vec<_> = BufReader::new(reader).lines().take(1_000).map(|line| line.unwrap() + "\n").collect();
        assert_eq!(read, lines);
        assert_eq!(lost.get(), 0);
    }

    #[test]
    fn a_reader_that_stands_still_costs_lines_and_holds_up_nobody() {
        let (reader, writer) = io::pipe().unwrap();
        let (log, lost) = log_to(writer);
        let line = format!("{}\n", "x".repeat(8_191));
        // Many times what a pipe and the queue take. Would one of them wait, this would not end.
        for _ in 0..2_000 {
            put(&log, &line);
        }
        assert!(lost.get() > 0);
        assert!(!log.0.wait_until_written(Duration::ZERO));
        // Each of them is written or counted, and the log says how many are missing.
        let (mut told, mut whole) = (0, 0);
        let mut lines = BufReader::new(reader).lines();
        while told + whole < 2_000 {
            let line = lines.next().unwrap().unwrap();
            match line.split_once("log: ") {
                Some((_, words)) => told += words.split(' ').next().unwrap().parse::<u64>().unwrap(),
                None => {
                    assert_eq!(line.len(), 8_191);
                    whole += 1;
                }
            }
        }
        assert_eq!((told, whole), (lost.get(), 2_000 - lost.get()));
    }

    #[test]
    fn a_pipe_that_does_not_block_loses_nothing_that_fits_the_queue() {
        let (reader, writer) = io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        let (log, lost) = log_to(writer);
        let line = format!("{}\n", "x".repeat(999));
        for _ in 0..1_000 {
            put(&log, &line);
        }
        assert_eq!(
            BufReader::new(reader).lines().take(1_000).filter(|line| line.as_ref().unwrap().len() == 999).count(),
            1_000
        );
        assert_eq!(lost.get(), 0);
    }

    #[test]
    fn what_cannot_be_written_is_counted_and_the_next_line_is_tried() {
        let (log, lost) = log_to(std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
        put(&log, "one\n");
        put(&log, "two\n");
        assert!(log.0.wait_until_written(LONG));
        assert_eq!(lost.get(), 2);

        let (reader, writer) = io::pipe().unwrap();
        let (log, lost) = log_to(writer);
        drop(reader);
        put(&log, "three\n");
        assert!(log.0.wait_until_written(LONG));
        assert_eq!(lost.get(), 1);
    }

    #[test]
    fn a_lost_line_is_told_in_the_format_of_the_log() {
        let (_reader, writer) = io::pipe().unwrap();
        let shared = Log::to(writer.into(), LogFormat::Json, false, Counter::default()).unwrap();
        let (_, out) = io::pipe().unwrap();
        let writer = Writer { shared, out: Out { fd: out.into(), torn: false }, format: LogFormat::Json };
        let line: serde_json::Value = serde_json::from_str(&writer.notice(7)).unwrap();
        assert_eq!((&line["level"], &line["fields"]["lost"]), (&"WARN".into(), &7.into()));
    }
}
