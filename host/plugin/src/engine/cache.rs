//! Compiled code on disk, so that a component is compiled once and not at every start.
//!
//! Compiled code is machine code: whoever can write it decides what this server does. So the folder belongs to the
//! user of the server, nobody else may write to it, and one that is not so is refused. Within these walls an entry is
//! still not believed as it is: it carries a digest of its name and its code, and wasmtime checks who compiled it. What
//! is damaged, foreign or of another version is compiled again and replaced; it never fails a start.
//!
//! An entry is one file, `SHA256-COMPATIBILITY.cwasm`: the digest of the component, and a hash of everything that the
//! code depends on: the version of wasmtime, its settings, the processor. Several servers may share a folder: entries
//! are put in place by a rename and never changed.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    hash::{Hash as _, Hasher},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

use sha2::{Digest as _, Sha256};
use tracing::{debug, info, warn};
use wasmtime::component::Component;

/// How an entry ends.
const EXTENSION: &str = "cwasm";
/// What stands before the code in an entry: the sha256 of its name and the code.
const DIGEST: usize = 32;
/// An entry that was not used for this long is removed.
const UNUSED: Duration = Duration::from_secs(30 * 86_400);
/// An entry of another version or configuration that was not used for this long is removed: another server may share
/// the folder.
const UNUSED_FOREIGN: Duration = Duration::from_secs(86_400);
/// A file that was begun and not finished is removed after this time.
const ABANDONED: Duration = Duration::from_secs(3_600);
/// How exactly it is known when an entry was used last.
const USED_WITHIN: Duration = Duration::from_secs(3_600);
/// All entries together, in bytes. Beyond it, those that were not used for longest are removed.
const FOLDER_BYTES: u64 = 4 << 30;
/// The largest entry that is read, in bytes.
const ENTRY_BYTES: u64 = 1 << 30;

/// Why a folder is not used for compiled code, in a sentence for the operator.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// It cannot be made or read.
    #[error(
        "the cache folder {0} cannot be used: {1}; `cache` in the configuration names another one, and `cache = false` \
         turns it off"
    )]
    Io(String, io::Error),
    /// It is somebody else's.
    #[error(
        "the cache folder {folder} belongs to the user {owner}, and this server runs as {user}. It holds machine code, \
         so it must be the server's own: `cache` in the configuration names another one, and `cache = false` turns it \
         off"
    )]
    Owner {
        /// The folder.
        folder: String,
        /// Whose it is.
        owner: u32,
        /// Who runs this server.
        user: u32,
    },
    /// Others may write to it.
    #[error(
        "the cache folder {folder} has the mode {mode:03o}, so others may write to it. It holds machine code: run \
         `chmod 700 {folder}` if nobody did"
    )]
    Writable {
        /// The folder.
        folder: String,
        /// Its permissions.
        mode: u32,
    },
    /// It is no folder.
    #[error("the cache folder {0} is not a folder")]
    NoFolder(String),
}

/// A folder with compiled code.
#[derive(Debug)]
pub struct CodeCache {
    folder: PathBuf,
    /// What this server's code depends on, hashed.
    compatibility: String,
    user: u32,
    temporary: AtomicU64,
}

impl CodeCache {
    /// Opens a folder, makes it when it is missing, and removes what is old.
    ///
    /// # Errors
    ///
    /// The folder cannot be made, or others may write to it.
    pub(super) fn open(folder: &Path, engine: &wasmtime::Engine) -> Result<Self, CacheError> {
        let user = private_folder(folder)?;
        let mut hasher = Sha256Hasher(Sha256::new());
        engine.precompile_compatibility_hash().hash(&mut hasher);
        let compatibility = hex::encode(&hasher.0.finalize()[..16]);
        let cache = Self { folder: folder.to_owned(), compatibility, user, temporary: AtomicU64::new(0) };
        cache.clean(SystemTime::now()).map_err(|error| CacheError::Io(folder.display().to_string(), error))?;
        Ok(cache)
    }

    /// The compiled component, if it is here and whole.
    pub(super) fn get(&self, engine: &wasmtime::Engine, sha256: &str) -> Option<Component> {
        let name = self.name(sha256);
        let (code, file) = match self.read(&name) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                warn!(entry = name, "compiled code cannot be used, and is compiled again: {error}");
                return None;
            }
        };
        let component = match deserialize(engine, &code[DIGEST..]) {
            Ok(component) => component,
            Err(error) => {
                warn!(entry = name, "compiled code cannot be used, and is compiled again: {error:#}");
                return None;
            }
        };
        self.touch(&file);
        Some(component)
    }

    /// Keeps the code of a component. A failure costs the next start time, and nothing else.
    pub(super) fn put(&self, sha256: &str, code: &[u8]) {
        let name = self.name(sha256);
        if let Err(error) = self.write(&name, code) {
            let folder = self.folder.display();
            warn!(
                entry = name,
                "compiled code cannot be stored, and is compiled again at the next start: {folder}: {error}"
            );
        }
    }

    fn name(&self, sha256: &str) -> String {
        format!("{sha256}-{}.{EXTENSION}", self.compatibility)
    }

    /// An entry with its digest, which was compared.
    fn read(&self, name: &str) -> io::Result<(Vec<u8>, File)> {
        let mut file = File::open(self.folder.join(name))?;
        let metadata = file.metadata()?;
        let refused = |why: String| Err(io::Error::new(io::ErrorKind::InvalidData, why));
        if !metadata.is_file() {
            return refused("it is not a file".to_owned());
        }
        if metadata.uid() != self.user || metadata.mode() & 0o022 != 0 {
            return refused(format!(
                "it belongs to the user {} with the mode {:03o}, so others may have written it",
                metadata.uid(),
                metadata.mode() & 0o777
            ));
        }
        if metadata.len() < DIGEST as u64 || metadata.len() > ENTRY_BYTES {
            return refused(format!("it has {} bytes", metadata.len()));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or_default());
        (&mut file).take(ENTRY_BYTES).read_to_end(&mut bytes)?;
        if bytes.len() < DIGEST || bytes[..DIGEST] != digest(name, &bytes[DIGEST..]) {
            return refused("it is damaged".to_owned());
        }
        Ok((bytes, file))
    }

    fn write(&self, name: &str, code: &[u8]) -> io::Result<()> {
        let count = self.temporary.fetch_add(1, Ordering::Relaxed);
        let temporary = self.folder.join(format!(".{name}.{}.{count}", std::process::id()));
        let written = (|| {
            // A name that an earlier process left, whose id was the same.
            if let Err(error) = fs::remove_file(&temporary)
                && error.kind() != io::ErrorKind::NotFound
            {
                return Err(error);
            }
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
            file.write_all(&digest(name, code))?;
            file.write_all(code)?;
            drop(file);
            // What a power cut leaves half written has another digest.
            fs::rename(&temporary, self.folder.join(name))
        })();
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written
    }

    /// The time of change tells when an entry was used.
    fn touch(&self, file: &File) {
        let now = SystemTime::now();
        let old = |modified: SystemTime| now.duration_since(modified).is_ok_and(|age| age > USED_WITHIN);
        if file.metadata().and_then(|metadata| metadata.modified()).is_ok_and(old)
            && let Err(error) = file.set_modified(now)
        {
            debug!(folder = %self.folder.display(), %error, "the use of compiled code cannot be recorded");
        }
    }

    /// Removes what is old, and what is too much. Other files are left alone.
    fn clean(&self, now: SystemTime) -> io::Result<()> {
        let (mut kept, mut removed) = (Vec::new(), 0_usize);
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            // Another server may clean at the same time.
            let Ok(metadata) = entry.metadata() else { continue };
            let age = metadata.modified().ok().and_then(|modified| now.duration_since(modified).ok());
            let age = age.unwrap_or_default();
            let most = match name.strip_suffix(EXTENSION).and_then(|name| name.strip_suffix('.')) {
                _ if !metadata.is_file() => continue,
                Some(name) if name.ends_with(&self.compatibility) => UNUSED,
                Some(_) => UNUSED_FOREIGN,
                None if name.starts_with('.') && name.contains(".cwasm.") => ABANDONED,
                None => continue,
            };
            if age > most {
                removed += usize::from(fs::remove_file(entry.path()).is_ok());
            } else {
                kept.push((age, metadata.len(), entry.path()));
            }
        }
        kept.sort();
        let mut bytes = 0_u64;
        for (_, size, path) in kept {
            bytes = bytes.saturating_add(size);
            if bytes > FOLDER_BYTES {
                removed += usize::from(fs::remove_file(path).is_ok());
            }
        }
        if removed > 0 {
            info!(folder = %self.folder.display(), removed, "old compiled code was removed");
        }
        Ok(())
    }
}

/// Makes sure that a folder is there, and that nobody else may write to it. The user whose it is.
pub fn private_folder(folder: &Path) -> Result<u32, CacheError> {
    let shown = || folder.display().to_string();
    let cannot = |error| CacheError::Io(shown(), error);
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(cannot)?;
    let metadata = fs::metadata(folder).map_err(cannot)?;
    let user = rustix::process::geteuid().as_raw();
    if !metadata.is_dir() {
        return Err(CacheError::NoFolder(shown()));
    }
    if metadata.uid() != user {
        return Err(CacheError::Owner { folder: shown(), owner: metadata.uid(), user });
    }
    if metadata.mode() & 0o022 != 0 {
        return Err(CacheError::Writable { folder: shown(), mode: metadata.mode() & 0o777 });
    }
    Ok(user)
}

#[expect(unsafe_code, reason = "wasmtime cannot check that machine code does what it should; see SAFETY")]
pub(super) fn deserialize(engine: &wasmtime::Engine, code: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: `deserialize` runs what it is given as machine code, so the bytes must be what this version of wasmtime
    // made of a component, unchanged. They are. Either a child of this process made them this moment, which is the same
    // program, and they came over a pipe that nobody else has: `compiler::code`. Or they come from `CodeCache::read`. It
    // reads only files that
    // the user of this process owns and nobody else may write, in a folder for which the same was checked, so that only
    // this program, and whoever could replace this program, wrote them. The digest before the code was compared, so
    // they are whole, and belong to this component. The bytes are a copy in memory that nothing changes any more. That
    // another version or configuration of wasmtime made them is an error of `deserialize`, which compares both.
    unsafe { Component::deserialize(engine, code) }
}

/// The name is part of it: an entry under another name is not that component.
fn digest(name: &str, code: &[u8]) -> [u8; DIGEST] {
    let mut hasher = Sha256::new();
    hasher.update(name.as_bytes());
    hasher.update([0]);
    hasher.update(code);
    hasher.finalize().into()
}

/// Hashes alike in every process, which the hasher of the standard library does not promise.
struct Sha256Hasher(Sha256);

impl Hasher for Sha256Hasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let digest = self.0.clone().finalize();
        digest.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const SHA256: &str = "00ff";

    fn engine() -> wasmtime::Engine {
        wasmtime::Engine::default()
    }

    fn cache(folder: &Path) -> CodeCache {
        CodeCache::open(folder, &engine()).unwrap()
    }

    fn code() -> Vec<u8> {
        engine().precompile_component(&wat::parse_str("(component)").unwrap()).unwrap()
    }

    fn entry(cache: &CodeCache) -> PathBuf {
        cache.folder.join(cache.name(SHA256))
    }

    fn age(path: &Path, age: Duration) {
        File::open(path).unwrap().set_modified(SystemTime::now() - age).unwrap();
    }

    #[test]
    fn what_is_kept_is_found_by_the_next_server() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("made/for/it");
        cache(&folder).put(SHA256, &code());
        assert_eq!(fs::metadata(&folder).unwrap().mode() & 0o777, 0o700);
        let again = cache(&folder);
        assert!(again.get(&engine(), SHA256).is_some());
        assert!(again.get(&engine(), "00fe").is_none());
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "nothing temporary is left");
    }

    #[test]
    fn what_is_damaged_renamed_or_writable_by_others_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(&dir.path().join("cache"));
        cache.put(SHA256, &code());
        let whole = fs::read(entry(&cache)).unwrap();

        let mut changed = whole.clone();
        *changed.last_mut().unwrap() ^= 1;
        for bytes in [&changed[..], &whole[..whole.len() - 1], &whole[..DIGEST], &whole[..5], &[]] {
            fs::write(entry(&cache), bytes).unwrap();
            assert!(cache.get(&engine(), SHA256).is_none());
        }
        fs::write(entry(&cache), &whole).unwrap();
        assert!(cache.get(&engine(), SHA256).is_some());

        fs::copy(entry(&cache), cache.folder.join(cache.name("00fe"))).unwrap();
        assert!(cache.get(&engine(), "00fe").is_none(), "another component's code");

        fs::set_permissions(entry(&cache), fs::Permissions::from_mode(0o660)).unwrap();
        assert!(cache.get(&engine(), SHA256).is_none());
        cache.put(SHA256, &code());
        assert!(cache.get(&engine(), SHA256).is_some(), "it is replaced");
    }

    #[test]
    fn code_for_another_configuration_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("cache");
        cache(&folder).put(SHA256, &code());
        let mut config = wasmtime::Config::new();
        config.epoch_interruption(true);
        let other = wasmtime::Engine::new(&config).unwrap();
        let cache = CodeCache::open(&folder, &other).unwrap();
        assert!(cache.get(&other, SHA256).is_none());
        // Even where a file has the right name and digest, wasmtime sees who compiled it.
        cache.write(&cache.name(SHA256), &code()).unwrap();
        assert!(cache.get(&other, SHA256).is_none());
    }

    #[test]
    fn a_folder_that_others_may_write_to_is_refused_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("cache");
        fs::create_dir(&folder).unwrap();
        for mode in [0o770, 0o707, 0o777] {
            fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).unwrap();
            let error = CodeCache::open(&folder, &engine()).unwrap_err().to_string();
            assert!(error.contains(&format!("has the mode {mode:o}")) && error.contains("chmod 700"), "{error}");
        }
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        cache(&folder);
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let error = CodeCache::open(&file, &engine()).unwrap_err().to_string();
        assert!(error.contains("cache = false"), "{error}");
    }

    #[test]
    fn what_was_not_used_for_long_is_removed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("cache");
        let cache = cache(&folder);
        for (name, days) in [
            (cache.name("a"), 29),
            (cache.name("b"), 31),
            ("c-0000.cwasm".to_owned(), 0),
            ("d-0000.cwasm".to_owned(), 2),
            (".e-0000.cwasm.7.0".to_owned(), 1),
            (".f-0000.cwasm.7.0".to_owned(), 0),
            ("notes.txt".to_owned(), 900),
        ] {
            fs::write(folder.join(&name), "x").unwrap();
            age(&folder.join(&name), Duration::from_secs(days * 86_400 + 7));
        }
        cache.clean(SystemTime::now()).unwrap();
        let mut left: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, [".f-0000.cwasm.7.0", cache.name("a").as_str(), "c-0000.cwasm", "notes.txt"]);
    }

    #[test]
    fn a_use_is_noted() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("cache");
        let cache = cache(&folder);
        cache.put(SHA256, &code());
        age(&entry(&cache), UNUSED * 2);
        assert!(cache.get(&engine(), SHA256).is_some());
        cache.clean(SystemTime::now()).unwrap();
        assert!(entry(&cache).exists());
    }
}
