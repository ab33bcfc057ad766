// The norm of each token, and its depth at some neighbouring sites as `route` selects it, on processor cores whose
// vectors are subgroups of eight: a workgroup a token and site, and an invocation a hidden unit. A load costs as much
// there as dozens of sums, as each lane loads for itself, so lanes share what they load of x. A launch costs about as
// much as a router, so this one makes the norm too: each workgroup for itself, and the first one of a token writes it.
#import step_rows
#import router
#import routed

const LANES: u32 = 8u;

// What the units of each subgroup add to the three outputs.
var<workgroup> terms: array<vec3<f32>, HIDDEN / LANES>;

// Entry i of eight that a token's row has next, of w1 and of the norm, where each lane holds one of the latter's vec4s.
fn dot_next(w: vec4<u32>, own: vec4<f32>, i: u32) -> f32 {
    return dot_eight(w, subgroupShuffle(own, 2u * i), subgroupShuffle(own, 2u * i + 1u));
}

@compute @workgroup_size(HIDDEN)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let token = workgroup.x;
    let site = params.first_site + workgroup.y;
    let own_rest = site * REST;
    let unit = subgroup * LANES + lane;
    let vec4s = 2u * params.row_eights;

    // Each subgroup sums up the squares for itself.
    var squares = 0.0;
    for (var k = lane; k < vec4s; k += LANES) {
        squares += dot(x[token * vec4s + k], x[token * vec4s + k]);
    }
    let scale = inverseSqrt(subgroupAdd(squares) / f32(4u * vec4s) + params.eps);

    var sum = 0.0;
    squares = 0.0;
    for (var k = 0u; k < params.row_eights; k += 4u) {
        let own = x[token * vec4s + 2u * k + lane] * scale * norm[2u * k + lane];
        if workgroup.y == 0u && subgroup == 0u {
            normed[token * vec4s + 2u * k + lane] = own;
        }
        let at = (workgroup.y * HIDDEN + unit) * params.row_eights + k;
        squares += dot(own, own);
        sum += dot_next(w1[at], own, 0u) + dot_next(w1[at + 1u], own, 1u)
            + dot_next(w1[at + 2u], own, 2u) + dot_next(w1[at + 3u], own, 3u);
    }
    let mean_square = subgroupAdd(squares) / f32(4u * vec4s);
    let h = silu(sum * inverseSqrt(mean_square + EPS) + rest[own_rest + unit]);
    let own_terms = subgroupAdd(h * w2_of(own_rest, unit));
    if lane == 0u {
        terms[subgroup] = own_terms;
    }
    workgroupBarrier();
    if unit == 0u {
        let o = terms[0] + terms[1] + terms[2] + terms[3] + b2_of(own_rest);
        let row = step_rows[token];
        depths[workgroup.y * params.depths_row + row.depth_row] = depth_of(o, control[row.first_control + site]);
    }
}
