//! What is read from files, and what is refused.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/hub_server.rs"]
#[allow(dead_code, reason = "each test program uses a part of this")]
mod hub_server;
#[path = "../common/names.rs"]
mod names;
#[path = "../common/pack.rs"]
mod pack;

mod folder;
mod hub;
mod jinja;
mod odd_sources;
mod quantize;
mod scaled_packs;
mod sources;
mod split_sources;
mod text_side;
