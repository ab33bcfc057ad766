//! The product with the head, of which a vocabulary of hundreds of thousands makes the longest sums.

use burn::tensor::{DType, Tensor};

/// Rows of the head in a part, at least.
const ROWS_OF_PART: usize = 4096;
/// Parts at most.
const MOST_PARTS: usize = 64;

/// x [N, D] times the transposed head, [V, D], to f32: [N, V]. Both are of one dtype.
///
/// The gradient by x is a sum over all rows of the head. There are few numbers of it, as few tokens have their logits
/// at one time, and a GPU gives each sum to one thread. So the head is multiplied in parts, side by side, and their
/// sums are added.
pub fn head_product(x: Tensor<2>, head: Tensor<2>) -> Tensor<2> {
    let ([tokens, dim], [vocab, _]) = (x.dims(), head.dims());
    let parts = parts(vocab);
    let head = head.reshape([parts, vocab / parts, dim]).swap_dims(1, 2);
    let logits = x.unsqueeze::<3>().matmul(head).cast(DType::F32);
    logits.swap_dims(0, 1).reshape([tokens, vocab])
}

/// How many parts of alike size a head of so many rows is multiplied in.
fn parts(vocab: usize) -> usize {
    let most = (vocab / ROWS_OF_PART).clamp(1, MOST_PARTS);
    (1..=most).rev().find(|parts| vocab.is_multiple_of(*parts)).expect("1 divides all numbers")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calibrate::cpu;
    use burn::tensor::TensorData;

    #[test]
    fn heads_of_models_have_parts() {
        let found = [49152, 128_256, 151_936, 262_144, 90, 4099].map(parts);
        assert_eq!(found, [12, 24, 32, 64, 1, 1]);
    }

    #[test]
    fn products_and_gradients_of_parts_are_those_of_the_whole() {
        let (tokens, dim, vocab) = (3, 5, 3 * ROWS_OF_PART);
        let numbers = |count: usize, seed: usize| -> Vec<f32> {
            (0..count).map(|at| ((at * 7919 + seed) % 1009) as f32 / 505.0 - 1.0).collect()
        };
        let tensor =
            |numbers: Vec<f32>, dims: [usize; 2]| Tensor::<2>::from_data(TensorData::new(numbers, dims), &cpu());
        let head = tensor(numbers(vocab * dim, 3), [vocab, dim]);
        let upstream = tensor(numbers(tokens * vocab, 5), [tokens, vocab]).autodiff();
        let outcome = |product: &dyn Fn(Tensor<2>, Tensor<2>) -> Tensor<2>| {
            let x = tensor(numbers(tokens * dim, 1), [tokens, dim]).autodiff().require_grad();
            let logits = product(x.clone(), head.clone().autodiff());
            let mut gradients = (logits.clone() * upstream.clone()).sum().backward();
            let gradient = x.grad_remove(&mut gradients).expect("the sum depends on it");
            [logits.without_autodiff(), gradient].map(|tensor| tensor.try_to_vec_as::<f32>().unwrap())
        };
        assert_eq!(parts(vocab), 3);
        let (found, expected) = (outcome(&head_product), outcome(&|x, head| x.matmul(head.transpose())));
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!(found.len(), expected.len());
            let largest = expected.iter().fold(0f32, |most, x| most.max(x.abs()));
            let apart = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
            assert!(apart < 1e-5 * largest, "{apart} of {largest}");
        }
    }
}
