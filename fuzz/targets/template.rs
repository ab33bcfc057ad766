//! A chat template and the messages that it renders.

#![no_main]

edge_run_fuzz::target!("template");
