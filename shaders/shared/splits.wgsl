// What the kernels of attention in splits share: which positions a workgroup has, and sums over the lanes of a team.
// A kernel declares LANES, the invocations of a team.

// The positions of a split are a whole number of these, but for the last ones.
const SHARE: u32 = 32u;

// The positions from `first` to the one before `end`; none where these are equal.
struct Stretch {
    first: u32,
    end: u32,
}

// The positions of a split, of those from `start` on that a token at the last of `length` positions looks at.
fn stretch_of(split: u32, start: u32, length: u32) -> Stretch {
    let share = ((length - start + SPLITS - 1u) / SPLITS + SHARE - 1u) / SHARE * SHARE;
    let first = min(start + split * share, length);
    return Stretch(first, min(first + share, length));
}

// The sum over the lanes of a team, for each of them.
fn sum_lanes(own: f32) -> f32 {
    var sum = own;
    for (var other = LANES / 2u; other > 0u; other /= 2u) {
        sum += subgroupShuffleXor(sum, other);
    }
    return sum;
}
