//! Architectures that people try and that are none of the families here, each with the nearest family that runs.

/// An architecture that does not run.
struct Stranger {
    /// How its names begin, in lower case and without `_`, `-` and `.`.
    prefix: &'static str,
    /// What it is.
    what: &'static str,
    /// The nearest family that runs.
    nearest: &'static str,
}

/// The longer of two prefixes is first.
const STRANGERS: [Stranger; 35] = [
    stranger("qwen35", "Qwen3.5, whose layers are gated delta nets mostly", "Qwen3 (dense)"),
    stranger("qwen36", "Qwen3.6, whose layers are gated delta nets mostly", "Qwen3 (dense)"),
    stranger("qwen3next", "Qwen3-Next, whose layers are gated delta nets mostly", "Qwen3 (dense)"),
    stranger("qwen3moe", "a mixture of experts", "Qwen3 (dense)"),
    stranger("qwen3vl", "a model for images", "Qwen3 (dense)"),
    stranger("qwen3omni", "a model for images and sound", "Qwen3 (dense)"),
    stranger("qwen2moe", "a mixture of experts", "Qwen2.5 (dense)"),
    stranger("qwen2vl", "a model for images", "Qwen2.5 (dense)"),
    stranger("qwen25vl", "a model for images", "Qwen2.5 (dense)"),
    stranger("gemma3n", "Gemma 3n, with embeddings for each layer", "Gemma 3"),
    stranger("gemma4", "Gemma 4, with embeddings for each layer", "Gemma 3"),
    stranger("gemmaembedding", "a model of embeddings", "Gemma 3"),
    stranger("gemma", "Gemma 1", "Gemma 2 and Gemma 3"),
    stranger("mixtral", "a mixture of experts", "Mistral"),
    stranger("mistral4", "a mixture of experts", "Ministral 3"),
    stranger("phimoe", "a mixture of experts", "Phi-3.5 (dense)"),
    stranger("phi4mm", "a model for images and sound", "Phi-4-mini"),
    stranger("phi4multimodal", "a model for images and sound", "Phi-4-mini"),
    stranger("phi", "Phi-1 and Phi-2", "Phi-3 to Phi-4"),
    stranger("granitehybrid", "a model with Mamba layers or experts", "Granite 3 and 4 (dense)"),
    stranger("granitemoe", "a model with Mamba layers or experts", "Granite 3 and 4 (dense)"),
    stranger("gptoss", "a mixture of experts", "Qwen3 (dense)"),
    stranger("deepseek", "a mixture of experts", "DeepSeek-R1's distills, which are Qwen2.5 and LLaMA 3"),
    stranger("lfm2", "LFM2, whose layers are short convolutions mostly", "Qwen3 (dense)"),
    stranger("llama4", "a mixture of experts", "LLaMA 3"),
    stranger("mllama", "a model for images", "LLaMA 3"),
    stranger("llava", "a model for images", "LLaMA, Mistral and Qwen2"),
    stranger("olmoe", "a mixture of experts", "OLMo 2"),
    stranger("olmo", "OLMo 1", "OLMo 2"),
    stranger("cohere", "Cohere's Command", "Mistral"),
    stranger("commandr", "Cohere's Command", "Mistral"),
    stranger("falcon", "Falcon", "LLaMA"),
    stranger("mamba", "a model of Mamba layers", "Granite 4 (dense)"),
    stranger("jamba", "a model with Mamba layers", "Granite 4 (dense)"),
    stranger("nemotronh", "a model with Mamba layers", "Granite 4 (dense)"),
];

/// First versions, whose names are those of later ones without the number.
const VERSIONED: [&str; 3] = ["gemma", "phi", "olmo"];

const fn stranger(prefix: &'static str, what: &'static str, nearest: &'static str) -> Stranger {
    Stranger { prefix, what, nearest }
}

/// What runs in the place of an architecture of this name, in words for people.
pub fn refusal(architecture: &str) -> Option<String> {
    let letters: String = architecture.chars().filter(char::is_ascii_alphanumeric).collect();
    let letters = letters.to_ascii_lowercase();
    let begins = |prefix: &str| {
        let rest = letters.strip_prefix(prefix)?;
        // With a number these are later families, of which some run: then it is another kind of head that does not.
        (!(VERSIONED.contains(&prefix) && rest.starts_with(|c: char| c.is_ascii_digit()))).then_some(())
    };
    let found = STRANGERS.iter().find(|stranger| begins(stranger.prefix).is_some())?;
    Some(format!("{}, nearest to {}", found.nearest, found.what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_prefix_hides_a_later_one() {
        for (at, one) in STRANGERS.iter().enumerate() {
            let hidden = STRANGERS[at + 1..].iter().find(|other| other.prefix.starts_with(one.prefix));
            assert!(hidden.is_none(), "{} hides {}", one.prefix, hidden.unwrap().prefix);
        }
    }

    #[test]
    fn strangers_are_told_with_the_nearest_family() {
        let expected = [
            ("Qwen3_5ForConditionalGeneration", "Qwen3 (dense)"),
            ("qwen35moe", "Qwen3 (dense)"),
            ("qwen3_next", "Qwen3 (dense)"),
            ("Gemma4ForConditionalGeneration", "Gemma 3"),
            ("gemma3n", "Gemma 3"),
            ("GemmaForCausalLM", "Gemma 2"),
            ("gpt-oss", "Qwen3"),
            ("DeepseekV3ForCausalLM", "distills"),
            ("Lfm2ForCausalLM", "Qwen3"),
            ("command-r", "Mistral"),
        ];
        for (name, nearest) in expected {
            let supported = refusal(name).unwrap();
            assert!(supported.contains(nearest), "{name}: {supported}");
        }
        for name in
            ["gpt2", "Gemma2ForSequenceClassification", "Phi3SmallForCausalLM", "Olmo3ForSequenceClassification"]
        {
            assert!(refusal(name).is_none(), "{name}");
        }
    }
}
