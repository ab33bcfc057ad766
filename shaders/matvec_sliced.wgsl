// The product of a sliced weight with few tokens, each on its own.
// A team of LANES invocations works on four rows of one token, each on every LANES-th chunk of 64 weights.
#import bins
#import sliced
#import product
#import matvec

override WORKGROUP: u32 = 64u;
override LANES: u32 = 32u;

var<workgroup> partial: array<vec4<f32>, WORKGROUP>;

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
        let chunks = load_chunks(at, depth);
        let ranges = load_ranges(groups_of(at, params.group_chunks), depth);
        var products = mat4x2<f32>();
        // Of the chunk, or of its halves.
        var x_sum = vec4<f32>();
        var second_sum = vec4<f32>();
        for (var i = 0u; i < 4u; i++) {
            let first = x_row + chunk * 16u + i;
            let x_t = mat4x4<f32>(x[first], x[first + 4u], x[first + 8u], x[first + 12u]);
            if WORD_RANGES == 1u {
                x_sum += x_t[0] + x_t[1];
                second_sum += x_t[2] + x_t[3];
            } else {
                x_sum += x_t[0] + x_t[1] + x_t[2] + x_t[3];
            }
            products += dot_plane(chunks, i, depth, x_t);
        }
        let x_sums = vec2<f32>(dot(x_sum, vec4<f32>(1.0)), dot(second_sum, vec4<f32>(1.0)));
        sums += scaled(ranges, depth, products, x_sums);
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
