//! What of a model and its context the device can hold, found before any weight is read.

use super::Model;
use super::cache::CacheOptions;
use super::forward::scored_bytes;
use super::inputs::{STEP_TOKENS, default_step_tokens};
use super::ring::{self, Ring};
use crate::arch::ModelSpec;
use crate::engine::{DeviceInfo, Traits};
use crate::error::{Error, Result};
use crate::format::layout;
use crate::kernels::cache::layout::token_bytes;
use crate::kernels::product::{self, gather_tokens};
use crate::kernels::{attention, sliced};
use crate::precision::CacheType;
use crate::shape::LlamaShape;

/// A buffer whose length grows with the context.
struct Growing {
    what: &'static str,
    /// Bytes for each token.
    token_bytes: u64,
    /// How many sequences' tokens it has; they share the rotary table.
    sequences: u32,
    /// Tokens of a sequence after which it does not grow, where there are such.
    until: Option<u32>,
}

impl Growing {
    /// The longest context for which it is no longer than this.
    fn most_tokens(&self, most_bytes: u64) -> u64 {
        let most = most_bytes / self.token_bytes / u64::from(self.sequences);
        if self.until.is_some_and(|until| u64::from(until) <= most) { u64::MAX } else { most }
    }
}

/// The longest window of a model all of whose layers have one.
fn longest_window(spec: &ModelSpec, layers: u32) -> Option<u32> {
    let windows: Option<Vec<u32>> = (0..layers).map(|layer| ring::window(spec, layer)).collect();
    windows?.into_iter().max()
}

/// The buffers that grow with the context, as [`Cache`](super::cache::Cache) makes them. Every kernel that uses one
/// binds all of it.
fn growing(shape: &LlamaShape, spec: &ModelSpec, options: CacheOptions, step_tokens: u32) -> Vec<Growing> {
    let CacheOptions { sequences, cache_type, .. } = options;
    let until = longest_window(spec, shape.layers).map(|window| Ring::cells_of(window, step_tokens));
    let buffer = |what, token_bytes| Growing { what, token_bytes, sequences, until: None };
    let mut all = vec![
        Growing { until, ..buffer("keys of a layer", u64::from(shape.kv_dim()) * 2) },
        Growing { sequences: 1, ..buffer("table of rotations", u64::from(shape.head_dim) * 4) },
        buffer("list of tokens", 4),
    ];
    if cache_type != CacheType::F16 {
        all.push(Growing { until, ..buffer("keys and values of a layer", token_bytes(cache_type, shape)) });
    }
    all
}

/// Positions that a token can look back on, in a model whose windows may be shorter.
fn most_positions(shape: &LlamaShape, spec: &ModelSpec, traits: Traits) -> u32 {
    let most = attention::most_positions(traits, shape);
    if longest_window(spec, shape.layers).is_some_and(|window| window <= most) { u32::MAX } else { most }
}

/// Fails where the cache has a buffer that is longer than the device binds or makes, and where the device's loops end
/// before an attention over all of a context; says which context would do.
pub(super) fn check_context(options: CacheOptions, shape: &LlamaShape, spec: &ModelSpec, traits: Traits) -> Result<()> {
    let context = options.context;
    let most_bytes = traits.binding_bytes.min(traits.buffer_bytes);
    let most = |buffer: &Growing| buffer.most_tokens(most_bytes);
    let buffers = growing(shape, spec, options, ring_tokens(first_step_tokens(options, shape, traits)?, shape, traits));
    let tightest = buffers.iter().min_by_key(|buffer| most(buffer)).expect("some buffers grow");
    let rounds = most_positions(shape, spec, traits);
    let tokens = most(tightest).min(u64::from(rounds)).min(u64::from(shape.max_context));
    if u64::from(context) <= tokens {
        return Ok(());
    }
    let why = if u64::from(rounds) < most(tightest) {
        "this software renderer ends loops before an attention over more is done".to_string()
    } else {
        let Growing { what, token_bytes, sequences, until } = tightest;
        let needed = u64::from(until.map_or(context, |until| until.min(context))) * token_bytes * u64::from(*sequences);
        let of = if *sequences > 1 { format!("{context} of {sequences} sequences") } else { context.to_string() };
        format!("the {what} need {needed} bytes for {of}, and this device binds {most_bytes} at most")
    };
    Err(Error::argument("context", format!("at most {tokens} tokens on this device ({why})"), context))
}

/// Fails where a tensor of the model is longer than a buffer of the device may be, naming it.
pub(super) fn check_tensors(
    (shape, spec): (&LlamaShape, &ModelSpec),
    group: u32,
    device: &DeviceInfo,
    traits: Traits,
) -> Result<()> {
    // Those of the other slices are as long.
    let tensors = layout::file_tensors(shape, spec, group, false, 0);
    let longest = tensors.into_iter().max_by_key(|tensor| tensor.bytes()).expect("a model has tensors");
    if longest.bytes() <= traits.buffer_bytes {
        return Ok(());
    }
    let (name, bytes, most) = (&longest.name, longest.bytes(), traits.buffer_bytes);
    let message = format!("cannot hold this model: `{name}` needs a buffer of {bytes} bytes, and {most} is the most");
    Err(Error::Device { device: device.name.clone(), message })
}

/// Tokens of a step, `asked` at most: fewer where a binding does not hold what so many tokens have of the widest
/// activation.
pub(super) fn step_tokens(asked: u32, shape: &LlamaShape, traits: Traits) -> u32 {
    let widest = (2 * shape.ffn_dim).max(shape.q_dim() + 2 * shape.kv_dim()).max(shape.model_dim);
    let inputs = shape.model_dim.max(shape.q_dim()).max(shape.ffn_dim);
    let fits = |tokens: &u32| {
        let entries = gather_tokens::entries(product::largest_tile(traits), *tokens);
        let bytes = (u64::from(*tokens) * u64::from(widest) * 4).max(u64::from(entries) * u64::from(inputs) * 2);
        bytes <= traits.binding_bytes.min(traits.buffer_bytes)
    };
    let fewer = std::iter::successors(Some(asked), |tokens| (*tokens > sliced::CHUNK).then_some(tokens / 2));
    fewer.into_iter().find(fits).unwrap_or(asked.min(sliced::CHUNK))
}

/// What bounds the tokens of a step, and why, for an error.
type MostTokens = (u32, &'static str);

/// `most`, or as many as the device can bind the activations of, where these are fewer.
fn most_bound(most: MostTokens, shape: &LlamaShape, traits: Traits) -> MostTokens {
    let fit = step_tokens(most.0, shape, traits);
    if fit < most.0 { (fit, " for this model on this device") } else { most }
}

/// The tokens of a step that were asked for. Fails where they are 0 or more than `most`.
fn check_step_tokens(asked: u32, (most, why): MostTokens) -> Result<u32> {
    if (1..=most).contains(&asked) {
        return Ok(asked);
    }
    Err(Error::argument("step tokens", format!("1 to {most}{why}"), asked))
}

/// Tokens of a step of a model that is loaded with these options. Fails where more are asked for than there can be.
pub(super) fn first_step_tokens(options: CacheOptions, shape: &LlamaShape, traits: Traits) -> Result<u32> {
    match options.step_tokens {
        Some(asked) => check_step_tokens(asked, most_bound((STEP_TOKENS, ""), shape, traits)),
        None => Ok(step_tokens(default_step_tokens(traits), shape, traits)),
    }
}

/// Tokens of a step that layers with a window keep room for, in a model whose steps have `first` of them at first:
/// those of steps that are as long as they are of themselves, at least.
pub(super) fn ring_tokens(first: u32, shape: &LlamaShape, traits: Traits) -> u32 {
    first.max(step_tokens(default_step_tokens(traits), shape, traits))
}

/// Fails where a binding does not hold the logits of texts that are scored.
pub(super) fn check_scores(shape: &LlamaShape, device: &DeviceInfo, traits: Traits) -> Result<()> {
    let (bytes, most) = (scored_bytes(shape, traits), traits.binding_bytes);
    if bytes <= most {
        return Ok(());
    }
    let message = format!("cannot score texts: the logits of a step take {bytes} bytes, and it binds {most} at most");
    Err(Error::Device { device: device.name.clone(), message })
}

impl Model {
    /// How many tokens are computed at once where there are more; at first [`CacheOptions::step_tokens`]. Fewer make
    /// shorter steps and slower prompts; with 1, a prompt is computed as generated tokens are. More take more work
    /// space, and make long prompts faster where routers choose.
    ///
    /// Fails where it is 0 or more than [`STEP_TOKENS`], or with a memory budget more than at first, for which it was
    /// reckoned, or more than the device can bind the activations of, or more than the cache of layers with a window
    /// has room for, which are those at first and [`default_step_tokens`] at least.
    pub fn set_step_tokens(&self, tokens: u32) -> Result<()> {
        let mut executor = self.executor();
        let bounded = executor.budget.as_ref().map(|budget| (budget.step_tokens, " with a memory budget"));
        let most = most_bound(bounded.unwrap_or((STEP_TOKENS, "")), self.shape(), self.traits());
        let room = self.ring().map(|ring| (ring.step_tokens(), " for the windows of this model"));
        let most = room.filter(|room| room.0 < most.0).unwrap_or(most);
        executor.step_tokens = check_step_tokens(tokens, most)?;
        Ok(())
    }

    /// How many tokens are computed at once where there are more.
    pub fn step_tokens(&self) -> u32 {
        self.executor().step_tokens
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::LayerSpec;
    use crate::shape::{Rope, RopeScaling};

    fn llama_8b() -> LlamaShape {
        LlamaShape {
            layers: 32,
            model_dim: 4096,
            ffn_dim: 14336,
            heads: 32,
            kv_heads: 8,
            head_dim: 128,
            vocab: 128_256,
            max_context: 131_072,
            norm_eps: 1e-5,
            tied_head: false,
            rope: Rope { theta: 500_000.0, scaling: RopeScaling::None },
        }
    }

    fn refusal(context: u32, cache_type: CacheType, traits: Traits) -> Option<String> {
        let options = CacheOptions { cache_type, ..CacheOptions::from(context) };
        options.check(&llama_8b(), &ModelSpec::default(), traits).err().map(|error| error.to_string())
    }

    #[test]
    fn a_cache_longer_than_a_binding_is_refused_with_the_longest_context_that_is_not() {
        let traits = Traits { binding_bytes: 128 << 20, ..Traits::LARGE_GPU };
        let message = refusal(131_072, CacheType::F16, traits).expect("256 MiB are bound");
        assert_eq!(
            message,
            "context: expected at most 65536 tokens on this device (the keys of a layer need 268435456 bytes for \
             131072, and this device binds 134217728 at most), got 131072"
        );
        assert_eq!(refusal(65536, CacheType::F16, traits), None);
        assert!(refusal(65537, CacheType::F16, traits).is_some());
        assert_eq!(refusal(131_072, CacheType::F16, Traits { binding_bytes: 256 << 20, ..traits }), None);
        let short = Traits { binding_bytes: 256 << 20, buffer_bytes: 128 << 20, ..traits };
        assert!(refusal(65537, CacheType::F16, short).is_some(), "a buffer has a longest length too");
    }

    #[test]
    fn a_cache_in_few_bits_has_the_f16_of_a_layer_all_the_same() {
        let traits = Traits { binding_bytes: 128 << 20, ..Traits::LARGE_GPU };
        let message = refusal(131_072, CacheType::Q4, traits).expect("the f16 of a layer are 256 MiB");
        assert!(message.contains("at most 65536 tokens") && message.contains("keys of a layer"), "{message}");
        let message = refusal(131_072, CacheType::Q8, traits).expect("so is a layer in eight bits");
        assert!(message.contains("keys and values of a layer"), "{message}");
    }

    /// On a Mac, subgroups were taken to have four, and the message named eight whatever was needed.
    #[test]
    fn few_bits_are_refused_by_the_subgroups_that_there_are_and_that_are_needed() {
        let check = |subgroup, head_dim| {
            let shape = LlamaShape { head_dim, ..llama_8b() };
            let traits = Traits { subgroup, ..Traits::LARGE_GPU };
            let options = CacheOptions { cache_type: CacheType::Q8, ..CacheOptions::from(4096) };
            options.check(&shape, &ModelSpec::default(), traits).err().map(|error| error.to_string())
        };
        for subgroup in [16, 32, 64] {
            assert_eq!([64, 128, 256].map(|head_dim| check(subgroup, head_dim)), [None, None, None], "{subgroup}");
        }
        assert_eq!([check(8, 64), check(8, 128)], [None, None]);
        let message = "f16 for heads of 128 on a device with subgroups of 4, got q8, which needs 8";
        assert!(check(4, 128).is_some_and(|found| found.ends_with(message)), "{:?}", check(4, 128));
        let message = "f16 for heads of 256 on a device with subgroups of 8, got q8, which needs 16";
        assert!(check(8, 256).is_some_and(|found| found.ends_with(message)), "{:?}", check(8, 256));
    }

    #[test]
    fn every_buffer_that_grows_with_the_context_is_looked_at() {
        // One head for keys and values: the table of rotations is the longest.
        let shape = LlamaShape { kv_heads: 1, heads: 16, head_dim: 256, max_context: 1 << 24, ..llama_8b() };
        let traits = Traits { binding_bytes: 128 << 20, ..Traits::LARGE_GPU };
        let options = CacheOptions { cache_type: CacheType::F16, ..CacheOptions::from(1 << 18) };
        let message = options.check(&shape, &ModelSpec::default(), traits).unwrap_err().to_string();
        assert!(message.contains("at most 131072 tokens") && message.contains("table of rotations"), "{message}");
    }

    #[test]
    fn windows_need_no_binding_that_grows_with_the_context() {
        let check = |windows: &[Option<u32>], context, traits| {
            let layer = |window: &Option<u32>| {
                let mut layer = LayerSpec::default();
                layer.attention.window = *window;
                layer
            };
            let spec = ModelSpec { layers: windows.iter().map(layer).collect(), ..ModelSpec::default() };
            CacheOptions::from(context).check(&llama_8b(), &spec, traits).err().map(|error| error.to_string())
        };
        // A token of the keys of a layer has 2 KiB, and one of the table of rotations 512 bytes.
        let traits = Traits { binding_bytes: 64 << 20, ..Traits::LARGE_GPU };
        assert_eq!(check(&[Some(4096)], 131_072, traits), None);
        let message = check(&[Some(4096), None], 131_072, traits).expect("256 MiB are bound");
        assert!(message.contains("at most 32768 tokens") && message.contains("268435456 bytes"), "{message}");
        // A window and a step of 64 tokens are more than 8 MiB.
        let message = check(&[Some(4096)], 131_072, Traits { binding_bytes: 8 << 20, ..traits });
        let message = message.expect("no such binding");
        assert!(message.contains("at most 4096 tokens") && message.contains("need 8519680 bytes"), "{message}");
        // Loops that end early end after the window.
        let slow = Traits { software: true, loop_rounds: 65_535, ..Traits::LARGE_GPU };
        assert!(check(&[Some(4096), None], 131_072, slow).is_some_and(|message| message.contains("ends loops")));
        assert_eq!(check(&[Some(4096)], 131_072, slow), None);
        assert!(check(&[Some(100_000)], 131_072, slow).is_some_and(|message| message.contains("ends loops")));
    }

    #[test]
    fn a_tensor_longer_than_a_buffer_is_named() {
        let device = DeviceInfo { name: "Small".into(), ..crate::cpu::device() };
        let check = |buffer_bytes| {
            check_tensors(
                (&llama_8b(), &ModelSpec::default()),
                64,
                &device,
                Traits { buffer_bytes, ..Traits::LARGE_GPU },
            )
        };
        check(128_256 * 4096 / 4).unwrap();
        let message = check(128_256 * 4096 / 4 - 1).unwrap_err().to_string();
        assert!(message.starts_with("Small: cannot hold this model: `") && message.contains(".slice0`"), "{message}");
    }

    #[test]
    fn steps_have_as_many_tokens_as_a_binding_holds() {
        let traits = Traits { cooperative_matrix: true, ..Traits::LARGE_GPU };
        let shape = llama_8b();
        let tokens = |binding_bytes| step_tokens(2048, &shape, Traits { binding_bytes, ..traits });
        assert_eq!([tokens(1 << 30), tokens(128 << 20), tokens(32 << 20)], [2048, 1024, 256]);
        assert_eq!(step_tokens(512, &shape, traits), 512, "as many as were asked for, where they fit");
    }
}
