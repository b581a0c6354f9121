//! The sandbox of Linux.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use landlock::{
    ABI, AccessFs, AccessNet, NetPort, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetError, RulesetStatus,
    Scope, path_beneath_rules,
};
use outlast_store::sqlite_path;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

use super::{Entered, Sandbox, has_children};
use crate::config::Config;

/// What of writing is limited: later versions would take `ioctl(2)` of devices.
const WRITING: ABI = ABI::V4;
/// Where programs write what they need for a moment, beside `TMPDIR`.
const TEMPORARY: [&str; 3] = ["/tmp", "/var/tmp", "/dev/null"];

/// System calls that no program needs that is started by a server.
const NEVER: [i64; 20] = [
    libc::SYS_acct,
    libc::SYS_adjtimex,
    libc::SYS_bpf,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_finit_module,
    libc::SYS_init_module,
    libc::SYS_kexec_load,
    libc::SYS_lookup_dcookie,
    libc::SYS_nfsservctl,
    libc::SYS_open_by_handle_at,
    libc::SYS_perf_event_open,
    libc::SYS_quotactl,
    libc::SYS_reboot,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_vhangup,
];

/// System calls that this server does not need, and programs may: browsers and containers make namespaces, debuggers look
/// into others, libraries wait with `io_uring` and keep tickets in the kernel.
const NOT_HERE: [i64; 22] = [
    libc::SYS_add_key,
    libc::SYS_chroot,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_keyctl,
    libc::SYS_mount,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_pivot_root,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_request_key,
    libc::SYS_setdomainname,
    libc::SYS_sethostname,
    libc::SYS_setns,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
];

/// Gives up what the server does not need. Called while the process has one thread: others would keep what they have.
pub(crate) fn enter(config: &Config) -> Entered {
    if config.sandbox == Sandbox::Off {
        return Entered(vec!["nothing: sandbox = \"off\"".to_owned()]);
    }
    let children = has_children(config);
    let mut holds = Vec::new();
    match children {
        true => holds.push("not landlock, because other programs are children of this server".to_owned()),
        false => holds.push(match restrict(config) {
            Ok(RulesetStatus::FullyEnforced) => "landlock".to_owned(),
            Ok(RulesetStatus::PartiallyEnforced) => "landlock as far as this kernel has it".to_owned(),
            Ok(RulesetStatus::NotEnforced) => "not landlock, which this kernel does not have".to_owned(),
            Err(error) => format!("not landlock ({error})"),
        }),
    }
    // Last: what came before may need what it takes. It begins with no_new_privs, which holds also where it fails then.
    holds.push(match filter(children).map(|filter| seccompiler::apply_filter(&filter)) {
        Ok(Ok(())) => "no_new_privs and seccomp".to_owned(),
        Ok(Err(seccompiler::Error::Prctl(error))) => format!("neither no_new_privs nor seccomp ({error})"),
        Ok(Err(error)) => format!("no_new_privs, not seccomp ({error})"),
        Err(error) => format!("not seccomp ({error})"),
    });
    Entered(holds)
}

/// Limits where this process can write, listen, and send signals to.
fn restrict(config: &Config) -> Result<RulesetStatus, RulesetError> {
    let writing = AccessFs::from_write(WRITING);
    let status = Ruleset::default()
        .handle_access(writing)?
        .handle_access(AccessNet::BindTcp)?
        .scope(Scope::Signal)?
        .create()?
        .add_rules(path_beneath_rules(writable(config), writing))?
        .add_rule(NetPort::new(config.listen.port(), AccessNet::BindTcp))?
        .restrict_self()?;
    Ok(status.ruleset)
}

/// The folders that the server writes to. Those that are not there are nothing to it, or made first.
fn writable(config: &Config) -> Vec<PathBuf> {
    let beside = |path: &Path| match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    };
    let mut folders: Vec<PathBuf> = TEMPORARY.iter().map(PathBuf::from).collect();
    folders.push(std::env::temp_dir());
    folders.extend(std::env::var_os("SQLITE_TMPDIR").map(PathBuf::from));
    folders.extend(config.pid_file.as_deref().map(beside));
    if let Some(cache) = config.cache_folder() {
        // What is wrong with it is said when it is used.
        let _ = outlast_plugin::private_folder(&cache);
        folders.push(cache);
    }
    // Of a database at a URL there is no such folder, and nothing is lost.
    if let Ok(database) = config.database.resolve(|name| std::env::var(name).ok()) {
        let path = Path::new(sqlite_path(&database));
        folders.push(beside(path));
        folders.extend(path.canonicalize().ok().as_deref().map(beside));
    }
    folders
}

/// The filter of system calls: those that are not allowed fail with `EPERM`.
fn filter(children: bool) -> Result<BpfProgram, String> {
    let others = NOT_HERE.iter().filter(|_| !children);
    let rules: BTreeMap<_, _> = NEVER.iter().chain(others).map(|call| (*call, Vec::new())).collect();
    let architecture = std::env::consts::ARCH.try_into().map_err(|_| "not on this processor".to_owned())?;
    let denied = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, denied, architecture);
    filter.and_then(BpfProgram::try_from).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_can_be_made() {
        assert!(filter(true).unwrap().len() < filter(false).unwrap().len());
    }

    #[test]
    fn the_folders_of_the_database_its_file_and_the_pid_file_are_written_to() {
        let folder = tempfile::tempdir().unwrap();
        let real = folder.path().join("real");
        std::fs::create_dir(&real).unwrap();
        std::fs::write(real.join("o.db"), "").unwrap();
        std::os::unix::fs::symlink(real.join("o.db"), folder.path().join("link.db")).unwrap();
        let config = Config {
            database: folder.path().join("link.db").display().to_string().as_str().into(),
            pid_file: Some("outlast.pid".into()),
            cache: crate::config::CacheConfig::Enabled(false),
            ..Config::default()
        };
        let found = writable(&config);
        for expected in [folder.path(), &real.canonicalize().unwrap(), Path::new("."), Path::new("/tmp")] {
            assert!(found.iter().any(|found| found == expected), "{expected:?} is not in {found:?}");
        }
    }
}
