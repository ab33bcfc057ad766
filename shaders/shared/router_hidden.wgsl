// How a projection makes the hidden units of routers that look at its input, which is a norm: by workgroups beside
// those that have rows, so that no row waits for it. They are few, as a large GPU has few processors left, so each
// reads the input once, an invocation four numbers at a time, for all of its units. A kernel declares `w1`, [units,
// input] f16, four to an entry, what all routers have in `rest`, and `hidden`, where the units go from `hidden_at` on.

// Hidden units of a workgroup, MOST_UNITS at most.
override UNITS: u32 = 4u;
const MOST_UNITS: u32 = 16u;
// Lengths of arrays have names, as naga wants.
override HIDDEN_SUMS: u32 = (UNITS + 2u) * SUBGROUPS;

// What each subgroup has of the sums: the input without the norm's factor in each unit, and the squares of x and of it.
var<workgroup> hidden_sums: array<f32, HIDDEN_SUMS>;

fn sum_subgroup(here: Invocation, at: u32, own: f32) {
    let part = subgroupAdd(own);
    if here.lane == 0u {
        hidden_sums[at * SUBGROUPS + here.subgroup] = part;
    }
}

// A sum over all subgroups; called by whole subgroups.
fn sum_of_subgroups(here: Invocation, at: u32) -> f32 {
    var sum = 0.0;
    for (var s = here.lane; s < here.subgroups; s += here.size) {
        sum += hidden_sums[at * SUBGROUPS + s];
    }
    return subgroupAdd(sum);
}

// Computes hidden units, as a workgroup without rows.
fn router_hidden(here: Invocation) {
    let first_unit = (here.workgroup.x - ROW_WORKGROUPS) * UNITS;
    let vec4s = CHUNK_VEC4S * CHUNKS;
    var sums: array<f32, MOST_UNITS>;
    var squares_of = vec2<f32>();
    for (var k = local_of(here); k < vec4s; k += WORKGROUP) {
        var weights: array<vec2<u32>, MOST_UNITS>;
        for (var u = 0u; u < UNITS; u++) {
            weights[u] = w1[(first_unit + u) * vec4s + k];
        }
        let plain = four_at(input_at() + k);
        let input = plain * norm[k];
        for (var u = 0u; u < UNITS; u++) {
            let four = vec4<f32>(unpack2x16float(weights[u].x), unpack2x16float(weights[u].y));
            sums[u] = add_products(sums[u], input, four);
        }
        squares_of = vec2<f32>(
            add_products(squares_of.x, plain, plain), add_products(squares_of.y, input, input),
        );
    }
    for (var u = 0u; u < UNITS; u++) {
        sum_subgroup(here, u, sums[u]);
    }
    sum_subgroup(here, UNITS, squares_of.x);
    sum_subgroup(here, UNITS + 1u, squares_of.y);
    workgroupBarrier();
    let mean = sum_of_subgroups(here, UNITS) / f32(64u * CHUNKS);
    let input_mean = sum_of_subgroups(here, UNITS + 1u) / f32(64u * CHUNKS);
    // What the norm and the routers' own norm multiply all of the input with.
    let factor = inverseSqrt(mean + params.eps);
    let both = factor * inverseSqrt(fma(input_mean * factor, factor, EPS));
    // A subgroup may be larger than the device's smallest, and there are fewer then.
    for (var own = here.subgroup; own < UNITS; own += here.subgroups) {
        let sum = sum_of_subgroups(here, own);
        if here.lane == 0u {
            let unit = first_unit + own;
            let b1 = rest[(params.site + unit / HIDDEN) * REST + unit % HIDDEN];
            hidden[hidden_at() + unit] = silu(fma(sum, both, b1));
        }
    }
}
