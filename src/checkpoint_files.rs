//! The names of the files of a checkpoint as Hugging Face keeps models, beside those that a model folder has too.

/// Dimensions and constants of the model.
pub const CONFIG_FILE: &str = "config.json";
/// The weights in one piece.
pub const WHOLE_FILE: &str = "model.safetensors";
/// What says which shard holds which tensor, where the weights are in several.
pub const INDEX_FILE: &str = "model.safetensors.index.json";
/// Settings of the tokenizer, and mostly the chat template.
pub const TOKENIZER_CONFIG_FILE: &str = "tokenizer_config.json";
/// The tokens that begin and end a text, in older folders.
pub const SPECIAL_TOKENS_FILE: &str = "special_tokens_map.json";
/// Tokens that the tokenizer has beside its vocabulary, in older folders.
pub const ADDED_TOKENS_FILE: &str = "added_tokens.json";
/// The chat template, in folders of models that read more than text.
pub const PROCESSOR_TEMPLATE_FILE: &str = "chat_template.json";
/// The folder of chat templates that have names of their own.
pub const TEMPLATES_FOLDER: &str = "additional_chat_templates";
/// What an adapter has in the place of [`CONFIG_FILE`].
pub const ADAPTER_CONFIG_FILE: &str = "adapter_config.json";
