//! How faithful a model is to the unquantized one that a reference was made of.

use std::ops::ControlFlow;
use std::time::Instant;

use rayon::prelude::*;
use serde::Serialize;

use super::divergence::{Divergence, KlFigures, divergence};
use crate::error::{Error, Result};
use crate::format::{Reference, tokens_sha256};
use crate::model::{BitsRead, Sequence};
use crate::shape::LlamaShape;
use crate::text::TextModel;

/// What [`fidelity`] found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct KlReport {
    /// Mean bits asked for.
    pub bits_asked: f32,
    /// Mean bits read of each weight, over the tokens run.
    pub bits: f32,
    /// Those, and the bits of the ranges.
    pub bits_with_ranges: f32,
    /// Over all positions of all texts.
    #[serde(flatten)]
    pub all: KlFigures,
    /// Each text, in the reference's order.
    pub texts: Vec<TextKl>,
    /// Windows evaluated.
    pub windows: usize,
    /// Time, in seconds.
    pub seconds: f64,
    /// What was read, by layer and site.
    #[serde(skip)]
    pub read: BitsRead,
}

/// A text's part of a [`KlReport`].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TextKl {
    /// Its name.
    pub text: String,
    /// Over its positions.
    #[serde(flatten)]
    pub figures: KlFigures,
}

/// Fails where a model of this shape and tokenizer cannot be one that the reference was made of: names the reference's
/// file and the field.
pub fn check_reference(reference: &Reference, shape: &LlamaShape, tokenizer: &TextModel) -> Result<()> {
    let (info, field) = (reference.info(), |name: &str| format!("reference `{}`: {name}", reference.path().display()));
    let dims = |shape: &LlamaShape| {
        let LlamaShape { vocab, layers, model_dim, ffn_dim, heads, kv_heads, head_dim, .. } = *shape;
        [
            ("vocab", vocab),
            ("layers", layers),
            ("model_dim", model_dim),
            ("ffn_dim", ffn_dim),
            ("heads", heads),
            ("kv_heads", kv_heads),
            ("head_dim", head_dim),
        ]
    };
    for ((name, theirs), (_, own)) in dims(&info.shape).into_iter().zip(dims(shape)) {
        if theirs != own {
            let expected = format!("{own}, which this model has");
            return Err(Error::argument(field(&format!("shape.{name}")), expected, theirs));
        }
    }
    if let Some(length) = info.windows().find(|length| *length > shape.max_context as usize) {
        let expected = format!("at most {} tokens, which this model was trained for", shape.max_context);
        return Err(Error::argument(field("texts.windows"), expected, length));
    }
    if tokens_sha256(reference.tokens().iter().map(|id| tokenizer.token(*id))) != info.tokens_sha256 {
        let expected = "the tokens that this model's tokenizer has for these ids";
        return Err(Error::argument(field("tokens_sha256"), expected, "other tokens"));
    }
    let text = tokenizer.encode_for_windows("a text", "a")?;
    let mut tokens = reference.tokens();
    for length in info.windows() {
        let (window, rest) = tokens.split_at(length);
        if !window.starts_with(text.before()) {
            let expected = "windows that begin with the tokens which this tokenizer puts before every text";
            let got = "one without them (made by an older version: make it again by `edge-run logits`)";
            return Err(Error::argument(field("tokens"), expected, got));
        }
        tokens = rest;
    }
    Ok(())
}

/// Runs the windows of `reference` under the plan of `sequence`, and compares what the model finds likely after each
/// token with what the unquantized one does.
///
/// `on_window(done, total, mean KL so far)` may break off, and so may [`Sequence::cancel_token`], within a window too:
/// both are [`Error::Stopped`]. Fails where a window does not fit the model's context, where the reference is damaged,
/// and as [`Sequence::all_logits`] does.
pub fn fidelity(
    sequence: &mut Sequence,
    reference: &Reference,
    on_window: &mut dyn FnMut(usize, usize, f64) -> ControlFlow<()>,
) -> Result<KlReport> {
    let start = Instant::now();
    let (info, total) = (reference.info(), reference.info().windows().count());
    let (mut read, mut all) = (BitsRead::new(sequence.model().shape()), Vec::with_capacity(info.tokens()));
    for (at, length) in info.windows().enumerate() {
        let first = all.len();
        read.add(&window(sequence, reference, first..first + length, &mut all).map_err(|e| e.within("eval"))?);
        let mean = all.iter().map(|divergence: &Divergence| divergence.kl).sum::<f64>() / all.len() as f64;
        if on_window(at + 1, total, mean).is_break() {
            return Err(Error::Stopped("eval"));
        }
    }
    let mut first = 0;
    let texts = info.texts.iter().map(|text| {
        let tokens = first..first + text.windows.iter().map(|length| *length as usize).sum::<usize>();
        first = tokens.end;
        let figures = KlFigures::of(&all[tokens.clone()], text.windows.len(), sum(&reference.nll()[tokens]));
        TextKl { text: text.name.clone(), figures }
    });
    Ok(KlReport {
        texts: texts.collect(),
        all: KlFigures::of(&all, total, sum(reference.nll())),
        bits_asked: sequence.plan().bits(),
        bits: read.mean(),
        bits_with_ranges: read.mean() + sequence.model().range_bits(),
        windows: total,
        seconds: start.elapsed().as_secs_f64(),
        read,
    })
}

/// Runs the tokens of one window and adds their divergences to `all`.
fn window(
    sequence: &mut Sequence,
    reference: &Reference,
    tokens: std::ops::Range<usize>,
    all: &mut Vec<Divergence>,
) -> Result<crate::model::TokenDepths> {
    let (ids, vocab) = (&reference.tokens()[tokens.clone()], reference.info().shape.vocab as usize);
    sequence.all_logits(ids, &mut |first, logits| {
        let rows = logits.par_chunks_exact(vocab).enumerate().map(|(at, logits)| {
            let at = first + at;
            let row = reference.row(tokens.start + at)?;
            Ok(divergence(&row, logits, ids.get(at + 1).copied()))
        });
        all.append(&mut rows.collect::<Result<Vec<Divergence>>>()?);
        Ok(())
    })
}

fn sum(nll: &[f32]) -> f64 {
    nll.iter().map(|nll| f64::from(*nll)).sum()
}
