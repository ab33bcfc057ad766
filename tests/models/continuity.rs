//! A text read half at 4 bits and half at 8, on the default model: its perplexity lies between those at one precision.

use crate::default_model;
use edge_run::PrecisionPlan;
use edge_run::internals::cpu;
use edge_run::internals::model::Model;
use edge_run::internals::model::Sequence;

/// Tokens that are scored; the plan changes after half of them.
const TOKENS: usize = 96;
/// The figures may be this far outside of those that they are to lie between.
const SLACK: f64 = 1.01;

fn plan(model: &Model, bits: f32) -> PrecisionPlan {
    PrecisionPlan::for_bits(bits, model.has_routers(), "test").unwrap()
}

/// Perplexity of the text, its halves read at these bits.
fn perplexity(sequence: &mut Sequence, ids: &[u32], bits: [f32; 2]) -> f64 {
    let mut nll = 0.0;
    sequence.reset();
    for (at, pair) in ids.windows(2).enumerate() {
        if at % (TOKENS / 2) == 0 {
            let bits = bits[at / (TOKENS / 2)];
            sequence.set_plan(&plan(sequence.model(), bits)).unwrap();
            sequence.settle(None).unwrap();
        }
        let logits = sequence.next_logits(&pair[..1]).unwrap().logits;
        let highest = logits.iter().copied().fold(f32::MIN, f32::max);
        let sum: f64 = logits.iter().map(|logit| f64::from(logit - highest).exp()).sum();
        nll += sum.ln() - f64::from(logits[pair[1] as usize] - highest);
    }
    (nll / TOKENS as f64).exp()
}

#[test]
fn a_change_of_precision_goes_on_with_the_context() {
    let folder = match default_model::default_model() {
        Ok(folder) => folder,
        Err(reason) => return default_model::skipped(&reason),
    };
    let text = edge_run::internals::text::TextModel::open(&folder).unwrap();
    let ids = text.encode(include_str!("../../CONTRIBUTING.md"), false).unwrap();
    let model = Model::load_base(&folder, cpu::open(), TOKENS as u32, None, &mut |_, _| ()).unwrap();
    let mut sequence = model.sequence(&plan(&model, 4.0)).unwrap();
    let mut of = |bits| perplexity(&mut sequence, &ids[..=TOKENS], bits);
    let [low, high, rising, falling] = [[4.0, 4.0], [8.0, 8.0], [4.0, 8.0], [8.0, 4.0]].map(&mut of);
    println!("4 bits {low:.3}, 8 bits {high:.3}, 4 then 8 bits {rising:.3}, 8 then 4 bits {falling:.3}");
    for mixed in [rising, falling] {
        // Four bits may predict a text as well as eight.
        assert!(low.min(high) / SLACK < mixed && mixed < low.max(high) * SLACK, "{mixed} of {high} to {low}");
    }
}
