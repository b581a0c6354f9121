//! One folder for everything that the tests write.
//!
//! A small shell waits on a pipe that closes when this process ends, in whatever way, and then removes the folder.

use std::{
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
};

use tempfile::TempDir;

/// A new folder in it, removed when it is dropped or when this process ends. Other users may look inside: the
/// database server is one.
pub fn dir(prefix: &str) -> TempDir {
    let dir = tempfile::Builder::new().prefix(prefix).tempdir_in(root()).unwrap();
    open(dir.path());
    dir
}

/// The folder for caches that all servers of this process share.
pub fn caches() -> PathBuf {
    root().join("caches")
}

fn root() -> &'static Path {
    static ROOT: OnceLock<(PathBuf, Child)> = OnceLock::new();
    let (path, _sweeper) = ROOT.get_or_init(|| {
        let path = tempfile::Builder::new().prefix("outlast-").tempdir().unwrap().keep();
        open(&path);
        // It tries again, because a process that is ending may still write.
        let script = r#"read -r _; for _ in 1 2 3 4 5; do rm -rf -- "$0" 2>/dev/null && exit; sleep 1; done"#;
        let sweeper = Command::new("sh")
            .args(["-c", script])
            .arg(&path)
            // Ctrl-C is for the tests; this one goes after them.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        (path, sweeper)
    });
    path
}

fn open(path: &Path) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}
