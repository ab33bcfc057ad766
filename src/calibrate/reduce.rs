//! Sums and maxima along rows, in stages.
//!
//! burn gives each result of a plain reduction to one thread. Where results are few and rows long, most of a GPU then
//! waits for some threads that walk through memory; folded into short rows first, the same reduction keeps it busy.

use burn::tensor::Tensor;

/// Elements that one thread goes through at most.
const STRIDE: usize = 64;

/// Sum of each row, [N, n] to [N, 1].
pub fn sum_rows(x: Tensor<2>) -> Tensor<2> {
    staged(x, |x| x.sum_dim(1))
}

/// Sum of all elements, `[1]`.
pub fn sum_all<const D: usize>(x: Tensor<D>) -> Tensor<1> {
    sum_rows(x.reshape([1, -1])).reshape([1])
}

/// The one element of each row `length` times, [N, 1] to [N, length]: its gradient is a sum of rows, in stages too.
pub fn spread(mut x: Tensor<2>, length: usize) -> Tensor<2> {
    let [rows, _] = x.dims();
    let mut done = 1;
    for part in parts(length).into_iter().rev() {
        x = x.reshape([rows * done, 1]).expand([rows * done, part]).reshape([rows, done * part]);
        done *= part;
    }
    x
}

/// Softmax of each row, [N, n].
pub fn softmax(x: Tensor<2>) -> Tensor<2> {
    let [_, length] = x.dims();
    let share = below_highest(x).exp();
    let total = sum_rows(share.clone());
    share / spread(total, length)
}

/// log(softmax) of each row, [N, n].
pub fn log_softmax(x: Tensor<2>) -> Tensor<2> {
    let [_, length] = x.dims();
    let x = below_highest(x);
    let total = sum_rows(x.clone().exp()).log();
    x - spread(total, length)
}

/// Each row less its highest element, which takes no part in the gradient.
fn below_highest(x: Tensor<2>) -> Tensor<2> {
    let highest = staged(x.clone().detach(), |x| x.max_dim(1));
    x - highest
}

fn staged(mut x: Tensor<2>, reduce: impl Fn(Tensor<2>) -> Tensor<2>) -> Tensor<2> {
    let [rows, mut length] = x.dims();
    for part in parts(length) {
        length /= part;
        x = reduce(x.reshape([rows * length, part])).reshape([rows, length]);
    }
    x
}

/// Lengths of the stages, whose product is `length`.
fn parts(mut length: usize) -> Vec<usize> {
    let mut parts = Vec::new();
    while length > STRIDE {
        let part = (2..=STRIDE).rev().find(|part| length.is_multiple_of(*part)).unwrap_or(length);
        parts.push(part);
        length /= part;
    }
    parts.push(length);
    parts
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData, activation};

    use super::*;

    #[test]
    fn stages_change_no_result() {
        for (rows, length) in [(3, 768), (2, 97), (1, 5), (4, 130)] {
            let values: Vec<f32> = (0..rows * length).map(|i| ((i * 7919) % 613) as f32 / 100.0 - 3.0).collect();
            let x = Tensor::<2>::from_data(TensorData::new(values, [rows, length]), &Device::flex());
            let close = |a: Tensor<2>, b: Tensor<2>| a.all_close(b, Some(1e-5), Some(1e-4));
            assert!(close(sum_rows(x.clone()), x.clone().sum_dim(1)), "{rows} {length}");
            assert!(close(softmax(x.clone()), activation::softmax(x.clone(), 1)), "{rows} {length}");
            let one = x.clone().narrow(1, 0, 1);
            assert!(close(spread(one.clone(), 130), one.expand([rows, 130])), "{rows} {length}");
            assert!(close(log_softmax(x.clone()), activation::log_softmax(x.clone(), 1)), "{rows} {length}");
            let all: f32 = sum_all(x.clone()).into_scalar();
            assert!((all - x.sum().into_scalar::<f32>()).abs() < 1e-2, "{rows} {length}");
        }
    }
}
