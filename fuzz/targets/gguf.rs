//! A GGUF file, as bytes.

#![no_main]

edge_run_fuzz::target!("gguf");
