//! What this machine allows.

use std::{
    fmt, fs,
    path::{Component, Path, PathBuf},
};

use outlast_plugin::Allocator;

/// Mappings that are left for everything else.
const MAPPINGS_RESERVED: u64 = 5_000;
/// Memory that one waiting run takes, with all that belongs to it, and some room: 90 KiB were measured.
const MEMORY_PER_RUN: u64 = 128 << 10;
/// Where Linux says how many mappings a process may have. Beyond it, ordinary allocations fail and the process
/// aborts, so runs are refused before it comes to that.
const MAX_MAP_COUNT: &str = "/proc/sys/vm/max_map_count";
/// Where Linux says in which control groups a process is, and where they can be seen.
const GROUPS: [&str; 2] = ["proc/self/cgroup", "proc/self/mountinfo"];
/// The files in which version 2 and version 1 of control groups say how much memory there is.
const LIMITS: [&str; 2] = ["memory.max", "memory.limit_in_bytes"];

/// What all instances may have together at least, on however small a machine, in bytes.
const INSTANCES_MEMORY: u64 = 64 << 20;

/// How much memory all instances may have together where nobody says so, in bytes: half of what there is; no limit where
/// this machine does not tell.
pub fn instances_memory() -> usize {
    Machine::read().instances_memory()
}

/// What compiling a component may take at least and at most where nobody says so, in bytes.
const COMPILE_MEMORY: [u64; 2] = [1 << 30, 4 << 30];

/// How much memory compiling a component may take where nobody says so, in bytes: a quarter of what there is, within
/// bounds.
pub fn compile_memory() -> usize {
    let [least, most] = COMPILE_MEMORY;
    let bytes = Machine::read().memory.map_or(most, |bytes| (bytes / 4).clamp(least, most));
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// What counts for the number of runs.
#[derive(Clone, Copy, Debug)]
struct Machine {
    /// `vm.max_map_count`; none where there is no such limit.
    mappings: Option<u64>,
    /// In bytes: of the machine, or of the narrowest control group; none where nobody tells.
    memory: Option<u64>,
}

/// How many runs may go on at once, and why not more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveRuns {
    /// So many.
    pub most: usize,
    because: Because,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Because {
    Said,
    Mappings(u64),
    Memory(u64),
    Nothing,
}

impl LiveRuns {
    /// What the operator says.
    pub fn said(most: usize) -> Self {
        Self { most, because: Because::Said }
    }

    /// What this machine allows.
    pub fn allowed(allocator: Allocator) -> Self {
        Machine::read().live_runs(allocator)
    }
}

impl fmt::Display for LiveRuns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "up to {} active runs ", self.most)?;
        match self.because {
            Because::Said => write!(f, "(limits.max_live_runs)"),
            Because::Mappings(count) => write!(f, "(limited by vm.max_map_count = {count})"),
            Because::Memory(bytes) => write!(f, "(limited by {} MiB of memory)", bytes >> 20),
            Because::Nothing => write!(f, "(this machine tells no limit)"),
        }
    }
}

impl Machine {
    fn read() -> Self {
        let number = |path: &str| fs::read_to_string(Path::new(path)).ok()?.trim().parse::<u64>().ok();
        let information = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let total = information.lines().find_map(|line| line.strip_prefix("MemTotal:"));
        let total = total.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).map(|kib| kib << 10);
        let memory = memory_limit(Path::new("/")).into_iter().chain(total).min();
        Self { mappings: number(MAX_MAP_COUNT), memory }
    }

    fn instances_memory(self) -> usize {
        let half = self.memory.map(|bytes| (bytes / 2).max(INSTANCES_MEMORY));
        half.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(usize::MAX)
    }

    /// The least of what the mappings allow, and of what half of the memory does.
    fn live_runs(self, allocator: Allocator) -> LiveRuns {
        // Measured with instances that wait, and rounded up.
        let each = match allocator {
            Allocator::OnDemand => 8,
            Allocator::Pooling => 7,
        };
        let mappings =
            self.mappings.map(|count| (count.saturating_sub(MAPPINGS_RESERVED) / each, Because::Mappings(count)));
        let memory = self.memory.map(|bytes| (bytes / 2 / MEMORY_PER_RUN, Because::Memory(bytes)));
        let least = mappings.into_iter().chain(memory).min_by_key(|(runs, _)| *runs);
        let (runs, because) = least.unwrap_or((10_000, Because::Nothing));
        LiveRuns { most: usize::try_from(runs).unwrap_or(usize::MAX).clamp(16, 1_000_000), because }
    }
}

/// The least memory, in bytes, that a control group of this process has, or one above it; none where none of them is
/// limited. `root` is where `/` is.
fn memory_limit(root: &Path) -> Option<u64> {
    let [groups, mounts] = GROUPS.map(|path| fs::read_to_string(root.join(path)).unwrap_or_default());
    let limits = mounts.lines().filter_map(Mount::read).flat_map(|mount| {
        let group = groups.lines().find_map(|line| mount.version.group(line)).unwrap_or("/");
        // In a container, the folder of its own group may be mounted as if it were the root of all.
        let inside = Path::new(group).strip_prefix(mount.shows).unwrap_or(Path::new(""));
        // Outside of the part that is shown there is nothing to read.
        let inside: PathBuf = inside.components().filter(|part| matches!(part, Component::Normal(_))).collect();
        let folder = root.join(mount.at.trim_start_matches('/'));
        let limit = |inside: &Path| {
            let file = folder.join(inside).join(mount.version.file());
            // `max` is no number, and no limit.
            fs::read_to_string(file).ok()?.trim().parse::<u64>().ok()
        };
        inside.ancestors().filter_map(limit).collect::<Vec<_>>()
    });
    limits.min()
}

/// A hierarchy of control groups.
#[derive(Clone, Copy, Debug)]
struct Mount<'a> {
    version: Version,
    /// The group whose folder is mounted.
    shows: &'a str,
    /// Where it is mounted.
    at: &'a str,
}

#[derive(Clone, Copy, Debug)]
enum Version {
    /// The hierarchy for memory.
    One,
    Two,
}

impl<'a> Mount<'a> {
    /// Reads a line of `mountinfo`: `31 23 0:28 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory`.
    fn read(line: &'a str) -> Option<Self> {
        let (place, kind) = line.split_once(" - ")?;
        let mut place = place.split(' ').skip(3);
        let (shows, at) = (place.next()?, place.next()?);
        let mut kind = kind.split(' ');
        let version = match (kind.next()?, kind.nth(1)?) {
            ("cgroup2", _) => Version::Two,
            ("cgroup", options) if options.split(',').any(|option| option == "memory") => Version::One,
            _ => return None,
        };
        Some(Self { version, shows, at })
    }
}

impl Version {
    /// The group in a line of `cgroup`, if it is one of this hierarchy: `4:memory:/a/b`, `0::/a/b`.
    fn group(self, line: &str) -> Option<&str> {
        let mut parts = line.splitn(3, ':');
        let (number, controllers, group) = (parts.next()?, parts.next()?, parts.next()?);
        let is = match self {
            Self::One => controllers.split(',').any(|controller| controller == "memory"),
            Self::Two => number == "0" && controllers.is_empty(),
        };
        is.then_some(group)
    }

    fn file(self) -> &'static str {
        match self {
            Self::Two => LIMITS[0],
            Self::One => LIMITS[1],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine's files below a folder, and the limit that they say.
    fn limit(files: &[(&str, &str)]) -> Option<u64> {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        memory_limit(root.path())
    }

    const TWO: (&str, &str) = ("proc/self/mountinfo", "30 23 0:27 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n");
    const ONE: (&str, &str) = (
        "proc/self/mountinfo",
        "33 31 0:30 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
         35 31 0:32 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n",
    );

    #[test]
    fn the_own_control_group_and_all_above_it_count() {
        let own = ("proc/self/cgroup", "0::/system.slice/outlast.service\n");
        let unit = ("sys/fs/cgroup/system.slice/outlast.service/memory.max", "157286400\n");
        let slice = "sys/fs/cgroup/system.slice/memory.max";
        assert_eq!(limit(&[TWO, own, unit, (slice, "max\n")]), Some(150 << 20));
        assert_eq!(limit(&[TWO, own, unit, (slice, "1048576\n")]), Some(1 << 20));
        assert_eq!(limit(&[TWO, own, (slice, "max\n")]), None);
        // Of another one.
        assert_eq!(limit(&[TWO, own, ("sys/fs/cgroup/user.slice/memory.max", "1\n")]), None);

        let own = ("proc/self/cgroup", "9:name=systemd:/x\n4:memory:/a/b\n0::/\n");
        let inner = ("sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", "9223372036854771712\n");
        let outer = ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "157286400\n");
        assert_eq!(limit(&[ONE, own, inner, outer]), Some(150 << 20));
    }

    #[test]
    fn a_container_sees_its_own_control_group_as_the_root() {
        let root = ("sys/fs/cgroup/memory.max", "157286400\n");
        assert_eq!(limit(&[TWO, ("proc/self/cgroup", "0::/\n"), root]), Some(150 << 20));
        // Without a namespace of its own.
        let shown =
            ("proc/self/mountinfo", "35 31 0:32 /docker/17 /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n");
        let own = ("proc/self/cgroup", "4:memory:/docker/17/inner\n");
        let (container, inner) =
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "sys/fs/cgroup/memory/inner/memory.limit_in_bytes");
        assert_eq!(limit(&[shown, own, (container, "200\n"), (inner, "100\n")]), Some(100));
        assert_eq!(limit(&[shown, own, (container, "200\n")]), Some(200));
        // In a group that lies outside of what its namespace shows.
        assert_eq!(limit(&[TWO, ("proc/self/cgroup", "0::/../other\n"), root]), Some(150 << 20));
    }

    #[test]
    fn a_machine_without_control_groups_has_no_such_limit() {
        assert_eq!(limit(&[]), None);
    }

    #[test]
    fn all_instances_have_half_of_the_memory() {
        let most = |memory| Machine { mappings: None, memory }.instances_memory();
        assert_eq!([most(Some(2 << 30)), most(Some(32 << 20)), most(None)], [1 << 30, 64 << 20, usize::MAX]);
    }

    #[test]
    fn the_scarcest_decides() {
        let runs = |mappings, memory, allocator| Machine { mappings, memory }.live_runs(allocator).to_string();
        let stock = Some(65_530);
        assert_eq!(
            runs(stock, Some(16 << 30), Allocator::OnDemand),
            "up to 7566 active runs (limited by vm.max_map_count = 65530)"
        );
        assert_eq!(
            runs(stock, Some(16 << 30), Allocator::Pooling),
            "up to 8647 active runs (limited by vm.max_map_count = 65530)"
        );
        assert_eq!(
            runs(stock, Some(512 << 20), Allocator::OnDemand),
            "up to 2048 active runs (limited by 512 MiB of memory)"
        );
        assert_eq!(runs(Some(0), None, Allocator::OnDemand), "up to 16 active runs (limited by vm.max_map_count = 0)");
        assert_eq!(runs(None, None, Allocator::OnDemand), "up to 10000 active runs (this machine tells no limit)");
    }
}
