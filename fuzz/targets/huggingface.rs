//! A folder as Hugging Face keeps models.

#![no_main]

edge_run_fuzz::target!("huggingface");
