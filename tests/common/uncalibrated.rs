//! The default model as its weights alone give it.

use std::ops::ControlFlow;
use std::path::PathBuf;

use edge_run::internals::format::ModelFolder;
use edge_run::internals::quantize;

/// The default model cut without its calibration pack, which is nearer to the reference token by token; the reason
/// where its GGUF file is not where `scripts/fetch-default-model` keeps it. The folder goes with the `TempDir`.
pub fn uncalibrated_model() -> Result<(tempfile::TempDir, ModelFolder), String> {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home).ok_or("there is no home folder")?;
    let file = cache.join("edge-run/SmolLM2-135M-Instruct.Q4_1.gguf");
    if !file.exists() {
        return Err(format!("there is no {}", file.display()));
    }
    let dir = tempfile::tempdir().expect("a folder for a model");
    let out = dir.path().join("model");
    let options =
        quantize::QuantizeOptions { out: out.clone(), group_size: Some(64), calibration: None, replace: false };
    let mut source = quantize::open(&file).expect("the file is sound");
    quantize::quantize(source.as_mut(), &options, &mut |_| ControlFlow::Continue(())).expect("it can be cut");
    Ok((dir, ModelFolder::open(&out).expect("the model is sound")))
}
