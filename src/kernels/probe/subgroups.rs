//! The size of the device's subgroups, for drivers that do not report it.

use crate::kernels::declare::params;
use crate::recording::{Access, Arguments, Dispatch, Kernel, Recording, Span};

params! {
    /// Entry of the first invocation.
    first: u32,
}

/// `shaders/probe_subgroups.wgsl`; bindings: seen, [invocations, 2] u32.
pub static KERNEL: Kernel = Kernel {
    name: "probe_subgroups",
    wgsl: include_str!("../../../shaders/probe_subgroups.wgsl"),
    params: Params::FIELDS,
    bindings: &[Access::Write],
    reference: probe_subgroups,
};

/// Records a workgroup of so many invocations, an even number. Each writes the size of its subgroup and the number of
/// subgroups to `seen`, [workgroup, 2] u32, which held zeros.
pub fn record(recording: &mut Recording, workgroup: u32, seen: Span) {
    recording.dispatch(Dispatch {
        kernel: &KERNEL,
        constants: vec![("WORKGROUP", workgroup)],
        params: bytemuck::bytes_of(&Params { first: 0 }).to_vec(),
        bindings: vec![seen],
        workgroups: [1, 1, 1],
    });
}

/// The size of the subgroups by what a workgroup of `workgroup` invocations wrote: none where these are not as the
/// kernels take them to be, all of one size and with an invocation at every place.
pub fn size(workgroup: u32, seen: &[[u32; 2]]) -> Option<u32> {
    let [size, subgroups] = *seen.first()?;
    let alike = seen.iter().all(|seen| *seen == [size, subgroups]);
    let full = size.is_power_of_two() && subgroups == workgroup.div_ceil(size);
    (alike && full).then_some(size)
}

/// On the processor each invocation is a subgroup.
fn probe_subgroups(args: &mut Arguments<'_>) {
    let (p, workgroup): (Params, u32) = (args.params(), args.constant("WORKGROUP"));
    let seen: &mut [[u32; 2]] = args.write(0);
    seen[p.first as usize..][..workgroup as usize].fill([1, workgroup]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subgroups_count_where_every_place_has_an_invocation() {
        assert_eq!(size(64, &[[32, 2]; 64]), Some(32));
        assert_eq!(size(64, &[[128, 1]; 64]), Some(128), "a subgroup may be larger than its workgroup");
        assert_eq!(size(64, &[[1, 64]; 64]), Some(1));
        let mut seen = [[8, 8]; 64];
        seen[63] = [0, 0];
        assert_eq!(size(64, &seen), None, "a place is empty");
        seen[63] = [16, 8];
        assert_eq!(size(64, &seen), None, "sizes differ");
        assert_eq!(size(64, &[[8, 7]; 64]), None, "too few of them");
        assert_eq!(size(64, &[[0, 0]; 64]), None);
    }
}
