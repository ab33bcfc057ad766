//! Parsers of values that the library lists by name, with what the help says of each.

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use edge_run::internals::engine::Activations;
use edge_run::internals::export::{ExportFormat, StoredType};
use edge_run::internals::power::PowerMode;
use edge_run::internals::precision::{CacheType, PromptBits};

/// The parser of `--cache-type`.
pub fn cache_type() -> impl TypedValueParser<Value = CacheType> {
    one_of(&CacheType::ALL, CacheType::name, |cache_type| match cache_type {
        CacheType::F16 => "As f16",
        CacheType::Q8 => "Codes of eight bits, with a scale for 32 of them: half the memory of f16, and as good",
        CacheType::Q6 => "Codes of eight bits for keys, on which more depends, and of four for values",
        CacheType::Q4 => "Codes of four bits, with a scale for 32 of them: little more than a quarter of the memory",
    })
}

/// The parser of `--prompt-bits`.
pub fn prompt_bits() -> impl TypedValueParser<Value = PromptBits> {
    one_of(&PromptBits::ALL, PromptBits::name, |bits| match bits {
        PromptBits::Deepest => "All slices that are loaded and that the bits asked for may read, for every token",
        _ => "What the routers choose for each token, as in an answer",
    })
}

/// The parser of `--activations`.
pub fn activations() -> impl TypedValueParser<Value = Activations> {
    one_of(&Activations::ALL, Activations::name, |activations| match activations {
        Activations::Auto => {
            "What is faster by a trial of both, which is remembered; int8 on the CPU engine, f32 on software renderers \
             and where int8 cannot be"
        }
        Activations::F32 => "As they are computed",
        Activations::Int8 => {
            "Pairs of integers of eight bits, with a scale for 64 of them: as exact as fifteen bits are; for weights \
             of two bits a GPU takes one of a pair"
        }
    })
}

/// The parser of `--power-mode`.
pub fn power_mode() -> impl TypedValueParser<Value = PowerMode> {
    one_of(&PowerMode::ALL, PowerMode::name, |mode| match mode {
        PowerMode::Auto => "As battery, charger, energy saver, heat and memory allow",
        PowerMode::Low => "4 bits",
        PowerMode::Balanced => "6 bits",
        PowerMode::High => "8 bits",
    })
}

/// The parser of `--to`.
pub fn export_format() -> impl TypedValueParser<Value = ExportFormat> {
    one_of(&ExportFormat::ALL, ExportFormat::name, |format| match format {
        ExportFormat::Gguf => "One file, for llama.cpp and what is built on it",
        ExportFormat::Safetensors => "A folder as Hugging Face keeps models, for transformers, vLLM and SGLang",
    })
}

/// The parser of `--type`.
pub fn stored_type() -> impl TypedValueParser<Value = StoredType> {
    one_of(&StoredType::ALL, StoredType::name, |stored| match stored {
        StoredType::Q4_1 => {
            "5 bits a weight: exact for 2 bits, for 4 bits but for a minimum that is rounded; GGUF only"
        }
        StoredType::Q5_1 => "6 bits a weight: exact for 2 and 4 bits; GGUF only",
        StoredType::Q8_0 => "8.5 bits a weight: as coarse again as 8 bits are; GGUF only",
        StoredType::F16 => "16 bits a weight: close at all depths",
        StoredType::Bf16 => "16 bits a weight, coarser than f16 and with a wider range",
        StoredType::F32 => "32 bits a weight: exact at all depths",
    })
}

/// A parser that takes the name of any of `all`, and helps with each.
fn one_of<T>(
    all: &'static [T],
    name: fn(T) -> &'static str,
    help: fn(T) -> &'static str,
) -> impl TypedValueParser<Value = T>
where
    T: Copy + Send + Sync + 'static,
{
    let values = all.iter().map(|item| PossibleValue::new(name(*item)).help(help(*item)));
    PossibleValuesParser::new(values)
        .map(move |text| *all.iter().find(|item| name(**item) == text).expect("the parser takes these names only"))
}
