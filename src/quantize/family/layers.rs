//! The layers of a model, one by one, and the shortest turn in which their kinds repeat.

/// In what a layer differs from others of its model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerFacts {
    /// Positions that a token looks at, its own included; without it, all up to its own.
    pub window: Option<u32>,
    /// Whether it has the rotary embedding of layers with a window, where a model has two.
    pub is_local: bool,
    /// Whether queries and keys are rotated at all.
    pub is_rotated: bool,
}

impl LayerFacts {
    /// A layer that looks at all positions, and is rotated.
    pub const GLOBAL: LayerFacts = LayerFacts { window: None, is_local: false, is_rotated: true };

    /// A layer with a window, or without where `window` is none.
    pub fn local(window: Option<u32>) -> LayerFacts {
        LayerFacts { window, is_local: true, ..LayerFacts::GLOBAL }
    }
}

/// For each of `layers` layers, whether it is no last of `period` layers: the local ones of a model whose every
/// `period`th layer is global. All are local where `period` is 0, and none is where it is 1.
pub fn every(period: u32, layers: u32) -> Vec<bool> {
    (0..layers).map(|layer| period == 0 || (layer + 1) % period != 0).collect()
}

/// The first of `kinds` that, in turn, are all of them.
pub fn shortest_turn<T: PartialEq>(kinds: &[T]) -> &[T] {
    let repeats = |length: &usize| kinds.iter().zip(kinds.iter().skip(*length)).all(|(one, other)| one == other);
    let length = (1..kinds.len()).find(repeats).unwrap_or(kinds.len());
    &kinds[..length]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_turn_repeats_to_the_last_layer() {
        assert_eq!(shortest_turn(&[1, 1, 1]), [1]);
        assert_eq!(shortest_turn(&[1, 2, 1, 2, 1]), [1, 2]);
        assert_eq!(shortest_turn(&[1, 1, 2, 2]), [1, 1, 2, 2]);
        assert_eq!(shortest_turn(&[1, 1, 1, 1, 1, 2, 1]), [1, 1, 1, 1, 1, 2]);
        assert_eq!(shortest_turn::<u32>(&[]), [0; 0]);
    }

    #[test]
    fn every_so_many_layers_one_is_global() {
        assert_eq!(every(2, 5), [true, false, true, false, true]);
        assert_eq!((every(0, 2), every(1, 2), every(6, 1)), (vec![true; 2], vec![false; 2], vec![true]));
    }
}
