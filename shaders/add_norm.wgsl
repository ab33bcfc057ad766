// y[t, k] += x[t, k] / sqrt(mean over k of x[t, k]^2 + eps) * weight[k]; one workgroup a token.

struct Params {
    // vec4s in a row.
    row_vec4s: u32,
    eps: f32,
}

override WORKGROUP: u32 = 256u;

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> weight: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4<f32>>;

var<workgroup> squares: array<f32, WORKGROUP>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let row = workgroup.x * params.row_vec4s;
    var sum = 0.0;
    for (var k = local; k < params.row_vec4s; k += WORKGROUP) {
        sum += dot(x[row + k], x[row + k]);
    }
    squares[local] = sum;
    for (var half = WORKGROUP / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if local < half {
            squares[local] += squares[local + half];
        }
    }
    workgroupBarrier();
    let scale = inverseSqrt(squares[0] / f32(params.row_vec4s * 4u) + params.eps);
    for (var k = local; k < params.row_vec4s; k += WORKGROUP) {
        y[row + k] += x[row + k] * scale * weight[k];
    }
}
