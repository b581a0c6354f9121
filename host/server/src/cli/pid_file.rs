//! The file that says which process is the server.
//!
//! A process id alone may be another program's by now. So the server holds a lock on the file as long as it lives, and
//! whoever finds no lock knows that there is no server.

use std::{
    fs::{File, TryLockError},
    io::{Read as _, Seek as _, Write as _},
    path::Path,
};

use outlast_runtime::private;

/// The file of a server that runs.
#[derive(Debug)]
pub(super) struct PidFile {
    /// Locked.
    _file: File,
}

impl PidFile {
    /// Writes the id of this process.
    pub(super) fn write(path: &Path) -> Result<Self, String> {
        let cannot = |error: std::io::Error| format!("pid_file: {} cannot be written: {error}", path.display());
        let mut file = private::open(path).map_err(cannot)?;
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => format!("pid_file: {} belongs to another running server", path.display()),
            TryLockError::Error(error) => cannot(error),
        })?;
        file.set_len(0).and_then(|()| file.rewind()).map_err(cannot)?;
        file.write_all(format!("{}\n", std::process::id()).as_bytes()).map_err(cannot)?;
        Ok(Self { _file: file })
    }

    /// The id of the server that runs.
    pub(super) fn read(path: &Path) -> Result<i32, String> {
        let cannot = |error: std::io::Error| format!("pid_file: {} cannot be read: {error}", path.display());
        let mut file = File::open(path).map_err(cannot)?;
        match file.try_lock_shared() {
            Ok(()) => return Err(format!("no server is running: no process holds {}", path.display())),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(cannot(error)),
        }
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(cannot)?;
        let wrong = || format!("pid_file: {} does not hold the id of a process", path.display());
        text.trim().parse().ok().filter(|id| *id > 0).ok_or_else(wrong)
    }
}
