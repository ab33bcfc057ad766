//! What kernels compute, by references and on a GPU where there is one.

#[path = "../common/buffers.rs"]
mod buffers;
#[path = "../common/mod.rs"]
mod common;
#[path = "../common/gpu.rs"]
mod gpu;
#[path = "../common/logits.rs"]
mod logits;
#[path = "../common/processors.rs"]
mod processors;
#[path = "../common/routed.rs"]
mod routed;
#[path = "../common/sliced_weights.rs"]
mod sliced_weights;

mod checks;
mod engines;
mod family_kernels;
mod few_tokens;
mod kernels;
mod near_choices;
mod packed_kernels;
mod pipeline_cache;
mod probes;
mod quantized_cache;
mod routing_kernels;
mod sample_kernels;
mod shaders;
