//! A policy and a trace of power states.

#![no_main]

edge_run_fuzz::target!("power");
