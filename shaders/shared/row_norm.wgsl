// What the kernels of RMSNorm share: x and y are [T, D], and a workgroup has a row of them.

struct Params {
    // vec4s in a row.
    row_vec4s: u32,
    eps: f32,
}

override WORKGROUP: u32 = 64u;

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> weight: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4<f32>>;

// What the norm multiplies the numbers with that begin at `row`.
fn norm_factor(row: u32, local: u32) -> f32 {
    var sum = 0.0;
    for (var k = local; k < params.row_vec4s; k += WORKGROUP) {
        sum += dot(x[row + k], x[row + k]);
    }
    return inverseSqrt(sum_of_workgroup(sum, local) / f32(params.row_vec4s * 4u) + params.eps);
}
