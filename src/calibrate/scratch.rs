//! The file in which tensors wait for their turn.
//!
//! It has no name, so that nothing of it is left, however a run ends.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::error::{Error, Result};

/// Bytes that one thread reads at once: what is in the page cache is a copy in memory, which threads share.
const PIECE: usize = 8 << 20;

/// A file without a name in the folder of another one.
pub struct Scratch {
    file: File,
    /// The file that it lies beside, for messages.
    beside: PathBuf,
    /// Where the file has been written up to.
    end: Cell<u64>,
    /// Places that nobody holds, by their lengths: what is stored has few lengths, which come again.
    free: RefCell<BTreeMap<u64, Vec<u64>>>,
}

/// A place in a [`Scratch`].
#[derive(Debug, PartialEq, Eq)]
pub struct Extent {
    at: u64,
    bytes: u64,
}

impl Scratch {
    /// An empty file in the folder of `file`, which is there. Fails where none can be made.
    pub fn beside(file: &Path) -> Result<Scratch> {
        let folder = file.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
        let made = tempfile::tempfile_in(folder).map_err(Error::io("create a scratch file beside", file))?;
        Ok(Scratch::of(made, file))
    }

    fn of(file: File, beside: &Path) -> Scratch {
        Scratch { file, beside: beside.to_path_buf(), end: Cell::new(0), free: RefCell::default() }
    }

    /// A place of so many bytes, whose content is left open.
    pub fn claim(&self, bytes: u64) -> Extent {
        if let Some(at) = self.free.borrow_mut().get_mut(&bytes).and_then(Vec::pop) {
            return Extent { at, bytes };
        }
        let at = self.end.replace(self.end.get() + bytes);
        Extent { at, bytes }
    }

    /// Takes a place back.
    pub fn release(&self, extent: Extent) {
        self.free.borrow_mut().entry(extent.bytes).or_default().push(extent.at);
    }

    /// Fills a place; panics where its length is another one. Fails where the disk is full.
    pub fn write(&self, extent: &Extent, bytes: &[u8]) -> Result<()> {
        assert_eq!(bytes.len() as u64, extent.bytes, "bytes of a place");
        let mut file = &self.file;
        let written = file.seek(SeekFrom::Start(extent.at)).and_then(|_| file.write_all(bytes));
        written.map_err(Error::io("write a scratch file beside", &self.beside))
    }

    /// Reads what a place was filled with; panics where its length is another one.
    pub fn read(&self, extent: &Extent, bytes: &mut [u8]) -> Result<()> {
        assert_eq!(bytes.len() as u64, extent.bytes, "bytes of a place");
        let (file, pieces) = (&self.file, bytes.par_chunks_mut(PIECE).enumerate());
        let read = pieces.try_for_each(|(at, piece)| read_at(file, piece, extent.at + (at * PIECE) as u64));
        read.map_err(Error::io("read a scratch file beside", &self.beside))
    }
}

/// Fills `bytes` with what the file has at a place.
#[cfg(unix)]
fn read_at(file: &File, bytes: &mut [u8], at: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, at)
}

/// Fills `bytes` with what the file has at a place.
#[cfg(windows)]
fn read_at(file: &File, bytes: &mut [u8], at: u64) -> io::Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        match std::os::windows::fs::FileExt::seek_read(file, &mut bytes[done..], at + done as u64)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => done += read,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_keep_what_they_were_filled_with_and_come_again() {
        let dir = tempfile::tempdir().unwrap();
        let scratch = Scratch::beside(&dir.path().join("a.pack")).unwrap();
        let (first, second) = (scratch.claim(3), scratch.claim(5));
        scratch.write(&second, b"later").unwrap();
        scratch.write(&first, b"now").unwrap();
        let read = |extent: &Extent| {
            let mut bytes = vec![0; extent.bytes as usize];
            scratch.read(extent, &mut bytes).unwrap();
            bytes
        };
        assert_eq!((read(&first), read(&second)), (b"now".to_vec(), b"later".to_vec()));
        let at = first.at;
        scratch.release(first);
        assert_eq!(scratch.claim(5).at, 8);
        assert_eq!(scratch.claim(3).at, at);
        assert!(std::fs::read_dir(dir.path()).unwrap().next().is_none(), "the file has a name");
    }

    #[test]
    fn what_is_longer_than_a_piece_is_read_whole() {
        let dir = tempfile::tempdir().unwrap();
        let scratch = Scratch::beside(&dir.path().join("a.pack")).unwrap();
        let long: Vec<u8> = (0..PIECE as u32 + 5).map(|at| (at % 251) as u8).collect();
        let (short, extent) = (scratch.claim(7), scratch.claim(long.len() as u64));
        scratch.write(&extent, &long).unwrap();
        scratch.write(&short, b"earlier").unwrap();
        let mut read = vec![0; long.len()];
        scratch.read(&extent, &mut read).unwrap();
        assert!(read == long);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_full_disk_is_an_error_that_names_the_file() {
        let full = File::options().read(true).write(true).open("/dev/full").unwrap();
        let scratch = Scratch::of(full, Path::new("a.pack"));
        let fault = scratch.write(&scratch.claim(3), b"now").unwrap_err().to_string();
        assert!(fault.contains("scratch file beside `a.pack`") && fault.contains("No space left"), "{fault}");
    }

    #[test]
    fn a_folder_that_is_not_there_is_an_error_that_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let fault = Scratch::beside(&dir.path().join("none/a.pack")).err().unwrap().to_string();
        assert!(fault.contains("none/a.pack"), "{fault}");
    }
}
