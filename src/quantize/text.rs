//! The text side of a source, read as a run reads it: what a run would refuse is refused before the weights are read.

use std::path::Path;

use serde_json::{Map, Value};

use super::source::{Source, SourceTensor, TextAssets};
use crate::error::Result;
use crate::text::{TextFiles, TextModel};

/// The text side's files of `source` as they go into the model folder: the generation settings with all tokens that end
/// a turn and without what cannot be followed, and what they make together. Fails as [`TextModel::from_files`] does.
pub fn checked_text(source: &dyn Source) -> Result<(TextAssets, TextModel)> {
    let mut assets = source.text()?;
    let text = text_of(source, &assets)?;
    let mut settings: Map<String, Value> = serde_json::from_str(&assets.generation_config).unwrap_or_default();
    text.defaults().write_into(&mut settings);
    assets.generation_config = as_file(&settings);
    assets.warnings.extend_from_slice(text.warnings());
    assets.warnings.extend(text.chat_template_faults());
    Ok((assets, text))
}

/// The tokenizer of a source, as the model folder that is made of it has it. Fails as [`TextModel::from_files`] does.
pub fn source_text(source: &dyn Source) -> Result<TextModel> {
    text_of(source, &source.text()?)
}

fn text_of(source: &dyn Source, assets: &TextAssets) -> Result<TextModel> {
    let (file, _) = source.locate(SourceTensor::Embed);
    // A folder's files lie beside its weights; a file that is all of a model is named itself.
    let folder = if source.model_source().format == "gguf" { &file } else { file.parent().unwrap_or(Path::new("")) };
    let named_templates = assets.named_templates_file();
    let files = TextFiles {
        folder,
        tokenizer: &assets.tokenizer,
        template: assets.chat_template.as_deref(),
        templates: named_templates.as_deref(),
        generation: Some(&assets.generation_config),
    };
    TextModel::from_files(&files, source.shape().vocab)
}

/// The text of a file of these settings.
pub fn as_file(settings: &Map<String, Value>) -> String {
    serde_json::to_string_pretty(settings).expect("JSON has string keys") + "\n"
}
