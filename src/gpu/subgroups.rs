//! How large a device's subgroups are: what its driver tells, and what a kernel sees.
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
/// The least and the greatest size that wgpu tells where it does not know.
const UNKNOWN: (u32, u32) = (4, 64);
/// The least subgroups of GPUs whose drivers choose a size for each kernel, Intel's.
const LEAST_CHOSEN: u32 = 8;

/// What is known of a device's subgroups before a kernel looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Told {
    /// The least and the greatest size.
    pub sizes: (u32, u32),
    /// Whether the driver may choose another size for each kernel where no sizes are told.
    pub chosen_by_kernel: bool,
}

impl Told {
    /// What the adapter tells.
    pub fn of(adapter: &AdapterInfo) -> Told {
        Told {
            sizes: (adapter.subgroup_min_size, adapter.subgroup_max_size),
            // All of Apple's own have 32.
            chosen_by_kernel: adapter.backend == Backend::Metal && !adapter.name.starts_with("Apple"),
        }
    }
}

/// The size for kernels to go by: 1 where subgroups are not what kernels take them to be, or none can be looked at.
pub(super) fn size(engine: &mut dyn Engine, told: Told) -> u32 {
    let most = engine.traits().workgroup_invocations;
    let workgroups = WORKGROUPS.into_iter().filter(|workgroup| *workgroup <= most);
    let seen: Option<Vec<u32>> = workgroups.map(|workgroup| look(engine, workgroup).ok().flatten()).collect();
    seen.and_then(|seen| seen.into_iter().min()).map_or(1, |seen| decide(told, seen))
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

/// The size by what is told and what was seen. What drivers tell holds for every kernel. Where they do not, what was
/// seen is taken to hold for every kernel, but where the driver may choose another for each.
fn decide(told: Told, seen: u32) -> u32 {
    let (least, greatest) = told.sizes;
    if least == UNKNOWN.0 && greatest >= UNKNOWN.1 {
        return if told.chosen_by_kernel { seen.min(LEAST_CHOSEN) } else { seen };
    }
    seen.min(least)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_seen_counts_where_drivers_do_not_tell() {
        let decided = |sizes, chosen_by_kernel, seen| decide(Told { sizes, chosen_by_kernel }, seen);
        // Apple's GPUs, of which wgpu knows nothing, and Vulkan drivers that do not tell.
        assert_eq!(decided((4, 64), false, 32), 32);
        assert_eq!(decided((4, 128), false, 64), 64);
        // Other GPUs of Macs, whose driver may compile the next kernel otherwise.
        assert_eq!([decided((4, 64), true, 32), decided((4, 64), true, 4)], [8, 4]);
        // Drivers that tell: the least holds whatever a small kernel sees.
        assert_eq!(
            [decided((8, 32), false, 32), decided((32, 64), false, 64), decided((32, 32), false, 32)],
            [8, 32, 32]
        );
        assert_eq!(decided((8, 8), false, 4), 4, "what is less than was told counts too");
    }
}
