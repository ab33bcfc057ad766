//! Rows as files have them against rows as the runtime takes them.

use super::*;

/// A fold that changes nothing, of heads of 8.
fn none() -> Fold {
    Fold {
        embed: 1.0,
        head: 1.0,
        final_norm: 1.0,
        branch: 1.0,
        norm_offset: 0.0,
        head_dim: 8,
        rotated_dim: 8,
        is_interleaved: false,
        in_head_norms: false,
        kinds: vec![HeadFactors { query: 1.0, rotated: 1.0 }],
    }
}

/// The rows of a tensor of a file whose every row is its number, from 1 on.
fn rows(fold: &Fold, tensor: SourceTensor, rows: Range<u32>) -> Vec<f32> {
    let (mut out, input) = (Vec::new(), 2);
    let read = &mut |rows: Range<u32>, out: &mut Vec<f32>| {
        *out = rows.flat_map(|row| [row as f32 + 1.0; 2]).collect();
        Ok(())
    };
    fold.rows(tensor, rows, input, &mut out, read).unwrap();
    assert!(out.chunks_exact(2).all(|row| row[0] == row[1]));
    out.into_iter().step_by(2).collect()
}

/// The numbers of a vector whose numbers in the file are their places, from 1 on.
fn vector(fold: &Fold, tensor: SourceTensor, length: u32) -> Vec<f32> {
    let mut out = Vec::new();
    let read = &mut |rows: Range<u32>, out: &mut Vec<f32>| {
        assert_eq!(rows, 0..1);
        *out = (1..=length).map(|number| number as f32).collect();
        Ok(())
    };
    fold.rows(tensor, 0..1, length, &mut out, read).unwrap();
    out
}

#[test]
fn halves_of_a_head_are_interleaved_in_the_file() {
    let fold = Fold { is_interleaved: true, ..none() };
    let halves = [1.0, 3.0, 5.0, 7.0, 2.0, 4.0, 6.0, 8.0, 9.0, 11.0, 13.0, 15.0, 10.0, 12.0, 14.0, 16.0];
    assert_eq!(rows(&fold, SourceTensor::Query(0), 0..16), halves);
    // A block may begin and end within heads.
    assert_eq!(rows(&fold, SourceTensor::Key(0), 3..10), halves[3..10]);
    assert_eq!(vector(&fold, SourceTensor::KeyBias(0), 16), halves);
    assert_eq!(rows(&fold, SourceTensor::Value(0), 0..3), [1.0, 2.0, 3.0]);
}

#[test]
fn what_is_rotated_begins_both_halves_of_a_head_that_is_rotated_in_part() {
    let fold = Fold { rotated_dim: 4, kinds: vec![HeadFactors { query: 10.0, rotated: 2.0 }], ..none() };
    // Of rows 1 to 8, the first four are rotated as (1, 3) and (2, 4).
    let order = [1.0, 2.0, 5.0, 6.0, 3.0, 4.0, 7.0, 8.0];
    let factors = [2.0, 2.0, 1.0, 1.0, 2.0, 2.0, 1.0, 1.0];
    let keys: Vec<f32> = order.iter().zip(factors).map(|(row, factor)| row * factor).collect();
    let queries: Vec<f32> = keys.iter().map(|row| row * 10.0).collect();
    assert_eq!(rows(&fold, SourceTensor::Key(0), 0..8), keys);
    assert_eq!(rows(&fold, SourceTensor::Query(0), 0..8), queries);
    assert_eq!(vector(&fold, SourceTensor::QueryBias(0), 8), queries);
    assert_eq!(rows(&fold, SourceTensor::Value(0), 0..2), [1.0, 2.0]);
}

#[test]
fn heads_with_norms_are_multiplied_there_and_nowhere_else() {
    let kinds = vec![HeadFactors { query: 3.0, rotated: 2.0 }, HeadFactors { query: 3.0, rotated: 1.0 }];
    let fold = Fold { in_head_norms: true, norm_offset: 1.0, kinds, ..none() };
    let norm = |layer, vector_kind| vector(&fold, SourceTensor::Vector(layer, vector_kind), 8);
    let scaled = |factor: f32| (2..10).map(|number| number as f32 * factor).collect::<Vec<f32>>();
    assert_eq!(norm(0, LayerVector::QueryNorm), scaled(6.0));
    assert_eq!(norm(0, LayerVector::KeyNorm), scaled(2.0));
    // Every second layer is of the second kind.
    assert_eq!((norm(1, LayerVector::QueryNorm), norm(3, LayerVector::KeyNorm)), (scaled(3.0), scaled(1.0)));
    assert_eq!(rows(&fold, SourceTensor::Query(0), 0..2), [1.0, 2.0]);
    assert_eq!(vector(&fold, SourceTensor::QueryBias(0), 8)[..2], [1.0, 2.0]);
}

#[test]
fn factors_go_where_they_belong() {
    let fold = Fold { embed: 2.0, head: 3.0, final_norm: 5.0, branch: 7.0, norm_offset: 1.0, ..none() };
    let first = |tensor| rows(&fold, tensor, 0..1)[0];
    use SourceTensor::*;
    assert_eq!([Embed, Head, Output(0), Down(1)].map(first), [2.0, 3.0, 7.0, 7.0]);
    assert_eq!([Gate(0), Up(0), Value(0), Query(0)].map(first), [1.0; 4]);
    // A norm is (1 + w), times its factor.
    assert_eq!(vector(&fold, FinalNorm, 2), [10.0, 15.0]);
    assert_eq!(vector(&fold, Vector(0, LayerVector::AfterFfnNorm), 2), [2.0, 3.0]);
    assert_eq!(vector(&fold, ValueBias(0), 2), [1.0, 2.0]);
}
