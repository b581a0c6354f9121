//! What the process of a server gives up before it serves, so that a defect in it is worth less.
//!
//! | | what it takes away | children |
//! |---|---|---|
//! | `no_new_privs` | programs with more rights than this one: set-user-id and the like | have it too |
//! | seccomp | system calls that no server needs: other processes' memory, kernel modules, namespaces, mounts, clocks, keys of the kernel, `io_uring`, `bpf` | have it too |
//! | landlock | writing anywhere but to the folders of the database, the cache, the `pid_file` and temporary files; listening at another port; signals to other processes | have it too |
//!
//! Children inherit all of it, for that is what makes it one. A server that has MCP servers as its children, or asks a
//! program for the credentials of a registry, does not know what those write, mount or open: it goes without landlock, and
//! without what seccomp takes that programs are known to use. Reading is not limited: certificates, resolvers, sockets of
//! databases and plugins may lie anywhere.
//!
//! What the kernel does not have is left away, and the log says what holds. `sandbox = "off"` turns all of it off.

use serde::Deserialize;

#[cfg(target_os = "linux")]
mod linux;

#[cfg(target_os = "linux")]
pub(crate) use linux::enter;

use crate::config::Config;

/// Whether the server gives up what it does not need.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sandbox {
    /// As far as the kernel has it.
    On,
    /// Not at all.
    Off,
}

/// What holds, for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entered(pub(crate) Vec<String>);

#[cfg(not(target_os = "linux"))]
/// Gives up nothing: this system has nothing of it.
pub(crate) fn enter(_: &Config) -> Entered {
    Entered(vec!["nothing: this system is not Linux".to_owned()])
}

/// Whether this server begins programs that are not part of it.
#[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "there is no sandbox to take it into account"))]
fn has_children(config: &Config) -> bool {
    use outlast_plugin::Source;
    let servers = config.mcp.values().any(|server| !server.command.is_empty());
    servers || config.plugins.iter().any(|source| matches!(source, Source::Registry(_)))
}
