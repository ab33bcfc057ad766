//! Kernels that measure what a driver does not report about its device.

pub mod processors;
pub mod subgroups;
