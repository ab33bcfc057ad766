// The end of attention of a head over its positions or a split of them: the sums of the subgroups are combined and
// written to `y`, which a kernel declares as array<vec4<u32>>. shaders/shared/partials.wgsl describes its layout.
// A kernel declares HEAD_DIM, and HEAD_VEC4S, which is no less than the vec4s of a head.

// Splits of the positions of a head.
override SPLITS: u32 = 1u;
// Subgroups that there can be, and vec4s of all of them, at least.
override SUBGROUPS: u32 = 8u;
override SUM_VEC4S: u32 = SUBGROUPS * HEAD_VEC4S;
// The score of no position.
const LOWEST: f32 = -3.4e38;

// Each subgroup has (highest, sum of exp(score - highest)), and the sum of exp(score - highest) * value.
var<workgroup> subgroup_peaks: array<vec2<f32>, SUBGROUPS>;
var<workgroup> subgroup_sums: array<vec4<f32>, SUM_VEC4S>;

struct Partial {
    // Four dimensions of the mean of the values by their weights; nothing where there is no position.
    mean: vec4<f32>,
    // (highest, sum of exp(score - highest))
    peak: vec2<f32>,
}

// The combination of the subgroups' sums for vec4 `v` of the head.
fn combined_subgroups(subgroups: u32, v: u32) -> Partial {
    var highest = LOWEST;
    for (var s = 0u; s < subgroups; s++) {
        highest = max(highest, subgroup_peaks[s].x);
    }
    var total = 0.0;
    var sum = vec4<f32>();
    for (var s = 0u; s < subgroups; s++) {
        let shrink = exp(subgroup_peaks[s].x - highest);
        total += subgroup_peaks[s].y * shrink;
        sum += subgroup_sums[s * HEAD_VEC4S + v] * shrink;
    }
    return Partial(sum * select(0.0, 1.0 / total, total > 0.0), vec2<f32>(highest, total));
}

// Writes two words, the pair at `at` of y.
fn write_pair(at: u32, words: vec2<u32>) {
    y[at / 2u][at % 2u * 2u] = words.x;
    y[at / 2u][at % 2u * 2u + 1u] = words.y;
}

// Writes four dimensions of a partial, vec4 `at` of all `vec4s`, and with its first ones the peak.
fn write_partial(own: Partial, at: u32, vec4s: u32) {
    if SPLITS == 1u {
        y[at] = bitcast<vec4<u32>>(own.mean);
        return;
    }
    write_pair(at, vec2<u32>(pack2x16float(own.mean.xy), pack2x16float(own.mean.zw)));
    let head = HEAD_DIM / 4u;
    if at % head == 0u {
        write_pair(vec4s + at / head, bitcast<vec2<u32>>(own.peak));
    }
}
