//! Tells by its first bytes what a file really holds, so that what stands in a model file's place gets its name.
//!
//! A clone without Git LFS leaves pointers, a proxy leaves pages of HTML, a stopped download leaves an empty file.
//! Other programs keep weights in formats of their own. Each of them is refused with what to do about it.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;

use crate::error::{Error, Result};

/// Bytes at the beginning of a file that are looked at.
const HEAD_BYTES: u64 = 1024;
/// Where a tar archive has its signature.
const TAR_SIGNATURE_AT: usize = 257;
/// What models are read from, for messages.
pub const READABLE: &str = "a GGUF file, or a Hugging Face folder with safetensors files";

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileType {
    /// Model weights with metadata, of any version.
    Gguf,
    /// A header in JSON, and tensors.
    Safetensors,
    /// What a transfer left in the place of a file: the file is damaged.
    Leftover(&'static str),
    /// Another format: a name, and what to do.
    Foreign(&'static str, &'static str),
    /// None of these; JSON and other text too.
    Other,
}

impl FileType {
    /// What a file of `bytes` bytes that begins with `head` is.
    pub fn of(head: &[u8], bytes: u64) -> FileType {
        use FileType::*;
        if bytes == 0 {
            return Leftover("an empty file: download it again");
        }
        if head.starts_with(b"GGUF") {
            return Gguf;
        }
        // A length of at most 100 MB in eight bytes, then an object.
        if head.len() > 8 && head[4..8] == [0; 4] && head[8] == b'{' {
            return Safetensors;
        }
        if head.iter().all(|byte| *byte == 0) {
            return Leftover("zeros: the download was not finished; download the file again");
        }
        binary(head).or_else(|| text(head)).unwrap_or(Other)
    }

    /// The error for a file that should have been `expected`, if it is something else that has a name.
    pub fn refusal(self, path: &Path, expected: &str) -> Option<Error> {
        let (got, advice) = match self {
            FileType::Leftover(what) => return Some(Error::damaged(path, "content", expected, what)),
            FileType::Foreign(name, advice) => (name, advice),
            FileType::Gguf => ("a GGUF file", "pass the GGUF file itself"),
            FileType::Safetensors => ("safetensors weights", "pass the folder that holds them and config.json"),
            FileType::Other => return None,
        };
        let what = format!("`{}`: content", path.display());
        Some(Error::Unsupported { what, got: got.into(), supported: format!("{expected}; {advice}") })
    }
}

/// Opens the file at `path` for reading from its beginning, with its length in bytes. It must be a regular file, or a
/// link to one, and of the type `wanted` or of one that has no name here; `expected` says so in messages.
pub fn open(path: &Path, wanted: FileType, expected: &str) -> Result<(File, u64)> {
    let metadata = std::fs::metadata(path).map_err(|fault| missing(path, fault))?;
    if !metadata.is_file() {
        let got = if metadata.is_dir() { "a folder" } else { "no regular file" };
        return Err(Error::damaged(path, "content", expected, got));
    }
    let mut file = File::open(path).map_err(Error::io("read", path))?;
    let mut head = Vec::new();
    let read = (&mut file).take(HEAD_BYTES).read_to_end(&mut head).and_then(|_| file.seek(SeekFrom::Start(0)));
    read.map_err(Error::io("read", path))?;
    let found = FileType::of(&head, metadata.len());
    match found.refusal(path, expected).filter(|_| found != wanted) {
        Some(refusal) => Err(refusal),
        None => Ok((file, metadata.len())),
    }
}

/// The type of the file at `path`.
pub fn of_file(path: &Path) -> Result<FileType> {
    let bytes = std::fs::metadata(path).map_err(|fault| missing(path, fault))?.len();
    let mut head = Vec::new();
    let read = File::open(path).and_then(|file| file.take(HEAD_BYTES).read_to_end(&mut head));
    read.map_err(Error::io("read", path))?;
    Ok(FileType::of(&head, bytes))
}

/// The error for a file of `got` bytes that should have `expected`.
pub fn wrong_length(path: &Path, expected: u64, got: u64) -> Error {
    let hint = if got < expected { ": the file is cut short; copy or download it again" } else { "" };
    Error::damaged(path, "length", format!("{expected} bytes"), format!("{got} bytes{hint}"))
}

/// Whether nothing has this name, not even a link to what is not there.
pub fn is_absent(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_err_and(|fault| fault.kind() == ErrorKind::NotFound)
}

/// The error for a path that cannot be looked at: of a link that leads nowhere, which files the link is at fault for.
pub fn missing(path: &Path, fault: std::io::Error) -> Error {
    match std::fs::read_link(path) {
        Ok(target) if fault.kind() == ErrorKind::NotFound => {
            let got = format!("a link to `{}`, which is not there: download it again", target.display());
            Error::damaged(path, "content", "a file", got)
        }
        _ => Error::io("read", path)(fault),
    }
}

fn binary(head: &[u8]) -> Option<FileType> {
    const PYTORCH: FileType = FileType::Foreign(
        "PyTorch weights",
        "convert them to safetensors, in Python: \
         AutoModelForCausalLM.from_pretrained(SRC).save_pretrained(DIR, safe_serialization=True)",
    );
    const ARCHIVE: &str = "unpack it and pass what is in it";
    const OLD_GGML: FileType = FileType::Foreign(
        "a GGML file from before GGUF",
        "get the model as GGUF, or convert it with llama.cpp's convert_llama_ggml_to_gguf.py",
    );
    const ADAPTER: FileType =
        FileType::Foreign("a LoRA adapter in GGML", "merge it into its base model and pass the result");
    const CONVERT: &str = "get the model in safetensors or as GGUF";
    // The old magics are numbers: files have their letters in reverse.
    let signatures: [(&[u8], FileType); 19] = [
        (b"tjgg", OLD_GGML),
        (b"lmgg", OLD_GGML),
        (b"fmgg", OLD_GGML),
        (b"ggjt", OLD_GGML),
        (b"ggml", OLD_GGML),
        (b"ggmf", OLD_GGML),
        (b"algg", ADAPTER),
        (b"ggla", ADAPTER),
        (b"MZqFpD", FileType::Foreign("a llamafile", "unpack the GGUF file that is in it, with unzip")),
        (b"\x89HDF\r\n\x1a\n", FileType::Foreign("an HDF5 file (Keras)", CONVERT)),
        (b"\x93NUMPY", FileType::Foreign("a NumPy array", CONVERT)),
        (b"\x1f\x8b", FileType::Foreign("a gzip archive", ARCHIVE)),
        (b"\x28\xb5\x2f\xfd", FileType::Foreign("a zstd archive", ARCHIVE)),
        (b"\xfd7zXZ\0", FileType::Foreign("an xz archive", ARCHIVE)),
        (b"BZh", FileType::Foreign("a bzip2 archive", ARCHIVE)),
        (b"7z\xbc\xaf\x27\x1c", FileType::Foreign("a 7-Zip archive", ARCHIVE)),
        (b"Rar!", FileType::Foreign("a RAR archive", ARCHIVE)),
        (b"%PDF", FileType::Leftover("a PDF document")),
        (b"\x80\x02", PYTORCH),
    ];
    if let Some((_, found)) = signatures.iter().find(|(signature, _)| head.starts_with(signature)) {
        return Some(*found);
    }
    if head.starts_with(b"PK\x03\x04") {
        // PyTorch writes zip archives, with the pickle of names and shapes first.
        let pickled = head.windows(8).any(|window| window == b"data.pkl");
        return Some(if pickled { PYTORCH } else { FileType::Foreign("a zip archive", ARCHIVE) });
    }
    if head.get(TAR_SIGNATURE_AT..).is_some_and(|rest| rest.starts_with(b"ustar")) {
        return Some(FileType::Foreign("a tar archive", ARCHIVE));
    }
    if head.get(4..).is_some_and(|rest| rest.starts_with(b"TFL3")) {
        return Some(FileType::Foreign("a TensorFlow Lite model", CONVERT));
    }
    // A protocol buffer: field 1, the version of ONNX, then field 2 or 3, the program that wrote it.
    let onnx = matches!(head, [8, 1..=32, 0x12 | 0x1a, ..]);
    onnx.then_some(FileType::Foreign("an ONNX model", CONVERT))
}

fn text(head: &[u8]) -> Option<FileType> {
    const POINTER: &str = "a Git LFS pointer: `git lfs pull` fetches the file itself";
    const PAGE: &str = "a web page: download the file itself, with a login or a token where the model needs one";
    const XML: &str = "an XML message of a server: download the file again";
    const NO_FILE: &str = "a server's error message: download the file itself, with a token where the model needs one";
    const SERVER_ERRORS: [&str; 7] = [
        "entry not found",
        "repository not found",
        "not found",
        "404: ",
        "404 ",
        "invalid username or password",
        "access to model",
    ];
    let text = String::from_utf8_lossy(head).to_ascii_lowercase();
    let text = text.trim_start_matches('\u{feff}').trim_start();
    let begins = |beginnings: &[&str]| beginnings.iter().any(|beginning| text.starts_with(beginning));
    if begins(&["version https://git-lfs", "version https://hawser"]) {
        return Some(FileType::Leftover(POINTER));
    }
    if begins(&["<!doctype html", "<html", "<head", "<body", "<script", "<title", "<!--"]) || text.contains("<html") {
        return Some(FileType::Leftover(PAGE));
    }
    if begins(&["<?xml", "<error"]) {
        return Some(FileType::Leftover(XML));
    }
    (begins(&SERVER_ERRORS) && head.len() < 512).then_some(FileType::Leftover(NO_FILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(head: &[u8]) -> FileType {
        FileType::of(head, head.len() as u64)
    }

    #[test]
    fn what_a_transfer_left_is_damage_and_other_formats_are_not_supported() {
        let leftovers: [(&[u8], &str); 8] = [
            (b"", "empty"),
            (&[0; 600], "zeros"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:5f\nsize 2\n", "git lfs pull"),
            (b"\n <!DOCTYPE html><html>", "web page"),
            (b"\xef\xbb\xbf<HTML>", "web page"),
            (b"<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code></Error>", "XML"),
            (b"Entry not found", "server's error"),
            (b"Invalid username or password.", "server's error"),
        ];
        for (head, named) in leftovers {
            let FileType::Leftover(what) = of(head) else { panic!("{head:?}") };
            assert!(what.contains(named), "{what}");
        }
        let foreign: [(&[u8], &str); 9] = [
            (b"tjgg\x03\0\0\0", "GGML"),
            (b"ggml", "GGML"),
            (b"PK\x03\x04\0\0\x08\x08\0\0\0\0archive/data.pkl", "PyTorch"),
            (b"PK\x03\x04\x14\0\0\0model.gguf", "zip"),
            (b"\x80\x02}q\0", "PyTorch"),
            (b"\x1f\x8b\x08", "gzip"),
            (b"\x08\x08\x12\x07pytorch", "ONNX"),
            (b"\x1c\0\0\0TFL3", "TensorFlow"),
            (b"MZqFpD='", "llamafile"),
        ];
        for (head, named) in foreign {
            let FileType::Foreign(name, advice) = of(head) else { panic!("{head:?}") };
            assert!(name.contains(named) && !advice.is_empty(), "{name}");
        }
    }

    #[test]
    fn sound_files_are_not_taken_for_others() {
        assert_eq!(of(b"GGUF\x03\0\0\0"), FileType::Gguf);
        // The length of the header begins as gzip, ONNX and a zip archive do.
        for length in [0x8b1f_u64, 0x12_0808, 0x0403_4b50 & 0x03ff_ffff] {
            assert_eq!(of(&[&length.to_le_bytes()[..], b"{\"a"].concat()), FileType::Safetensors);
        }
        for text in ["{\"version\": 404}", "{%- if messages %}", "notes", "4040"] {
            assert!(!matches!(of(text.as_bytes()), FileType::Foreign(..)), "{text}");
        }
        assert_eq!(of(b"{\"error\": 404}"), FileType::Other);
    }

    #[test]
    fn a_dangling_link_and_a_folder_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let fault = |path: &Path| open(path, FileType::Other, "JSON").unwrap_err().to_string();
        assert!(fault(dir.path()).contains("expected JSON, got a folder"));
        assert!(fault(&dir.path().join("absent")).contains("absent"));
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink("../../blobs/5f0c", dir.path().join("link")).unwrap();
            assert!(fault(&dir.path().join("link")).contains("a link to `../../blobs/5f0c`, which is not there"));
        }
    }
}
