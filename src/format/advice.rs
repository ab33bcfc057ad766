//! What to do where a path that should be a model folder is none.

use std::path::Path;

use super::MANIFEST_FILE;
use crate::checkpoint_files::CONFIG_FILE;
use crate::filetype::{self, FileType};

/// What to do about `path`, which has no manifest in it.
pub fn advice(path: &Path) -> String {
    let quantize = |source: &Path| {
        format!("this is a source; `edge-run quantize {} -o DIR` makes a model folder of it", source.display())
    };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if path.is_file() && folder.join(MANIFEST_FILE).is_file() {
        return format!("this is one file of a model; pass its folder, `{}`", folder.display());
    }
    if path.is_file() {
        // What is beside this file says whether it is one file of a source.
        let is_in_source = folder.join(CONFIG_FILE).is_file();
        return match filetype::of_file(path) {
            Ok(FileType::Gguf) => quantize(path),
            _ if is_in_source => quantize(folder),
            Ok(FileType::Safetensors) => {
                format!("these are weights; `edge-run quantize` reads the folder that holds them and {CONFIG_FILE}")
            }
            Ok(FileType::Leftover(what)) => format!("this is {what}"),
            Ok(FileType::Foreign(name, advice)) => format!("this is {name}; {advice}"),
            Ok(FileType::Other) => format!(
                "this is neither a model folder nor a source that `edge-run quantize` reads, which is {}",
                filetype::READABLE
            ),
            Err(fault) => match std::error::Error::source(&fault) {
                Some(source) => format!("this file cannot be read: {source}"),
                None => fault.to_string(),
            },
        };
    }
    if path.join(CONFIG_FILE).is_file() {
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
        let files: [(&str, &[u8]); 6] = [
            ("ggufs/y.bin", b"GGUF\x03\0\0\0"),
            ("ggufs/z", b"\x02\0\0\0\0\0\0\0{}"),
            ("ggufs/notes.txt", b"Not a model."),
            ("ggufs/noise", b"\x9c\x11\xe7\x02\x55\0\xfe"),
            ("ggufs/page", b"<!doctype html>"),
            ("hf/model.safetensors", b"\x02\0\0\0\0\0\0\0{}"),
        ];
        for (file, bytes) in files {
            fs::write(at(file), bytes).unwrap();
        }
        let cases = [
            ("absent", "`edge-run quantize SRC -o"),
            ("empty", "`edge-run quantize SRC -o"),
            ("hf", "this is a source"),
            ("hf/config.json", "hf -o DIR` makes"),
            ("hf/model.safetensors", "hf -o DIR` makes"),
            ("ggufs", "x.gguf -o DIR` makes"),
            ("ggufs/x.gguf", "this is an empty file: download it again"),
            ("ggufs/y.bin", "y.bin -o DIR` makes"),
            ("ggufs/z", "these are weights; `edge-run quantize` reads the folder"),
            ("ggufs/notes.txt", "this is neither a model folder nor a source"),
            ("ggufs/noise", "this is neither a model folder nor a source"),
            ("ggufs/page", "this is a web page: "),
            ("above", "there is one in it; pass"),
            ("above/model/edge-run.json", "one file of a model; pass its folder"),
            ("above/model/tokenizer.json", "one file of a model; pass its folder"),
        ];
        for (path, named) in cases {
            assert!(advice(&at(path)).contains(named), "{path}: {}", advice(&at(path)));
        }
    }
}
