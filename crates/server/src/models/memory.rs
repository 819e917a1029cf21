//! What memory the machine has, where the system tells (`/proc/meminfo`).

/// Bytes that could be used now.
pub(super) fn available() -> Option<u64> {
    field("MemAvailable:")
}

/// What models may take where nobody says otherwise: three quarters of the machine's memory.
pub(super) fn usual_budget() -> Option<u64> {
    field("MemTotal:").map(|total| total / 4 * 3)
}

fn field(name: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}
