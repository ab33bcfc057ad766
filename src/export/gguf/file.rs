//! A GGUF file in the making: key-value pairs, the list of tensors, and their data, in this order.

use std::fs::{self, File, TryLockError};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::filetype::{self, FileType};
use crate::format::{file_place, sync_dir};

/// What the data of every tensor begins at a multiple of.
const ALIGNMENT: u64 = 32;
const MAGIC: &[u8; 4] = b"GGUF";
const VERSION: u32 = 3;

/// Numbers of the types of values.
mod kind {
    pub const U32: u32 = 4;
    pub const I32: u32 = 5;
    pub const F32: u32 = 6;
    pub const BOOL: u32 = 7;
    pub const TEXT: u32 = 8;
    pub const LIST: u32 = 9;
}

/// Key-value pairs, as they lie in the file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MetadataWriter {
    bytes: Vec<u8>,
    count: u64,
}

impl MetadataWriter {
    /// A number.
    pub fn u32(&mut self, key: &str, value: u32) {
        self.key(key, kind::U32);
        self.bytes.extend(value.to_le_bytes());
    }

    /// A number.
    pub fn f32(&mut self, key: &str, value: f32) {
        self.key(key, kind::F32);
        self.bytes.extend(value.to_le_bytes());
    }

    /// A truth value.
    pub fn truth(&mut self, key: &str, value: bool) {
        self.key(key, kind::BOOL);
        self.bytes.push(value.into());
    }

    /// A text.
    pub fn text(&mut self, key: &str, value: &str) {
        self.key(key, kind::TEXT);
        text(&mut self.bytes, value);
    }

    /// A list of texts.
    pub fn texts<T: AsRef<str>>(&mut self, key: &str, values: &[T]) {
        self.list(key, kind::TEXT, values.len());
        values.iter().for_each(|value| text(&mut self.bytes, value.as_ref()));
    }

    /// A list of numbers.
    pub fn i32s(&mut self, key: &str, values: &[i32]) {
        self.list(key, kind::I32, values.len());
        self.bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    }

    /// A list of numbers.
    pub fn f32s(&mut self, key: &str, values: &[f32]) {
        self.list(key, kind::F32, values.len());
        self.bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    }

    /// Adds all pairs of another.
    pub fn append(&mut self, other: MetadataWriter) {
        self.bytes.extend(other.bytes);
        self.count += other.count;
    }

    fn key(&mut self, key: &str, kind: u32) {
        text(&mut self.bytes, key);
        self.bytes.extend(kind.to_le_bytes());
        self.count += 1;
    }

    fn list(&mut self, key: &str, kind: u32, length: usize) {
        self.key(key, kind::LIST);
        self.bytes.extend(kind.to_le_bytes());
        self.bytes.extend((length as u64).to_le_bytes());
    }
}

/// A tensor of the list.
#[derive(Debug, Clone, PartialEq)]
pub struct ListedTensor<'a> {
    /// Name in the file.
    pub name: &'a str,
    /// Dimensions, slowest first.
    pub dims: &'a [usize],
    /// Number of its type in ggml.
    pub dtype: u32,
    /// Bytes of its data.
    pub bytes: u64,
}

/// A file that is written beside its place.
#[derive(Debug)]
pub struct GgufWriter {
    partial: PartialFile,
    file: BufWriter<File>,
    at: u64,
}

impl GgufWriter {
    /// Begins the file that will appear at `path`, with `replace` in place of another GGUF file. Fails where it could
    /// not be written and where another run is writing it.
    pub fn create(
        path: &Path,
        replace: bool,
        metadata: &MetadataWriter,
        tensors: &[ListedTensor<'_>],
    ) -> Result<GgufWriter> {
        let partial = PartialFile::claim(path, replace)?;
        let mut header = MAGIC.to_vec();
        header.extend(VERSION.to_le_bytes());
        header.extend((tensors.len() as u64).to_le_bytes());
        header.extend(metadata.count.to_le_bytes());
        header.extend(&metadata.bytes);
        let mut offset = 0u64;
        for tensor in tensors {
            text(&mut header, tensor.name);
            header.extend((tensor.dims.len() as u32).to_le_bytes());
            // The fastest dimension goes first.
            header.extend(tensor.dims.iter().rev().flat_map(|dim| (*dim as u64).to_le_bytes()));
            header.extend(tensor.dtype.to_le_bytes());
            header.extend(offset.to_le_bytes());
            offset = (offset + tensor.bytes).next_multiple_of(ALIGNMENT);
        }
        let file = partial.file.try_clone().map_err(Error::io("write", &partial.path))?;
        let mut writer = GgufWriter { partial, file: BufWriter::new(file), at: 0 };
        writer.write(&header)?;
        writer.pad()?;
        Ok(writer)
    }

    /// Appends data of the tensor at hand.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.at += bytes.len() as u64;
        self.file.write_all(bytes).map_err(Error::io("write", &self.partial.path))
    }

    /// Ends the tensor at hand.
    pub fn pad(&mut self) -> Result<()> {
        let padding = self.at.next_multiple_of(ALIGNMENT) - self.at;
        self.write(&vec![0; padding as usize])
    }

    /// Moves the file to its place; its length.
    pub fn finish(mut self) -> Result<u64> {
        self.file.flush().map_err(Error::io("write", &self.partial.path))?;
        self.partial.fill()?;
        Ok(self.at)
    }
}

/// The file beside the place, locked while it is written and removed when dropped.
#[derive(Debug)]
struct PartialFile {
    path: PathBuf,
    place: PathBuf,
    shown: PathBuf,
    file: File,
    replace: bool,
    moved: bool,
}

impl PartialFile {
    fn claim(shown: &Path, replace: bool) -> Result<PartialFile> {
        let place = file_place(shown)?;
        check_free(shown, &place, replace)?;
        let name = place.file_name().unwrap_or_default().to_string_lossy();
        let path = place.with_file_name(format!(".{name}.partial"));
        if !is_left_over(&path) {
            let got = format!("`{}`, which is in the way and no run's; move it away", path.display());
            return Err(refused(shown, "a place that no other file is beside under that name", &got));
        }
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(Error::io("create", &path))?;
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            let expected = "a place that no other run is writing to";
            return Err(refused(shown, expected, "one that another run is writing to"));
        }
        // What a killed run left.
        file.set_len(0).map_err(Error::io("write", &path))?;
        Ok(PartialFile { path, place, shown: shown.to_path_buf(), file, replace, moved: false })
    }

    fn fill(&mut self) -> Result<()> {
        self.file.sync_all().map_err(Error::io("write", &self.path))?;
        // Somebody may have put a file there meanwhile.
        check_free(&self.shown, &self.place, self.replace)?;
        fs::rename(&self.path, &self.place).map_err(Error::io("create", &self.place))?;
        self.moved = true;
        self.place.parent().into_iter().for_each(sync_dir);
        Ok(())
    }
}

impl Drop for PartialFile {
    fn drop(&mut self) {
        if !self.moved {
            // What cannot be removed is written over by the next run.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Whether nothing is at `path`, or a file that a run left: an empty one, or the beginning of a GGUF file.
fn is_left_over(path: &Path) -> bool {
    match fs::symlink_metadata(path) {
        Err(fault) => fault.kind() == std::io::ErrorKind::NotFound,
        Ok(found) if !found.is_file() => false,
        Ok(found) => found.len() == 0 || filetype::of_file(path).is_ok_and(|kind| kind == FileType::Gguf),
    }
}

/// Fails where a file is at the place that is not to be replaced, or is none that an export writes.
fn check_free(shown: &Path, place: &Path, replace: bool) -> Result<()> {
    if fs::symlink_metadata(place).is_err() {
        return Ok(());
    }
    match (replace, filetype::of_file(place)?) {
        (false, _) => Err(refused(shown, "no file", "a file, which was not to be replaced")),
        (true, FileType::Gguf) => Ok(()),
        (true, _) => Err(refused(shown, "no file or a GGUF file", "another file")),
    }
}

fn refused(path: &Path, expected: &str, got: &str) -> Error {
    Error::argument(format!("output `{}`", path.display()), expected, got)
}

fn text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_run_left_is_neither_followed_nor_written_over() {
        let dir = tempfile::tempdir().unwrap();
        let (out, partial) = (dir.path().join("m.gguf"), dir.path().join(".m.gguf.partial"));
        fs::write(&partial, "mine").unwrap();
        let fault = PartialFile::claim(&out, false).unwrap_err().to_string();
        assert!(fault.contains("in the way"), "{fault}");
        assert_eq!(fs::read_to_string(&partial).unwrap(), "mine");

        // What a killed run left begins as such a file does.
        fs::write(&partial, "GGUF\x03\0\0\0").unwrap();
        drop(PartialFile::claim(&out, false).unwrap());
        assert!(!partial.exists());
    }

    #[cfg(unix)]
    #[test]
    fn a_link_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let victim = dir.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, dir.path().join(".m.gguf.partial")).unwrap();
        assert!(PartialFile::claim(&dir.path().join("m.gguf"), false).is_err());
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    }
}
