//! Encoding in which some special tokens of a text stay text: what users write must not become a turn of its own.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, LazyLock};

use tokenizers::normalizer::Range as Of;
use tokenizers::utils::SysRegex;
use tokenizers::{
    AddedToken, Model, NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer,
    Token, Tokenizer,
};

/// The tokens that a tokenizer looks for in a text, and which of them control the model.
#[derive(Debug)]
pub(super) struct PlainText {
    tokenizer: Arc<Tokenizer>,
    added: HashMap<u32, AddedToken>,
    /// Looked for in the text as it is.
    as_written: Patterns,
    /// Their ids, in order.
    ids_as_written: Vec<u32>,
    /// Looked for in the normalized text.
    normalized: Patterns,
    /// What users must not write: the tokens that control the model, by id.
    control: HashMap<u32, String>,
    control_patterns: Patterns,
    control_edges: Edges,
}

/// Texts with their token ids. Gemma has thousands that begin with one character, so they are looked up by length.
#[derive(Debug)]
struct Patterns {
    ids: HashMap<String, u32>,
    /// How many bytes the texts that begin with a character have, the longest first.
    lengths: HashMap<char, Vec<usize>>,
    /// Whether a text begins with the byte.
    is_first: [bool; 256],
}

impl Patterns {
    fn new(texts: impl IntoIterator<Item = (String, u32)>) -> Patterns {
        let mut patterns = Patterns { ids: HashMap::new(), lengths: HashMap::new(), is_first: [false; 256] };
        for (text, id) in texts {
            let Some(first) = text.chars().next() else { continue };
            patterns.is_first[usize::from(text.as_bytes()[0])] = true;
            let lengths = patterns.lengths.entry(first).or_default();
            if let Err(at) = lengths.binary_search_by(|length| text.len().cmp(length)) {
                lengths.insert(at, text.len());
            }
            patterns.ids.insert(text, id);
        }
        patterns
    }

    /// The first place in `text`, from `at` on, where one of the texts may begin.
    fn next(&self, text: &str, at: usize) -> Option<usize> {
        text.as_bytes()[at..].iter().position(|byte| self.is_first[usize::from(*byte)]).map(|bytes| at + bytes)
    }

    /// How many bytes each of the texts has that `rest` begins with, and its id, the longest first.
    fn at<'a>(&'a self, rest: &'a str) -> impl Iterator<Item = (usize, u32)> + 'a {
        let first = rest.chars().next();
        let lengths = first.and_then(|first| self.lengths.get(&first)).into_iter().flatten();
        lengths.filter_map(|length| Some((*length, *self.ids.get(rest.get(..*length)?)?)))
    }
}

/// Texts, by their beginnings and by their ends, which other texts could complete.
#[derive(Debug)]
struct Edges {
    /// The texts in order.
    forward: Vec<Vec<u8>>,
    /// Their bytes in reverse, in order.
    backward: Vec<Vec<u8>>,
    /// Bytes of the longest of them.
    longest: usize,
}

impl Edges {
    fn new<'a>(texts: impl Iterator<Item = &'a String>) -> Edges {
        let mut forward: Vec<Vec<u8>> = texts.map(|text| text.as_bytes().to_vec()).collect();
        let mut backward: Vec<Vec<u8>> = forward.iter().map(|text| text.iter().rev().copied().collect()).collect();
        forward.sort_unstable();
        forward.dedup();
        backward.sort_unstable();
        backward.dedup();
        let longest = forward.iter().map(Vec::len).max().unwrap_or(0);
        Edges { forward, backward, longest }
    }

    /// Whether `text` begins with the end of one that is longer than that.
    fn end_begins(&self, text: &str) -> bool {
        let lengths = (1..self.longest.min(text.len() + 1)).filter(|bytes| text.is_char_boundary(*bytes));
        let mut ends = lengths.map(|bytes| text.as_bytes()[..bytes].iter().rev());
        ends.any(|end| has_longer(&self.backward, end))
    }

    /// Whether `text` ends with the beginning of one that is longer than that.
    fn beginning_ends(&self, text: &str) -> bool {
        let lengths = (1..self.longest.min(text.len() + 1)).map(|bytes| text.len() - bytes);
        let mut starts = lengths.filter(|start| text.is_char_boundary(*start));
        starts.any(|start| has_longer(&self.forward, text.as_bytes()[start..].iter()))
    }
}

/// Whether one of the texts, which are in order, begins with `beginning` and is longer.
fn has_longer<'a>(texts: &[Vec<u8>], beginning: impl Iterator<Item = &'a u8> + Clone) -> bool {
    // The first one after the beginning itself; texts that begin so come next.
    let first = texts.partition_point(|text| text.iter().le(beginning.clone()));
    texts.get(first).is_some_and(|text| text.iter().zip(beginning).all(|(a, b)| a == b))
}

/// A token found in a text: the bytes that it takes, with the space beside it where it takes that, and its own bytes.
struct FoundToken {
    id: u32,
    takes: Range<usize>,
    own: Range<usize>,
}

/// A token that stands in a text as it is written.
#[derive(Debug, PartialEq)]
pub(super) struct WrittenToken {
    pub id: u32,
    /// Bytes of the text before it.
    pub start: usize,
    /// Bytes of the text up to its end.
    pub end: usize,
    /// Whether it takes nothing of what is beside it, and is one whatever that is.
    pub stands_alone: bool,
}

impl PlainText {
    /// What is to be known of `tokenizer`. Special tokens and those that `is_control` control the model.
    pub(super) fn new(tokenizer: &Arc<Tokenizer>, is_control: impl Fn(u32) -> bool) -> PlainText {
        let added: HashMap<u32, AddedToken> = tokenizer.get_added_tokens_decoder().into_iter().collect();
        let normal = |token: &AddedToken| {
            let mut text = NormalizedString::from(token.content.as_str());
            // The tokenizer itself goes on where its normalizer fails.
            let _ = tokenizer.get_normalizer().map(|normalizer| normalizer.normalize(&mut text));
            text.get().to_string()
        };
        let texts = |normalized: bool| {
            let wanted = added.iter().filter(move |(_, token)| token.normalized == normalized);
            let normal = &normal;
            wanted.map(move |(id, token)| (if normalized { normal(token) } else { token.content.clone() }, *id))
        };
        let (as_written, normalized) = (Patterns::new(texts(false)), Patterns::new(texts(true)));
        let controls = added.iter().filter(|(id, token)| token.special || is_control(**id));
        let control: HashMap<u32, String> = controls.map(|(id, token)| (*id, token.content.clone())).collect();
        let control_patterns = Patterns::new(control.iter().map(|(id, text)| (text.clone(), *id)));
        let control_edges = Edges::new(control.values());
        let mut ids_as_written: Vec<u32> = as_written.ids.values().copied().collect();
        ids_as_written.sort_unstable();
        let tokenizer = Arc::clone(tokenizer);
        PlainText { tokenizer, added, as_written, ids_as_written, normalized, control, control_patterns, control_edges }
    }

    /// Where marks must stand in `text`, in bytes from its start, so that none of it becomes a control token: within
    /// each of these, and at ends that another text could complete.
    pub(super) fn marks(&self, text: &str) -> Vec<usize> {
        let first = |at: usize| text[at..].chars().next().map_or(0, char::len_utf8);
        let within =
            |own: Range<usize>| if first(own.start) < own.len() { own.start + first(own.start) } else { own.start };
        let mut marks = Vec::new();
        let mut from = 0;
        while let Some(at) = self.control_patterns.next(text, from) {
            marks.extend(self.control_patterns.at(&text[at..]).map(|(bytes, _)| within(at..at + bytes)));
            from = at + 1;
        }
        if self.control.keys().any(|id| self.added.get(id).is_some_and(|token| token.normalized)) {
            marks.extend(self.controls(text, &[]).into_iter().map(|(_, own)| within(own)));
        }
        let (start, end) = (text.len() - text.trim_start().len(), text.trim_end().len());
        let inner = text.trim();
        if !inner.is_empty() {
            marks.extend(self.control_edges.end_begins(inner).then_some(start));
            marks.extend(self.control_edges.beginning_ends(inner).then_some(end));
        }
        marks.sort_unstable();
        marks.dedup();
        marks
    }

    /// The control tokens of `text` that no mark is in, with the bytes that are theirs.
    pub(super) fn controls(&self, text: &str, marks: &[usize]) -> Vec<(u32, Range<usize>)> {
        let found = std::cell::RefCell::new(Vec::new());
        let keep = |id: u32, own: &Range<usize>| {
            if self.control.contains_key(&id) {
                found.borrow_mut().push((id, own.clone()));
            }
        };
        // Without a model nothing of it can fail.
        let _ = self.split(text, marks, &keep);
        let mut found = found.into_inner();
        found.sort_by_key(|(_, own)| own.start);
        found
    }

    /// Whether the token of this id is looked for in the text as it is.
    pub(super) fn is_as_written(&self, id: u32) -> bool {
        // Most ids are outside of the range of these.
        let ids = &self.ids_as_written;
        ids.first().is_some_and(|first| *first <= id)
            && ids.last().is_some_and(|last| id <= *last)
            && ids.binary_search(&id).is_ok()
    }

    /// Those of them in `text`, first to last.
    pub(super) fn find_as_written(&self, text: &str) -> Vec<WrittenToken> {
        let stands_alone = |token: &AddedToken| !token.lstrip && !token.rstrip && !token.single_word;
        let written = |found: FoundToken| WrittenToken {
            id: found.id,
            start: found.own.start,
            end: found.own.end,
            stands_alone: self.added.get(&found.id).is_some_and(stands_alone),
        };
        self.find(text, &self.as_written, &|_, _| false).into_iter().map(written).collect()
    }

    /// Token ids of `text`, in which control tokens with a mark in them stay text. Without marks, what the tokenizer
    /// itself gives, without those that it puts around every text.
    pub(super) fn encode(&self, text: &str, marks: &[usize]) -> tokenizers::Result<Vec<u32>> {
        let mut pieces = self.split(text, marks, &|_, _| ())?;
        if let Some(pre_tokenizer) = self.tokenizer.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut pieces)?;
        }
        pieces.tokenize(|piece| {
            let (start, end) = piece.offsets_original();
            let marked = marks.iter().any(|mark| (start..end).contains(mark));
            self.tokens(piece.get(), marked)
        })?;
        let pieces = pieces.get_splits(OffsetReferential::Original, OffsetType::Byte);
        Ok(pieces.iter().filter_map(|(_, _, tokens)| tokens.as_ref()).flatten().map(|token| token.id).collect())
    }

    /// The model's tokens of a piece. Some models have control tokens among the pieces that they make texts of: in a
    /// piece that is marked, these are cut in two.
    fn tokens(&self, piece: &str, marked: bool) -> tokenizers::Result<Vec<Token>> {
        let tokens = self.tokenizer.get_model().tokenize(piece)?;
        if !marked {
            return Ok(tokens);
        }
        let text_of = |token: &Token| piece.get(token.offsets.0..token.offsets.1);
        let forged = tokens
            .iter()
            .find(|token| self.control.get(&token.id).is_some_and(|control| text_of(token) == Some(control.as_str())));
        let cut = forged.and_then(|token| {
            let first = text_of(token)?.chars().next()?;
            Some(token.offsets.0 + first.len_utf8()).filter(|cut| *cut < token.offsets.1)
        });
        match cut {
            None => Ok(tokens),
            Some(cut) => Ok([self.tokens(&piece[..cut], true)?, self.tokens(&piece[cut..], true)?].concat()),
        }
    }

    /// `text` split at the tokens to look for, as `Tokenizer` does it but for marked control tokens; the rest of it
    /// normalized. `on_token` is told each token and the bytes of `text` that are its own.
    fn split(
        &self,
        text: &str,
        marks: &[usize],
        on_token: &dyn Fn(u32, &Range<usize>),
    ) -> tokenizers::Result<PreTokenizedString> {
        let mut pieces = PreTokenizedString::from(text);
        pieces.split(|_, piece| self.cut(&piece, &self.as_written, marks, on_token))?;
        pieces.split(|_, mut piece| {
            let _ = self.tokenizer.get_normalizer().map(|normalizer| normalizer.normalize(&mut piece));
            self.cut(&piece, &self.normalized, marks, on_token)
        })?;
        Ok(pieces)
    }

    /// A piece cut at the tokens of `patterns`.
    fn cut(
        &self,
        piece: &NormalizedString,
        patterns: &Patterns,
        marks: &[usize],
        on_token: &dyn Fn(u32, &Range<usize>),
    ) -> tokenizers::Result<Vec<(NormalizedString, Option<Vec<Token>>)>> {
        let slice = |range: Range<usize>| {
            piece.slice(Of::Normalized(range)).ok_or_else(|| tokenizers::Error::from("a token splits a character"))
        };
        let own = |range: &Range<usize>| {
            let (start, end) = slice(range.clone())?.offsets_original();
            Ok::<_, tokenizers::Error>(start..end)
        };
        let mut cut = Vec::new();
        let mut at = 0;
        for found in self.find(piece.get(), patterns, &|id, range| {
            self.control.contains_key(&id) && own(range).is_ok_and(|own| is_marked(piece, &own, marks))
        }) {
            if at < found.takes.start {
                cut.push((slice(at..found.takes.start)?, None));
            }
            at = found.takes.end;
            let taken = slice(found.takes)?;
            let text = taken.get().to_string();
            let end = text.len();
            on_token(found.id, &own(&found.own)?);
            cut.push((taken, Some(vec![Token::new(found.id, text, (0, end))])));
        }
        if at < piece.get().len() {
            cut.push((slice(at..piece.get().len())?, None));
        }
        Ok(cut)
    }

    /// The tokens of `patterns` in `text`, the leftmost and of these the longest, but for those that `is_text`.
    fn find(&self, text: &str, patterns: &Patterns, is_text: &dyn Fn(u32, &Range<usize>) -> bool) -> Vec<FoundToken> {
        let (mut found, mut taken, mut at) = (Vec::new(), 0, 0);
        while let Some(begin) = patterns.next(text, at) {
            let Some((bytes, id)) = patterns.at(&text[begin..]).next() else {
                at = begin + 1;
                continue;
            };
            at = begin;
            let own = at..at + bytes;
            at = own.end;
            let Some(token) = self.added.get(&id) else { continue };
            let (before, after) = (&text[..own.start], &text[own.end..]);
            if is_text(id, &own)
                || (token.single_word && (before.ends_with(is_of_words) || after.starts_with(is_of_words)))
            {
                continue;
            }
            let start = if token.lstrip { before.trim_end().len().max(taken) } else { own.start };
            let end = if token.rstrip { text.len() - after.trim_start().len() } else { own.end };
            found.push(FoundToken { id, takes: start..end, own });
            taken = end;
        }
        found
    }
}

/// Whether words have the character, as the tokenizer's expressions have it: marks and digits too.
fn is_of_words(c: char) -> bool {
    static WORD: LazyLock<SysRegex> = LazyLock::new(|| SysRegex::new(r"\w").expect("a sound expression"));
    WORD.find_iter(c.encode_utf8(&mut [0; 4])).next().is_some()
}

/// Whether a mark is within the bytes `own`, or before the only character of them.
fn is_marked(piece: &NormalizedString, own: &Range<usize>, marks: &[usize]) -> bool {
    let (shift, _) = piece.offsets_original();
    let text = piece.get_original().get(own.start - shift..own.end - shift).unwrap_or_default();
    let single = text.chars().nth(1).is_none();
    marks.iter().any(|mark| (own.start < *mark && *mark < own.end) || (single && *mark == own.start))
}

#[cfg(test)]
mod tests;

#[cfg(test)]
pub(crate) use tests::tokenizers as test_tokenizers;
