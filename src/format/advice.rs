//! What to do where a path that should be a model folder is none.

use std::path::Path;

use super::MANIFEST_FILE;
use crate::checkpoint_files::CONFIG_FILE;

/// What to do about `path`, which has no manifest in it.
pub fn advice(path: &Path) -> String {
    let quantize = |source: &Path| {
        format!("this is a source; `edge-run quantize {} -o DIR` makes a model folder of it", source.display())
    };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if path.is_file() && folder.join(MANIFEST_FILE).is_file() {
        return format!("this is one file of a model; pass its folder, `{}`", folder.display());
    }
    if path.is_file() || path.join(CONFIG_FILE).is_file() {
        return quantize(path);
    }
    let Ok(entries) = std::fs::read_dir(path) else {
        return format!("`edge-run quantize SRC -o {}` makes one", path.display());
    };
    let mut inner: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    inner.sort();
    if let Some(gguf) = inner.iter().find(|inner| inner.extension().is_some_and(|end| end.eq_ignore_ascii_case("gguf")))
    {
        return quantize(gguf);
    }
    let mut models = inner.iter().filter(|inner| inner.join(MANIFEST_FILE).is_file());
    match (models.next(), models.next()) {
        (Some(model), None) => format!("there is one in it; pass `{}`", model.display()),
        (Some(model), Some(_)) => format!("there are some in it; pass one of them, such as `{}`", model.display()),
        _ => format!("`edge-run quantize SRC -o {}` makes one", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_is_there_decides_what_to_do() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        for dir in ["empty", "hf", "ggufs", "above/model"] {
            fs::create_dir_all(at(dir)).unwrap();
        }
        for file in ["hf/config.json", "ggufs/x.gguf", "above/model/edge-run.json", "above/model/tokenizer.json"] {
            fs::write(at(file), "").unwrap();
        }
        let cases = [
            ("absent", "`edge-run quantize SRC -o"),
            ("empty", "`edge-run quantize SRC -o"),
            ("hf", "this is a source"),
            ("hf/config.json", "this is a source"),
            ("ggufs", "x.gguf -o DIR` makes"),
            ("ggufs/x.gguf", "this is a source"),
            ("above", "there is one in it; pass"),
            ("above/model/edge-run.json", "one file of a model; pass its folder"),
            ("above/model/tokenizer.json", "one file of a model; pass its folder"),
        ];
        for (path, named) in cases {
            assert!(advice(&at(path)).contains(named), "{path}: {}", advice(&at(path)));
        }
    }
}
