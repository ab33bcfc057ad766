//! The answers of a session by the tokens that the model wrote, so that a conversation keeps these where the tokenizer
//! would cut the same text otherwise, and nothing of it runs again.

use super::Session;
use crate::text::{Detokenizer, KnownPrompt, TextModel};

/// Tokens before an answer that may melt with it when its text is cut again.
const BOUNDARY_TOKENS: usize = 8;

/// The answers of a session, first to last.
#[derive(Debug, Clone, Default)]
pub(super) struct OwnAnswers {
    over: Vec<OwnAnswer>,
    /// The first token of the answer that may still go on.
    begun: Option<usize>,
    /// The last conversation, as a prompt.
    known: KnownPrompt,
}

/// An answer.
#[derive(Debug, Clone)]
struct OwnAnswer {
    /// Tokens before it.
    start: usize,
    /// Its tokens, that which ended the turn left out.
    ids: Vec<u32>,
}

impl Session {
    /// The answer is over, and all of it that ran was told.
    pub(super) fn end_answer(&mut self) {
        self.answers.end_known(self.sequence.tokens(), self.sequence.sampled(), &self.text);
    }
}

impl OwnAnswers {
    /// An answer begins after so many tokens.
    pub fn begin(&mut self, start: usize) {
        self.begun = Some(start);
    }

    /// The answer that was begun, if any was, is over: `tokens` have run, and `sampled` is to run, unless it ended the
    /// turn. Answers whose tokens are no more the session's are forgotten. Whether it has a token.
    pub fn end(&mut self, tokens: &[u32], sampled: Option<u32>) -> bool {
        let all: Vec<u32> = tokens.iter().copied().chain(sampled).collect();
        self.over.retain(|answer| answer.is_in(&all));
        let Some(start) = self.begun.take().filter(|start| *start < all.len()) else { return false };
        self.over.retain(|answer| answer.start < start);
        self.over.push(OwnAnswer { start, ids: all[start..].to_vec() });
        true
    }

    /// The answer that was begun is over, as [`OwnAnswers::end`] has it, and `last` was sampled last. The conversation
    /// then is known with the answer, so that the next turn does not have to make tokens of it.
    fn end_known(&mut self, tokens: &[u32], last: Option<u32>, text: &TextModel) {
        if !self.end(tokens, last.filter(|id| !text.is_end(*id))) {
            return;
        }
        let end = last.filter(|id| text.is_end(*id)).or(text.defaults().end.first().copied());
        if let (Some(answer), Some(end)) = (self.over.last(), end)
            && let Some(before) = tokens.get(..answer.start)
        {
            self.known.add_answer(before, &answer.ids, end, text);
        }
    }

    /// The last conversation, as a prompt.
    pub fn known(&mut self) -> &mut KnownPrompt {
        &mut self.known
    }

    /// Forgets all answers.
    pub fn clear(&mut self) {
        *self = OwnAnswers::default();
    }

    /// The range of each answer that is all there, of tokens that have run and the one that is to.
    pub fn ranges(&self, tokens: &[u32], sampled: Option<u32>) -> Vec<[u32; 2]> {
        let all: Vec<u32> = tokens.iter().copied().chain(sampled).collect();
        let there = self.over.iter().filter(|answer| answer.is_in(&all));
        there.map(|answer| [answer.start, answer.end()].map(|at| at as u32)).collect()
    }

    /// The answers in these ranges of tokens.
    pub fn of_ranges(ranges: &[[u32; 2]], tokens: &[u32], sampled: Option<u32>) -> OwnAnswers {
        let all: Vec<u32> = tokens.iter().copied().chain(sampled).collect();
        let answer = |[start, end]: &[u32; 2]| {
            let ids = all.get(*start as usize..*end as usize)?.to_vec();
            Some(OwnAnswer { start: *start as usize, ids })
        };
        OwnAnswers { over: ranges.iter().filter_map(answer).collect(), ..OwnAnswers::default() }
    }

    /// The tokens `ids` of a conversation, in which each answer whose text is the same has the model's own tokens.
    /// `tokens` have run.
    pub fn kept_in(&self, mut ids: Vec<u32>, tokens: &[u32], text: &TextModel) -> Vec<u32> {
        for answer in &self.over {
            let Some(before) = tokens.get(..answer.start) else { break };
            let own = || before.iter().chain(&answer.ids);
            let same = own().zip(&ids).take_while(|(own, id)| own == id).count();
            if same == answer.end() {
                continue;
            }
            // Where what was said before is not the same, nothing after it is.
            if same + BOUNDARY_TOKENS < answer.start {
                break;
            }
            let own: Vec<u32> = own().skip(same).copied().collect();
            let Some(length) = tokens_of_same_text(text, &ids[..same], &own, &ids[same..]) else { break };
            ids.splice(same..same + length, own);
        }
        ids
    }
}

impl OwnAnswer {
    /// Whether these tokens have it at its place.
    fn is_in(&self, tokens: &[u32]) -> bool {
        tokens.get(self.start..).is_some_and(|of| of.starts_with(&self.ids))
    }

    /// Tokens up to its end.
    fn end(&self) -> usize {
        self.start + self.ids.len()
    }
}

/// How many of `ids` have the text of `own`, after the tokens `before`: none where no number of them has, and where one
/// of them is a special token, which no message has.
fn tokens_of_same_text(text: &TextModel, before: &[u32], own: &[u32], ids: &[u32]) -> Option<usize> {
    let mut detokenizer = Detokenizer::continuing(text, before);
    let mut said: String = own.iter().map(|id| detokenizer.push(text, *id)).collect();
    said += &detokenizer.finish(text);
    let (mut left, mut detokenizer) = (said.as_str(), Detokenizer::continuing(text, before));
    for (at, id) in ids.iter().enumerate() {
        if left.is_empty() || text.is_special(*id) {
            return None;
        }
        left = left.strip_prefix(&detokenizer.push(text, *id))?;
        // What is held back may still become another text, unless nothing of the message follows.
        let held_back = detokenizer.clone().finish(text);
        let is_last = ids.get(at + 1).is_none_or(|next| text.is_special(*next));
        if left == held_back && (held_back.is_empty() || is_last) {
            return Some(at + 1);
        }
    }
    None
}

#[cfg(test)]
#[path = "own_tokens_tests.rs"]
mod tests;
