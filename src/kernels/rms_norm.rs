//! RMSNorm (Zhang and Sennrich, arXiv 1910.07467).

use crate::kernels::declare::params;
use crate::recording::{Access, Arguments, Buffer, Dispatch, Kernel, Recording, Span};

params! {
    /// vec4s in a row.
    row_vec4s: u32,
    /// Added to the mean square.
    eps: f32,
}

/// The norm that makes an input of x: `x / sqrt(mean(x^2) + eps) * weight`
#[derive(Debug, Clone, Copy)]
pub struct Norm {
    /// `[input]` f32
    pub weight: Buffer,
    /// Added to the mean square.
    pub eps: f32,
}

/// `shaders/rms_norm.wgsl`; bindings: x [T, D], weight `[D]`, y [T, D].
pub static KERNEL: Kernel = Kernel {
    name: "rms_norm",
    wgsl: include_str!("../../shaders/rms_norm.wgsl"),
    params: Params::FIELDS,
    bindings: &[Access::Read, Access::Read, Access::Write],
    reference: rms_norm,
};

/// Invocations of a workgroup: few tokens have few workgroups, which little runs beside.
const WORKGROUP: u32 = 256;

/// Records y = rms_norm(x) * weight for `tokens` rows of the weight's length.
pub fn record(recording: &mut Recording, tokens: u32, eps: f32, x: Span, weight: Buffer, y: Span) {
    dispatch(recording, &KERNEL, tokens, Norm { weight, eps }, [x, y]);
}

/// Records a kernel of `shaders/shared/row_norm.wgsl` for `tokens` rows of x and y.
pub(super) fn dispatch(recording: &mut Recording, kernel: &'static Kernel, tokens: u32, norm: Norm, [x, y]: [Span; 2]) {
    let params = Params { row_vec4s: (norm.weight.bytes() / 16) as u32, eps: norm.eps };
    recording.dispatch(Dispatch {
        kernel,
        constants: vec![("WORKGROUP", WORKGROUP)],
        params: bytemuck::bytes_of(&params).to_vec(),
        bindings: vec![x, norm.weight.all(), y],
        workgroups: [tokens, 1, 1],
    });
}

fn rms_norm(args: &mut Arguments<'_>) {
    let p: Params = args.params();
    let y: &mut [f32] = args.write(2);
    let numbers = args.workgroups[0] as usize * p.row_vec4s as usize * 4;
    normalize(args.read(0), &args.read(1)[..p.row_vec4s as usize * 4], p.eps, &mut y[..numbers]);
}

/// y = the norm of each row of x, rows as long as the weight.
pub(crate) fn normalize(x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) {
    let row = weight.len();
    for (x, y) in x.chunks_exact(row).zip(y.chunks_exact_mut(row)) {
        let mean_square = x.iter().map(|x| x * x).sum::<f32>() / row as f32;
        let scale = 1.0 / (mean_square + eps).sqrt();
        for ((y, x), weight) in y.iter_mut().zip(x).zip(weight) {
            *y = x * scale * weight;
        }
    }
}
