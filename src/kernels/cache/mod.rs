//! Keys and values of earlier tokens: their rotation and store, and their codes of few bits.

pub mod copy_cells;
pub mod dequantize;
pub mod finish_qkv;
pub mod layout;
pub mod quantize;
pub mod rope;
