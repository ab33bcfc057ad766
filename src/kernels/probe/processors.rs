//! Workgroups that keep one processor busy each: their times show how many processors a device has.

use crate::kernels::declare::params;
use crate::recording::{Access, Arguments, Dispatch, Kernel, Recording, Span};

params! {
    /// Steps of each chain.
    rounds: u32,
}

/// `shaders/probe_processors.wgsl`; bindings: y, `[workgroups * workgroup]` u32.
pub static KERNEL: Kernel = Kernel {
    name: "probe_processors",
    wgsl: include_str!("../../../shaders/probe_processors.wgsl"),
    params: Params::FIELDS,
    bindings: &[Access::Write],
    reference: probe_processors,
};

/// Records `workgroups` workgroups of `workgroup` invocations that take time in proportion to `rounds`. What they write
/// is used by tests only.
pub fn record(recording: &mut Recording, workgroups: u32, workgroup: u32, rounds: u32, y: Span) {
    recording.dispatch(Dispatch {
        kernel: &KERNEL,
        constants: vec![("WORKGROUP", workgroup)],
        params: bytemuck::bytes_of(&Params { rounds }).to_vec(),
        bindings: vec![y],
        workgroups: [workgroups, 1, 1],
    });
}

fn probe_processors(args: &mut Arguments<'_>) {
    let (p, workgroup): (Params, u32) = (args.params(), args.constant("WORKGROUP"));
    let count = args.workgroups[0] * workgroup;
    let y: &mut [u32] = args.write(0);
    for (at, y) in (0..count).zip(y) {
        let mut chains = [at, at + 1, at + 2, at + 3];
        for _ in 0..p.rounds {
            chains = chains.map(|chain| chain.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
        }
        *y = chains.into_iter().fold(0, |all, chain| all ^ chain);
    }
}
