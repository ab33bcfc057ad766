//! One module a shader: its parameters, its bindings, how it is launched, and the plain loops that say what it means.
//!
//! `kernels/x.rs` belongs to `shaders/x.wgsl`. Shapes use the letters of [`crate::shape`].

pub mod attention;
pub mod attention_join;
pub mod attention_matrix;
pub mod attention_quantized;
pub mod attention_split;
pub mod copy;
pub mod copy_cells;
pub mod dequantize_cache;
pub mod embed_sliced;
pub mod gather_inputs;
pub mod gather_tokens;
pub mod matmul_matrix;
pub mod matmul_sliced;
pub mod matmul_tiled;
pub mod matvec_sliced;
pub mod matvec_vector;
pub mod packed;
pub mod parts;
pub mod probe_processors;
pub mod probe_subgroups;
pub mod product;
pub mod project;
pub mod project_gate;
pub mod project_logits;
pub mod project_qkv;
pub mod project_residual;
pub mod quantize_cache;
pub mod quantized_cache;
pub mod rms_norm;
pub mod rope_cache;
pub mod route;
pub mod route_vector;
pub mod routers;
pub mod rows;
pub mod sample_peaks;
pub mod sample_token;
pub mod silu_mul;
pub mod sliced;
pub mod telling;
pub mod token_nll;

mod shaders;

pub use shaders::{BASELINE, MATRICES, SUBGROUPS, fingerprint, module};

use rayon::prelude::*;

use crate::cancel::Watch;
use crate::recording::{Access, Kernel};

/// The kernels that need cooperative matrices.
pub const BY_MATRICES: [&Kernel; 2] = [&attention_matrix::KERNEL, &matmul_matrix::KERNEL];

/// Every kernel that adapters without cooperative matrices can run.
pub const ALL: [&Kernel; 29] = [
    &attention::KERNEL,
    &attention_join::KERNEL,
    &attention_quantized::KERNEL,
    &attention_split::KERNEL,
    &copy::KERNEL,
    &copy_cells::KERNEL,
    &dequantize_cache::KERNEL,
    &embed_sliced::KERNEL,
    &gather_inputs::KERNEL,
    &gather_tokens::KERNEL,
    &matmul_sliced::KERNEL,
    &matmul_tiled::KERNEL,
    &matvec_sliced::KERNEL,
    &matvec_vector::KERNEL,
    &probe_processors::KERNEL,
    &probe_subgroups::KERNEL,
    &project_gate::KERNEL,
    &project_logits::KERNEL,
    &project_qkv::KERNEL,
    &project_residual::KERNEL,
    &quantize_cache::KERNEL,
    &rms_norm::KERNEL,
    &rope_cache::KERNEL,
    &route::KERNEL,
    &route_vector::KERNEL,
    &sample_peaks::KERNEL,
    &sample_token::KERNEL,
    &silu_mul::KERNEL,
    &token_nll::KERNEL,
];

/// Invocations of a workgroup, for kernels that have no reason for another number.
pub(crate) const WORKGROUP: u32 = 64;

/// Calls `row` with the number of each row of `width` entries and the row, on all cores, while the work is wanted; the
/// rows after that stay as they were.
pub(crate) fn each_row<T: Send>(watch: &Watch, rows: &mut [T], width: usize, row: impl Fn(usize, &mut [T]) + Sync) {
    rows.par_chunks_exact_mut(width).enumerate().for_each(|(at, entries)| {
        if !watch.stops() {
            row(at, entries);
        }
    });
}

/// The bindings of a kernel that reads the first `read` of N and writes the others.
pub(crate) const fn bindings<const N: usize>(read: usize) -> [Access; N] {
    let mut bindings = [Access::Write; N];
    let mut at = 0;
    while at < read {
        bindings[at] = Access::Read;
        at += 1;
    }
    bindings
}

/// Declares a kernel's `Params`: the Rust side of the shader's struct of the same name, and its field table.
macro_rules! params {
    ($($(#[$doc:meta])* $field:ident: $ty:ty,)*) => {
        /// The shader's `Params`.
        #[repr(C)]
        #[derive(Debug, Clone, Copy, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
        pub struct Params {
            $($(#[$doc])* pub $field: $ty,)*
        }

        impl Params {
            /// Where each field lies.
            pub const FIELDS: &'static [$crate::recording::ParamField] = &[$($crate::recording::ParamField {
                name: stringify!($field),
                offset: std::mem::offset_of!(Params, $field),
                bytes: std::mem::size_of::<$ty>(),
            }),*];
        }
    };
}
pub(crate) use params;
