// The product of a sliced weight with few tokens, each on its own.
// A team of LANES invocations works on four rows of one token, each on every LANES-th chunk of 64 weights.
#import sliced
#import product

override WORKGROUP: u32 = 64u;
override LANES: u32 = 32u;

// Of each token.
@group(0) @binding(6) var<storage, read> depths: array<u32>;

var<workgroup> partial: array<vec4<f32>, WORKGROUP>;

fn dot_codes(chunk: Chunk, i: u32, depth: u32, x_t: mat4x4<f32>) -> f32 {
    let c = codes(chunk, i, depth);
    return dot(c[0], x_t[0]) + dot(c[1], x_t[1]) + dot(c[2], x_t[2]) + dot(c[3], x_t[3]);
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let lane = local % LANES;
    let row = (workgroup.x * (WORKGROUP / LANES) + local / LANES) * 4u;
    let token = workgroup.y;
    let depth = depths[token];
    let rows = four_rows(row);
    let x_row = token * params.chunks * 16u;

    var sums = vec4<f32>();
    for (var chunk = lane; chunk < params.chunks; chunk += LANES) {
        let at = rows * params.chunks + chunk;
        let chunk0 = load_chunk(at.x, depth);
        let chunk1 = load_chunk(at.y, depth);
        let chunk2 = load_chunk(at.z, depth);
        let chunk3 = load_chunk(at.w, depth);
        var products = vec4<f32>();
        var x_sum = vec4<f32>();
        for (var i = 0u; i < 4u; i++) {
            let first = x_row + chunk * 16u + i;
            let x_t = mat4x4<f32>(x[first], x[first + 4u], x[first + 8u], x[first + 12u]);
            x_sum += x_t[0] + x_t[1] + x_t[2] + x_t[3];
            products += vec4<f32>(
                dot_codes(chunk0, i, depth, x_t),
                dot_codes(chunk1, i, depth, x_t),
                dot_codes(chunk2, i, depth, x_t),
                dot_codes(chunk3, i, depth, x_t),
            );
        }
        let bin0 = bin(at.x, params.group_chunks, depth);
        let bin1 = bin(at.y, params.group_chunks, depth);
        let bin2 = bin(at.z, params.group_chunks, depth);
        let bin3 = bin(at.w, params.group_chunks, depth);
        sums += vec4<f32>(bin0.x, bin1.x, bin2.x, bin3.x) * products
            + vec4<f32>(bin0.y, bin1.y, bin2.y, bin3.y) * dot(x_sum, vec4<f32>(1.0));
    }

    if LANES > 1u {
        partial[local] = sums;
        for (var half = LANES / 2u; half > 0u; half /= 2u) {
            workgroupBarrier();
            if lane < half {
                partial[local] += partial[local + half];
            }
        }
        sums = partial[local];
    }
    if lane == 0u {
        store(token, row, sums);
    }
}
