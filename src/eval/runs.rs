//! Which plans a sweep over bits runs, in which order.

use serde::Serialize;

use crate::error::{Error, Result};
use crate::precision::{BITS, Depth, Precision, PrecisionPlan};

/// How the depths of a run come about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Depths {
    /// The model's routers choose. At 2 and at 8 bits nothing is left for them to choose.
    Routed,
    /// The routers choose, and their choices go to other tokens: what routing by token is worth is what this loses.
    Shuffled,
    /// The same for every token at every site.
    Uniform,
}

impl Depths {
    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Depths::Routed => "routed",
            Depths::Shuffled => "shuffled",
            Depths::Uniform => "uniform",
        }
    }
}

/// A run of a sweep.
#[derive(Debug, Clone, PartialEq)]
pub struct EvalRun {
    /// What is read.
    pub plan: PrecisionPlan,
    /// How depths come about.
    pub depths: Depths,
}

impl EvalRun {
    /// Whether the run reads what `other` reads, so that its figures are the same: uniform depths stay what they are
    /// whoever deals them out.
    pub fn same_as(&self, other: &EvalRun) -> bool {
        let (own, theirs) = (self.plan.precision, other.plan.precision);
        own == theirs && (self.depths == other.depths || matches!(own, Precision::Uniform(_)))
    }
}

/// The runs of a sweep over `bits` by a model that `has_routers`: each number of bits, where `shuffled` also with the
/// gates dealt to other tokens, then every uniform depth, where `uniform` asks for those.
///
/// Fails where a number of bits is not in 2 to 8, or needs routers that the model does not have.
pub fn runs(bits: &[f32], has_routers: bool, shuffled: bool, uniform: bool) -> Result<Vec<EvalRun>> {
    if shuffled && !has_routers {
        return Err(Error::argument("shuffled gates", "a model with routers", "a model without routers"));
    }
    let asked = if has_routers { Depths::Routed } else { Depths::Uniform };
    let mut runs = Vec::new();
    for bits in bits {
        let plan = plan(*bits, has_routers)?;
        runs.push(EvalRun { plan: plan.clone(), depths: asked });
        if shuffled {
            runs.push(EvalRun { plan, depths: Depths::Shuffled });
        }
    }
    if uniform {
        let depths = Depth::ALL.map(|depth| PrecisionPlan::uniform(depth, format!("{} bits everywhere", depth.bits())));
        let uniform = depths.map(|plan| EvalRun { plan, depths: Depths::Uniform });
        let asked =
            |run: &EvalRun| runs.iter().any(|r| r.depths == run.depths && r.plan.precision == run.plan.precision);
        let missing: Vec<EvalRun> = uniform.into_iter().filter(|run| !asked(run)).collect();
        runs.extend(missing);
    }
    Ok(runs)
}

fn plan(bits: f32, has_routers: bool) -> Result<PrecisionPlan> {
    if !BITS.contains(&bits) {
        return Err(Error::argument("bits", "2 to 8", bits));
    }
    if !has_routers && Depth::of_bits(bits).is_none() {
        return Err(Error::argument("bits", "2, 4, 6 or 8, because this model has no routers", bits));
    }
    PrecisionPlan::for_bits(bits, has_routers, format!("{bits} bits asked for"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(bits: &[f32], has_routers: bool, shuffled: bool, uniform: bool) -> Vec<(Depths, f32)> {
        let runs = runs(bits, has_routers, shuffled, uniform).unwrap();
        runs.iter().map(|run| (run.depths, run.plan.bits())).collect()
    }

    #[test]
    fn bits_come_in_the_order_asked_each_beside_its_shuffled_run() {
        use Depths::{Routed, Shuffled, Uniform};
        assert_eq!(
            names(&[3.5, 8.0], true, true, false),
            [(Routed, 3.5), (Shuffled, 3.5), (Routed, 8.0), (Shuffled, 8.0)]
        );
        assert_eq!(
            names(&[4.0], true, false, true),
            [(Routed, 4.0), (Uniform, 2.0), (Uniform, 4.0), (Uniform, 6.0), (Uniform, 8.0)]
        );
        assert_eq!(
            names(&[6.0, 2.0], false, false, true),
            [(Uniform, 6.0), (Uniform, 2.0), (Uniform, 4.0), (Uniform, 8.0)]
        );
    }

    #[test]
    fn only_runs_that_read_the_same_are_the_same() {
        let runs = runs(&[3.5, 8.0], true, true, true).unwrap();
        let same = |a: usize, b: usize| runs[a].same_as(&runs[b]);
        assert!(!same(0, 1), "routed and shuffled at 3.5 bits");
        assert!(same(2, 3) && same(2, 7), "8 bits, routed, shuffled and uniform");
        assert!(!same(2, 4), "8 and 2 bits");
    }

    #[test]
    fn what_a_model_cannot_do_is_named() {
        let error =
            |bits: f32, has_routers, shuffled| runs(&[bits], has_routers, shuffled, false).unwrap_err().to_string();
        let no_routers = "bits: expected 2, 4, 6 or 8, because this model has no routers, got 3.5";
        assert_eq!(error(3.5, false, false), no_routers);
        assert_eq!(error(-1.0, true, false), "bits: expected 2 to 8, got -1");
        let shuffle = "shuffled gates: expected a model with routers, got a model without routers";
        assert_eq!(error(4.0, false, true), shuffle);
    }
}
