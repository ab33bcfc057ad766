//! A model's vocabulary as the grammar library takes it: the bytes of each token, in a tree.

use std::sync::Arc;

use llguidance::api::TopLevelGrammar;
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

    /// Fails, in words, where the beginning of an answer cannot be made: where nothing may come first or next, or where
    /// that takes too much to tell. Of a vocabulary of bytes.
    pub fn try_beginning(&self, grammar: &TopLevelGrammar) -> Result<(), String> {
        let mut matcher = self.matcher(grammar)?;
        for _ in 0..TRIED_BYTES {
            // It is told with the mask if this fails.
            matcher.compute_ff_bytes();
            let mask = in_words(matcher.compute_mask())?;
            // A quote ends a text, which else goes on.
            let next = [b'"'].into_iter().chain(0..=u8::MAX).map(u32::from).find(|byte| mask.is_allowed(*byte));
            let Some(next) = next else { break };
            in_words(matcher.consume_token(next))?;
            if matcher.is_stopped() {
                break;
            }
        }
        Ok(())
    }

    /// A matcher of the grammar, at its beginning; or what is wrong with the grammar, in words.
    pub fn matcher(&self, grammar: &TopLevelGrammar) -> Result<Matcher, String> {
        in_words(self.0.create_parser(grammar.clone())).map(|parser| Matcher::new(Ok(parser)))
    }
}

/// What the library made, or why it did not, in words.
pub fn in_words<T, E: AsRef<dyn std::error::Error + Send + Sync + 'static>>(made: Result<T, E>) -> Result<T, String> {
    made.map_err(|error| {
        let error: &(dyn std::error::Error + 'static) = error.as_ref();
        in_one_line(std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string))
    })
}
