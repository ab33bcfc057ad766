//! The kernels that the CPU engine has code of its own for; the others run by their references.

use super::{attention, codes, pointwise, products, projections};
use crate::kernels::attention as attentions;
use crate::kernels::{cache, gate, product, project, rms_norm, sample};
use crate::recording::{Arguments, Kernel};

/// What runs a kernel on the processor.
pub type Run = fn(&mut Arguments<'_>);

/// What runs this kernel fastest.
pub fn fastest(kernel: &'static Kernel) -> Run {
    let all: [(&Kernel, Run); 14] = [
        (&project::qkv::KERNEL, projections::qkv),
        (&project::residual::KERNEL, projections::residual),
        (&project::gate::KERNEL, projections::gate),
        (&project::logits::KERNEL, projections::logits),
        (&project::pack::KERNEL, projections::pack),
        (&product::matvec_sliced::KERNEL, products::by_token),
        (&product::matmul_sliced::KERNEL, products::by_order),
        (&attentions::whole::KERNEL, attention::whole),
        (&attentions::quantized::KERNEL, codes::attention),
        (&cache::dequantize::KERNEL, codes::to_f16),
        (&cache::quantize::KERNEL, codes::from_f16),
        (&gate::KERNEL, pointwise::gate),
        (&rms_norm::KERNEL, pointwise::rms_norm),
        // The choice on the processor reads no peaks, so none are made.
        (&sample::peaks::KERNEL, sample::peaks::make_ready),
    ];
    all.into_iter().find(|(own, _)| std::ptr::eq(*own, kernel)).map_or(kernel.reference, |(_, run)| run)
}
