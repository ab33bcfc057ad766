//! Every kind of instructions against the reference's way of reading rows.

use half::f16;
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::cpu::pairs::packed;
use crate::kernels::project::packed::Packed;

/// A weight's rows in memory, in a form.
struct Memory {
    slices: [Vec<u32>; SLICES],
    ranges: [Vec<[u16; 2]>; SLICES],
    input: usize,
    form: RangeForm,
}

impl Memory {
    fn random(rng: &mut StdRng, rows: usize, chunks: usize, form: RangeForm) -> Memory {
        let input = chunks * CHUNK as usize;
        let mut words = |count: usize| (0..count).map(|_| rng.random::<u32>()).collect::<Vec<_>>();
        let slices = std::array::from_fn(|_| words(rows * input / 16));
        let mut pair = |_| match form {
            RangeForm::Words => [(); 2].map(|()| rng.random_range(0..128u16) << 9 | rng.random_range(64..256u16)),
            RangeForm::Pairs { .. } => {
                [rng.random_range(-1.0..0.0), rng.random_range(0.1..0.5)].map(|n| f16::from_f32(n).to_bits())
            }
        };
        let group = form.group().max(CHUNK) as usize;
        let ranges = std::array::from_fn(|_| (0..rows * input / group).map(&mut pair).collect());
        Memory { slices, ranges, input, form }
    }

    fn rows(&self) -> Rows<'_> {
        Rows {
            slices: std::array::from_fn(|e| &self.slices[e][..]),
            ranges: std::array::from_fn(|e| &self.ranges[e][..]),
            input: self.input,
            form: self.form,
        }
    }
}

/// The product of a row with whole numbers, and the sum of the sizes that it is made of.
fn expected(rows: &Rows<'_>, row: usize, depth: usize, x: &[f32]) -> (f64, f64) {
    let mut weights = vec![0f32; x.len()];
    rows.dequantize(row, depth, &mut weights);
    let products = weights.iter().zip(Packed::of(x).numbers()).map(|(w, x)| f64::from(*w) * f64::from(x));
    products.fold((0.0, 0.0), |(sum, size), product| (sum + product, size + product.abs()))
}

/// Roundings of f32 in a sum of this size: each chunk adds a few.
const ROUNDINGS: f64 = 16.0 * f32::EPSILON as f64;

fn form() -> impl Strategy<Value = RangeForm> {
    prop_oneof![Just(RangeForm::Words), Just(RangeForm::Pairs { group: 64 }), Just(RangeForm::Pairs { group: 128 })]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn products_are_those_of_the_weights(
        seed: u64,
        count in 1usize..20,
        pairs_of_chunks in 1usize..5,
        inputs in 1usize..=INPUTS_MAX,
        depth in 1usize..=SLICES,
        form in form(),
    ) {
        let rng = &mut StdRng::seed_from_u64(seed);
        let chunks = 2 * pairs_of_chunks;
        let memory = Memory::random(rng, count + 3, chunks, form);
        let x: Vec<Vec<f32>> =
            (0..inputs).map(|_| (0..memory.input).map(|_| rng.random_range(-2.0..2.0)).collect()).collect();
        let (rows, first) = (memory.rows(), 3);
        let weight = DeepRows::of(&rows, depth);
        for instructions in Instructions::available() {
            let inputs: Vec<Vec<InputChunk>> = x.iter().map(|x| packed(x, instructions.pair_form())).collect();
            let inputs: Vec<&[InputChunk]> = inputs.iter().map(Vec::as_slice).collect();
            let mut outputs = vec![vec![1f32; count]; x.len()];
            let mut parts: Vec<&mut [f32]> = outputs.iter_mut().map(Vec::as_mut_slice).collect();
            multiply(instructions, &weight, first..first + count, &inputs, &mut parts, Keep::Sum);
            for (x, output) in x.iter().zip(&outputs) {
                for (at, found) in output.iter().enumerate() {
                    let (sum, size) = expected(&rows, first + at, depth, x);
                    let far = (f64::from(*found) - 1.0 - sum).abs();
                    prop_assert!(far <= ROUNDINGS * (size + 1.0), "{instructions:?}, row {at}: {found}, {}", sum + 1.0);
                }
            }
            // One input and one row at a time come to the same bits, where there is a tile of four for them.
            for (t, input) in inputs.iter().enumerate().filter(|_| count >= TILE_ROWS) {
                let mut alone = vec![0f32; count];
                multiply(instructions, &weight, first..first + count, &[input], &mut [&mut alone], Keep::Nothing);
                let summed: Vec<u32> = alone.iter().map(|product| (1.0 + product).to_bits()).collect();
                prop_assert_eq!(summed, outputs[t].iter().map(|product| product.to_bits()).collect::<Vec<_>>());
                let mut few = vec![0f32; TILE_ROWS];
                let last = first + count - TILE_ROWS;
                multiply(instructions, &weight, last..first + count, &[input], &mut [&mut few], Keep::Nothing);
                prop_assert_eq!(&few, &alone[count - TILE_ROWS..]);
            }
        }
    }
}

#[test]
fn another_depth_range_and_input_are_noticed() {
    let rng = &mut StdRng::seed_from_u64(1);
    let [memory, other] = [0, 1].map(|_| Memory::random(rng, 4, 4, RangeForm::Words));
    let [x, wrong]: [Vec<f32>; 2] = [0, 1].map(|_| (0..memory.input).map(|_| rng.random_range(-2.0..2.0)).collect());
    let (rows, ranged) = (memory.rows(), Rows { ranges: other.rows().ranges, ..memory.rows() });
    let (sum, size) = expected(&rows, 0, 2, &x);
    for instructions in Instructions::available() {
        let product = |rows: &Rows<'_>, depth: usize, x: &[f32]| {
            let (input, mut output) = (packed(x, instructions.pair_form()), [0f32; 4]);
            let weight = DeepRows::of(rows, depth);
            multiply(instructions, &weight, 0..4, &[&input], &mut [&mut output], Keep::Nothing);
            (f64::from(output[0]) - sum).abs() / size
        };
        assert!(product(&rows, 2, &x) < ROUNDINGS);
        for wrong in [product(&rows, 1, &x), product(&ranged, 2, &x), product(&rows, 2, &wrong)] {
            assert!(wrong > 100.0 * ROUNDINGS, "{instructions:?}: {wrong}");
        }
    }
}
