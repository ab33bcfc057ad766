//! A saved session.

#![no_main]

edge_run_fuzz::target!("session");
