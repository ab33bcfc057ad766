//! The size of a device's subgroups: what its driver reports, and what a kernel measures.
//!
//! Kernels take the size as the least that any of them may find: a team of lanes must lie in one subgroup, and memory
//! is reserved for as many subgroups as there can be. A kernel that finds larger ones makes do with fewer.

use wgpu::{AdapterInfo, Backend};

use crate::engine::Engine;
use crate::error::Result;
use crate::kernels::probe::subgroups;
use crate::recording::Recording;

/// Workgroups that are looked at: small, usual and large ones of kernels.
const WORKGROUPS: [u32; 3] = [64, 256, 1024];
/// The least and the greatest size that wgpu reports where it does not know them.
const UNKNOWN: (u32, u32) = (4, 64);
/// The least subgroups of GPUs whose drivers choose a size for each kernel, Intel's.
const LEAST_CHOSEN: u32 = 8;

/// What is known of a device's subgroups before a kernel looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ReportedSubgroups {
    /// The least and the greatest size.
    pub sizes: (u32, u32),
    /// Whether the driver may choose another size for each kernel where it reports no sizes.
    pub chosen_by_kernel: bool,
}

impl ReportedSubgroups {
    /// What the adapter reports.
    pub fn of(adapter: &AdapterInfo) -> ReportedSubgroups {
        ReportedSubgroups {
            sizes: (adapter.subgroup_min_size, adapter.subgroup_max_size),
            // All of Apple's own have 32.
            chosen_by_kernel: adapter.backend == Backend::Metal && !adapter.name.starts_with("Apple"),
        }
    }
}

/// The size for kernels to go by: 1 where subgroups are not what kernels take them to be, or none can be looked at.
pub(super) fn size(engine: &mut dyn Engine, reported: ReportedSubgroups) -> u32 {
    let most = engine.traits().workgroup_invocations;
    let workgroups = WORKGROUPS.into_iter().filter(|workgroup| *workgroup <= most);
    let seen: Option<Vec<u32>> = workgroups.map(|workgroup| look(engine, workgroup).ok().flatten()).collect();
    seen.and_then(|seen| seen.into_iter().min()).map_or(1, |seen| decide(reported, seen))
}

/// The size in a workgroup of so many invocations, if it has subgroups as kernels want them.
fn look(engine: &mut dyn Engine, workgroup: u32) -> Result<Option<u32>> {
    let mut recording = Recording::new();
    let seen = recording.transient(u64::from(workgroup) * 8).all();
    recording.clear(seen);
    subgroups::record(&mut recording, workgroup, seen);
    recording.read_back(seen);
    let mut prepared = engine.prepare(recording)?;
    let read = engine.run(&mut prepared)?.remove(0);
    Ok(subgroups::size(workgroup, &bytemuck::pod_collect_to_vec::<u8, [u32; 2]>(&read)))
}

/// The size by what the driver reports and what was measured. A reported size holds for every kernel. Where there is
/// none, the measured size is taken to hold for every kernel, unless the driver may choose another for each.
fn decide(reported: ReportedSubgroups, seen: u32) -> u32 {
    let (least, greatest) = reported.sizes;
    if least == UNKNOWN.0 && greatest >= UNKNOWN.1 {
        return if reported.chosen_by_kernel { seen.min(LEAST_CHOSEN) } else { seen };
    }
    seen.min(least)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_seen_counts_where_drivers_do_not_tell() {
        let decided = |sizes, chosen_by_kernel, seen| decide(ReportedSubgroups { sizes, chosen_by_kernel }, seen);
        // Apple's GPUs, of which wgpu knows nothing, and Vulkan drivers that report none.
        assert_eq!(decided((4, 64), false, 32), 32);
        assert_eq!(decided((4, 128), false, 64), 64);
        // Other GPUs of Macs, whose driver may compile the next kernel otherwise.
        assert_eq!([decided((4, 64), true, 32), decided((4, 64), true, 4)], [8, 4]);
        // With a report, its least size holds whatever a small kernel measures.
        assert_eq!(
            [decided((8, 32), false, 32), decided((32, 64), false, 64), decided((32, 32), false, 32)],
            [8, 32, 32]
        );
        assert_eq!(decided((8, 8), false, 4), 4, "a size below the reported ones counts too");
    }
}
