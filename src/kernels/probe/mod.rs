//! Kernels that find out what a driver does not tell about its device.

pub mod processors;
pub mod subgroups;
