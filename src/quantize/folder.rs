//! What a folder holds that is no Hugging Face model, each with what to do about it.

use std::path::Path;

use crate::checkpoint_files::{ADAPTER_CONFIG_FILE, CONFIG_FILE, INDEX_FILE, WHOLE_FILE};
use crate::error::{Error, Result};
use crate::filetype::{self, FileType};
use crate::format::{MANIFEST_FILE, TOKENIZER_FILE};

/// Endings of the names of PyTorch's weights.
const PYTORCH: [&str; 5] = [".bin", ".pth", ".pt", ".ckpt", ".pkl"];
/// Endings of weights of other programs, and what they are.
const OTHERS: [(&str, &str); 7] = [
    (".onnx", "an ONNX model"),
    (".h5", "TensorFlow weights"),
    (".msgpack", "Flax weights"),
    (".npz", "NumPy weights"),
    (".tflite", "a TensorFlow Lite model"),
    (".mlmodel", "a Core ML model"),
    (".mlpackage", "a Core ML model"),
];
/// What is asked for.
const WHOLE_MODEL: &str =
    "a folder with config.json, tokenizer.json and model.safetensors or its shards and their index";

/// Fails where the folder `dir` lacks a file of a Hugging Face model, in words that fit what is there instead.
pub fn check(dir: &Path) -> Result<()> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(Error::io("read", dir))? {
        names.push(entry.map_err(Error::io("read", dir))?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    let found = FolderNames { dir, names };
    if !(found.has(WHOLE_FILE) || found.has(INDEX_FILE)) {
        return Err(found.instead_of_weights());
    }
    if !found.has(CONFIG_FILE) {
        return Err(found.lacks(CONFIG_FILE, "get it from the model's repository"));
    }
    if found.has(TOKENIZER_FILE) {
        return Ok(());
    }
    let convert = "in Python, AutoTokenizer.from_pretrained(SRC).save_pretrained(SRC) makes it";
    Err(match ["tokenizer.model", "spiece.model", "vocab.json", "tekken.json"].iter().find(|name| found.has(name)) {
        Some(name) => found.lacks(TOKENIZER_FILE, &format!("there is {name} only: {convert}")),
        None => found.lacks(TOKENIZER_FILE, "get it from the model's repository"),
    })
}

/// The error for the file `path`, which is no GGUF file.
pub fn refuse_file(path: &Path, found: FileType) -> Error {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = |sibling: &str| path.with_file_name(sibling).is_file();
    let folder = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if name == MANIFEST_FILE || (beside(MANIFEST_FILE) && !beside(CONFIG_FILE)) {
        return model_folder(folder);
    }
    if let Some(refusal) = found.refusal(path, filetype::READABLE) {
        return refusal;
    }
    if name == CONFIG_FILE || name == INDEX_FILE || name == TOKENIZER_FILE {
        return unsupported(path, "one file of a model", &format!("its folder: pass `{}`", folder.display()));
    }
    if ends(&name, &PYTORCH) {
        return unsupported(path, "PyTorch weights", CONVERT_PYTORCH);
    }
    if let Some((_, what)) = OTHERS.iter().find(|(ending, _)| ends(&name, &[ending])) {
        return unsupported(path, what, &format!("{}; get the model in one of them", filetype::READABLE));
    }
    let text = beginning(path);
    if text.contains("application/vnd.ollama.image") || text.contains("application/vnd.docker.distribution.manifest") {
        let advice = "the GGUF file that it lists as image.model, in Ollama's folder blobs";
        return unsupported(path, "an Ollama manifest", advice);
    }
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    if lines.next().is_some_and(|line| line.get(..5).is_some_and(|from| from.eq_ignore_ascii_case("from "))) {
        return unsupported(path, "an Ollama Modelfile", "the GGUF file that its FROM line names");
    }
    unsupported(path, "neither GGUF nor safetensors", filetype::READABLE)
}

const CONVERT_PYTORCH: &str = "safetensors: convert the weights, in Python, with \
    AutoModelForCausalLM.from_pretrained(SRC).save_pretrained(DIR, safe_serialization=True)";

/// A folder and the names in it.
struct FolderNames<'a> {
    dir: &'a Path,
    names: Vec<String>,
}

impl FolderNames<'_> {
    fn has(&self, name: &str) -> bool {
        self.names.iter().any(|found| found == name)
    }

    fn with(&self, endings: &[&str]) -> Vec<&str> {
        self.names.iter().filter(|name| ends(name, endings)).map(String::as_str).collect()
    }

    /// The error for a folder without safetensors under the names that count.
    fn instead_of_weights(&self) -> Error {
        let dir = self.dir;
        let unsupported = |got: &str, supported: &str| unsupported(dir, got, supported);
        if self.has(MANIFEST_FILE) {
            return model_folder(dir);
        }
        if self.has(ADAPTER_CONFIG_FILE) || self.names.iter().any(|name| name.starts_with("adapter_model.")) {
            return unsupported("a LoRA adapter", "a whole model: merge the adapter into its base model first");
        }
        let gguf = self.with(&[".gguf"]);
        match gguf[..] {
            [] => {}
            [one] => {
                return unsupported("a GGUF file", &format!("the file itself: pass `{}`", dir.join(one).display()));
            }
            [first, ..] => {
                let got = format!("{} GGUF files", gguf.len());
                return unsupported(&got, &format!("one of them: pass `{}`, say", dir.join(first).display()));
            }
        }
        if self.has("consolidated.safetensors") || self.has("consolidated.00.pth") || self.has("params.json") {
            let advice = "the same model with config.json and model.safetensors, as Hugging Face names them";
            return unsupported("a model as Meta and Mistral name its files", advice);
        }
        if self.has("model_index.json") {
            return unsupported("a diffusion model", "language models");
        }
        if let Some(name) = self.with(&[".safetensors"]).first() {
            return self.lacks(
                WHOLE_FILE,
                &format!("there is {name}, but neither {WHOLE_FILE} nor {INDEX_FILE}, which names shards"),
            );
        }
        if let Some(name) = self.with(&PYTORCH).first() {
            return unsupported(&format!("PyTorch weights, {name}"), CONVERT_PYTORCH);
        }
        for (ending, what) in OTHERS {
            if let Some(name) = self.with(&[ending]).first() {
                let got = format!("{what}, {name}");
                return unsupported(&got, &format!("{}; get the model in one of them", filetype::READABLE));
            }
        }
        if self.has("Modelfile") {
            return unsupported("an Ollama Modelfile", "the GGUF file that its FROM line names");
        }
        self.elsewhere()
    }

    /// The error for a folder without any weights: perhaps a folder in it is meant.
    fn elsewhere(&self) -> Error {
        if let Some(inner) = self.snapshot().or_else(|| self.only_model_within()) {
            let advice = format!("the folder in it: pass `{}`", inner.display());
            return unsupported(self.dir, "a folder above the model's", &advice);
        }
        if self.names.is_empty() {
            return Error::damaged(self.dir, "content", WHOLE_MODEL, "an empty folder");
        }
        let missing = if self.has(CONFIG_FILE) { WHOLE_FILE } else { "config.json and model.safetensors" };
        self.lacks(missing, "get it from the model's repository")
    }

    /// The newest snapshot of a repository in Hugging Face's cache.
    fn snapshot(&self) -> Option<std::path::PathBuf> {
        let snapshots = std::fs::read_dir(self.dir.join("snapshots")).ok()?.flatten();
        let newest = snapshots.max_by_key(|entry| entry.metadata().and_then(|metadata| metadata.modified()).ok())?;
        Some(newest.path())
    }

    /// The folder in this one that is a model, where just one is.
    fn only_model_within(&self) -> Option<std::path::PathBuf> {
        let mut within =
            self.names.iter().map(|name| self.dir.join(name)).filter(|dir| dir.join(CONFIG_FILE).is_file());
        within.next().filter(|_| within.next().is_none())
    }

    fn lacks(&self, name: &str, hint: &str) -> Error {
        Error::damaged(self.dir, "content", WHOLE_MODEL, format!("no {name}: {hint}"))
    }
}

/// The error for a model folder that was passed to be quantized.
fn model_folder(dir: &Path) -> Error {
    let advice = format!("its source; this one is quantized already, and `edge-run -m {}` runs it", dir.display());
    unsupported(dir, "a model folder of edge-run", &advice)
}

fn unsupported(path: &Path, got: &str, supported: &str) -> Error {
    let what = format!("`{}`: content", path.display());
    Error::unsupported(what, got, supported)
}

fn ends(name: &str, endings: &[&str]) -> bool {
    let name = name.to_ascii_lowercase();
    endings.iter().any(|ending| name.ends_with(ending))
}

/// The beginning of a text file; nothing of one that cannot be read.
fn beginning(path: &Path) -> String {
    use std::io::Read;

    let mut bytes = Vec::new();
    // What it is cannot be told then, which the caller says.
    let _ = std::fs::File::open(path).and_then(|file| file.take(4096).read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).trim_start_matches('\u{feff}').to_string()
}
