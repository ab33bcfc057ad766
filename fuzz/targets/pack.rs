//! A calibration pack.

#![no_main]

edge_run_fuzz::target!("pack");
