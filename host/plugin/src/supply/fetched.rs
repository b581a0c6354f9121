//! What was fetched from registries, on disk: a start needs no registry for what it has.
//!
//! A component is a file that is named after where it came from and its digest, with its manifest and its signature
//! beside it. It is compared with its digest before it is used, and fetched again when it is not what it should be.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use bytesize::ByteSize;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tracing::info;

use super::{
    oci::{self, Artifact, FetchLimits, OciReference},
    pull::pull,
    signature::signature_path,
};
use crate::{
    engine::{CacheError, private_folder},
    refused::Refused,
};

/// What was not used for this long is removed.
const UNUSED: Duration = Duration::from_secs(30 * 86_400);
/// The pause between two lines in the log about one fetch.
const TELL: Duration = Duration::from_secs(5);

/// A folder with what was fetched.
#[derive(Clone, Debug)]
pub struct Fetched {
    folder: PathBuf,
    limits: FetchLimits,
    /// The folder, where it is only for a while.
    _scratch: Option<Arc<TempDir>>,
}

impl Fetched {
    /// Opens a folder, makes it when it is missing, and removes what is old.
    ///
    /// # Errors
    ///
    /// The folder cannot be made, or others may write to it.
    pub fn open(folder: &Path, limits: FetchLimits) -> Result<Self, CacheError> {
        private_folder(folder)?;
        let this = Self::at(folder, limits);
        this.clean(SystemTime::now()).map_err(|error| CacheError::Io(folder.display().to_string(), error))?;
        Ok(this)
    }

    /// A folder of a server, to look at.
    pub fn at(folder: &Path, limits: FetchLimits) -> Self {
        Self { folder: folder.to_owned(), limits, _scratch: None }
    }

    /// A folder that is gone with this.
    ///
    /// # Errors
    ///
    /// It cannot be made.
    pub fn temporary(limits: FetchLimits) -> io::Result<Self> {
        let scratch = tempfile::Builder::new().prefix("outlast-").tempdir()?;
        Ok(Self { folder: scratch.path().to_owned(), limits, _scratch: Some(Arc::new(scratch)) })
    }

    /// Where the component of a reference is, or will be.
    pub fn path(&self, reference: &OciReference) -> PathBuf {
        let (registry, repository) = reference.repository();
        let from: String = format!("{registry}/{repository}")
            .chars()
            .map(|character| if "/:".contains(character) { '_' } else { character })
            .take(120)
            .collect();
        self.folder.join(format!("{from}@sha256-{}.wasm", reference.digest().unwrap_or("none")))
    }

    /// Whether it is here, and what it should be.
    pub async fn has(&self, reference: &OciReference) -> bool {
        let (this, reference) = (self.clone(), reference.clone());
        tokio::task::spawn_blocking(move || this.is_whole(&reference)).await.unwrap_or(false)
    }

    /// Fetches the component of a reference with a digest, unless it is here.
    ///
    /// # Errors
    ///
    /// It cannot be fetched, or not be kept.
    pub async fn fetch(&self, reference: &OciReference) -> Result<(), Refused> {
        if self.has(reference).await {
            return Ok(());
        }
        info!(plugin = %reference, "fetching");
        let began = Instant::now();
        let mut told = began;
        let size = |bytes| ByteSize::b(bytes).display().iec().to_string();
        let artifact = pull(reference, &self.limits, |bytes, of| {
            if told.elapsed() >= TELL {
                told = Instant::now();
                info!(plugin = %reference, "fetching: {} of {}", size(bytes), size(of));
            }
        });
        let artifact = artifact.await?;
        info!(plugin = %reference, bytes = artifact.wasm.len(), ms = began.elapsed().as_millis(), "fetched");
        let this = self.clone();
        let kept = tokio::task::spawn_blocking(move || this.keep(&artifact)).await;
        let kept = kept.unwrap_or_else(|error| Err(io::Error::other(error)));
        kept.map_err(|error| Refused(format!("it cannot be stored in {}: {error}", self.folder.display())))
    }

    fn is_whole(&self, reference: &OciReference) -> bool {
        let path = self.path(reference);
        let (Ok(manifest), Ok(wasm)) = (fs::read(path.with_extension("json")), fs::read(&path)) else { return false };
        let sha256 = |bytes: &[u8]| hex::encode(Sha256::digest(bytes));
        let digest = reference.digest().is_some_and(|digest| digest.eq_ignore_ascii_case(&sha256(&manifest)));
        let Ok(content) = oci::content(&manifest) else { return false };
        let signature = fs::read_to_string(signature_path(&path)).ok();
        let whole = digest && content.sha256 == sha256(&wasm) && content.signature == signature;
        if whole {
            let _ = fs::File::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
        }
        whole
    }

    /// The component last: what is there has all that belongs to it.
    fn keep(&self, artifact: &Artifact) -> io::Result<()> {
        let path = self.path(&artifact.reference);
        put(&path.with_extension("json"), &artifact.manifest)?;
        match &artifact.signature {
            Some(signature) => put(&signature_path(&path), signature.as_bytes())?,
            None => remove(&signature_path(&path))?,
        }
        put(&path, &artifact.wasm)
    }

    fn clean(&self, now: SystemTime) -> io::Result<()> {
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            let used = path.metadata().and_then(|metadata| metadata.modified());
            let old = used.is_ok_and(|used| now.duration_since(used).is_ok_and(|age| age > UNUSED));
            if old && path.extension().is_some_and(|extension| extension == "wasm") {
                info!(file = %path.display(), "a component from a registry that was not used for long is removed");
                for path in [path.with_extension("json"), signature_path(&path), path] {
                    remove(&path)?;
                }
            }
        }
        Ok(())
    }
}

/// Puts a file in its place, whole.
///
/// # Errors
///
/// It cannot be written.
pub fn put(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::{io::Write as _, os::unix::fs::PermissionsExt as _};
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Hidden, and with another ending: nobody takes it for a plugin.
    let mut file = tempfile::Builder::new().prefix(".").suffix(".new").tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

/// Removes a file, if it is there.
///
/// # Errors
///
/// It cannot be removed.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
