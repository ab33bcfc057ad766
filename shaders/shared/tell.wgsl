// How a projection makes the hidden units of routers that look at its input, which is a norm: by workgroups beside those
// that have rows, so that no row waits for it. They are few, as a large GPU has few processors left, so each reads the
// input once, an invocation four numbers at a time, for all of its units. A kernel declares `w1`, [TOLD, input] f16, four
// to an entry, what all routers have in `rest`, and `told`, where the units go.

// Hidden units of a workgroup, MOST_UNITS at most.
override UNITS: u32 = 4u;
const MOST_UNITS: u32 = 16u;
// Lengths of arrays have names, as naga wants.
override TOLD_PARTS: u32 = (UNITS + 2u) * SUBGROUPS;

// Of each subgroup: what the input without the norm's factor comes to in each unit, and the squares of x and of it.
var<workgroup> told_parts: array<f32, TOLD_PARTS>;

fn keep_part(place: Place, at: u32, own: f32) {
    let part = subgroupAdd(own);
    if place.lane == 0u {
        told_parts[at * SUBGROUPS + place.subgroup] = part;
    }
}

// What all subgroups have of a sum; called by whole subgroups.
fn told_sum(place: Place, at: u32) -> f32 {
    var sum = 0.0;
    for (var s = place.lane; s < place.subgroups; s += place.size) {
        sum += told_parts[at * SUBGROUPS + s];
    }
    return subgroupAdd(sum);
}

// What a workgroup does that has no rows.
fn tell(place: Place) {
    let first_unit = (place.workgroup.x - ROW_WORKGROUPS) * UNITS;
    let vec4s = CHUNK_VEC4S * CHUNKS;
    var sums: array<f32, MOST_UNITS>;
    var squares_of = vec2<f32>();
    for (var k = local_of(place); k < vec4s; k += WORKGROUP) {
        var weights: array<vec2<u32>, MOST_UNITS>;
        for (var u = 0u; u < UNITS; u++) {
            weights[u] = w1[(first_unit + u) * vec4s + k];
        }
        let plain = four_at(k);
        let input = plain * norm[k];
        for (var u = 0u; u < UNITS; u++) {
            let four = vec4<f32>(unpack2x16float(weights[u].x), unpack2x16float(weights[u].y));
            sums[u] += dot(input, four);
        }
        squares_of += vec2<f32>(dot(plain, plain), dot(input, input));
    }
    for (var u = 0u; u < UNITS; u++) {
        keep_part(place, u, sums[u]);
    }
    keep_part(place, UNITS, squares_of.x);
    keep_part(place, UNITS + 1u, squares_of.y);
    workgroupBarrier();
    let mean = told_sum(place, UNITS) / f32(64u * CHUNKS);
    let input_mean = told_sum(place, UNITS + 1u) / f32(64u * CHUNKS);
    // What the norm and the routers' own norm multiply all of the input with.
    let factor = inverseSqrt(mean + params.eps);
    let both = factor * inverseSqrt(input_mean * factor * factor + EPS);
    // A subgroup may be larger than the device's smallest, and there are fewer then.
    for (var own = place.subgroup; own < UNITS; own += place.subgroups) {
        let sum = told_sum(place, own);
        if place.lane == 0u {
            let unit = first_unit + own;
            let b1 = rest[(params.site + unit / HIDDEN) * REST + unit % HIDDEN];
            told[unit] = silu(sum * both + b1);
        }
    }
}
