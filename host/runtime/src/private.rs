//! Files that are the server's own: nobody else may read or write them.
//!
//! The database holds what principals said, the secrets that runs get their random numbers from, and the key of what is
//! compacted. A file that is made here has the mode 0600. One that is there already and lets others in, as earlier
//! versions made it, is narrowed; where that cannot be done, the log says so.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use tracing::warn;

/// The mode of a file that is made.
const MODE: u32 = 0o600;
/// What others may do with a file.
const OTHERS: u32 = 0o077;

/// Opens a file to read and to write, and makes it when there is none. It is nobody else's then.
///
/// # Errors
///
/// It cannot be opened.
pub fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(MODE).open(path)?;
    if let Some(mode) = file.metadata().ok().and_then(|metadata| narrower(metadata.mode())) {
        tell(path, mode, file.set_permissions(Permissions::from_mode(mode.1)));
    }
    Ok(file)
}

/// Takes a file away from others that somebody else opens and closes. One that is not there, or is a link, is left alone.
pub fn narrow(path: &Path) {
    let Ok(metadata) = fs::symlink_metadata(path) else { return };
    if let Some(mode) = narrower(metadata.mode()).filter(|_| metadata.is_file()) {
        tell(path, mode, fs::set_permissions(path, Permissions::from_mode(mode.1)));
    }
}

/// A mode that lets others in, and what it is without them.
fn narrower(mode: u32) -> Option<(u32, u32)> {
    let mode = mode & 0o777;
    (mode & OTHERS != 0).then_some((mode, mode & !OTHERS))
}

fn tell(path: &Path, (before, after): (u32, u32), done: io::Result<()>) {
    let path = path.display();
    match done {
        Ok(()) => warn!("other users could use {path} (mode {before:04o}): its mode is {after:04o} now"),
        Err(error) => warn!(
            "other users can use {path} (mode {before:04o}), and that cannot be changed ({error}); give it the mode \
             {after:04o}"
        ),
    }
}
