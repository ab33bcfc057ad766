// An input that is whole, or the partials of a token's attention. A kernel binds it as `x`, an array<vec4<u32>>.
//
// Whole, x is f32. As partials it is [T, H, S, A] f16, of each partial the mean of its values by their weights, and
// behind that [T, H, S, 2] f32, of each partial the highest score and the sum of exp(score - highest).

// Splits of a head; 1: it is whole.
override SPLITS: u32 = 1u;
// vec4s of a head, and those of x before the peaks begin, where there are partials.
override HEAD_VEC4S: u32 = 16u;
override PEAKS_AT: u32 = 0u;

fn peak_of(partial: u32) -> vec2<f32> {
    let two = bitcast<vec4<f32>>(x[PEAKS_AT + partial / 2u]);
    return select(two.xy, two.zw, partial % 2u == 1u);
}

fn mean_of(partial: u32, column: u32) -> vec4<f32> {
    let at = partial * HEAD_VEC4S + column;
    let eight = x[at / 2u];
    let four = select(eight.xy, eight.zw, at % 2u == 1u);
    return vec4<f32>(unpack2x16float(four.x), unpack2x16float(four.y));
}

// Numbers 4 at to 4 at + 3.
fn four_at(at: u32) -> vec4<f32> {
    if SPLITS == 1u {
        return bitcast<vec4<f32>>(x[at]);
    }
    let first = at / HEAD_VEC4S * SPLITS;
    // The first partial always has a position.
    var highest = peak_of(first).x;
    for (var s = 1u; s < SPLITS; s++) {
        highest = max(highest, peak_of(first + s).x);
    }
    var total = 0.0;
    var sum = vec4<f32>();
    for (var s = 0u; s < SPLITS; s++) {
        let peak = peak_of(first + s);
        // Joined explicitly, so that all kernels that combine partials round alike.
        let shrink = exp(peak.x - highest);
        let weight = shrink * peak.y;
        total = fma(shrink, peak.y, total);
        sum = fma(vec4<f32>(weight), mean_of(first + s, at % HEAD_VEC4S), sum);
    }
    return sum / total;
}
