//! The reference: what an unquantized model finds likely after each token of some texts, in one file.
//!
//! A row tells how far each logit of the row is below the largest one, in fixed point of [`UNITS`] a nat and 16 bits:
//! up to 64 nats, with an error of half a unit, 0.0005 nats, but that a logit which is not the largest one is never
//! stored as that. A reference may keep the `top` largest logits of each row alone, with their ids, and of all others
//! the sum of their probabilities.

use std::path::{Path, PathBuf};

use bytemuck::cast_slice;
use safetensors::Dtype;
use serde::{Deserialize, Serialize};

use super::aside::ContainerAside;
use super::container::{Container, Tensors};
use super::facts::FactsKey;
use super::hash::sha256;
use super::layout::TensorSpec;
use super::manifest::ModelSource;
use super::open_file::OpenFile;
use super::place::file_place;
use crate::error::{Error, Result};
use crate::filetype::{self, FileType};
use crate::shape::LlamaShape;

/// Version of the format of references; a reader takes this one only.
pub const REFERENCE_VERSION: u32 = 1;
/// Units of a code in a nat.
pub const UNITS: f32 = 1024.0;
/// Where the facts are.
const FACTS: FactsKey = FactsKey { key: "edge_run_reference", kind: "reference" };

const TOKENS: &str = "tokens";
const NLL: &str = "nll";
const IDS: &str = "ids";
const REST: &str = "rest";
const CODES: &str = "codes";

/// What a reference says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReferenceInfo {
    /// [`REFERENCE_VERSION`] of the writer.
    pub reference_version: u32,
    /// Where the weights came from.
    pub source: ModelSource,
    /// Dimensions and constants of the model.
    pub shape: LlamaShape,
    /// Logits of a row: V, or fewer where the file has their ids.
    pub top: u32,
    /// The texts, in the order of their rows.
    pub texts: Vec<ReferenceText>,
    /// [`tokens_sha256`] of the tokens.
    pub tokens_sha256: String,
}

/// A text of a reference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReferenceText {
    /// Its name, that of its file.
    pub name: String,
    /// Tokens of each of its windows, two or more.
    pub windows: Vec<u32>,
}

/// What a row tells of the logits after a token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ReferenceRow<'a> {
    /// How far each logit is below the largest, in [`UNITS`] a nat, `[top]`.
    pub codes: &'a [u16],
    /// The tokens that these are of, rising; `None` where they are all tokens.
    pub ids: Option<&'a [u32]>,
    /// Sum over all other tokens of exp(logit - largest logit).
    pub rest: f32,
}

/// SHA-256 of tokens as the vocabulary writes them, which two tokenizers agree in where an id means the same to both.
pub fn tokens_sha256(tokens: impl Iterator<Item = Option<String>>) -> String {
    let mut bytes = Vec::new();
    for token in tokens {
        let token = token.unwrap_or_default();
        // With its length before it, so that no two lists are the same bytes.
        bytes.extend((token.len() as u64).to_le_bytes());
        bytes.extend(token.as_bytes());
    }
    sha256(&bytes)
}

impl ReferenceInfo {
    /// Tokens of all windows, T.
    pub fn tokens(&self) -> usize {
        self.windows().sum()
    }

    /// Tokens of each window, one text after the other.
    pub fn windows(&self) -> impl Iterator<Item = usize> + '_ {
        self.texts.iter().flat_map(|text| &text.windows).map(|length| *length as usize)
    }

    /// Bytes of the file, but for its header.
    pub fn bytes(&self) -> u64 {
        self.specs().iter().map(TensorSpec::bytes).sum()
    }

    /// The tensors of the file, in their order.
    fn specs(&self) -> Vec<TensorSpec> {
        let (tokens, top) = (self.tokens(), self.top as usize);
        let spec = |name: &str, dtype, shape: &[usize]| TensorSpec { name: name.into(), dtype, shape: shape.to_vec() };
        let mut specs = vec![spec(TOKENS, Dtype::U32, &[tokens]), spec(NLL, Dtype::F32, &[tokens])];
        if !self.has_all() {
            specs.extend([spec(REST, Dtype::F32, &[tokens]), spec(IDS, Dtype::U32, &[tokens, top])]);
        }
        specs.push(spec(CODES, Dtype::U16, &[tokens, top]));
        specs
    }

    /// Whether rows have the logits of all tokens.
    fn has_all(&self) -> bool {
        self.top == self.shape.vocab
    }
}

/// A reference, mapped and checked.
#[derive(Debug)]
pub struct Reference {
    info: ReferenceInfo,
    tensors: Tensors,
}

impl Reference {
    /// Opens the reference at `path`. Fails where it is none or of another version, where a tensor is missing,
    /// superfluous or of another dtype or shape, and where a number in it cannot be.
    pub fn open(path: &Path) -> Result<Reference> {
        let container = Container::open(OpenFile::open(path)?, |_| Ok(()))?;
        let info = parse_info(path, FACTS.of(&container, path)?)?;
        let specs = info.specs();
        let tensors = container.tensors(&specs)?;
        let floats: Vec<TensorSpec> = specs.into_iter().filter(|spec| spec.dtype == Dtype::F32).collect();
        tensors.check_finite(&floats)?;
        let reference = Reference { info, tensors };
        reference.check_ids(TOKENS, reference.tokens())?;
        Ok(reference)
    }

    /// What the reference says of itself.
    pub fn info(&self) -> &ReferenceInfo {
        &self.info
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.tensors.path()
    }

    /// The tokens of all windows, `[T]`.
    pub fn tokens(&self) -> &[u32] {
        cast_slice(self.bytes(TOKENS))
    }

    /// Negative log-likelihood, in nats, of the token that follows each one in its window, `[T]`; 0 after the last one.
    pub fn nll(&self) -> &[f32] {
        cast_slice(self.bytes(NLL))
    }

    /// What follows the token of this number. Fails where that can be no row.
    pub fn row(&self, token: usize) -> Result<ReferenceRow<'_>> {
        let top = self.info.top as usize;
        let codes: &[u16] = &cast_slice(self.bytes(CODES))[token * top..][..top];
        if !codes.contains(&0) {
            let got = format!("none in row {token}");
            return Err(Error::damaged(self.path(), CODES, "a code of 0, the largest logit's", got));
        }
        if self.info.has_all() {
            return Ok(ReferenceRow { codes, ids: None, rest: 0.0 });
        }
        let ids: &[u32] = &cast_slice(self.bytes(IDS))[token * top..][..top];
        if !ids.is_sorted_by(|a, b| a < b) {
            return Err(Error::damaged(self.path(), IDS, "rising ids", format!("others in row {token}")));
        }
        self.check_ids(IDS, ids)?;
        let rest = cast_slice::<u8, f32>(self.bytes(REST))[token];
        if rest < 0.0 {
            return Err(Error::damaged(self.path(), REST, "0 or more", format!("{rest} in row {token}")));
        }
        Ok(ReferenceRow { codes, ids: Some(ids), rest })
    }

    fn check_ids(&self, name: &str, ids: &[u32]) -> Result<()> {
        let vocab = self.info.shape.vocab;
        match ids.iter().find(|id| **id >= vocab) {
            Some(id) => Err(Error::damaged(self.path(), name, format!("ids below {vocab}"), id)),
            None => Ok(()),
        }
    }

    fn bytes(&self, name: &str) -> &[u8] {
        self.tensors.bytes(name).unwrap_or_default()
    }
}

/// A reference in the making. Dropped before it is finished, it leaves nothing.
#[derive(Debug)]
pub struct ReferenceWriter {
    info: ReferenceInfo,
    file: ContainerAside,
    path: PathBuf,
    replace: bool,
}

impl ReferenceWriter {
    /// Begins a reference that will be at `path`, or where that leads to as a link. Fails where a file is there that is
    /// no reference, or is one and is not to be replaced, and where none can be written.
    pub fn create(path: &Path, info: ReferenceInfo, replace: bool) -> Result<ReferenceWriter> {
        let place = reference_place(path, replace)?;
        let facts = serde_json::to_string(&info).expect("facts have only text and numbers");
        parse_info(path, &facts)?;
        let file = ContainerAside::create((place, path), "reference", &info.specs(), (FACTS.key, facts))?;
        Ok(ReferenceWriter { info, file, path: path.to_path_buf(), replace })
    }

    /// Writes the tokens of all windows, `[T]`.
    pub fn write_tokens(&mut self, tokens: &[u32]) -> Result<()> {
        self.file.write(TOKENS, 0, cast_slice(tokens))
    }

    /// Writes rows from number `first` on.
    pub fn write_rows(&mut self, first: usize, rows: &CodedLogits) -> Result<()> {
        let (first, top) = (first as u64, u64::from(self.info.top));
        self.file.write(NLL, first * 4, cast_slice(&rows.nll))?;
        if !self.info.has_all() {
            self.file.write(REST, first * 4, cast_slice(&rows.rest))?;
            self.file.write(IDS, first * top * 4, cast_slice(&rows.ids))?;
        }
        self.file.write(CODES, first * top * 2, cast_slice(&rows.codes))
    }

    /// Puts the file at its place; its bytes. Fails where something has come to lie there meanwhile that is not to be
    /// replaced. Panics where rows were not written.
    pub fn finish(self) -> Result<u64> {
        let ReferenceWriter { file, path, replace, .. } = self;
        file.finish(|_| reference_place(&path, replace).map(drop))
    }
}

/// Rows as they are stored.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CodedLogits {
    /// [n, top]
    pub codes: Vec<u16>,
    /// [n, top] where fewer than all logits are kept.
    pub ids: Vec<u32>,
    /// `[n]` where fewer than all logits are kept.
    pub rest: Vec<f32>,
    /// `[n]`
    pub nll: Vec<f32>,
}

impl CodedLogits {
    /// Adds the row of these logits, `[V]`, of which it keeps the `top` largest; `target` is the token that follows.
    pub fn push(&mut self, logits: &[f32], top: usize, target: Option<u32>) {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let below = |id: usize| f64::from(largest) - f64::from(logits[id]);
        let sum: f64 = (0..logits.len()).map(|id| (-below(id)).exp()).sum();
        self.nll.push(target.map_or(0.0, |target| (below(target as usize) + sum.ln()) as f32));
        if top == logits.len() {
            self.codes.extend(logits.iter().map(|logit| code(largest, *logit)));
            return;
        }
        let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
        ids.select_nth_unstable_by(top, |a, b| logits[*b as usize].total_cmp(&logits[*a as usize]));
        ids.truncate(top);
        ids.sort_unstable();
        let kept: f64 = ids.iter().map(|id| (-below(*id as usize)).exp()).sum();
        self.rest.push((sum - kept).max(0.0) as f32);
        self.codes.extend(ids.iter().map(|id| code(largest, logits[*id as usize])));
        self.ids.append(&mut ids);
    }

    /// Adds the rows of `more`.
    pub fn append(&mut self, mut more: CodedLogits) {
        self.codes.append(&mut more.codes);
        self.ids.append(&mut more.ids);
        self.rest.append(&mut more.rest);
        self.nll.append(&mut more.nll);
    }
}

/// How far a logit is below the largest one.
fn code(largest: f32, logit: f32) -> u16 {
    // Casts to integers take the nearest one that there is.
    let code = ((largest - logit) * UNITS).round() as u16;
    if logit < largest { code.max(1) } else { code }
}

/// Where a reference that is written at `path` will be, links followed. Fails where a file is there that is no
/// reference, or is one and is not to be replaced, and where none can be written.
pub fn reference_place(path: &Path, replace: bool) -> Result<PathBuf> {
    let place = file_place(path)?;
    let refused = |expected: &str, got: &str| {
        let name = format!("output `{}`", path.display());
        Err(Error::argument(name, expected, got))
    };
    if !place.exists() {
        return Ok(place);
    }
    match (replace, filetype::of_file(&place)?) {
        (false, _) => refused("no file", "a file, which was not to be replaced"),
        (true, FileType::Safetensors) if FACTS.are_in(&place) => Ok(place),
        (true, _) => refused("no file or a reference", "a file that is none"),
    }
}

/// The facts in `text`, found possible and supported.
fn parse_info(path: &Path, text: &str) -> Result<ReferenceInfo> {
    /// What every version's facts have, read first because another version may have other fields.
    #[derive(Deserialize)]
    struct VersionedReference {
        reference_version: u32,
    }

    let VersionedReference { reference_version } = FACTS.parse(path, text)?;
    if reference_version != REFERENCE_VERSION {
        let what = format!("version of the reference `{}`,", path.display());
        let (got, supported) = (reference_version.to_string(), REFERENCE_VERSION.to_string());
        return Err(Error::Unsupported { what, got, supported });
    }
    let info: ReferenceInfo = FACTS.parse(path, text)?;
    if let Some((field, expected, got)) = info.shape.fault() {
        return Err(Error::damaged(path, FACTS.named(&format!("shape.{field}")), expected, got));
    }
    let (vocab, most) = (info.shape.vocab, info.shape.max_context);
    if !(1..=vocab).contains(&info.top) {
        return Err(Error::damaged(path, FACTS.named("top"), format!("1 to {vocab}"), info.top));
    }
    if info.texts.is_empty() || info.texts.iter().any(|text| text.windows.is_empty()) {
        return Err(Error::damaged(path, FACTS.named("texts"), "texts of a window or more", "none"));
    }
    if let Some(length) = info.windows().find(|length| !(2..=most as usize).contains(length)) {
        return Err(Error::damaged(path, FACTS.named("texts.windows"), format!("2 to {most} tokens"), length));
    }
    Ok(info)
}

#[cfg(test)]
#[path = "reference_tests.rs"]
mod tests;
