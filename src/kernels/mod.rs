//! One module a shader: its parameters, its bindings, how it is launched, and the plain loops that say what it means.
//!
//! A folder holds the kernels of one operation. Where a device decides which of them is launched, the folder's `mod.rs`
//! decides it, and what they share is in a file beside them, so that no file needs one that needs it. The kernel in
//! `kernels/x/y.rs` belongs to the shader `x_y`, `y_x` or `y`. Shapes use the letters of [`crate::shape`].

pub mod add_norm;
pub mod attention;
pub mod cache;
pub mod cap_logits;
pub mod copy;
pub mod embed_sliced;
pub mod gate;
pub mod probe;
pub mod product;
pub mod project;
pub mod rms_norm;
pub mod router;
pub mod sample;
pub mod sliced;
pub mod step_rows;

pub(crate) mod declare;
mod shaders;

pub use shaders::{BASELINE, MATRICES, SUBGROUPS, module};

use crate::recording::Kernel;

/// Storage buffers that a device must bind at once: those of any kernel but the [`project`]ions, which have their own
/// [limit](project::STORAGE_BUFFERS).
pub const STORAGE_BUFFERS: u32 = 12;

/// The kernels that need cooperative matrices.
pub const BY_MATRICES: [&Kernel; 3] =
    [&attention::matrix::KERNEL, &product::matmul_matrix::KERNEL, &product::matmul_split::KERNEL];

/// Every kernel that adapters without cooperative matrices can run.
pub const ALL: [&Kernel; 34] = [
    &add_norm::KERNEL,
    &attention::combine::KERNEL,
    &attention::quantized::KERNEL,
    &attention::split::KERNEL,
    &attention::whole::KERNEL,
    &cache::copy_cells::KERNEL,
    &cache::dequantize::KERNEL,
    &cache::finish_qkv::KERNEL,
    &cache::quantize::KERNEL,
    &cache::rope::KERNEL,
    &cap_logits::KERNEL,
    &copy::KERNEL,
    &embed_sliced::KERNEL,
    &gate::KERNEL,
    &probe::processors::KERNEL,
    &probe::subgroups::KERNEL,
    &product::gather_inputs::KERNEL,
    &product::gather_tokens::KERNEL,
    &product::matmul_sliced::KERNEL,
    &product::matmul_tiled::KERNEL,
    &product::matvec_sliced::KERNEL,
    &product::matvec_vector::KERNEL,
    &project::gate::KERNEL,
    &project::logits::KERNEL,
    &project::pack::KERNEL,
    &project::qkv::KERNEL,
    &project::residual::KERNEL,
    &rms_norm::KERNEL,
    &router::route::KERNEL,
    &router::route_vector::KERNEL,
    &sample::constrain_logits::KERNEL,
    &sample::peaks::KERNEL,
    &sample::token::KERNEL,
    &sample::token_nll::KERNEL,
];

/// A hash of all shaders, which changes with any of them.
pub fn fingerprint() -> String {
    shaders::fingerprint(ALL.into_iter().chain(BY_MATRICES))
}
