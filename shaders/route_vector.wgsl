// The depth of each token at one site, as `route` chooses it, on processor cores whose vectors are subgroups of eight: a
// workgroup a token, and an invocation a hidden unit. A load costs as much there as dozens of sums, as each lane loads
// for itself, so lanes share what they load of x. A launch costs about as much as a router, so this one can make x too.
#import router

struct Params {
    // Eights of numbers in a row of x, a multiple of four, and so in a row of w1.
    row_eights: u32,
    // The site's entry in `control`.
    site: u32,
    // Added to the mean square by the norm.
    eps: f32,
}

// x is 0: there; 1: given / sqrt(mean(given^2) + eps) * norm; 2: silu(gate) * up, the halves of a row of what is given.
override MADE: u32 = 0u;

const LANES: u32 = 8u;

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> given: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> norm: array<vec4<f32>>;
// [HIDDEN, input] f16, eight to an entry.
@group(0) @binding(2) var<storage, read> w1: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> b1: array<f32>;
// [3, HIDDEN]
@group(0) @binding(4) var<storage, read> w2: array<f32>;
@group(0) @binding(5) var<storage, read> b2: array<f32>;
@group(0) @binding(6) var<storage, read> control: array<Control>;
// The token that gets the depth chosen for each token.
@group(0) @binding(7) var<storage, read> deal: array<u32>;
@group(0) @binding(8) var<storage, read_write> x: array<vec4<f32>>;
@group(0) @binding(9) var<storage, read_write> depths: array<u32>;

// What the units of each subgroup add to the three outputs.
var<workgroup> terms: array<vec3<f32>, HIDDEN / LANES>;

// Entry i of eight that a token's row has next, of w1 and of x, where each lane holds one of the latter's vec4s.
fn dot_next(w: vec4<u32>, own: vec4<f32>, i: u32) -> f32 {
    return dot_eight(w, subgroupShuffle(own, 2u * i), subgroupShuffle(own, 2u * i + 1u));
}

// Makes row `token` of x, of so many vec4s; each subgroup sums up the squares for itself.
fn make(token: u32, vec4s: u32, unit: u32, lane: u32) {
    if MADE == 1u {
        var squares = 0.0;
        for (var k = lane; k < vec4s; k += LANES) {
            squares += dot(given[token * vec4s + k], given[token * vec4s + k]);
        }
        let scale = inverseSqrt(subgroupAdd(squares) / f32(4u * vec4s) + params.eps);
        for (var k = unit; k < vec4s; k += HIDDEN) {
            x[token * vec4s + k] = given[token * vec4s + k] * scale * norm[k];
        }
    } else {
        for (var k = unit; k < vec4s; k += HIDDEN) {
            let gate = given[2u * token * vec4s + k];
            x[token * vec4s + k] = gate / (vec4<f32>(1.0) + exp(-gate)) * given[(2u * token + 1u) * vec4s + k];
        }
    }
    storageBarrier();
}

@compute @workgroup_size(HIDDEN)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let token = workgroup.x;
    let unit = subgroup * LANES + lane;
    if MADE > 0u {
        make(token, 2u * params.row_eights, unit, lane);
    }

    var sum = 0.0;
    var squares = 0.0;
    for (var k = 0u; k < params.row_eights; k += 4u) {
        let own = x[(token * params.row_eights + k) * 2u + lane];
        let at = unit * params.row_eights + k;
        squares += dot(own, own);
        sum += dot_next(w1[at], own, 0u) + dot_next(w1[at + 1u], own, 1u)
            + dot_next(w1[at + 2u], own, 2u) + dot_next(w1[at + 3u], own, 3u);
    }
    let mean_square = subgroupAdd(squares) / f32(params.row_eights * 8u);
    let h = silu(sum * inverseSqrt(mean_square + EPS) + b1[unit]);
    let own_terms = subgroupAdd(h * vec3<f32>(w2[unit], w2[HIDDEN + unit], w2[2u * HIDDEN + unit]));
    if lane == 0u {
        terms[subgroup] = own_terms;
    }
    workgroupBarrier();
    if unit == 0u {
        let o = terms[0] + terms[1] + terms[2] + terms[3] + vec3<f32>(b2[0], b2[1], b2[2]);
        depths[deal[token]] = depth_of(o, control[params.site]);
    }
}
