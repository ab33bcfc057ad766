//! A file that stays open, so that it is read as it was opened, whatever becomes of its name.

use std::fs::{self, File, Metadata};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use super::hash::sha256_of;
use crate::error::{Error, Result};

/// A file, open for reading at positions. It is the same file after another one has taken its name.
#[derive(Debug)]
pub struct OpenFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    /// Hash that its bytes ought to have, in hexadecimal.
    sha256: Option<String>,
    /// When it was written to last, as far as its bytes are known to be the right ones.
    modified: Mutex<Option<SystemTime>>,
}

impl OpenFile {
    /// Opens the file at `path`.
    pub fn open(path: &Path) -> Result<OpenFile> {
        let failed = |fault| Error::io("read", path)(fault);
        // Before it is opened, because a pipe is open only when somebody writes to it.
        check_regular(path, &fs::metadata(path).map_err(failed)?)?;
        let file = File::open(path).map_err(failed)?;
        let found = file.metadata().map_err(failed)?;
        check_regular(path, &found)?;
        let modified = Mutex::new(found.modified().ok());
        Ok(OpenFile { path: path.to_path_buf(), file, bytes: found.len(), sha256: None, modified })
    }

    /// The same, with the hash that its bytes ought to have. It is looked at only where the file is written to later.
    pub fn with_sha256(self, sha256: &str) -> OpenFile {
        OpenFile { sha256: Some(sha256.to_string()), ..self }
    }

    /// The path that it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Length in bytes, when it was opened.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The handle.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Fills `buffer` from byte `offset` of the file on.
    pub fn read_exact_at(&self, mut buffer: &mut [u8], mut offset: u64) -> std::io::Result<()> {
        while !buffer.is_empty() {
            match read_at(&self.file, buffer, offset) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(read) => {
                    buffer = &mut buffer[read..];
                    offset += read as u64;
                }
                Err(fault) if fault.kind() == ErrorKind::Interrupted => {}
                Err(fault) => return Err(fault),
            }
        }
        Ok(())
    }

    /// Fails where somebody wrote to the file after it was opened and left other bytes in it. Only then the whole file
    /// is read. A change that keeps the time of the last write cannot be told.
    pub fn check_unchanged(&self) -> Result<()> {
        let failed = |fault| Error::io("read", &self.path)(fault);
        let found = self.file.metadata().map_err(failed)?;
        if found.len() != self.bytes {
            let (expected, got) = (format!("{} bytes", self.bytes), format!("{} bytes", found.len()));
            return Err(Error::damaged(&self.path, "length", expected, got));
        }
        let now = found.modified().ok();
        let mut modified = self.modified.lock().unwrap_or_else(PoisonError::into_inner);
        if now == *modified {
            return Ok(());
        }
        let hash = sha256_of(&mut FromStart { file: self, at: 0 }).map_err(failed)?;
        match &self.sha256 {
            Some(expected) if *expected == hash => {
                *modified = now;
                Ok(())
            }
            Some(expected) => Err(Error::damaged(&self.path, "SHA-256 of the file, written to since", expected, hash)),
            None => Err(Error::damaged(&self.path, "time of the last write", "as when it was opened", "a later one")),
        }
    }
}

/// Fails for what has no bytes to map or to read at positions: a folder, a pipe, a device.
fn check_regular(path: &Path, found: &Metadata) -> Result<()> {
    if found.is_dir() {
        return Err(Error::io("read", path)(ErrorKind::IsADirectory.into()));
    }
    match found.is_file() {
        true => Ok(()),
        false => Err(Error::damaged(path, "content", "a regular file", "another kind of file")),
    }
}

/// The bytes of a file from its start on, without its cursor, which all readers of the file would share.
struct FromStart<'a> {
    file: &'a OpenFile,
    at: u64,
}

impl Read for FromStart<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = read_at(&self.file.file, buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

#[cfg(unix)]
fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, buffer, offset)
}

#[cfg(windows)]
fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, buffer, offset)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::time::Duration;

    use super::*;
    use crate::format::hash::sha256;

    /// A pipe that nobody wrote to kept its reader waiting.
    #[cfg(unix)]
    #[test]
    fn a_pipe_is_refused_and_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let fault = OpenFile::open(&pipe).unwrap_err().to_string();
        assert!(fault.contains("pipe` is damaged: content: expected a regular file"), "{fault}");
    }

    /// A file of these bytes in a folder of its own.
    fn file(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("slice-1.safetensors");
        fs::write(&path, bytes).unwrap();
        (dir, path)
    }

    /// Writes other bytes into the file that is there, surely later than before.
    fn overwrite(path: &Path, bytes: &[u8]) {
        let mut file = fs::OpenOptions::new().write(true).open(path).unwrap();
        file.write_all(bytes).unwrap();
        file.set_modified(SystemTime::now() + Duration::from_secs(60)).unwrap();
    }

    #[test]
    fn a_file_that_another_replaced_is_read_as_it_was_opened() {
        let (dir, path) = file(b"first bytes");
        let open = OpenFile::open(&path).unwrap();
        let other = dir.path().join("other");
        fs::write(&other, b"other bytes").unwrap();
        fs::rename(&other, &path).unwrap();
        let mut read = [0; 5];
        open.read_exact_at(&mut read, 0).unwrap();
        assert_eq!(&read, b"first");
        open.check_unchanged().unwrap();
        assert!(open.read_exact_at(&mut read, 7).is_err(), "beyond the end");
    }

    #[test]
    fn a_file_that_was_written_to_is_good_again_only_with_the_same_bytes() {
        let (_dir, path) = file(b"first bytes");
        let open = OpenFile::open(&path).unwrap().with_sha256(&sha256(b"first bytes"));
        let unhashed = OpenFile::open(&path).unwrap();
        overwrite(&path, b"other bytes");
        for _ in 0..2 {
            let message = open.check_unchanged().unwrap_err().to_string();
            assert!(message.contains("slice-1.safetensors") && message.contains("SHA-256"), "{message}");
        }
        assert!(unhashed.check_unchanged().is_err());
        overwrite(&path, b"first bytes");
        open.check_unchanged().unwrap();
        overwrite(&path, b"first bytes, and more");
        let message = open.check_unchanged().unwrap_err().to_string();
        assert!(message.ends_with("length: expected 11 bytes, got 21 bytes"), "{message}");
    }
}
