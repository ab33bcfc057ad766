//! The logits of a source over windows of texts, into a [`Reference`](crate::format::Reference).

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

use rayon::prelude::*;

use super::pass::{self, PlainPass};
use crate::error::{Error, Result};
use crate::format::{
    CodedLogits, REFERENCE_VERSION, ReferenceInfo, ReferenceText, ReferenceWriter, check_space, follow_links,
    tokens_sha256,
};
use crate::quantize::{Source, SourceTensor};
use crate::text::TextModel;

/// Bytes of activations that are in memory at a time, unless one window has more.
pub const ACTIVATION_BYTES: u64 = 1 << 29;
/// What a block of a matrix takes while it is read and multiplied: in f32, and once more as the source has it.
pub const BLOCK_BYTES: u64 = pass::BLOCK_WEIGHTS as u64 * 8;

/// The first windows of a text, which do not overlap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReferenceWindows {
    name: String,
    /// Tokens of all windows.
    ids: Vec<u32>,
    /// Tokens of each window.
    windows: Vec<u32>,
}

/// Where a reference goes and what it keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReferenceOptions {
    /// The file to make.
    pub out: PathBuf,
    /// Logits to keep of each token, the largest ones; `None` for all.
    pub top: Option<u32>,
    /// Whether a reference that is at `out` already gives way to the new one.
    pub replace: bool,
}

/// A reference that is made.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct ReferenceReport {
    /// The file.
    pub out: PathBuf,
    /// Tokens of all windows.
    pub tokens: usize,
    /// Windows.
    pub windows: usize,
    /// Perplexity of the unquantized model over each text, by name.
    pub perplexities: Vec<(String, f64)>,
    /// Bytes of the file.
    pub bytes: u64,
    /// Time taken, in seconds.
    pub seconds: f64,
}

/// A reference that can be made: the texts and the room on the disk were found to do.
#[derive(Debug)]
pub struct ReferencePlan {
    options: ReferenceOptions,
    info: ReferenceInfo,
    ids: Vec<u32>,
    /// Windows, counted over all texts, that a pass takes at once.
    groups: Vec<usize>,
}

impl ReferenceWindows {
    /// The first `windows` windows of `window` tokens of the text (all whole ones where `None`). A text that is shorter
    /// than a window is one shorter window. Fails where the text has fewer windows, or fewer than two tokens.
    pub fn new(name: &str, ids: &[u32], window: u32, windows: Option<u32>) -> Result<ReferenceWindows> {
        let (length, whole) = (ids.len() as u64, ids.len() as u64 / u64::from(window));
        if length < 2 {
            return Err(Error::argument(format!("text `{name}`"), "two tokens or more", length));
        }
        let most = whole.max(1);
        let count = windows.map_or(most, u64::from);
        if count > most {
            let expected = format!("at most {most}, which `{name}` has of {window} tokens");
            return Err(Error::argument("windows", expected, count));
        }
        let window = length.min(u64::from(window)) as u32;
        let ids = ids[..count as usize * window as usize].to_vec();
        Ok(ReferenceWindows { name: name.to_string(), ids, windows: vec![window; count as usize] })
    }
}

impl ReferencePlan {
    /// A reference of what `source` finds likely in the windows of `texts`, whose tokens are `tokenizer`'s.
    ///
    /// Fails where there is no text, where a window is longer than the model's context, where more logits are to be
    /// kept than there are, and where the disk has no room.
    pub fn new(
        source: &dyn Source,
        tokenizer: &TextModel,
        texts: Vec<ReferenceWindows>,
        options: ReferenceOptions,
    ) -> Result<ReferencePlan> {
        let shape = source.shape();
        if texts.is_empty() {
            return Err(Error::argument("texts", "one or more", 0));
        }
        if let Some(length) = texts.iter().flat_map(|text| &text.windows).find(|length| **length > shape.max_context) {
            let expected = format!("at most {}, which this model was trained for", shape.max_context);
            return Err(Error::argument("window", expected, length));
        }
        if let Some(top) = options.top.filter(|top| !(1..=shape.vocab).contains(top)) {
            return Err(Error::argument("top", format!("1 to {}, the size of the vocabulary", shape.vocab), top));
        }
        let ids: Vec<u32> = texts.iter().flat_map(|text| text.ids.iter().copied()).collect();
        let texts = texts.into_iter().map(|ReferenceWindows { name, windows, .. }| ReferenceText { name, windows });
        let info = ReferenceInfo {
            reference_version: REFERENCE_VERSION,
            source: source.model_source().clone(),
            shape: shape.clone(),
            top: options.top.unwrap_or(shape.vocab),
            texts: texts.collect(),
            tokens_sha256: tokens_sha256(ids.iter().map(|id| tokenizer.token(*id))),
        };
        check_space(&follow_links(&options.out)?, info.bytes(), "the reference takes")?;
        let groups = groups(info.windows(), ACTIVATION_BYTES / pass::token_bytes(shape));
        Ok(ReferencePlan { options, info, ids, groups })
    }

    /// Bytes that it will write, but for a header.
    pub fn disk_bytes(&self) -> u64 {
        self.info.bytes()
    }

    /// Bytes of memory that the work takes, about: activations, a block of a matrix, and logits with their codes.
    pub fn memory_bytes(&self) -> u64 {
        let mut windows = self.info.windows();
        let tokens = self.groups.iter().map(|count| windows.by_ref().take(*count).sum::<usize>()).max().unwrap_or(0);
        tokens as u64 * pass::token_bytes(&self.info.shape) + BLOCK_BYTES + 2 * pass::LOGITS_BYTES
    }

    /// Makes it. `on_progress(done, total)` counts products of two numbers and may break off, which is
    /// [`Error::Stopped`]; then, as after any error, nothing is left behind, and a reference that was to be replaced is
    /// as it was. Fails where a file is in the way, as the source does, and where a token has no finite logits.
    pub fn write(
        self,
        source: &mut dyn Source,
        on_progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
    ) -> Result<ReferenceReport> {
        let begin = Instant::now();
        let ReferencePlan { options, info, ids, groups } = self;
        let mut writer = ReferenceWriter::create(&options.out, info.clone(), options.replace)?;
        writer.write_tokens(&ids)?;
        let lengths: Vec<usize> = info.windows().collect();
        let targets = targets(&ids, &lengths);
        let context = lengths.iter().copied().max().unwrap_or(0) as u32;
        let (products, file) = (pass::products_per_token(&info.shape), source.locate(SourceTensor::Embed).0);
        let (mut windows, mut first, mut nll) = (&lengths[..], 0, Vec::with_capacity(ids.len()));
        for count in groups {
            let (group, rest) = windows.split_at(count);
            let tokens = first..first + group.iter().sum::<usize>();
            let mut on_products =
                |done| on_progress(products * tokens.start as u64 + done, products * ids.len() as u64);
            let pass = PlainPass::new(source, group, context, &mut on_products);
            pass.run(&ids[tokens.clone()], &mut |at, logits| {
                let at = tokens.start + at;
                let rows = coded(logits, &info, &targets[at..]);
                let rows = rows.map_err(|row| no_logits(&file, at + row))?;
                nll.extend_from_slice(&rows.nll);
                writer.write_rows(at, &rows)
            })?;
            (windows, first) = (rest, tokens.end);
        }
        let bytes = writer.finish()?;
        let perplexities = perplexities(&info, &nll);
        let (tokens, windows, seconds) = (ids.len(), lengths.len(), begin.elapsed().as_secs_f64());
        Ok(ReferenceReport { out: options.out, tokens, windows, perplexities, bytes, seconds })
    }
}

/// How many windows each pass takes: as many as have `most` tokens, or one.
pub fn groups(windows: impl Iterator<Item = usize>, most: u64) -> Vec<usize> {
    let (mut groups, mut tokens) = (Vec::new(), 0);
    for length in windows {
        tokens += length as u64;
        match groups.last_mut() {
            Some(count) if tokens <= most => *count += 1,
            _ => {
                groups.push(1);
                tokens = length as u64;
            }
        }
    }
    groups
}

/// The token that follows each one in its window, if any does.
fn targets(ids: &[u32], windows: &[usize]) -> Vec<Option<u32>> {
    let mut targets: Vec<Option<u32>> = ids.iter().skip(1).map(|id| Some(*id)).chain([None]).collect();
    let mut end = 0;
    for length in windows {
        end += length;
        targets[end - 1] = None;
    }
    targets
}

/// Rows of these logits, [n, V], or the number of the first one that has no finite number at its top.
fn coded(logits: &[f32], info: &ReferenceInfo, targets: &[Option<u32>]) -> std::result::Result<CodedLogits, usize> {
    let vocab = info.shape.vocab as usize;
    let rows = logits.par_chunks_exact(vocab).zip(targets).enumerate().map(|(at, (logits, target))| {
        let sound = logits.iter().all(|logit| *logit < f32::INFINITY) && logits.iter().any(|logit| logit.is_finite());
        let mut row = CodedLogits::default();
        if sound {
            row.push(logits, info.top as usize, *target);
        }
        if sound { Ok(row) } else { Err(at) }
    });
    let mut all = CodedLogits::default();
    for row in rows.collect::<Vec<_>>() {
        all.append(row?);
    }
    Ok(all)
}

fn no_logits(file: &std::path::Path, token: usize) -> Error {
    Error::damaged(file, "weights", "weights that give finite logits", format!("none after token {token}"))
}

/// The perplexity of each text, by the negative log-likelihoods after all tokens.
fn perplexities(info: &ReferenceInfo, nll: &[f32]) -> Vec<(String, f64)> {
    let mut first = 0;
    let perplexity = |text: &ReferenceText| {
        let tokens = text.windows.iter().map(|length| *length as usize).sum::<usize>();
        let sum: f64 = nll[first..first + tokens].iter().map(|nll| f64::from(*nll)).sum();
        first += tokens;
        (text.name.clone(), (sum / (tokens - text.windows.len()) as f64).exp())
    };
    info.texts.iter().map(perplexity).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_whole_ones_or_one_shorter_one() {
        let ids: Vec<u32> = (0..10).collect();
        let windows =
            |window, count| ReferenceWindows::new("t", &ids, window, count).map(|text| (text.ids.len(), text.windows));
        assert_eq!(windows(4, None).unwrap(), (8, vec![4, 4]));
        assert_eq!(windows(4, Some(1)).unwrap(), (4, vec![4]));
        assert_eq!(windows(10, None).unwrap(), (10, vec![10]));
        assert_eq!(windows(64, None).unwrap(), (10, vec![10]));
        let refused = |window, count| windows(window, count).unwrap_err().to_string();
        assert_eq!(refused(4, Some(3)), "windows: expected at most 2, which `t` has of 4 tokens, got 3");
        assert_eq!(refused(64, Some(2)), "windows: expected at most 1, which `t` has of 64 tokens, got 2");
        let short = ReferenceWindows::new("t", &[7], 4, None).unwrap_err().to_string();
        assert_eq!(short, "text `t`: expected two tokens or more, got 1");
    }

    #[test]
    fn groups_are_as_many_windows_as_fit_or_one() {
        assert_eq!(groups([4, 4, 4, 4, 4].into_iter(), 8), [2, 2, 1]);
        assert_eq!(groups([9, 3, 9, 5, 4].into_iter(), 8), [1, 1, 1, 1, 1]);
        assert_eq!(groups([2, 3].into_iter(), 8), [2]);
    }

    #[test]
    fn a_window_s_last_token_is_followed_by_none() {
        assert_eq!(targets(&[5, 6, 7, 8, 9], &[3, 2]), [Some(6), Some(7), None, Some(9), None]);
    }
}
