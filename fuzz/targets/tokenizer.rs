//! A tokenizer, its settings and a text.

#![no_main]

edge_run_fuzz::target!("tokenizer");
