//! The products of one token, or of 2 to 8, with numbers that are pairs of int8s, by four kernels.
//!
//! Each workgroup makes the site's whole input into pairs for itself, which costs less than a kernel before that the
//! product would have to wait for. The kernels differ in what becomes of the products: [`qkv`] rotates queries
//! and keys and stores keys and values, [`residual`] adds them to the residual stream, [`gate`] gates them, and
//! [`logits`] writes them. With a routed plan, the kernels whose input is a norm also compute the hidden units of the
//! routers that look at it ([`router_hidden`]), and [`residual`] selects the depths of the sites that come next by
//! these. Both is done by workgroups beside those of the rows, so that no row waits for it.
//!
//! For several tokens, [`pack`] makes the inputs into pairs before, and computes the hidden units. The four kernels
//! then read the weights once for all tokens. What a token computes is bit for bit what it computes alone, so that
//! tokens of several sequences may run together or not.

pub mod gate;
pub mod logits;
pub mod pack;
pub mod packed;
mod projection;
pub mod qkv;
pub mod residual;
pub mod router_hidden;
mod spread;

pub use projection::{Input, PackedInputs, Projection, STORAGE_BUFFERS};
pub(crate) use projection::{Params as ProjectionParams, ProjectionInput, packed_inputs, tokens_of, weighted};
pub use spread::{FEW_TOKENS_MAX, Spread, bound_bytes, few_fit, fits, needed_bytes};
