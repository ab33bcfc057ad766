//! Opens a model folder: every size, name, dtype, shape and offset is checked before a byte is used.

use std::ops::ControlFlow;
use std::path::{Component, Path, PathBuf};

use super::advice::advice;
use super::container::{Container, TensorPlace, Tensors};
use super::hash::{sha256, sha256_of_file};
use super::layout;
use super::manifest::{FileEntry, Manifest, Quantization, needed_version};
use super::mapped::MappedTensor;
use super::open_file::OpenFile;
use super::summary::FolderSummary;
use super::{
    ARCHITECTURE, CALIBRATED_VERSION, FAMILY_VERSION, FORMAT_VERSION, MANIFEST_FILE, PLAIN_VERSION, THRESHOLDS_RULE,
};
use crate::error::{Error, Result};
use crate::filetype::{self, FileType};
use crate::json;
use crate::precision::SLICES;
use crate::routing::Thresholds;
use crate::shape::LlamaShape;

/// A model folder, opened: its manifest read, its tensors mapped, all of it checked except the weights'
/// data.
#[derive(Debug)]
pub struct ModelFolder {
    dir: PathBuf,
    manifest: Manifest,
    manifest_sha256: String,
    files: Vec<Tensors>,
}

/// What [`ModelFolder::verify`] read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct VerifyReport {
    /// Files hashed.
    pub files: usize,
    /// Bytes hashed.
    pub bytes: u64,
}

impl ModelFolder {
    /// Opens the folder `dir`. Fails where there is none, where it is of another version, and where anything but the
    /// weights' data differs from what the manifest says. The routers are looked through: one that is not finite would
    /// close every gate without a word.
    ///
    /// The weights' files stay open, and all that is read of them later is of these very files: a folder that another
    /// model replaces meanwhile is read to its end as it was opened.
    pub fn open(dir: &Path) -> Result<ModelFolder> {
        let text = manifest_text(dir)?;
        let manifest = parse_manifest(&dir.join(MANIFEST_FILE), &text)?;
        for (name, entry) in &manifest.files {
            check_size(dir, name, entry)?;
        }
        let files = (0..SLICES).map(|slice| open_slice(dir, &manifest, slice)).collect::<Result<Vec<_>>>()?;
        if manifest.routing.is_some() {
            files[0].check_finite(&layout::routers(&manifest.shape))?;
        }
        check_not_replaced(dir, &text)?;
        let manifest_sha256 = sha256(text.as_bytes());
        Ok(ModelFolder { dir: dir.to_path_buf(), manifest, manifest_sha256, files })
    }

    /// Opens the folder `dir` and hashes every file of it; `on_bytes` is told the bytes done and those of all files,
    /// and may break off, which is [`Error::Stopped`].
    pub fn verify(dir: &Path, on_bytes: &mut dyn FnMut(u64, u64) -> ControlFlow<()>) -> Result<VerifyReport> {
        let folder = ModelFolder::open(dir)?;
        let files = &folder.manifest.files;
        let total = files.values().map(|entry| entry.bytes).sum();
        let mut done = 0;
        for (name, entry) in files {
            let path = dir.join(name);
            let hash = sha256_of_file(&path, &mut |piece| {
                done += piece;
                on_bytes(done, total)
            })?;
            let hash = hash.ok_or(Error::Stopped("verify"))?;
            if hash != entry.sha256 {
                return Err(Error::damaged(path, "SHA-256", &entry.sha256, hash));
            }
        }
        Ok(VerifyReport { files: files.len(), bytes: done })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// SHA-256 of the manifest's text, in hexadecimal: two folders that have the same one have the same files.
    pub fn manifest_sha256(&self) -> &str {
        &self.manifest_sha256
    }

    /// Dimensions and constants of the model.
    pub fn shape(&self) -> &LlamaShape {
        &self.manifest.shape
    }

    /// G
    pub fn group_size(&self) -> u32 {
        self.manifest.quantization.group_size
    }

    /// The table from average bits to the routers' threshold, of a model that has routers.
    pub fn thresholds(&self) -> Option<&Thresholds> {
        self.manifest.routing.as_ref()
    }

    /// Sizes and origin, for people.
    pub fn summary(&self) -> FolderSummary {
        FolderSummary::of(&self.manifest)
    }

    /// The tensor `name` of the file of `slice`, one of [`layout::file_tensors`]; panics where `slice` is no slice.
    pub fn tensor(&self, slice: usize, name: &str) -> Result<MappedTensor> {
        self.files[slice].tensor(name)
    }

    /// Where the tensor `name` of the file of `slice` lies; panics where `slice` is no slice.
    pub fn place(&self, slice: usize, name: &str) -> Result<TensorPlace> {
        self.files[slice].place(name)
    }

    /// The text of the file `name`, its hash checked; `None` where the manifest lists no such file.
    pub fn read_text(&self, name: &str) -> Result<Option<String>> {
        let Some(entry) = self.manifest.files.get(name) else { return Ok(None) };
        let path = self.dir.join(name);
        let bytes = std::fs::read(&path).map_err(Error::io("read", &path))?;
        let hash = sha256(&bytes);
        if hash != entry.sha256 {
            return Err(Error::damaged(path, "SHA-256", &entry.sha256, hash));
        }
        let text = String::from_utf8(bytes);
        text.map(Some).map_err(|fault| Error::damaged(path, "text", "UTF-8", fault.utf8_error()))
    }
}

/// The tensors of the file of `slice`; its header must have the hash that the manifest states.
fn open_slice(dir: &Path, manifest: &Manifest, slice: usize) -> Result<Tensors> {
    let name = layout::slice_file(slice);
    let path = dir.join(&name);
    let entry =
        manifest.files.get(&name).ok_or_else(|| Error::damaged(dir.join(MANIFEST_FILE), "files", &name, "none"))?;
    let file = OpenFile::open(&path)?.with_sha256(&entry.sha256);
    if file.bytes() != entry.bytes {
        let (expected, got) = (format!("{} bytes", entry.bytes), format!("{} bytes", file.bytes()));
        return Err(Error::damaged(path, "length", expected, got));
    }
    let container = Container::open(file, |header| {
        let hash = sha256(header);
        let expected = entry.header_sha256.as_deref().unwrap_or("a hash in the manifest");
        if hash == expected { Ok(()) } else { Err(Error::damaged(&path, "SHA-256 of the header", expected, hash)) }
    })?;
    let (group, routed) = (manifest.quantization.group_size, manifest.routing.is_some());
    container.tensors(&layout::file_tensors(&manifest.shape, &manifest.spec, group, routed, slice))
}

fn check_size(dir: &Path, name: &str, entry: &FileEntry) -> Result<()> {
    let path = dir.join(name);
    let expected = || format!("{} bytes", entry.bytes);
    match std::fs::metadata(&path) {
        Ok(found) if found.is_file() && found.len() == entry.bytes => Ok(()),
        Ok(found) if found.is_file() => {
            // A clone without Git LFS, or a page in the place of a file, is told better by its name than by its length.
            let leftover = match filetype::of_file(&path)? {
                left @ FileType::Leftover(_) => left.refusal(&path, &expected()),
                _ => None,
            };
            Err(leftover.unwrap_or_else(|| filetype::wrong_length(&path, entry.bytes, found.len())))
        }
        Ok(_) => Err(Error::damaged(path, "length", expected(), "no regular file")),
        Err(fault) if fault.kind() == std::io::ErrorKind::NotFound => {
            Err(Error::damaged(path, "length", expected(), "no file"))
        }
        Err(fault) => Err(Error::io("read", path)(fault)),
    }
}

/// The files were opened one after another: those of a folder that gave way meanwhile could be of two models, which may
/// have the same headers.
fn check_not_replaced(dir: &Path, manifest: &str) -> Result<()> {
    if manifest_text(dir)? == manifest {
        return Ok(());
    }
    let expected = "the same one before and after the files were opened";
    Err(Error::damaged(dir.join(MANIFEST_FILE), "manifest", expected, "another one: open the folder again"))
}

/// The manifest's text. A folder without one is no model.
fn manifest_text(dir: &Path) -> Result<String> {
    let path = dir.join(MANIFEST_FILE);
    let missing = |fault: std::io::Error| match fault.kind() {
        std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => {
            Error::ModelMissing { path: dir.to_path_buf(), advice: advice(dir) }
        }
        _ => Error::io("read", &path)(fault),
    };
    // Looked for first, as only a manifest that is not there means that there is no model.
    std::fs::metadata(&path).map_err(missing)?;
    json::read_config(&path)
}

/// The manifest in `text`, its fields found possible and supported.
fn parse_manifest(path: &Path, text: &str) -> Result<Manifest> {
    /// What every version's manifest has, read first because another version may have other fields.
    #[derive(serde::Deserialize)]
    struct VersionedManifest {
        format_version: u32,
    }

    let damaged = |fault: serde_json::Error| Error::damaged(path, "JSON", "a model's manifest", fault);
    let VersionedManifest { format_version } = serde_json::from_str(text).map_err(damaged)?;
    if ![PLAIN_VERSION, CALIBRATED_VERSION, FAMILY_VERSION, FORMAT_VERSION].contains(&format_version) {
        let (what, got) = (format!("version of the model folder of `{}`,", path.display()), format_version.to_string());
        let supported = format!(
            "{PLAIN_VERSION}, {CALIBRATED_VERSION}, {FAMILY_VERSION} and {FORMAT_VERSION}: quantize the model again"
        );
        return Err(Error::Unsupported { what, got, supported });
    }
    let manifest: Manifest = serde_json::from_str(text).map_err(damaged)?;
    let needed = needed_version(&manifest.spec, &manifest.quantization, manifest.routing.as_ref());
    if format_version < needed {
        let expected = format!("{needed} or more, for what is in the folder");
        return Err(Error::damaged(path, "format_version", expected, format_version));
    }
    let Quantization { slices, slice_bits, group_size, .. } = manifest.quantization;
    let only = Quantization::new(group_size);
    supported("architecture", &manifest.architecture, ARCHITECTURE)
        .and_then(|()| supported("number of slices", slices, only.slices))
        .and_then(|()| supported("number of bits of a slice", slice_bits, only.slice_bits))
        .map_err(Error::in_file(path))?;
    if let Some((field, expected, got)) = manifest.shape.fault() {
        return Err(Error::damaged(path, format!("shape.{field}"), expected, got));
    }
    manifest.spec.check(&manifest.shape).map_err(Error::in_file(path))?;
    if let Some((expected, got)) = layout::group_fault(&manifest.shape, group_size) {
        return Err(Error::damaged(path, "quantization.group_size", expected, got));
    }
    if let Some(fault) = manifest.routing.as_ref().and_then(Thresholds::fault) {
        return Err(Error::damaged(path, "routing", THRESHOLDS_RULE, fault));
    }
    match manifest.files.keys().find(|name| !is_plain_name(name)) {
        Some(name) => Err(Error::damaged(path, "files", "names of files in the folder", format!("`{name}`"))),
        None => Ok(manifest),
    }
}

fn supported(what: &str, got: impl ToString, supported: impl ToString) -> Result<()> {
    let (got, supported) = (got.to_string(), supported.to_string());
    if got == supported { Ok(()) } else { Err(Error::Unsupported { what: what.to_string(), got, supported }) }
}

/// Whether `name` names a file right in the folder, on every operating system: a manifest must not point out of it.
pub(super) fn is_plain_name(name: &str) -> bool {
    let one_part = matches!(Path::new(name).components().collect::<Vec<_>>()[..], [Component::Normal(_)]);
    one_part && !name.contains(['/', '\\', ':'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_gives_way_while_it_is_opened_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(MANIFEST_FILE), "first").unwrap();
        check_not_replaced(dir.path(), "first").unwrap();
        let message = check_not_replaced(dir.path(), "other").unwrap_err().to_string();
        assert!(message.contains(MANIFEST_FILE) && message.contains("open the folder again"), "{message}");
    }

    #[test]
    fn names_that_leave_the_folder_are_not_plain() {
        for name in ["", ".", "..", "../x", "/x", "a/b", "a/", "a\\b", "C:x"] {
            assert!(!is_plain_name(name), "{name:?}");
        }
        for name in ["base.safetensors", "tokenizer.json", ".hidden", "a..b"] {
            assert!(is_plain_name(name), "{name:?}");
        }
    }
}
