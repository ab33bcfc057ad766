//! A model folder: its manifest, its headers and its text side.

#![no_main]

edge_run_fuzz::target!("folder");
