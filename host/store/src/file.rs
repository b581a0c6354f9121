//! The file of an SQLite database: what it is, and who holds it.
//!
//! A path is a name, and a file may have several: symbolic links, hard links, bind mounts. Two servers that come by
//! different names would both execute its runs. So the server locks what the database *is*, with `flock(2)` on the file
//! itself, which belongs to the inode and not to a name. SQLite does not see that lock: on a local file system of Linux
//! it is independent of the `fcntl(2)` locks that SQLite takes. But POSIX drops all those locks of a process when it
//! closes *any* descriptor of the file. The descriptor that holds the lock is therefore never closed while the process
//! lives; a database that is opened again in the same process gets the same one.
//!
//! Two places take no such lock: other systems than Linux, where the two kinds of lock are in each other's way, and
//! network file systems (NFS, SMB), which make one of the other. There, and beside servers of an earlier version, the
//! lock on a file beside the database holds, which is taken as well: `outlast.db.lock`, beside the name that was given
//! and beside the file that it leads to.
//!
//! The cost: one descriptor, and a look at the path (a microsecond) before each write.

use std::{
    fs::{File, Metadata, TryLockError},
    io::{self, ErrorKind},
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use outlast_runtime::private;
use tracing::warn;

use super::{Outage, StoreError};

/// What every SQLite database begins with.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// Which file it is, however it is called: its device and its inode.
type Identity = (u64, u64);

/// The file of an SQLite database, this process's as long as this lives.
#[derive(Debug)]
pub(super) struct DatabaseFile {
    /// Without symbolic links and `..`.
    path: PathBuf,
    held: Held,
    /// The locks beside it.
    _beside: Vec<File>,
}

impl DatabaseFile {
    /// Finds the file at `path`, makes it when there is none, and locks it.
    ///
    /// # Errors
    ///
    /// [`StoreError::Owned`] when another server has it; [`StoreError::Open`] when it cannot be a database.
    pub fn open(path: &str) -> Result<Self, StoreError> {
        let open = |reason: String| StoreError::Open { url: path.to_owned(), reason };
        let given = absolute(Path::new(path)).map_err(open)?;
        let mut beside = vec![lock_beside(path, &given).map_err(|error| error.or(open))?];
        let (held, canonical) = hold(path, &given).map_err(|error| error.or(open))?;
        if canonical != given {
            beside.push(lock_beside(path, &canonical).map_err(|error| error.or(open))?);
        }
        let file = Self { path: canonical, held, _beside: beside };
        file.look_inside().map_err(open)?;
        // SQLite makes them with the mode of the file itself; here are those that the last life left.
        for suffix in ["-wal", "-shm", "-journal"] {
            private::narrow(&with_suffix(&file.path, suffix));
        }
        if file.held.file.metadata().is_ok_and(|metadata| metadata.nlink() > 1) {
            warn!(
                "{path} has several names (hard links); open it by the same one always: its -wal lies beside that one"
            );
        }
        Ok(file)
    }

    /// The path, without symbolic links.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of the write-ahead log.
    pub fn wal(&self) -> PathBuf {
        with_suffix(&self.path, "-wal")
    }

    /// The size of the write-ahead log, in bytes.
    pub fn wal_bytes(&self) -> u64 {
        std::fs::metadata(self.wal()).map_or(0, |wal| wal.len())
    }

    /// What sqlx opens. It makes no file: when this one is removed, no other one takes its place.
    ///
    /// # Errors
    ///
    /// Says why the path cannot be one: it is not UTF-8.
    pub fn url(&self) -> Result<String, String> {
        url_of(&self.path)
    }

    /// Whether the file that was opened is still what its path leads to.
    ///
    /// # Errors
    ///
    /// [`Outage::FileGone`] and [`Outage::FileReplaced`].
    pub fn still_there(&self) -> Result<(), Outage> {
        let shown = || self.path.display().to_string();
        match std::fs::metadata(&self.path) {
            Ok(metadata) if identity(&metadata) == self.held.identity => Ok(()),
            Ok(_) => Err(Outage::FileReplaced(shown())),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                Err(Outage::FileGone(shown()))
            }
            Err(error) => Err(Outage::Database(sqlx::Error::Io(error))),
        }
    }

    /// Whether nothing has been written to it yet.
    pub fn is_empty(&self) -> bool {
        is_empty(&self.held.file)
    }

    /// Reads a part of the file as it is on the disk, without what is in the write-ahead log.
    pub fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.held.file.read_exact_at(bytes, offset)
    }

    fn look_inside(&self) -> Result<(), String> {
        let mut magic = [0; MAGIC.len()];
        match self.read_at(&mut magic, 0) {
            Ok(()) if magic == *MAGIC => Ok(()),
            // An empty file becomes a database.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof && is_empty(&self.held.file) => Ok(()),
            Err(error) if error.kind() != ErrorKind::UnexpectedEof => Err(format!("it cannot be read: {error}")),
            _ => Err("it is not an SQLite database; name another path".to_owned()),
        }
    }
}

/// The path in the name of an SQLite database, which may be a URL.
pub fn sqlite_path(database: &str) -> &str {
    match database.strip_prefix("sqlite:") {
        Some(path) => path.strip_prefix("//").unwrap_or(path),
        None => database,
    }
}

/// What sqlx opens of a file that is there.
pub(super) fn url_of(path: &Path) -> Result<String, String> {
    let path = path.to_str().ok_or_else(|| format!("{} is not UTF-8", path.display()))?;
    let mut url = "sqlite://".to_owned();
    for byte in path.bytes() {
        match byte {
            b'/' | b'-' | b'_' | b'.' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => url.push(char::from(byte)),
            _ => url.push_str(&format!("%{byte:02X}")),
        }
    }
    url.push_str("?mode=rw");
    Ok(url)
}

/// A file that cannot be had: another server has it, or the reason in words.
#[derive(Debug)]
enum Refused {
    Owned(StoreError),
    Reason(String),
}

impl Refused {
    fn or(self, open: impl Fn(String) -> StoreError) -> StoreError {
        match self {
            Self::Owned(error) => error,
            Self::Reason(reason) => open(reason),
        }
    }
}

/// The path without `..` and links in its folders; the file itself may be a link still.
fn absolute(path: &Path) -> Result<PathBuf, String> {
    let Some(name) = path.file_name() else { return Err("this is a folder; name a file".to_owned()) };
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let found = folder.canonicalize().map_err(|error| match error.kind() {
        ErrorKind::NotFound => format!("there is no folder {}; make it first", folder.display()),
        ErrorKind::NotADirectory => format!("{} is not a folder", folder.display()),
        _ => format!("the folder {} cannot be entered: {error}", folder.display()),
    })?;
    if !found.is_dir() {
        return Err(format!("{} is not a folder", folder.display()));
    }
    Ok(found.join(name))
}

/// Takes the lock on the file itself. Returns it with the path that has no links.
fn hold(shown: &str, path: &Path) -> Result<(Held, PathBuf), Refused> {
    let reason = |error: io::Error| Refused::Reason(in_words(&error));
    let owned = || Refused::Owned(StoreError::Owned(shown.to_owned()));
    let mut kept = OPEN_FILES.lock().unwrap_or_else(PoisonError::into_inner);
    kept.retain(|kept| kept.held || kept.file.metadata().is_ok_and(|metadata| metadata.nlink() > 0));
    // Before it is opened: to close it again would take away the locks that SQLite has in this process.
    let there = match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => return Err(Refused::Reason("this is a folder; name a file".to_owned())),
        Ok(metadata) if !metadata.is_file() => return Err(Refused::Reason("this is not a file".to_owned())),
        Ok(metadata) => kept.iter().position(|kept| kept.identity == identity(&metadata)),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(reason(error)),
    };
    let place = match there {
        Some(place) => place,
        None => {
            let file = private::open(path).map_err(reason)?;
            let identity = identity(&file.metadata().map_err(reason)?);
            kept.push(OpenFile { identity, file: file.into(), held: false });
            kept.len() - 1
        }
    };
    let found = &mut kept[place];
    if found.held {
        return Err(owned());
    }
    if locks_are_apart(&found.file) {
        match found.file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(owned()),
            Err(TryLockError::Error(error)) => return Err(Refused::Reason(format!("it cannot be locked: {error}"))),
        }
    }
    found.held = true;
    let held = Held { identity: found.identity, file: found.file.clone() };
    drop(kept);
    let canonical = path.canonicalize().map_err(reason)?;
    Ok((held, canonical))
}

/// Takes the lock on a file beside the database.
fn lock_beside(shown: &str, path: &Path) -> Result<File, Refused> {
    let path = with_suffix(path, ".lock");
    let reason = |error: io::Error| Refused::Reason(format!("{}: {}", path.display(), in_words(&error)));
    let file = private::open(&path).map_err(reason)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Refused::Owned(StoreError::Owned(shown.to_owned()))),
        Err(TryLockError::Error(error)) => Err(reason(error)),
    }
}

fn in_words(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::PermissionDenied => {
            "permission denied: the server's user must be able to read and write the file and its folder".to_owned()
        }
        ErrorKind::ReadOnlyFilesystem => {
            "it is on a read-only file system; name a place that can be written".to_owned()
        }
        ErrorKind::IsADirectory => "this is a folder; name a file".to_owned(),
        ErrorKind::StorageFull => "the disk is full".to_owned(),
        _ => error.to_string(),
    }
}

/// A path with something behind its name.
pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn identity(metadata: &Metadata) -> Identity {
    (metadata.dev(), metadata.ino())
}

fn is_empty(file: &File) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.len() == 0)
}

/// Whether `flock(2)` and `fcntl(2)` do not see each other on this file.
#[cfg(target_os = "linux")]
fn locks_are_apart(file: &File) -> bool {
    /// The magic numbers of NFS, SMB and CIFS.
    const NETWORK: [u32; 3] = [0x6969, 0xfe53_4d42, 0xff53_4d42];
    // The number is 32 bits wide, in a field that is wider on some machines.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    rustix::fs::fstatfs(file).is_ok_and(|system| !NETWORK.contains(&(system.f_type as u32)))
}

#[cfg(not(target_os = "linux"))]
fn locks_are_apart(_file: &File) -> bool {
    false
}

/// A file that this process has opened, open until the process ends.
#[derive(Debug)]
struct OpenFile {
    identity: Identity,
    file: Arc<File>,
    /// Whether a store has it.
    held: bool,
}

/// As many as there are databases that this process has opened, and that have not been deleted.
static OPEN_FILES: Mutex<Vec<OpenFile>> = Mutex::new(Vec::new());

/// The lock on a file. Dropped, the lock is free; the descriptor stays open.
#[derive(Debug)]
struct Held {
    identity: Identity,
    file: Arc<File>,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut kept = OPEN_FILES.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = self.file.unlock();
        for kept in kept.iter_mut().filter(|kept| kept.identity == self.identity) {
            kept.held = false;
        }
    }
}
