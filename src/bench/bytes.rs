//! What generating a token reads from memory.

use crate::arch::ModelSpec;
use crate::format::TokenBytes;
use crate::kernels::cache::layout::token_bytes;
use crate::precision::{CacheType, Depth};
use crate::shape::LlamaShape;

/// Bytes of model and cache read to generate one token behind `context` others, each once: the slices of the layers'
/// weights at `bits.0` on average, their ranges, the norms, the routers where `routed`, the head and the token's row
/// of the embedding at `bits.1`, and the keys and values that layers look at. Activations are not counted; they stay
/// in the device's caches.
pub fn bytes_per_token(
    (shape, spec): (&LlamaShape, &ModelSpec),
    group: u32,
    bits: (f32, Depth),
    routed: bool,
    (cache_type, context): (CacheType, f64),
) -> f64 {
    let window = |layer| spec.layer(layer).attention.window.map_or(f64::INFINITY, f64::from);
    let positions: f64 = (0..shape.layers).map(|layer| context.min(window(layer))).sum();
    TokenBytes::of((shape, spec), group, bits, routed).total() + token_bytes(cache_type, shape) as f64 * positions
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::Synthetic;
    use crate::model::WeightSource;

    #[test]
    fn every_part_counts_once() {
        // D=64, F=128, L=1, H=2, K=1, V=100: A=32, qkv 128x64, o 64x64, gate and up 256x64, down 64x128.
        let model = Synthetic::parse("64x128x1x2x1x100", 0).unwrap();
        let spec = model.spec();
        let dims = || (model.shape(), &spec);
        let cached =
            |cache_type, context| bytes_per_token(dims(), 64, (4.0, Depth::FULL), false, (cache_type, context));
        let of =
            |bits, routed, context| bytes_per_token(dims(), 64, (bits, Depth::FULL), routed, (CacheType::F16, context));
        let linears = 128 * 64 + 64 * 64 + 256 * 64 + 64 * 128;
        let fixed = linears / 64 * 4 + 101 * 64 + 101 * 4 + 3 * 64 * 4;
        assert_eq!(of(4.0, false, 0.0), f64::from(linears / 2 + fixed));
        assert_eq!(of(8.0, false, 0.0) - of(2.0, false, 0.0), f64::from(linears) * 0.75);
        let parts = |outer| TokenBytes::of(dims(), 64, (4.0, outer), false);
        assert_eq!(parts(Depth::FULL).total(), of(4.0, false, 0.0));
        let outer = [Depth::FULL, Depth::ALL[1]].map(|depth| (parts(depth).head, parts(depth).embedding));
        // Codes of a byte, or half of one, ranges, and the last norm.
        assert_eq!(outer[0], (100.0 * 64.0 + 100.0 * 4.0 + 256.0, 64.0 + 4.0));
        assert_eq!(outer[1], (100.0 * 32.0 + 100.0 * 4.0 + 256.0, 32.0 + 4.0));
        // Keys and values of 32 numbers in two bytes each.
        assert_eq!(of(4.0, false, 10.0) - of(4.0, false, 0.0), 10.0 * 128.0);
        // A window bounds what a layer looks at.
        let mut windowed = spec.clone();
        windowed.layers[0].attention.window = Some(7);
        let of_window = |context| {
            bytes_per_token((model.shape(), &windowed), 64, (4.0, Depth::FULL), false, (CacheType::F16, context))
        };
        assert_eq!([5.0, 10.0].map(|context| of_window(context) - of_window(0.0)), [5.0 * 128.0, 7.0 * 128.0]);
        // A group's codes each, and their scales in 16 bytes.
        assert_eq!(cached(CacheType::Q8, 10.0) - cached(CacheType::Q8, 0.0), 10.0 * (64.0 + 16.0));
        assert_eq!(cached(CacheType::Q4, 10.0) - cached(CacheType::Q4, 0.0), 10.0 * (32.0 + 16.0));
        // w1 in f16 for each site; b1, w2, b2 and one number more in f32.
        let routers = 4 * 32 * 64 * 2 + 4 * (32 + 3 * 32 + 3 + 1) * 4;
        assert_eq!(of(4.0, true, 0.0) - of(4.0, false, 0.0), f64::from(routers));
    }
}
