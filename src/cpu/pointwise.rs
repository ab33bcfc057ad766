//! Norms and gates on the processor, number by number in vectors.

use multiversion::multiversion;
use rayon::prelude::*;

use super::exponential::exp;
use crate::kernels::{gate as gates, rms_norm as norms};
use crate::recording::Arguments;

/// Numbers from which on a row is worth a thread.
const LEAST_NUMBERS: usize = 4096;

pub fn rms_norm(args: &mut Arguments<'_>) {
    let p: norms::Params = args.params();
    let row = p.row_vec4s as usize * 4;
    let (x, weight): (&[f32], &[f32]) = (args.read(0), args.read(1));
    let y: &mut [f32] = args.write(2);
    let rows = y.par_chunks_exact_mut(row).zip(x.par_chunks_exact(row)).with_min_len(LEAST_NUMBERS.div_ceil(row));
    rows.take(args.workgroups[0] as usize).for_each(|(y, x)| norms::normalize(x, &weight[..row], p.eps, y));
}

pub fn gate(args: &mut Arguments<'_>) {
    let p: gates::Params = args.params();
    let (ffn_dim, gelu) = (p.row_vec4s as usize * 4, args.constant_or("GELU", 0) == 1);
    let (gate_up, y): (&[f32], &mut [f32]) = (args.read(0), args.write(1));
    let rows = y.par_chunks_exact_mut(ffn_dim).zip(gate_up.par_chunks_exact(2 * ffn_dim));
    let rows = rows.with_min_len(LEAST_NUMBERS.div_ceil(ffn_dim)).take(args.workgroups[1] as usize);
    rows.for_each(|(y, gate_up)| {
        let (gate, up) = gate_up.split_at(ffn_dim);
        gate_row(gelu, gate, up, y);
    });
}

/// y = activation(gate) * up
#[multiversion(targets = "simd")]
pub fn gate_row(gelu: bool, gate: &[f32], up: &[f32], y: &mut [f32]) {
    for ((y, v), up) in y.iter_mut().zip(gate).zip(up) {
        let (v, cubic) = (*v, (8.0 / std::f32::consts::PI).sqrt() * (*v + 0.044715 * *v * *v * *v));
        let power = if gelu { cubic } else { v };
        *y = v / (1.0 + exp(-power)) * up;
    }
}
