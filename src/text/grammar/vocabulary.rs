//! A model's vocabulary as the grammar library takes it: the bytes of each token, in a tree.

use std::sync::Arc;

use llguidance::api::{GrammarWithLexer, TopLevelGrammar};
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{
    ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv,
};
use llguidance::{Matcher, ParserFactory};
use tokenizers::Tokenizer;

use super::fault::in_one_line;
use crate::text::TextModel;
use crate::text::tokenizer_file::unwinding;

/// The text of a token that no model has. Where a mask allows it, the answer may end.
const ANSWER_END: &[u8] = b"\xff<|answer_end|>";

/// Bytes of the longest token that a grammar can choose: the tree is as deep as tokens are long.
const TOKEN_BYTES: usize = 512;

/// Bytes of stack that the grammar library takes at least, and for each byte of a grammar's text at most: it goes down
/// a rule for each that it refers to, which takes 2 to 4 KiB, and a rule has some seven bytes. Longer texts get no more
/// than those of `LONGEST_CHAIN` bytes, as their rules do not all refer to the next.
const LEAST_STACK: usize = 4 << 20;
const STACK_FOR_BYTE: usize = 1 << 10;
const LONGEST_CHAIN: usize = 1 << 20;

/// Bytes of the answer that a new grammar is tried on.
const TRIED_BYTES: usize = 200;

/// The tokens of a model.
struct ModelTokens {
    trie: TokTrie,
    /// What cuts text as the model's training did, where it does so wherever the text stands: tokenizers in the way of
    /// SentencePiece treat the beginning of a text in a way of their own.
    tokenizer: Option<Arc<Tokenizer>>,
}

impl TokenizerEnv for ModelTokens {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        let cut = |text: &str| {
            let encoded = self.tokenizer.as_ref().and_then(|tokenizer| {
                unwinding(|| tokenizer.encode_fast(text, false)).and_then(|encoding| encoding.ok())
            });
            let ids = encoded.map(|encoding| encoding.get_ids().to_vec()).unwrap_or_default();
            // Not so where the text has a special token's name in it, or characters that a normalizer changes.
            let is_same = ids.iter().all(|id| (*id as usize) < self.trie.vocab_size())
                && self.trie.decode_raw(&ids) == text.as_bytes();
            if is_same { ids } else { self.trie.greedy_tokenize(text.as_bytes()) }
        };
        self.trie.tokenize_with_greedy_fallback(bytes, cut)
    }

    fn tokenize_is_canonical(&self) -> bool {
        self.tokenizer.is_some()
    }
}

/// A vocabulary that grammars are compiled over.
pub struct GrammarVocabulary(ParserFactory);

impl std::fmt::Debug for GrammarVocabulary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("GrammarVocabulary")
    }
}

impl GrammarVocabulary {
    /// The vocabulary of a model, and after its V tokens one that stands for the end of the answer. Fails, in words,
    /// where there are too many tokens.
    pub fn new(text: &TextModel) -> Result<GrammarVocabulary, String> {
        let mut words = text.token_bytes();
        for (id, bytes) in (0..).zip(&mut words) {
            // A grammar may name a special token; its mark is a byte that no text has.
            if bytes.is_empty() && text.is_special(id) {
                let name = text.token(id).unwrap_or_default();
                *bytes = [&[TokTrie::SPECIAL_TOKEN_MARKER], name.as_bytes()].concat();
            }
            if bytes.len() > TOKEN_BYTES {
                bytes.clear();
            }
        }
        words.push(ANSWER_END.to_vec());
        let info = TokRxInfo::new(words.len() as u32, text.vocab());
        let trie = unwinding(|| TokTrie::from(&info, &words)).ok_or("the vocabulary is too large for grammars")?;
        let tokens = ModelTokens { trie, tokenizer: text.writes_bytes().then(|| text.tokenizer.clone()) };
        GrammarVocabulary::over(Arc::new(tokens), &SlicedBiasComputer::general_slices())
    }

    /// A vocabulary of single bytes.
    pub fn of_bytes() -> Result<GrammarVocabulary, String> {
        GrammarVocabulary::over(ApproximateTokEnv::single_byte_env(), &[])
    }

    fn over(tokens: TokEnv, slices: &[String]) -> Result<GrammarVocabulary, String> {
        let factory = ParserFactory::new(&tokens, InferenceCapabilities::default(), slices);
        let mut factory = factory.map_err(|fault| format!("{fault:#}"))?;
        factory.quiet().limits_mut().verbose_errors = false;
        Ok(GrammarVocabulary(factory))
    }

    /// Fails, in words, where no answer can be made, as far as that shows before an answer has a choice but for space
    /// between its words: where nothing may come first or next, or where that takes too much to tell. Of a vocabulary
    /// of bytes.
    pub fn try_beginning(&self, grammar: &TopLevelGrammar) -> Result<(), String> {
        let mut matcher = self.matcher(grammar)?;
        let mut left = TRIED_BYTES;
        while left > 0 && !matcher.is_stopped() {
            // A fault here is told by the mask.
            let forced = matcher.compute_ff_bytes();
            let mask = in_words(matcher.compute_mask())?;
            if in_words(matcher.is_accepting())? {
                break;
            }
            let next = if forced.is_empty() {
                let mut words = (0..=u8::MAX).filter(|byte| !byte.is_ascii_whitespace());
                let mut allowed = || words.find(|byte| mask.is_allowed(u32::from(*byte)));
                let (Some(only), None) = (allowed(), allowed()) else { break };
                vec![only]
            } else {
                forced
            };
            // Bytes cannot tell a token that the grammar names.
            if next.contains(&TokTrie::SPECIAL_TOKEN_MARKER) {
                break;
            }
            for byte in next.into_iter().take(left) {
                in_words(matcher.consume_token(u32::from(byte)))?;
                left -= 1;
            }
        }
        Ok(())
    }

    /// A matcher of the grammar, at its beginning; or what is wrong with the grammar, in words. It is made on a thread
    /// of its own, whose stack is as large as the grammar may need.
    pub fn matcher(&self, grammar: &TopLevelGrammar) -> Result<Matcher, String> {
        let stack = LEAST_STACK + STACK_FOR_BYTE * text_bytes(grammar).min(LONGEST_CHAIN);
        let made = std::thread::scope(|scope| {
            let make = || in_words(self.0.create_parser(grammar.clone()));
            let thread = std::thread::Builder::new().stack_size(stack).spawn_scoped(scope, make);
            thread.map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        let parser = made.map_err(|fault| format!("no thread with {} MiB of stack for it: {fault}", stack >> 20))?;
        parser.map(|parser| Matcher::new(Ok(parser)))
    }
}

/// Bytes of a grammar's text.
fn text_bytes(grammar: &TopLevelGrammar) -> usize {
    let bytes = |grammar: &GrammarWithLexer| {
        let lark = grammar.lark_grammar.as_ref().map_or(0, String::len);
        lark + grammar.json_schema.as_ref().map_or(0, |schema| schema.to_string().len())
    };
    grammar.grammars.iter().map(bytes).sum()
}

/// What the library made, or why it did not, in words.
pub fn in_words<T, E: AsRef<dyn std::error::Error + Send + Sync + 'static>>(made: Result<T, E>) -> Result<T, String> {
    made.map_err(|error| {
        let error: &(dyn std::error::Error + 'static) = error.as_ref();
        in_one_line(std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string))
    })
}
