//! What an answer may say and what is told of its tokens: stop strings, bias, log-probabilities, constraints.

use super::{Session, Token};
use crate::constraint::{TokenConstraint, TokenMask};
use crate::error::{Error, Result};
use crate::model::{PendingLogits, SampledToken};
use crate::sampling::log_probabilities;
use crate::text::{LogitBias, StopMatcher, TextModel, Tool, ToolCallParser};

/// What was asked of a session's answers.
#[derive(Default)]
pub(super) struct Choices {
    /// Of no text yet.
    pub stops: StopMatcher,
    /// The likeliest tokens that are told of each choice; where nothing is told, none.
    pub logprobs: Option<usize>,
    pub constraint: Option<Box<dyn TokenConstraint>>,
    /// What the constraint allows next.
    mask: Option<TokenMask>,
    /// What the model may call.
    pub tools: Vec<Tool>,
}

/// A token that could be chosen.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct TokenProbability {
    /// Token id.
    pub id: u32,
    /// The token's text, with a replacement character where it is a part of a character.
    pub text: String,
    /// The natural logarithm of its probability among all tokens, as the model computes it: before bias, constraint,
    /// penalty and temperature.
    pub logprob: f32,
}

/// What the model thought of the tokens that could be chosen.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Logprobs {
    /// The logarithm of the chosen token's probability, as in [`TokenProbability::logprob`].
    pub logprob: f32,
    /// The likeliest tokens, as many as were asked for, likeliest first.
    pub top: Vec<TokenProbability>,
}

impl Choices {
    /// What a copy of a session goes on with: all but the constraint, which cannot be copied.
    pub fn fork(&self) -> Choices {
        Choices { stops: self.stops.clone(), logprobs: self.logprobs, tools: self.tools.clone(), ..Choices::default() }
    }

    /// Begins an answer.
    pub fn begin(&mut self) -> Result<()> {
        match &mut self.constraint {
            Some(constraint) => constraint.begin(),
            None => Ok(()),
        }
    }

    /// Whether answers may have any token, and nothing is told of it but its text.
    pub fn is_plain(&self) -> bool {
        self.constraint.is_none() && self.logprobs.is_none()
    }

    /// Takes a token of the answer; whether the answer is complete with it.
    pub fn accept(&mut self, id: u32) -> Result<bool> {
        let Some(constraint) = &mut self.constraint else { return Ok(false) };
        constraint.accept(id)?;
        Ok(constraint.is_complete())
    }

    /// Takes the tokens that must come next, at most so many.
    pub fn take_forced(&mut self, most: usize) -> Vec<u32> {
        self.constraint.as_mut().map_or_else(Vec::new, |constraint| constraint.take_forced(most))
    }

    /// Whether the constraint says that nothing can follow.
    pub fn is_complete(&self) -> bool {
        self.constraint.as_ref().is_some_and(|constraint| constraint.is_complete())
    }

    /// The tokens that may come next, of V = `vocab`.
    fn next_mask(&mut self, vocab: u32) -> Result<Option<&TokenMask>> {
        let Some(constraint) = &mut self.constraint else { return Ok(None) };
        let mask = self.mask.get_or_insert_with(|| TokenMask::none(vocab));
        mask.clear();
        constraint.fill(mask)?;
        if mask.is_empty() {
            return Err(Error::argument("constraint", "a token that may come next", "none"));
        }
        Ok(Some(mask))
    }
}

impl Session {
    /// Ends answers at any of these texts from the next answer on; at first at none. A stop string may begin within a
    /// token and end in another one. It is not part of the answer's text, and text that may be the beginning of one is
    /// held back until it is known not to be. Fails where one is empty.
    ///
    /// The tokens of the stop string stay in the context, as the model wrote them.
    pub fn set_stop_strings(&mut self, stops: &[impl AsRef<str>]) -> Result<()> {
        let stops: Vec<String> = stops.iter().map(|stop| stop.as_ref().to_string()).collect();
        self.choices.stops = StopMatcher::new(&stops)?;
        Ok(())
    }

    /// Sets what is added to the logits of tokens from the next token on; an empty one ends it. Fails where a token is
    /// not in the vocabulary.
    ///
    /// A token that a constraint forces is the only one that may be chosen, so that nothing added to its logit counts.
    /// An answer fails where the bias forbids all tokens that the constraint allows.
    pub fn set_logit_bias(&mut self, bias: LogitBias) -> Result<()> {
        self.sequence.set_logit_bias(bias)
    }

    /// Tells with each token of an answer, in [`Token::logprobs`], the logarithm of its probability and the `likeliest`
    /// tokens of that choice; `None`, as at first, for nothing. All logits of a choice are then read from the device.
    pub fn set_logprobs(&mut self, likeliest: Option<usize>) {
        self.choices.logprobs = likeliest;
        self.sequence.read_logits(likeliest.is_some());
    }

    /// Lets a constraint, such as a grammar's, say which tokens the answers may have, from the next answer on; `None`,
    /// as at first, for all. An answer ends with [`StopReason::Complete`](super::StopReason::Complete) where the
    /// constraint says that nothing can follow, and with the turn where it allows that. Where the context or the number
    /// of tokens ends first, the answer is the beginning of one, and its summary says so.
    pub fn set_constraint(&mut self, constraint: Option<Box<dyn TokenConstraint>>) {
        self.choices.constraint = constraint;
    }

    /// Lets the answers follow a grammar, from the next answer on; `None` for any text. Fails where the grammar takes
    /// too much to be followed.
    ///
    /// ```no_run
    /// use edge_run::{Event, Grammar, LanguageModel, Message};
    ///
    /// # fn main() -> edge_run::Result<()> {
    /// let mut session = LanguageModel::open("path/to/model")?.session()?;
    /// let schema = r#"{"type": "object", "properties": {"city": {"type": "string", "maxLength": 40}},
    ///     "required": ["city"], "additionalProperties": false}"#;
    /// session.set_grammar(Some(&Grammar::json_schema(schema)?))?;
    /// let mut json = String::new();
    /// for event in session.chat(&[Message::user("Where is the Louvre?")], Some(200))? {
    ///     if let Event::Token(token) = event? {
    ///         json += &token.text;
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "grammar")]
    pub fn set_grammar(&mut self, grammar: Option<&crate::text::Grammar>) -> Result<()> {
        let constraint = grammar.map(|grammar| self.text.constraint(grammar)).transpose()?;
        self.set_constraint(constraint.map(|constraint| Box::new(constraint) as Box<dyn TokenConstraint>));
        Ok(())
    }

    /// Sets the tools that the model may call, from the next [`Session::chat`] on; at first none. A chat then fails
    /// where the model's chat template takes no tools.
    pub fn set_tools(&mut self, tools: Vec<Tool>) {
        self.choices.tools = tools;
    }

    /// What finds calls of tools in the text of an answer; none where it is not known how the model writes them.
    ///
    /// ```no_run
    /// use edge_run::{AnswerPart, Event, LanguageModel, Message, Tool};
    ///
    /// # fn main() -> edge_run::Result<()> {
    /// let mut session = LanguageModel::open("path/to/model")?.session()?;
    /// let parameters = r#"{"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}"#;
    /// session.set_tools(vec![Tool::new("weather", "Tells the weather of a city", parameters)?]);
    /// let mut chat = vec![Message::user("Do I need an umbrella in Paris?")];
    /// let mut parser = session.tool_call_parser().expect("a model that calls tools");
    /// let mut parts = Vec::new();
    /// for event in session.chat(&chat, None)? {
    ///     match event? {
    ///         Event::Token(token) => parts.extend(parser.push(&token.text)),
    ///         Event::Done(summary) => parts.extend(parser.push(&summary.text_left)),
    ///         _ => (),
    ///     }
    /// }
    /// parts.extend(parser.finish());
    /// for part in parts {
    ///     if let AnswerPart::Call(call) = part {
    ///         let result = Message::tool_result(&call, "rain");
    ///         chat.push(Message::assistant_with_calls("", vec![call]));
    ///         chat.push(result);
    ///     }
    /// }
    /// session.chat(&chat, None)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn tool_call_parser(&self) -> Option<ToolCallParser> {
        self.text.tool_call_format().map(ToolCallParser::new)
    }

    /// Goes on with the prompt's tokens, and tells the `count` likeliest tokens that an answer could begin with,
    /// likeliest first. The session then stands after the prompt: an answer whose prompt is one of these tokens goes on
    /// from it.
    ///
    /// Fails where the prompt is empty, and as [`Session::answer`] does.
    pub fn best_next(&mut self, prompt: &[u32], count: usize) -> Result<Vec<TokenProbability>> {
        if prompt.is_empty() {
            return Err(Error::argument("prompt", "at least one token", 0));
        }
        self.answers.end(self.sequence.tokens(), self.sampled_text());
        self.advance()?;
        let run: Vec<u32> = self.sequence.sampled().iter().chain(prompt).copied().collect();
        let logits = self.sequence.next_logits(&run)?.logits;
        let (_, likeliest) = log_probabilities(&logits, 0, count);
        Ok(named(&self.text, likeliest))
    }

    /// Begins a step of a constrained answer, up to its logits.
    pub(super) fn begin_constrained(&mut self, tokens: &[u32]) -> Result<PendingLogits> {
        let logits = self.sequence.begin_logits(tokens)?;
        self.advance()?;
        Ok(logits)
    }

    /// Ends a step of a constrained answer: makes the mask, while the device computes where it does so beside the host,
    /// and chooses a token that it allows. Where steps are begun ahead, and one is wanted, the step that runs this
    /// token is begun up to its logits, before it is known whether others are forced after it.
    pub(super) fn finish_constrained(
        &mut self,
        logits: PendingLogits,
        wants_next: bool,
    ) -> Result<(SampledToken, Option<PendingLogits>)> {
        let vocab = self.model().shape().vocab;
        let mask = self.choices.next_mask(vocab)?;
        let step = self.sequence.sample(logits, mask)?;
        let begins = wants_next && self.runs_ahead;
        // One that cannot be begun is begun again once this token was told.
        let ahead = begins.then(|| self.sequence.begin_logits_after(&step).ok()).flatten();
        if ahead.is_some()
            && let Err(error) = self.advance()
        {
            self.sequence.discard(step);
            return Err(error);
        }
        Ok((self.sequence.finish(step)?, ahead))
    }

    /// What is told of a choice, where that was asked for.
    pub(super) fn logprobs(&self, sampled: &SampledToken) -> Option<Logprobs> {
        let count = self.choices.logprobs?;
        let (logprob, top) = log_probabilities(sampled.logits.as_ref()?, sampled.id, count);
        Some(Logprobs { logprob: logprob?, top: named(&self.text, top) })
    }
}

/// Tokens with their texts.
fn named(text: &TextModel, tokens: Vec<(u32, f32)>) -> Vec<TokenProbability> {
    let named = |(id, logprob)| TokenProbability { id, text: text.token_text(id), logprob };
    tokens.into_iter().map(named).collect()
}

impl Token {
    /// The token's log-probability, where it was asked for.
    pub fn logprob(&self) -> Option<f32> {
        self.logprobs.as_ref().map(|logprobs| logprobs.logprob)
    }
}
