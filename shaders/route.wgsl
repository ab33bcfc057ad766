// The depth of each token at one site, by the site's router; one workgroup a token. src/routing.rs tells the formula.
// Invocations share the hidden units evenly; those of one unit lie side by side and take turns along its row.
#import router

struct Params {
    // Eights of numbers in a row of x, and so in a row of w1.
    row_eights: u32,
    // The site's entry in `control`.
    site: u32,
}

override WORKGROUP: u32 = 256u;

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
// [HIDDEN, input] f16, eight to an entry.
@group(0) @binding(1) var<storage, read> w1: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> b1: array<f32>;
// [3, HIDDEN]
@group(0) @binding(3) var<storage, read> w2: array<f32>;
@group(0) @binding(4) var<storage, read> b2: array<f32>;
@group(0) @binding(5) var<storage, read> control: array<Control>;
// The token that gets the depth chosen for each token.
@group(0) @binding(6) var<storage, read> deal: array<u32>;
@group(0) @binding(7) var<storage, read_write> depths: array<u32>;

// Parts of w1's row times x, and of the square of x.
var<workgroup> partial: array<vec2<f32>, WORKGROUP>;
// What each hidden unit adds to the three outputs.
var<workgroup> terms: array<vec3<f32>, HIDDEN>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let token = workgroup.x;
    let lanes = WORKGROUP / HIDDEN;
    let unit = local / lanes;
    let lane = local % lanes;

    // The root of the mean square divides all of x alike, so it may divide the sum instead.
    var sums = vec2<f32>();
    for (var k = lane; k < params.row_eights; k += lanes) {
        let low = x[(token * params.row_eights + k) * 2u];
        let high = x[(token * params.row_eights + k) * 2u + 1u];
        let w = w1[unit * params.row_eights + k];
        sums += vec2<f32>(dot_eight(w, low, high), dot(low, low) + dot(high, high));
    }
    partial[local] = sums;
    for (var step = lanes / 2u; step > 0u; step /= 2u) {
        workgroupBarrier();
        if lane < step {
            partial[local] += partial[local + step];
        }
    }
    if lane == 0u {
        let mean_square = partial[local].y / f32(params.row_eights * 8u);
        let h = silu(partial[local].x * inverseSqrt(mean_square + EPS) + b1[unit]);
        terms[unit] = h * vec3<f32>(w2[unit], w2[HIDDEN + unit], w2[2u * HIDDEN + unit]);
    }
    for (var step = HIDDEN / 2u; step > 0u; step /= 2u) {
        workgroupBarrier();
        if local < step {
            terms[local] += terms[local + step];
        }
    }
    if local == 0u {
        let o = terms[0] + vec3<f32>(b2[0], b2[1], b2[2]);
        depths[deal[token]] = depth_of(o, control[params.site]);
    }
}
