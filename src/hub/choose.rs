//! Which files of a repository make a model: a folder with safetensors, or a GGUF file.

use std::collections::BTreeMap;

use super::listing::HubFile;
use super::names::RepoName;
use crate::checkpoint_files::{
    ADAPTER_CONFIG_FILE, ADDED_TOKENS_FILE, CONFIG_FILE, INDEX_FILE, PROCESSOR_TEMPLATE_FILE, SPECIAL_TOKENS_FILE,
    TEMPLATES_FOLDER, TOKENIZER_CONFIG_FILE, WHOLE_FILE,
};
use crate::error::{Error, Result};
use crate::format::{CHAT_TEMPLATE_FILE, GENERATION_FILE, TOKENIZER_FILE};

/// Files beside the weights, each where it is there; the model's card states its licence.
const TEXT_FILES: [&str; 9] = [
    CONFIG_FILE,
    TOKENIZER_FILE,
    TOKENIZER_CONFIG_FILE,
    GENERATION_FILE,
    CHAT_TEMPLATE_FILE,
    PROCESSOR_TEMPLATE_FILE,
    SPECIAL_TOKENS_FILE,
    ADDED_TOKENS_FILE,
    "README.md",
];
/// Endings of weights that are not read.
const OTHER_WEIGHTS: [&str; 8] = [".safetensors", ".bin", ".pth", ".pt", ".onnx", ".h5", ".msgpack", ".ckpt"];
/// Files that a message names at most.
const NAMED_MAX: usize = 24;

/// The files of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FileChoice {
    /// Texts, and the weights in one file or the index that names their shards.
    Folder { texts: Vec<HubFile>, weights: Vec<HubFile>, index: Option<HubFile> },
    /// The parts of a GGUF file, mostly one; the first is the one to open.
    Gguf(Vec<HubFile>),
}

/// Chooses among `files` of the repository: without `asked` the safetensors, or the only GGUF file where there are
/// none; else the GGUF file of this name, or of this quantization such as `Q8_0`.
pub(super) fn choose(repo: &RepoName, files: &[HubFile], asked: Option<&str>) -> Result<FileChoice> {
    let mut models = gguf_models(files);
    if let Some(asked) = asked {
        return chosen(repo, files, models, asked).map(FileChoice::Gguf);
    }
    let find = |name: &str| files.iter().find(|file| file.name == name).cloned();
    let (whole, index) = (find(WHOLE_FILE), find(INDEX_FILE));
    if whole.is_some() || index.is_some() {
        for needed in [CONFIG_FILE, TOKENIZER_FILE] {
            if find(needed).is_none() {
                let advice = "repositories with config.json and tokenizer.json beside the weights, or with GGUF files";
                return Err(unsupported(repo, &format!("safetensors without {needed}"), advice));
            }
        }
        let texts = files.iter().filter(|file| is_text(&file.name)).cloned().collect();
        // In transformers the weights in one piece count before an index.
        let index = if whole.is_some() { None } else { index };
        return Ok(FileChoice::Folder { texts, weights: whole.into_iter().collect(), index });
    }
    match models.len() {
        0 => Err(no_weights(repo, files)),
        1 => Ok(FileChoice::Gguf(models.remove(0))),
        _ => Err(Error::argument(repo.to_string(), format!("one of its GGUF files, as {repo}:FILE"), named(&models))),
    }
}

/// Whether a file has weights in a format that is read, of whatever model.
pub(super) fn has_weights(file: &HubFile) -> bool {
    file.name.ends_with(".safetensors") || gguf_stem(&file.name).is_some()
}

fn is_text(name: &str) -> bool {
    let template =
        name.strip_prefix(TEMPLATES_FOLDER).is_some_and(|rest| rest.starts_with('/') && rest.ends_with(".jinja"));
    let licence = !name.contains('/') && name.to_ascii_uppercase().starts_with("LICENSE");
    TEXT_FILES.contains(&name) || template || licence
}

/// The GGUF file of the name or quantization `asked`.
fn chosen(repo: &RepoName, files: &[HubFile], mut models: Vec<Vec<HubFile>>, asked: &str) -> Result<Vec<HubFile>> {
    if let Some(at) = models.iter().position(|parts| parts.iter().any(|part| part.name == asked)) {
        return Ok(models.remove(at));
    }
    if files.iter().any(|file| file.name == asked) {
        let expected = "a GGUF file; safetensors are fetched where no file is named";
        return Err(Error::argument(format!("{repo}:{asked}"), expected, "another kind of file"));
    }
    if models.is_empty() {
        return Err(Error::argument(format!("{repo}:{asked}"), "a GGUF file", "a repository without any"));
    }
    let (mut of_quantization, others): (Vec<_>, Vec<_>) =
        models.into_iter().partition(|parts| has_quantization(&parts[0].name, asked));
    match of_quantization.len() {
        1 => Ok(of_quantization.remove(0)),
        0 => Err(Error::argument(format!("{repo}:{asked}"), format!("one of {}", named(&others)), "another name")),
        _ => Err(Error::argument(format!("{repo}:{asked}"), "the name of one file", named(&of_quantization))),
    }
}

/// The GGUF models, each with its parts in order. Files that only go with a model are left out.
fn gguf_models(files: &[HubFile]) -> Vec<Vec<HubFile>> {
    let mut models: BTreeMap<&str, Vec<HubFile>> = BTreeMap::new();
    for file in files {
        let Some(stem) = gguf_stem(&file.name) else { continue };
        let base = stem.rsplit('/').next().unwrap_or(stem).to_ascii_lowercase();
        if !base.starts_with("mmproj") && !base.starts_with("imatrix") {
            models.entry(without_part(stem)).or_default().push(file.clone());
        }
    }
    let mut models: Vec<_> = models.into_values().collect();
    models.iter_mut().for_each(|parts| parts.sort_by(|one, other| one.name.cmp(&other.name)));
    models
}

/// The name without its ending, of a GGUF file.
fn gguf_stem(name: &str) -> Option<&str> {
    let at = name.len().checked_sub(".gguf".len())?;
    let (stem, ending) = name.split_at_checked(at)?;
    ending.eq_ignore_ascii_case(".gguf").then_some(stem)
}

/// The name of a model without the number of its part, `-00001-of-00003`.
fn without_part(stem: &str) -> &str {
    let number = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    let parted =
        stem.rsplit_once("-of-").filter(|(_, count)| number(count)).and_then(|(rest, _)| rest.rsplit_once('-'));
    parted.filter(|(_, part)| number(part)).map_or(stem, |(model, _)| model)
}

/// Whether a GGUF file's name has the quantization `asked` as a word of its own.
pub fn has_quantization(name: &str, asked: &str) -> bool {
    let stem = without_part(gguf_stem(name).unwrap_or(name)).to_ascii_lowercase();
    let asked = asked.to_ascii_lowercase();
    let parts = |c: char| matches!(c, '-' | '.' | '/');
    // After an underscore only a whole name begins, such as f16: `K_M` is a piece of `Q4_K_M`.
    let is_whole =
        asked.trim_start_matches(|c: char| c.is_ascii_alphabetic()).starts_with(|c: char| c.is_ascii_digit());
    !asked.is_empty()
        && stem.match_indices(&asked).any(|(at, found)| {
            let (before, after) = (&stem[..at], &stem[at + found.len()..]);
            let starts = before.is_empty() || before.ends_with(parts) || (is_whole && before.ends_with('_'));
            starts && (after.is_empty() || after.starts_with(parts))
        })
}

/// Models by the names of their first files, for messages.
fn named(models: &[Vec<HubFile>]) -> String {
    let shown = models.iter().take(NAMED_MAX).map(|parts| {
        let megabytes = parts.iter().map(|part| part.bytes).sum::<u64>().div_ceil(1_000_000);
        format!("{} ({megabytes} MB)", parts[0].name)
    });
    let mut text = shown.collect::<Vec<_>>().join(", ");
    if models.len() > NAMED_MAX {
        text += &format!(" and {} more", models.len() - NAMED_MAX);
    }
    text
}

fn no_weights(repo: &RepoName, files: &[HubFile]) -> Error {
    let advice = "repositories with model.safetensors, its shards and their index, or GGUF files";
    if files.iter().any(|file| file.name == ADAPTER_CONFIG_FILE) {
        return unsupported(repo, "a LoRA adapter", "whole models: merge the adapter into its base model first");
    }
    let other = files.iter().find(|file| OTHER_WEIGHTS.iter().any(|ending| file.name.ends_with(ending)));
    match other {
        Some(file) => unsupported(repo, &file.name, advice),
        None => unsupported(repo, "no weights", advice),
    }
}

fn unsupported(repo: &RepoName, got: &str, supported: &str) -> Error {
    Error::unsupported(format!("{repo}: content"), got, supported)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(names: &[&str], asked: Option<&str>) -> Result<FileChoice> {
        let file = |name: &&str| HubFile { name: name.to_string(), bytes: 1_500_000, blob: None };
        choose(&"a/b".parse().unwrap(), &names.iter().map(file).collect::<Vec<_>>(), asked)
    }

    fn gguf(names: &[&str], asked: Option<&str>) -> Vec<String> {
        match choice(names, asked).unwrap() {
            FileChoice::Gguf(parts) => parts.into_iter().map(|part| part.name).collect(),
            other => panic!("{other:?}"),
        }
    }

    fn refusal(names: &[&str], asked: Option<&str>) -> String {
        choice(names, asked).unwrap_err().to_string()
    }

    const TEXTS: [&str; 2] = ["config.json", "tokenizer.json"];

    #[test]
    fn safetensors_come_with_their_texts() {
        let others = ["x.gguf", "pytorch_model.bin", "onnx/model.onnx", "sub/config.json", "consolidated.safetensors"];
        let more = ["LICENSE.txt", "README.md", "additional_chat_templates/rag.jinja", "additional_chat_templates/x"];
        for (weights, indexed) in [("model.safetensors", false), ("model.safetensors.index.json", true)] {
            let names = [&TEXTS[..], &others, &more, &[weights]].concat();
            let FileChoice::Folder { texts, weights, index } = choice(&names, None).unwrap() else { panic!("a file") };
            let texts: Vec<&str> = texts.iter().map(|file| file.name.as_str()).collect();
            assert_eq!(texts, [&TEXTS[..], &more[..3]].concat());
            assert_eq!((weights.len(), index.is_some()), if indexed { (0, true) } else { (1, false) });
        }
        assert!(refusal(&["config.json", "model.safetensors"], None).contains("safetensors without tokenizer.json"));
    }

    #[test]
    fn one_gguf_file_is_taken_and_several_are_asked_about() {
        assert_eq!(gguf(&["README.md", "a.gguf", "mmproj-F16.gguf"], None), ["a.gguf"]);
        let message = refusal(&["a-Q8_0.gguf", "a-Q4_K_M.gguf"], None);
        assert!(message.contains("a/b:FILE, got a-Q4_K_M.gguf (2 MB), a-Q8_0.gguf (2 MB)"), "{message}");
        let parts = ["q/a-00002-of-00002.gguf", "q/a-00001-of-00002.gguf"];
        assert_eq!(gguf(&parts, None), [parts[1], parts[0]]);
    }

    #[test]
    fn a_quantization_names_a_file() {
        let names =
            ["a-Q4_K_M.gguf", "a-Q4_K_S.gguf", "a.Q8_0.GGUF", "UD-IQ1_S/a-00001-of-00001.gguf", "a_f16.gguf", "b.txt"];
        for (asked, expected) in
            [("Q4_K_M", 0), ("q4_k_s", 1), ("Q8_0", 2), ("IQ1_S", 3), ("F16", 4), ("a-Q4_K_M.gguf", 0)]
        {
            assert_eq!(gguf(&names, Some(asked)), [names[expected]], "{asked}");
        }
        for asked in ["Q4_K", "K_M", "Q2_K", "", "../a-Q4_K_M.gguf"] {
            let message = refusal(&names, Some(asked));
            assert!(message.contains("expected one of") && message.contains("a-Q4_K_S.gguf"), "{asked}: {message}");
        }
        assert!(refusal(&["a-Q8_0.gguf", "b-Q8_0.gguf"], Some("Q8_0")).contains("the name of one file"));
        assert!(refusal(&names, Some("b.txt")).contains("a GGUF file; safetensors are fetched"));
        assert!(refusal(&["b.txt"], Some("Q8_0")).contains("a repository without any"));
    }

    #[test]
    fn other_weights_are_named() {
        for (names, word) in [
            (&["config.json", "pytorch_model.bin"][..], "`pytorch_model.bin`"),
            (&["adapter_config.json", "adapter_model.safetensors"], "a LoRA adapter"),
            (&["README.md"], "`no weights`"),
        ] {
            assert!(refusal(names, None).contains(word), "{}", refusal(names, None));
        }
    }
}
