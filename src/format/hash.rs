//! SHA-256 of files, read once from front to back.

use std::fs::File;
use std::io::Read;
use std::ops::ControlFlow;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// Bytes read and hashed at a time.
const PIECE_BYTES: usize = 1 << 20;

/// SHA-256 of `bytes`, in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

/// SHA-256 of a file, in hexadecimal; `None` where `on_piece`, which is told the length of each piece, broke off.
pub fn sha256_of_file(path: &Path, on_piece: &mut dyn FnMut(u64) -> ControlFlow<()>) -> Result<Option<String>> {
    digest_of_file(path, Sha256::new(), on_piece)
}

/// The same of any hash, which may have begun with other bytes.
pub fn digest_of_file(
    path: &Path,
    hasher: impl Digest,
    on_piece: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<Option<String>> {
    let mut file = File::open(path).map_err(Error::io("read", path))?;
    hash_pieces(&mut file, hasher, on_piece).map_err(Error::io("read", path))
}

/// SHA-256 of all that `reader` gives, in hexadecimal.
pub fn sha256_of(reader: &mut impl Read) -> std::io::Result<String> {
    let hash = hash_pieces(reader, Sha256::new(), &mut |_| ControlFlow::Continue(()))?;
    Ok(hash.expect("nothing broke off"))
}

fn hash_pieces(
    reader: &mut impl Read,
    mut hasher: impl Digest,
    on_piece: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> std::io::Result<Option<String>> {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let length = reader.read(&mut piece)?;
        if length == 0 {
            return Ok(Some(hexadecimal(&hasher.finalize())));
        }
        hasher.update(&piece[..length]);
        if on_piece(length as u64).is_break() {
            return Ok(None);
        }
    }
}

/// Bytes in hexadecimal.
pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standard_s_example() {
        // FIPS 180-2, appendix B.1.
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256(b"abc"), expected);
    }

    #[test]
    fn a_file_is_hashed_in_pieces_and_may_be_broken_off() {
        let bytes: Vec<u8> = (0..PIECE_BYTES * 2 + 17).map(|i| (i % 251) as u8).collect();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &bytes).unwrap();

        let mut seen = 0;
        let hash = sha256_of_file(file.path(), &mut |n| {
            seen += n;
            ControlFlow::Continue(())
        });
        assert_eq!(hash.unwrap(), Some(sha256(&bytes)));
        assert_eq!(seen, bytes.len() as u64);

        assert_eq!(sha256_of_file(file.path(), &mut |_| ControlFlow::Break(())).unwrap(), None);
    }
}
