//! A saved session: the tokens of a conversation, what was said, and on request keys and values, in one file.
//!
//! It is a safetensors file. Its facts are JSON under the key `edge_run_session` of `__metadata__`. The tensor `tokens`
//! has the tokens, U32 [T]; `cells.0`, `cells.1` and so on are what the layers keep of them, U32 [heads, cells, words];
//! `sha256`, U8 [32], is the SHA-256 of the facts and of all tensors before it, in their order.

use std::path::Path;

use bytemuck::cast_slice;
use safetensors::Dtype;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::aside::ContainerAside;
use super::container::{Container, Tensors};
use super::facts::FactsKey;
use super::hash::hexadecimal;
use super::header::HEADER_BYTES_MAX;
use super::layout::TensorSpec;
use super::open_file::OpenFile;
use super::place::file_place;
use crate::error::{Error, Result};
use crate::filetype::{self, FileType};

/// Version of the format of saved sessions; a reader takes this one only.
pub const SESSION_VERSION: u32 = 1;
/// Where the facts are.
const FACTS: FactsKey = FactsKey { key: "edge_run_session", kind: "saved session" };

const TOKENS: &str = "tokens";
const HASH: &str = "sha256";
const HASH_BYTES: usize = 32;

/// What a saved session says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionFacts {
    /// [`SESSION_VERSION`] of the writer.
    pub session_version: u32,
    /// SHA-256 of the manifest of the model's folder, in hexadecimal.
    pub model_sha256: String,
    /// The model's name, for people.
    pub model_name: String,
    /// T: tokens that have run.
    pub tokens: u32,
    /// The token that was sampled last, where it has not run.
    pub sampled: Option<u32>,
    /// First token, and the one behind the last, of each answer.
    pub answers: Vec<[u32; 2]>,
    /// Where the random numbers are.
    pub draws: Option<SavedDraws>,
    /// What was said, each message as JSON; nothing where it is not known.
    pub messages: Vec<serde_json::Value>,
    /// The keys and values, where the file has them.
    pub cells: Option<SavedCells>,
}

/// Where the random numbers of a seed are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedDraws {
    /// The seed.
    pub seed: u32,
    /// Words that were taken.
    pub position: u64,
}

/// How the keys and values of a file are laid out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedCells {
    /// The type of the cache.
    pub cache_type: String,
    /// Where layers keep a window only: cells of a ring, and the longest window.
    pub ring: Option<[u32; 2]>,
    /// The position behind the last one that was ever written to the rings.
    pub end: u64,
    /// Heads, cells and words of each tensor.
    pub tensors: Vec<[u32; 3]>,
}

impl SavedCells {
    /// Bytes of the keys and values.
    pub fn bytes(&self) -> u64 {
        let bytes = |shape: &[u32; 3]| shape.iter().fold(4u64, |bytes, dim| bytes.saturating_mul(u64::from(*dim)));
        self.tensors.iter().map(bytes).fold(0, u64::saturating_add)
    }
}

impl SessionFacts {
    /// The tensors of the file, in their order.
    fn specs(&self) -> Vec<TensorSpec> {
        let spec = |name: String, dtype, shape: Vec<usize>| TensorSpec { name, dtype, shape };
        let mut specs = vec![spec(TOKENS.into(), Dtype::U32, vec![self.tokens as usize])];
        let cells = self.cells.iter().flat_map(|cells| &cells.tensors).enumerate();
        specs.extend(cells.map(|(at, shape)| spec(cell_name(at), Dtype::U32, shape.map(|dim| dim as usize).to_vec())));
        specs.push(spec(HASH.into(), Dtype::U8, vec![HASH_BYTES]));
        specs
    }
}

fn cell_name(at: usize) -> String {
    format!("cells.{at}")
}

/// A saved session, mapped and checked.
#[derive(Debug)]
pub struct SavedSession {
    facts: SessionFacts,
    tensors: Tensors,
}

impl SavedSession {
    /// Opens the saved session at `path`. Fails where it is none or of another version, where a tensor is missing,
    /// superfluous or of another dtype or shape, and where any byte of it is not what was written.
    pub fn open(path: &Path) -> Result<SavedSession> {
        let container = Container::open(OpenFile::open(path)?, |_| Ok(()))?;
        let text = FACTS.of(&container, path)?.to_string();
        let facts = parse_facts(path, &text)?;
        let specs = facts.specs();
        let tensors = container.tensors(&specs)?;
        let mut hasher = Sha256::new_with_prefix(&text);
        let (stated, data) = specs.split_last().expect("the hash is one of them");
        data.iter().for_each(|spec| hasher.update(tensors.bytes(&spec.name).unwrap_or_default()));
        let found = hexadecimal(&hasher.finalize());
        let expected = hexadecimal(tensors.bytes(&stated.name).unwrap_or_default());
        if found != expected {
            return Err(Error::damaged(path, "SHA-256", expected, found));
        }
        Ok(SavedSession { facts, tensors })
    }

    /// What the file says of itself.
    pub fn facts(&self) -> &SessionFacts {
        &self.facts
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.tensors.path()
    }

    /// The tokens, `[T]`.
    pub fn tokens(&self) -> &[u32] {
        cast_slice(self.tensors.bytes(TOKENS).unwrap_or_default())
    }

    /// The cells of tensor number `at`, [heads, cells, words] u32; nothing where there is no such tensor.
    pub fn cells(&self, at: usize) -> &[u8] {
        self.tensors.bytes(&cell_name(at)).unwrap_or_default()
    }
}

/// A saved session in the making. Dropped before it is finished, it leaves nothing.
#[derive(Debug)]
pub struct SavedSessionWriter {
    file: ContainerAside,
    hasher: Sha256,
    /// The tensor that is written, and bytes of it that are.
    at: Option<(usize, u64)>,
}

impl SavedSessionWriter {
    /// Begins the file that will be at `path`, or where that leads to as a link, with its tokens. A saved session that
    /// is there is replaced in the end. Fails where another file is there, and where none can be written.
    pub fn create(path: &Path, facts: &SessionFacts, tokens: &[u32]) -> Result<SavedSessionWriter> {
        let place = file_place(path)?;
        if place.exists() && !is_saved_session(&place) {
            let name = format!("output `{}`", path.display());
            return Err(Error::argument(name, "no file or a saved session", "a file that is none"));
        }
        let text = serde_json::to_string(facts).expect("facts have only text and numbers");
        // Quotation marks are written with a backslash in the header.
        if text.len() as u64 > HEADER_BYTES_MAX / 2 {
            return Err(Error::argument(
                "messages",
                format!("{} MB of text", HEADER_BYTES_MAX / 2_000_000),
                text.len(),
            ));
        }
        let mut file = ContainerAside::create((place, path), "session", &facts.specs(), (FACTS.key, text.clone()))?;
        file.write(TOKENS, 0, cast_slice(tokens))?;
        let mut hasher = Sha256::new_with_prefix(text);
        hasher.update(cast_slice::<u32, u8>(tokens));
        Ok(SavedSessionWriter { file, hasher, at: None })
    }

    /// Writes the next bytes of the tensor of cells number `at`. Tensors, and the bytes of each, come in order.
    pub fn write_cells(&mut self, at: usize, bytes: &[u8]) -> Result<()> {
        let offset = self.at.filter(|(last, _)| *last == at).map_or(0, |(_, written)| written);
        self.file.write(&cell_name(at), offset, bytes)?;
        self.hasher.update(bytes);
        self.at = Some((at, offset + bytes.len() as u64));
        Ok(())
    }

    /// Puts the file at its place; its bytes. Panics where cells were not written.
    pub fn finish(self) -> Result<u64> {
        let SavedSessionWriter { mut file, hasher, .. } = self;
        file.write(HASH, 0, &hasher.finalize())?;
        file.finish(|_| Ok(()))
    }
}

/// Whether the file at `path` has the facts of a saved session, of any version.
fn is_saved_session(path: &Path) -> bool {
    filetype::of_file(path).is_ok_and(|found| found == FileType::Safetensors) && FACTS.are_in(path)
}

/// The facts in `text`, found possible and supported.
fn parse_facts(path: &Path, text: &str) -> Result<SessionFacts> {
    /// What every version's facts have, read first because another version may have other fields.
    #[derive(Deserialize)]
    struct VersionedSession {
        session_version: u32,
    }

    let VersionedSession { session_version } = FACTS.parse(path, text)?;
    if session_version != SESSION_VERSION {
        let what = format!("version of the {} `{}`,", FACTS.kind, path.display());
        return Err(Error::unsupported(what, session_version, SESSION_VERSION));
    }
    let facts: SessionFacts = FACTS.parse(path, text)?;
    // The token that was sampled last may be part of an answer.
    let end = facts.tokens.saturating_add(1);
    if let Some(pair) = facts.answers.windows(2).find(|pair| pair[1][0] < pair[0][1]) {
        let expected = "ranges that follow one another";
        return Err(Error::damaged(
            path,
            FACTS.named("answers"),
            expected,
            format!("{:?} after {:?}", pair[1], pair[0]),
        ));
    }
    if let Some(answer) = facts.answers.iter().find(|[first, behind]| first > behind || *behind > end) {
        return Err(Error::damaged(
            path,
            FACTS.named("answers"),
            format!("ranges within {end}"),
            format!("{answer:?}"),
        ));
    }
    Ok(facts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> SessionFacts {
        SessionFacts {
            session_version: SESSION_VERSION,
            model_sha256: "00".into(),
            model_name: "Tiny".into(),
            tokens: 5,
            sampled: Some(7),
            answers: vec![[3, 6]],
            draws: Some(SavedDraws { seed: 1, position: 9 }),
            messages: vec![serde_json::json!({"role": "user", "content": "Hi"})],
            cells: Some(SavedCells { cache_type: "f16".into(), ring: None, end: 5, tensors: vec![[2, 5, 4]; 2] }),
        }
    }

    fn write(path: &Path, facts: &SessionFacts) -> Result<u64> {
        let mut writer = SavedSessionWriter::create(path, facts, &[1, 2, 3, 4, 5])?;
        for at in 0..2u8 {
            writer.write_cells(at.into(), &[at; 100])?;
            writer.write_cells(at.into(), &[at + 1; 60])?;
        }
        writer.finish()
    }

    #[test]
    fn what_was_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("session");
        let bytes = write(&path, &facts()).unwrap();
        assert_eq!(bytes, std::fs::metadata(&path).unwrap().len());
        let saved = SavedSession::open(&path).unwrap();
        assert_eq!((saved.facts(), saved.tokens()), (&facts(), &[1, 2, 3, 4, 5][..]));
        assert_eq!(saved.cells(1), [[1; 100].as_slice(), &[2; 60]].concat());
        assert!(saved.cells(2).is_empty());
        drop(saved);
        // It is replaced by another one, and takes the place of no other file.
        write(&path, &SessionFacts { sampled: None, ..facts() }).unwrap();
        assert_eq!(SavedSession::open(&path).unwrap().facts().sampled, None);
        std::fs::write(&path, "notes").unwrap();
        assert!(write(&path, &facts()).is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn another_version_and_impossible_facts_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("session");
        let fault = |facts: SessionFacts| {
            write(&path, &facts).unwrap();
            SavedSession::open(&path).unwrap_err().to_string()
        };
        let newer = fault(SessionFacts { session_version: 2, ..facts() });
        assert!(newer.starts_with("version of the saved session `") && newer.ends_with("supported: 1"), "{newer}");
        let outside = fault(SessionFacts { answers: vec![[2, 7]], ..facts() });
        assert!(outside.contains("metadata edge_run_session.answers"), "{outside}");
        // Each would be a copy of the same tokens.
        let overlapping = fault(SessionFacts { answers: vec![[1, 4], [3, 5]], ..facts() });
        assert!(overlapping.contains("metadata edge_run_session.answers"), "{overlapping}");
    }

    #[test]
    fn a_file_with_any_byte_changed_is_refused_or_says_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("session");
        write(&path, &facts()).unwrap();
        let sound = std::fs::read(&path).unwrap();
        for at in 0..sound.len() {
            let mut bytes = sound.clone();
            bytes[at] ^= 1 << (at % 8);
            std::fs::write(&path, &bytes).unwrap();
            let Ok(saved) = SavedSession::open(&path) else { continue };
            assert_eq!((saved.facts(), saved.tokens()), (&facts(), &[1, 2, 3, 4, 5][..]), "byte {at}");
        }
        for length in (0..sound.len()).step_by(3) {
            std::fs::write(&path, &sound[..length]).unwrap();
            let message = SavedSession::open(&path).unwrap_err().to_string();
            assert!(message.contains("session"), "{length}: {message}");
        }
    }
}
