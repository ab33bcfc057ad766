//! Zero-shot tasks by log-likelihood, tokenized and scored in the way of EleutherAI's lm-evaluation-harness.

use std::ops::ControlFlow;
use std::time::Instant;

use serde::Serialize;

use super::task_file::{Examples, TaskFile};
use crate::error::{Error, Result};
use crate::model::{BitsRead, Sequence};
use crate::text::TextModel;

/// A task's examples as tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    examples: Vec<Example>,
    is_choice: bool,
    longest: usize,
    truncated: usize,
}

/// An example: the candidates to score, one where there is nothing to choose from.
#[derive(Debug, Clone, PartialEq)]
struct Example {
    candidates: Vec<TaskCandidate>,
    gold: usize,
}

/// A context and what may follow it.
#[derive(Debug, Clone, PartialEq)]
struct TaskCandidate {
    ids: Vec<u32>,
    /// How many of the ids, from the end, belong to what follows.
    scored: usize,
    /// Characters of what follows, as the file has it.
    chars: usize,
}

/// What [`zero_shot`] found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TaskReport {
    /// Examples scored.
    pub examples: usize,
    /// Examples of which the beginning was cut off, for the context to hold them.
    pub truncated: usize,
    /// Share of examples that were right. Of continuations: every token was the likeliest one. Of choices: the right
    /// one was the likeliest.
    pub acc: f64,
    /// Standard error of `acc`, by the sample's variance; none of one example.
    pub acc_stderr: Option<f64>,
    /// What is told of one kind of task only.
    #[serde(flatten)]
    pub figures: Figures,
    /// Mean bits asked for.
    pub bits_asked: f32,
    /// Mean bits read of each weight, over the tokens run, those of contexts among them.
    pub bits: f32,
    /// Those, and the bits of the ranges.
    pub bits_with_ranges: f32,
    /// Tokens run.
    pub tokens: usize,
    /// Time, in seconds.
    pub seconds: f64,
    /// What was read, by layer and site.
    #[serde(skip)]
    pub read: BitsRead,
}

/// What is told of one kind of task only.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Figures {
    /// Of continuations.
    Continuations {
        /// Mean negative log-likelihood of a whole continuation, in nats.
        mean_nll: f64,
        /// exp of `mean_nll`.
        perplexity: f64,
    },
    /// Of choices.
    Choices {
        /// Share of examples of which the right choice had the highest log-likelihood over its length in bytes.
        acc_norm: f64,
        /// Standard error of `acc_norm`.
        acc_norm_stderr: Option<f64>,
    },
}

impl Task {
    /// The tokens of `file`, for a model whose context holds `context` tokens.
    ///
    /// Context and continuation are tokenized as one string, the context also alone, with the special tokens that the
    /// tokenizer puts around every text (a BOS, for models that have one); the tokens beyond as many as the context's
    /// are the continuation's. Spaces at the end of a context go to the continuation before. A query and its choice are
    /// joined by one space. A context without a token gets the model's BOS, else its end token. What the model's
    /// context does not hold is cut off at the left.
    ///
    /// Fails, naming the line, where a continuation has no token of its own or does not fit the context, and where a
    /// context has no token and the model none to put in its place.
    pub fn encode(file: &TaskFile, text: &TextModel, context: usize) -> Result<Task> {
        let mut task = Task { examples: Vec::new(), is_choice: false, longest: 0, truncated: 0 };
        let encoder = Encoder { file, text, context };
        match &file.examples {
            Examples::Continuations(examples) => {
                for (line, example) in examples {
                    let place = (*line, "continuation");
                    let candidate = encoder.candidate(place, &example.context, &example.continuation)?;
                    task.add(vec![candidate], 0);
                }
            }
            Examples::Choices(examples) => {
                task.is_choice = true;
                for (line, example) in examples {
                    let candidate = |choice: &String| {
                        let (candidate, cut) =
                            encoder.candidate((*line, "choices"), &example.query, &format!(" {choice}"))?;
                        Ok((TaskCandidate { chars: choice.chars().count(), ..candidate }, cut))
                    };
                    let candidates = example.choices.iter().map(candidate).collect::<Result<_>>()?;
                    task.add(candidates, example.gold);
                }
            }
        }
        Ok(task)
    }

    /// Number of examples.
    pub fn examples(&self) -> usize {
        self.examples.len()
    }

    /// Tokens of the longest candidate, its context among them.
    pub fn longest(&self) -> usize {
        self.longest
    }

    /// Adds an example of candidates that were cut or not.
    fn add(&mut self, candidates: Vec<(TaskCandidate, bool)>, gold: usize) {
        self.truncated += usize::from(candidates.iter().any(|(_, cut)| *cut));
        let candidates: Vec<TaskCandidate> = candidates.into_iter().map(|(candidate, _)| candidate).collect();
        self.longest = candidates.iter().map(|candidate| candidate.ids.len()).fold(self.longest, usize::max);
        self.examples.push(Example { candidates, gold });
    }
}

/// What is needed to make tokens of examples.
struct Encoder<'a> {
    file: &'a TaskFile,
    text: &'a TextModel,
    context: usize,
}

impl Encoder<'_> {
    /// The tokens, and whether some were cut off.
    fn candidate(&self, place: (usize, &str), context: &str, continuation: &str) -> Result<(TaskCandidate, bool)> {
        let bare = context.trim_end();
        let mut ids = self.text.encode(&format!("{context}{continuation}"), true)?;
        let mut before = self.text.encode(bare, true)?.len();
        if before == 0 {
            let defaults = self.text.defaults();
            let Some(first) = defaults.bos.or(defaults.end.first().copied()) else {
                return Err(self.fault(place, "some text before it, because this model has no BOS", "none"));
            };
            ids.insert(0, first);
            before = 1;
        }
        let scored = ids.len().saturating_sub(before);
        if scored == 0 {
            return Err(self.fault(place, "text that adds tokens to those before it", "none"));
        }
        if scored >= self.context {
            let most = format!("fewer tokens than the model's context of {}", self.context);
            return Err(self.fault(place, &most, scored));
        }
        let cut = ids.len().saturating_sub(self.context);
        ids.drain(..cut);
        Ok((TaskCandidate { ids, scored, chars: continuation.chars().count() }, cut > 0))
    }

    fn fault(&self, (line, field): (usize, &str), expected: &str, got: impl ToString) -> Error {
        Error::damaged(&self.file.path, format!("line {line}, field `{field}`"), expected, got)
    }
}

/// Scores the examples of `task` under the plan of `sequence`.
///
/// `on_example(done, total, accuracy so far)` may break off, and so may [`Sequence::cancel_token`], within an
/// example too: both are [`Error::Stopped`]. Fails as
/// [`Sequence::token_nll`] does, where the model's context is shorter than [`Task::longest`] too. Panics without
/// examples.
pub fn zero_shot(
    sequence: &mut Sequence,
    task: &Task,
    on_example: &mut dyn FnMut(usize, usize, f64) -> ControlFlow<()>,
) -> Result<TaskReport> {
    assert!(!task.examples.is_empty(), "a task has examples");
    let start = Instant::now();
    let (mut tally, mut read) = (Tally::default(), BitsRead::new(sequence.model().shape()));
    for example in &task.examples {
        let mut scores = Vec::with_capacity(example.candidates.len());
        for candidate in &example.candidates {
            let all = sequence.token_nll(&candidate.ids).map_err(|e| e.within("eval"))?;
            read.add(&all.depths);
            let first = all.nll.len() - candidate.scored;
            let nll = all.nll[first..].iter().map(|nll| f64::from(*nll)).sum();
            let greedy = all.top[first..].iter().all(|top| *top);
            scores.push(Score { nll, greedy, chars: candidate.chars });
        }
        tally.add(task.is_choice, &scores, example.gold);
        if on_example(tally.examples, task.examples.len(), tally.acc()).is_break() {
            return Err(Error::Stopped("eval"));
        }
    }
    let (examples, mean_nll) = (tally.examples, tally.nll / tally.examples as f64);
    let acc_norm = tally.right_norm as f64 / examples as f64;
    let figures = if task.is_choice {
        Figures::Choices { acc_norm, acc_norm_stderr: stderr(acc_norm, examples) }
    } else {
        Figures::Continuations { mean_nll, perplexity: mean_nll.exp() }
    };
    Ok(TaskReport {
        examples,
        truncated: task.truncated,
        acc: tally.acc(),
        acc_stderr: stderr(tally.acc(), examples),
        figures,
        bits_asked: sequence.plan().bits(),
        bits: read.mean(),
        bits_with_ranges: read.mean() + sequence.model().range_bits(),
        tokens: read.tokens() as usize,
        seconds: start.elapsed().as_secs_f64(),
        read,
    })
}

/// How likely the model found a candidate.
#[derive(Debug, Clone, Copy)]
struct Score {
    /// Negative log-likelihood, in nats.
    nll: f64,
    /// Whether every token was the likeliest.
    greedy: bool,
    chars: usize,
}

/// Counts over examples.
#[derive(Debug, Default)]
struct Tally {
    examples: usize,
    right: usize,
    right_norm: usize,
    /// Of the right candidates.
    nll: f64,
}

impl Tally {
    fn add(&mut self, is_choice: bool, scores: &[Score], gold: usize) {
        let by_length = |score: &Score| score.nll / score.chars as f64;
        let right = if is_choice { least(scores, |score| score.nll) == gold } else { scores[gold].greedy };
        self.right += usize::from(right);
        self.right_norm += usize::from(least(scores, by_length) == gold);
        self.nll += scores[gold].nll;
        self.examples += 1;
    }

    fn acc(&self) -> f64 {
        self.right as f64 / self.examples as f64
    }
}

/// The place of the first of the scores that have the least `key`.
fn least(scores: &[Score], key: impl Fn(&Score) -> f64) -> usize {
    (1..scores.len()).fold(0, |best, at| if key(&scores[at]) < key(&scores[best]) { at } else { best })
}

/// Standard error of a share of `examples`: the sample's standard deviation over the root of their number.
fn stderr(share: f64, examples: usize) -> Option<f64> {
    (examples > 1).then(|| (share * (1.0 - share) / (examples - 1) as f64).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(nll: f64, greedy: bool, chars: usize) -> Score {
        Score { nll, greedy, chars }
    }

    #[test]
    fn a_choice_is_right_by_likelihood_and_by_likelihood_over_length() {
        // The long choice is less likely, and likelier by the byte.
        let scores = [score(4.0, true, 4), score(6.0, false, 12)];
        let mut tally = Tally::default();
        tally.add(true, &scores, 1);
        assert_eq!((tally.right, tally.right_norm, tally.nll), (0, 1, 6.0));
        tally.add(true, &scores, 0);
        assert_eq!((tally.right, tally.right_norm, tally.acc()), (1, 1, 0.5));
        assert_eq!(least(&[score(1.0, true, 1), score(1.0, true, 1)], |s| s.nll), 0, "the first of equals");
    }

    #[test]
    fn a_continuation_is_right_where_all_its_tokens_are_greedy() {
        let mut tally = Tally::default();
        tally.add(false, &[score(1.0, true, 4)], 0);
        tally.add(false, &[score(3.0, false, 4)], 0);
        assert_eq!((tally.right, tally.acc(), tally.nll), (1, 0.5, 4.0));
    }

    #[test]
    fn the_standard_error_is_that_of_the_sample() {
        // Of 0, 0, 1, 1: variance 1/3, over 4 and the root of it.
        assert!((stderr(0.5, 4).unwrap() - (1f64 / 12.0).sqrt()).abs() < 1e-12);
        assert_eq!((stderr(1.0, 9), stderr(1.0, 1)), (Some(0.0), None));
    }
}
