//! Perplexity and zero-shot tasks of a tiny model on the CPU engine, against sums over next-token probabilities.

use std::ops::ControlFlow;
use std::path::Path;

use crate::common;
use crate::logits::logits_at;
use edge_run::internals::cpu;
use edge_run::internals::engine::Activations;
use edge_run::internals::eval::{
    Detail, DraftFigures, Figures, Task, TaskFile, TaskReport, agreement, deepest_choices, perplexity, zero_shot,
};
use edge_run::internals::format::ModelFolder;
use edge_run::internals::model::Model;
use edge_run::internals::model::Sequence;
use edge_run::internals::text::TextModel;
use edge_run::{Error, PrecisionPlan};
use serde_json::{Value, json};

/// The id that stands before a context without tokens: the tiny model's BOS.
pub const BOS: u32 = 1;
/// Two ways to sum up the same f32 logits, over a few tokens.
const SUMS_DIFFER: f64 = 1e-4;

/// Makes the tiny model's tokenizer put its BOS before every text.
pub fn put_bos_before_texts(tokenizer: &mut Value) {
    let bos = json!({"SpecialToken": {"id": "<|im_start|>", "type_id": 0}});
    let sequence = |id| json!({"Sequence": {"id": id, "type_id": 0}});
    tokenizer["post_processor"] = json!({
        "type": "TemplateProcessing",
        "single": [bos, sequence("A")],
        "pair": [bos, sequence("A"), sequence("B")],
        "special_tokens": {"<|im_start|>": {"id": "<|im_start|>", "ids": [BOS], "tokens": ["<|im_start|>"]}},
    });
}

struct Tiny {
    sequence: Sequence,
    text: TextModel,
}

impl Tiny {
    fn new() -> Tiny {
        Tiny::with_tokenizer(|_| ())
    }

    /// The tiny model, its `tokenizer.json` changed.
    fn with_tokenizer(change: impl Fn(&mut Value)) -> Tiny {
        let dir = tempfile::tempdir().unwrap();
        let (source, out) = (dir.path().join("source"), dir.path().join("model"));
        common::tiny_hf_folder(&source, 5, true);
        let file = source.join("tokenizer.json");
        let mut tokenizer: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
        change(&mut tokenizer);
        std::fs::write(&file, tokenizer.to_string()).unwrap();
        common::quantize_tiny(&source, &out).unwrap();
        let folder = ModelFolder::open(&out).unwrap();
        let model =
            Model::load(&folder, cpu::open_with(Activations::F32), folder.shape().max_context, &mut |_, _| ()).unwrap();
        let sequence = model.sequence(&plan(8.0)).unwrap();
        Tiny { sequence, text: TextModel::open(&folder).unwrap() }
    }

    fn encode(&self, text: &str) -> Vec<u32> {
        self.text.encode(text, false).unwrap()
    }

    fn context(&self) -> usize {
        self.sequence.model().context() as usize
    }

    /// log p of each token of the vocabulary after `ids`, at the plan that is set.
    fn log_softmax(&mut self, ids: &[u32]) -> Vec<f64> {
        let logits = logits_at(&mut self.sequence, ids, 0).logits;
        let total: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
        logits.iter().map(|logit| f64::from(*logit) - total.ln()).collect()
    }

    /// -log p of the last `scored` of `ids`, and whether each was the likeliest.
    fn brute_force(&mut self, ids: &[u32], scored: usize) -> (f64, bool) {
        let steps = (ids.len() - scored..ids.len()).map(|at| {
            let log_p = self.log_softmax(&ids[..at]);
            let own = log_p[ids[at] as usize];
            (-own, log_p.iter().all(|other| *other <= own))
        });
        steps.fold((0.0, true), |(nll, all), (own, top)| (nll + own, all && top))
    }

    fn score(&mut self, lines: &[Value]) -> Result<TaskReport, Error> {
        let text: Vec<String> = lines.iter().map(Value::to_string).collect();
        let file = TaskFile::parse(Path::new("task.jsonl"), &text.join("\n"))?;
        let task = Task::encode(&file, &self.text, self.context())?;
        zero_shot(&mut self.sequence, &task, &mut |_, _, _| ControlFlow::Continue(()))
    }
}

fn plan(bits: f32) -> PrecisionPlan {
    PrecisionPlan::for_bits(bits, false, "test").unwrap()
}

fn mean_nll(report: &TaskReport) -> f64 {
    match report.figures {
        Figures::Continuations { mean_nll, perplexity } => {
            assert!((mean_nll.exp() / perplexity - 1.0).abs() < 1e-12);
            mean_nll
        }
        Figures::Choices { .. } => panic!("a task of continuations"),
    }
}

fn acc_norm(report: &TaskReport) -> f64 {
    match report.figures {
        Figures::Choices { acc_norm, .. } => acc_norm,
        Figures::Continuations { .. } => panic!("a task of choices"),
    }
}

#[test]
fn perplexity_is_that_of_the_next_token_probabilities_and_bits_are_those_read() {
    let mut tiny = Tiny::new();
    let ids = tiny.encode(&"the thin thing in the inn ".repeat(4));
    for bits in [4.0, 8.0] {
        tiny.sequence.set_plan(&plan(bits)).unwrap();
        let report = perplexity(&mut tiny.sequence, &ids, 12, Some(3), &mut |_, _, _| ControlFlow::Continue(()));
        let report = report.unwrap();
        let windows: Vec<&[u32]> = ids.chunks_exact(12).take(3).collect();
        let nll: f64 = windows.into_iter().map(|window| tiny.brute_force(window, 11).0).sum();
        assert!((report.perplexity.ln() - nll / 33.0).abs() < SUMS_DIFFER, "{report:?}");
        assert_eq!((report.bits, report.bits_asked, report.tokens), (bits, bits, 33));
        let detail = Detail::of(&report.read, 2);
        assert_eq!((detail.layers.len(), detail.layers[1].columns(), detail.all.all), (2, [bits; 5], bits));
    }
}

#[test]
fn a_stop_is_an_error_and_not_a_report() {
    let mut tiny = Tiny::new();
    let ids = tiny.encode("the thin thing in the inn");
    let stopped = perplexity(&mut tiny.sequence, &ids, 4, None, &mut |_, _, _| ControlFlow::Break(()));
    assert!(matches!(stopped, Err(Error::Stopped(_))));
}

#[test]
fn tokens_are_alike_where_few_bits_and_all_of_them_find_the_same_one_likeliest() {
    let mut tiny = Tiny::new();
    let ids = tiny.encode(&"the thin thing in the inn ".repeat(4));
    let windows: Vec<&[u32]> = ids.chunks_exact(6).take(5).collect();
    let mut likeliest = |bits| -> Vec<u32> {
        tiny.sequence.set_plan(&plan(bits)).unwrap();
        let parts = windows.iter().flat_map(|ids| (1..=6).map(move |count| &ids[..count]));
        let top = |log_p: Vec<f64>| (0..log_p.len()).max_by(|a, b| log_p[*a].total_cmp(&log_p[*b])).unwrap() as u32;
        parts.map(|ids| top(tiny.log_softmax(ids))).collect()
    };
    let (few, all) = (likeliest(4.0), likeliest(8.0));
    let alike: Vec<bool> = few.iter().zip(&all).map(|(few, all)| few == all).collect();
    assert!(alike.contains(&true) && alike.contains(&false), "the seed is one that has both: {alike:?}");
    let pairs = alike.chunks(6).flat_map(|window| window.windows(2));
    let accepted: usize = pairs.map(|pair| usize::from(pair[0]) + usize::from(pair[0] && pair[1])).sum();
    tiny.sequence.set_plan(&plan(4.0)).unwrap();
    let deepest = deepest_choices(&mut tiny.sequence, &windows, &mut |_, _| ControlFlow::Continue(())).unwrap();
    assert_eq!((deepest.concat(), tiny.sequence.plan()), (all, &plan(4.0)));
    let mut measure = |bits| {
        tiny.sequence.set_plan(&plan(bits)).unwrap();
        agreement(&mut tiny.sequence, &windows, &deepest, &mut |_, _, _| ControlFlow::Continue(())).unwrap()
    };
    let report = measure(4.0);
    let share = alike.iter().filter(|alike| **alike).count() as f64 / 30.0;
    assert_eq!((report.agreement, report.tokens, report.bits), (share, 30, 4.0));
    // A draft of eight does not fit.
    assert_eq!(report.drafts.iter().map(|draft| draft.tokens).collect::<Vec<_>>(), [2, 4]);
    assert_eq!(report.drafts[0].accepted, accepted as f64 / 25.0);
    let (whole, draft) = (measure(8.0), |tokens, accepted| DraftFigures { tokens, accepted });
    assert_eq!((whole.agreement, whole.drafts), (1.0, vec![draft(2, 2.0), draft(4, 4.0)]));
    let stopped = agreement(&mut tiny.sequence, &windows, &deepest, &mut |_, _, _| ControlFlow::Break(()));
    assert!(matches!(stopped, Err(Error::Stopped(_))));
}

#[test]
fn a_continuation_is_scored_as_its_tokens_after_its_context() {
    let mut tiny = Tiny::new();
    let report = tiny.score(&[json!({"context": "the thin", "continuation": " inn, the"})]).unwrap();
    let (whole, context) = (tiny.encode("the thin inn, the"), tiny.encode("the thin"));
    let (nll, greedy) = tiny.brute_force(&whole, whole.len() - context.len());
    assert!((mean_nll(&report) - nll).abs() < SUMS_DIFFER, "{report:?} instead of {nll}");
    assert_eq!((report.acc == 1.0, report.tokens, report.truncated), (greedy, whole.len() - 1, 0));
    let moved = tiny.score(&[json!({"context": "the thin ", "continuation": "inn, the"})]).unwrap();
    assert_eq!(mean_nll(&moved), mean_nll(&report), "a space at the end of the context is the continuation's");
    let other = tiny.score(&[json!({"context": "the thing", "continuation": " inn, the"})]).unwrap();
    assert_ne!(mean_nll(&other), mean_nll(&report));
}

#[test]
fn accuracy_counts_continuations_that_are_the_greedy_text() {
    let mut tiny = Tiny::new();
    let mut lines = Vec::new();
    for context in ('a'..='z').map(|letter| format!("the {letter}")) {
        let ids = tiny.encode(&context);
        let log_p = tiny.log_softmax(&ids);
        let top = (0..log_p.len() as u32).max_by(|a, b| log_p[*a as usize].total_cmp(&log_p[*b as usize])).unwrap();
        let text = tiny.text.decode(&[top]);
        // The random model's favourites are often no text, or another text's tokens.
        if !text.trim().is_empty() && tiny.encode(&format!("{context}{text}")) == [&ids[..], &[top]].concat() {
            lines.push(json!({"context": context, "continuation": text}));
        }
    }
    assert!(lines.len() > 2, "the seed is one whose favourites are text now and then: {lines:?}");
    let right = lines.len();
    assert_eq!(tiny.score(&lines).unwrap().acc, 1.0);
    // Of two tokens, the second is not a favourite.
    for line in &mut lines.clone() {
        line["continuation"] = format!("{}\u{1}", line["continuation"].as_str().unwrap()).into();
        lines.push(line.take());
    }
    let report = tiny.score(&lines).unwrap();
    assert_eq!((report.examples, report.acc), (2 * right, 0.5));
    let stderr = (0.25 / (2 * right - 1) as f64).sqrt();
    assert!((report.acc_stderr.unwrap() - stderr).abs() < 1e-12);
}

#[test]
fn the_likeliest_choice_counts_and_the_likeliest_by_its_bytes() {
    let mut tiny = Tiny::new();
    let choices = ["thin", "the inn in the", "é", "thing"];
    let query = "the inn";
    let context = tiny.encode(query).len();
    let scores = choices.map(|choice| {
        let ids = tiny.encode(&format!("{query} {choice}"));
        -tiny.brute_force(&ids, ids.len() - context).0
    });
    let best = |key: &dyn Fn(usize) -> f64| (0..choices.len()).max_by(|a, b| key(*a).total_cmp(&key(*b))).unwrap();
    let (likeliest, by_byte) = (best(&|at| scores[at]), best(&|at| scores[at] / choices[at].len() as f64));
    assert_ne!(likeliest, by_byte, "the seed is one that tells them apart: {scores:?}");
    for gold in 0..choices.len() {
        let report = tiny.score(&[json!({"query": query, "choices": choices, "gold": gold})]).unwrap();
        assert_eq!(report.acc, f64::from(gold == likeliest), "gold {gold}: {scores:?}");
        assert_eq!(acc_norm(&report), f64::from(gold == by_byte), "gold {gold}: {scores:?}");
    }
}

#[test]
fn a_context_without_tokens_gets_the_bos_and_a_tokenizer_s_own_bos_stands_alone() {
    let mut tiny = Tiny::new();
    let line = [json!({"context": " ", "continuation": "in"})];
    let report = tiny.score(&line).unwrap();
    let ids = [&[BOS][..], &tiny.encode(" in")].concat();
    assert!((mean_nll(&report) - tiny.brute_force(&ids, ids.len() - 1).0).abs() < SUMS_DIFFER);

    let mut own = Tiny::with_tokenizer(put_bos_before_texts);
    assert_eq!(mean_nll(&own.score(&line).unwrap()), mean_nll(&report));
    let line = [json!({"context": "the", "continuation": " inn"})];
    let ids = [&[BOS][..], &tiny.encode("the inn")].concat();
    let scored = ids.len() - 2;
    assert_eq!(own.encode("the").len(), 1);
    let report = own.score(&line).unwrap();
    assert_eq!(report.tokens, ids.len() - 1);
    assert!((mean_nll(&report) - own.brute_force(&ids, scored).0).abs() < SUMS_DIFFER);
}

#[test]
fn a_long_context_loses_its_beginning_and_a_long_continuation_is_refused() {
    let mut tiny = Tiny::new();
    let long = "the".to_string() + &" the".repeat(300);
    let report = tiny.score(&[json!({"context": long, "continuation": " inn"})]).unwrap();
    let (ids, context) = (tiny.encode(&format!("{long} inn")), tiny.context());
    let scored = ids.len() - tiny.encode(&long).len();
    assert_eq!((report.truncated, report.tokens), (1, context - 1));
    let (nll, _) = tiny.brute_force(&ids[ids.len() - context..], scored);
    assert!((mean_nll(&report) - nll).abs() < SUMS_DIFFER, "{report:?} instead of {nll}");
    let refused = tiny.score(&[json!({"context": "the", "continuation": format!(" {long}")})]).unwrap_err().to_string();
    assert!(refused.contains("task.jsonl") && refused.contains("line 1, field `continuation`"), "{refused}");
    assert!(refused.contains("fewer tokens than the model's context of 256, got 301"), "{refused}");
}
