//! The architecture as data: what a layer is made of, and the list of operations that follows from it.
//!
//! A [`ModelSpec`] says where a model of LLaMA's kin differs from LLaMA. It is part of a model folder's manifest.
//! [`Program::new`] makes the operations of a forward pass from it, in order. Four places carry them out:
//!
//! | place | for |
//! |---|---|
//! | `model/lower_many.rs` | a step of any number of tokens, an operation or two a kernel |
//! | `model/lower_few.rs` | a step of one token or few with int8 activations, up to three operations a kernel |
//! | `calibrate/network.rs` | the unquantized model with gradients, in calibration |
//! | `unquantized/pass.rs` | the unquantized model of any source in plain loops, as a reference |
//!
//! None of them knows an order of its own. A new family is new fields of the spec, the operations that carry them, and
//! kernels for these.

mod program;
mod spec;
mod vectors;

pub use program::{NormAt, Op, Program, Register, RoutedSites};
pub use spec::{
    ActivationFunction, AttentionSpec, HeadNorm, LayerNorms, LayerSpec, LongFrequencies, ModelSpec, QueryGrowth,
    RopeTable,
};
pub use vectors::LayerVector;
