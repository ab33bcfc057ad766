// y[t, k] = x[t, k] / sqrt(mean over k of x[t, k]^2 + eps) * weight[k]; one workgroup a token.
#import workgroup_sum
#import row_norm

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let row = workgroup.x * params.row_vec4s;
    let scale = norm_factor(row, local);
    for (var k = local; k < params.row_vec4s; k += WORKGROUP) {
        y[row + k] = x[row + k] * scale * weight[k];
    }
}
