//! A GGUF file that is sound but for a few edits. `EDGE_RUN_FUZZ_DUMP=FILE` writes the file that an input stands for.

#![no_main]

use edge_run_fuzz::libfuzzer_sys::fuzz_target;

fuzz_target!(init: edge_run_fuzz::start(), |input: &[u8]| {
    let file = edge_run_fuzz::edited_gguf(input);
    if let Some(path) = std::env::var_os("EDGE_RUN_FUZZ_DUMP") {
        std::fs::write(path, &file).expect("EDGE_RUN_FUZZ_DUMP names a file that can be written");
    }
    edge_run_fuzz::run("gguf", &file);
});
