//! How much memory this process can still take, by every limit that an operator sets: the machine's own memory, control groups
//! (containers, SLURM's and systemd's limits), and the process's address space and data (`ulimit -v`, `ulimit -d`).

use std::fs;
use std::path::Path;

/// What is left, and what limits it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    pub bytes: usize,
    pub limit: &'static str,
}

/// The tightest of all limits; none where the system tells none.
pub(crate) fn available() -> Option<Room> {
    let room = |bytes: Option<usize>, limit| bytes.map(|bytes| Room { bytes, limit });
    let [virtual_size, data_size] = sizes().map_or([None; 2], |sizes| sizes.map(Some));
    let within = |resource, used: Option<usize>| Some(limit(resource)?.saturating_sub(used?));
    [
        room(machine(), "the machine's memory"),
        room(
            control_groups(Path::new("/proc/self/cgroup"), Path::new("/sys/fs/cgroup")),
            "a control group's memory limit",
        ),
        room(within(libc::RLIMIT_AS, virtual_size), "the limit of the address space, ulimit -v"),
        room(within(libc::RLIMIT_DATA, data_size), "the limit of a process's data, ulimit -d"),
    ]
    .into_iter()
    .flatten()
    .min_by_key(|room| room.bytes)
}

/// Bytes that can be taken without swapping.
fn machine() -> Option<usize> {
    let report = fs::read_to_string("/proc/meminfo").ok()?;
    let line = report.lines().find(|line| line.starts_with("MemAvailable:"))?;
    let kib: usize = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib << 10)
}

/// The soft limit of a resource of this process; none where it has none.
fn limit(resource: libc::__rlimit_resource_t) -> Option<usize> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: writes into a place of its size.
    let known = unsafe { libc::getrlimit(resource, &mut limit) } == 0;
    (known && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur as usize)
}

/// This process's address space, and its data, in bytes.
fn sizes() -> Option<[usize; 2]> {
    let pages = fs::read_to_string("/proc/self/statm").ok()?;
    let mut pages = pages.split_whitespace().map(|count| count.parse::<usize>());
    let (all, data) = (pages.next()?.ok()?, pages.nth(4)?.ok()?);
    // SAFETY: asks for a constant of the system.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
    Some([all * page, data * page])
}

/// What the process's control groups of either version leave, from its own up to the root. `groups` is its list of them, `mounted` where
/// their file systems are.
fn control_groups(groups: &Path, mounted: &Path) -> Option<usize> {
    let list = fs::read_to_string(groups).ok()?;
    let mut least = None;
    for line in list.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (root, names) = match controllers {
            "" => (mounted.to_path_buf(), ["memory.max", "memory.current", "inactive_file "]),
            list if list.split(',').any(|name| name == "memory") => {
                (mounted.join("memory"), ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file "])
            }
            _ => continue,
        };
        // Inside a container the path may be that of the host; its own group is then what is mounted.
        let mut group = root.join(path.trim_start_matches('/'));
        loop {
            if let Some(left) = left_in(&group, names) {
                least = Some(least.map_or(left, |least: usize| least.min(left)));
            }
            if group == root || !group.pop() || !group.starts_with(&root) {
                break;
            }
        }
    }
    least
}

/// What a group leaves: its limit less what is in use, where files that are merely kept in memory do not count.
fn left_in(group: &Path, [limit, used, kept]: [&str; 3]) -> Option<usize> {
    let number = |name: &str| fs::read_to_string(group.join(name)).ok()?.trim().parse::<usize>().ok();
    let limit = number(limit)?;
    // The first version says «no limit» by a number close to the largest.
    if limit >= 1 << 60 {
        return None;
    }
    let report = fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
    let kept = report.lines().find_map(|line| line.strip_prefix(kept)?.trim().parse::<usize>().ok()).unwrap_or(0);
    Some(limit.saturating_sub(number(used)?.saturating_sub(kept)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(folder: &Path, files: [(&str, &str); 3]) {
        fs::create_dir_all(folder).unwrap();
        files.into_iter().for_each(|(name, text)| fs::write(folder.join(name), text).unwrap());
    }

    #[test]
    fn the_tightest_of_a_processs_groups_counts() {
        let folder = tempfile::tempdir().unwrap();
        let (list, mounted) = (folder.path().join("list"), folder.path().join("cgroup"));
        fs::write(&list, "0::/slurm/job_7/step_0\n").unwrap();
        assert_eq!(control_groups(&list, &mounted), None);
        let job = mounted.join("slurm/job_7");
        let files = |limit| {
            [("memory.max", limit), ("memory.current", "3000\n"), ("memory.stat", "anon 9\ninactive_file 1000\n")]
        };
        group(&job.join("step_0"), files("max\n"));
        group(&job, files("10000\n"));
        group(&mounted.join("slurm"), files("9000\n"));
        assert_eq!(control_groups(&list, &mounted), Some(7000));
        // A container sees its own group as the root.
        fs::write(&list, "0::/elsewhere/on/the/host\n").unwrap();
        group(&mounted, files("5000\n"));
        assert_eq!(control_groups(&list, &mounted), Some(3000));
    }

    #[test]
    fn groups_of_the_first_version_count_too() {
        let folder = tempfile::tempdir().unwrap();
        let (list, mounted) = (folder.path().join("list"), folder.path().join("cgroup"));
        fs::write(&list, "5:cpu,cpuacct:/a\n4:memory:/job\n").unwrap();
        let files = |limit| {
            [
                ("memory.limit_in_bytes", limit),
                ("memory.usage_in_bytes", "500"),
                ("memory.stat", "total_inactive_file 100\n"),
            ]
        };
        group(&mounted.join("memory"), files("9223372036854771712"));
        assert_eq!(control_groups(&list, &mounted), None);
        group(&mounted.join("memory/job"), files("2000"));
        assert_eq!(control_groups(&list, &mounted), Some(1600));
    }

    #[test]
    fn this_process_has_some() {
        let room = available().unwrap();
        assert!(room.bytes > 1 << 20, "{room:?}");
    }
}
