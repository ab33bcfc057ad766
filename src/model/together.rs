//! Steps of several sequences: those that have one token each share runs, whose products read the weights once.
//!
//! What a token computes in a run that it shares is bit for bit what it computes in one of its own. So it depends on
//! nothing which sequences share a run, and one that cannot share any more runs alone.

use super::executor::{Executor, StepKind, TokenRows};
use super::inputs::STEP_CHOICES;
use super::step::{PendingStep, SampledToken};
use super::{Model, Sequence, TokenDepths};
use crate::cancel::CancelToken;
use crate::error::Result;
use crate::kernels::attention::ContextClass;
use crate::kernels::step_rows::StepRow;
use crate::recording::Ticket;
use crate::sampling::Choice;
use crate::text::DrawPosition;

/// A sequence with the tokens that it runs.
type Part<'a> = (&'a mut Sequence, Vec<u32>);

/// A run that several sequences share, with the places of their parts in the step.
struct SharedRun {
    ticket: Ticket,
    members: Vec<Member>,
}

/// A part of a shared run.
struct Member {
    part: usize,
    rng_before: DrawPosition,
    rng_after: DrawPosition,
}

/// The model of a run, and what its sequences have in common.
type ModelRun<'a> = (&'a Model, RunClass);

/// What sequences must have in common to share a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct RunClass {
    routed: bool,
    context_class: ContextClass,
}

/// Runs tokens of several sequences: what each one sampled, in their order. Each fails by itself, and is then as it
/// was.
pub(super) fn run(mut parts: Vec<Part<'_>>) -> Vec<Result<SampledToken>> {
    let mut results: Vec<Option<Result<SampledToken>>> = parts.iter().map(|_| None).collect();
    let mut shared = Vec::new();
    let mut alone = Vec::new();
    for members in in_runs(&parts) {
        match begin_shared(&mut parts, &members) {
            Ok(run) => shared.push(run),
            Err(rest) => alone.extend(rest),
        }
    }
    alone.sort_unstable();
    let begun: Vec<(usize, Result<PendingStep>)> = alone.into_iter().map(|at| (at, begin(&mut parts[at]))).collect();
    for run in shared {
        finish_shared(&mut parts, run, &mut results);
    }
    for (at, step) in begun {
        results[at] = Some(step.and_then(|step| parts[at].0.finish(step)));
    }
    // What failed together is tried alone, to fail, or not, by itself.
    let of_part = parts.iter_mut().zip(results);
    of_part.map(|(part, result)| result.unwrap_or_else(|| begin(part).and_then(|step| part.0.finish(step)))).collect()
}

fn begin((sequence, ids): &mut Part<'_>) -> Result<PendingStep> {
    sequence.begin(ids)
}

/// The places of the parts in runs: parts that may share one together, eight at most, all others by themselves.
fn in_runs(parts: &[Part<'_>]) -> Vec<Vec<usize>> {
    let mut runs: Vec<(Option<ModelRun<'_>>, Vec<usize>)> = Vec::new();
    for (at, (sequence, ids)) in parts.iter().enumerate() {
        let class = sequence.run_class(ids).map(|class| (sequence.model(), class));
        let joined = runs.iter_mut().find(|run| match (class, run.0) {
            (Some((model, class)), Some((others, other))) => {
                model.is(others) && class == other && run.1.len() < STEP_CHOICES as usize
            }
            _ => false,
        });
        match joined {
            Some((_, members)) => members.push(at),
            None => runs.push((class, vec![at])),
        }
    }
    runs.into_iter().map(|(_, members)| members).collect()
}

/// Begins a run of these parts; or tells which ones are to run alone.
fn begin_shared(parts: &mut [Part<'_>], members: &[usize]) -> std::result::Result<SharedRun, Vec<usize>> {
    if members.len() < 2 {
        return Err(members.to_vec());
    }
    let (mut rows, mut choices, mut begun) = (Vec::new(), Vec::new(), Vec::new());
    let mut routed = false;
    for part in members {
        let (sequence, ids) = &mut parts[*part];
        // One that cannot run fails alone, and the others run alone too.
        let Ok((depths, own)) = sequence.run_but_last_step(ids) else {
            take_back(parts, &begun);
            return Err(members.to_vec());
        };
        debug_assert!(depths.is_empty(), "one token is one step");
        routed = own.routed;
        rows.extend(own.rows.iter().zip(rows.len() as u32..).map(|(row, depth_row)| StepRow { depth_row, ..*row }));
        let rng_before = sequence.sampler.position();
        choices.push(sequence.sampler.choice());
        begun.push(Member { part: *part, rng_before, rng_after: sequence.sampler.position() });
    }
    let model = parts[members[0]].0.model().clone();
    let ticket = model.executor().sample_each(TokenRows { rows, routed }, &choices, model.cancel_token());
    match ticket {
        Ok(ticket) => Ok(SharedRun { ticket, members: begun }),
        Err(_) => {
            take_back(parts, &begun);
            Err(members.to_vec())
        }
    }
}

/// Takes back the random numbers of parts whose run came to nothing.
fn take_back(parts: &mut [Part<'_>], members: &[Member]) {
    for member in members {
        parts[member.part].0.sampler.rewind(member.rng_before);
    }
}

/// Waits for a shared run. Where it failed as a whole, its parts have no results, and are as they were.
fn finish_shared(parts: &mut [Part<'_>], run: SharedRun, results: &mut [Option<Result<SampledToken>>]) {
    let SharedRun { ticket, members } = run;
    let model = parts[members[0].part].0.model().clone();
    let finished = model.executor().finish(members.len() as u32, ticket, model.cancel_token());
    let Ok((Some(sampled), depths)) = finished else { return take_back(parts, &members) };
    for (at, member) in members.iter().enumerate() {
        let (sequence, ids) = &mut parts[member.part];
        let found = sequence.take_shared(&sampled, ids, depths.of_token(at), member.rng_after);
        if found.is_err() {
            sequence.sampler.rewind(member.rng_before);
        }
        results[member.part] = Some(found);
    }
}

impl Sequence {
    /// What this sequence must have in common with others to run these tokens in one run with them; none where it runs
    /// them alone.
    fn run_class(&self, ids: &[u32]) -> Option<RunClass> {
        let may = ids.len() == 1 && self.chooses_at_once() && !self.cancel.is_cancelled() && self.check(ids).is_ok();
        let executor = self.model.executor();
        let position = self.tokens().len() as u32;
        (may && executor.shares_runs()).then(|| RunClass {
            routed: self.is_routed(self.phase_of(ids)),
            context_class: executor.context_class(1, position),
        })
    }

    /// Takes what a shared run sampled after `ids`. A stop that was asked for meanwhile counts.
    fn take_shared(
        &mut self,
        sampled: &[u8],
        ids: &[u32],
        depths: TokenDepths,
        rng_after: DrawPosition,
    ) -> Result<SampledToken> {
        self.cancel.check("a step")?;
        let end = self.tokens().len() + ids.len();
        let id = self.accept(sampled, ids, end, rng_after)?;
        Ok(SampledToken { id, logits: None, depths })
    }
}

impl Executor {
    /// Whether single tokens of several sequences can run as one step. GPUs read a cache in few bits for one token, or
    /// for those of one sequence.
    fn shares_runs(&self) -> bool {
        let each_has_its_own = self.reads_steps_as_kept() || self.traits().runs_functions();
        self.few_tokens(StepKind::NextTokens, 2).is_some() && each_has_its_own
    }

    /// Whether tokens that run together come out as they do alone, but for the order of sums.
    pub(super) fn checks_guesses(&self) -> bool {
        let are_alike = !self.int8_activations || self.few_tokens(StepKind::NextTokens, 2).is_some();
        are_alike && self.reads_steps_as_kept()
    }

    /// Whether tokens that run together look at each other's keys and values as they would at those of earlier tokens.
    /// A cache in few bits keeps them less exactly.
    pub(super) fn reads_steps_as_kept(&self) -> bool {
        self.cache.layers.iter().all(|layer| layer.quantized_kv.is_none())
    }

    /// Begins a step that samples the token after each of its rows, which are of different sequences, 2 to 8.
    fn sample_each(&mut self, tokens: TokenRows, choices: &[Choice], cancel: &CancelToken) -> Result<Ticket> {
        let mut all = choices.to_vec();
        all.resize(choices.len().next_power_of_two(), choices[choices.len() - 1]);
        self.inputs.write_choices(self.engine.as_mut(), &all);
        self.submit(StepKind::NextTokens, tokens, cancel)
    }
}
