// The norm of each token, and its depth at some neighbouring sites by the sites' routers, which look at the norm; one
// workgroup a token and site. src/routing.rs has the formula. Invocations share the hidden units evenly; those of one
// unit lie side by side and take turns along its row.
#import step_rows
#import router
#import routed

override WORKGROUP: u32 = 256u;

// Parts of w1's row times x * norm, of the square of x, and of that of x * norm.
var<workgroup> partial: array<vec3<f32>, WORKGROUP>;
// What each hidden unit adds to the three outputs.
var<workgroup> terms: array<vec3<f32>, HIDDEN>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let token = workgroup.x;
    let site = params.first_site + workgroup.y;
    let own_rest = site * REST;
    let lanes = WORKGROUP / HIDDEN;
    let unit = local / lanes;
    let lane = local % lanes;
    let row = token * params.row_eights * 2u;

    // What divides all of x alike may divide the sum instead.
    var sums = vec3<f32>();
    for (var k = lane; k < params.row_eights; k += lanes) {
        let low = x[row + 2u * k];
        let high = x[row + 2u * k + 1u];
        let low_normed = low * norm[2u * k];
        let high_normed = high * norm[2u * k + 1u];
        let w = w1[(workgroup.y * HIDDEN + unit) * params.row_eights + k];
        sums += vec3<f32>(
            dot_eight(w, low_normed, high_normed),
            dot(low, low) + dot(high, high),
            dot(low_normed, low_normed) + dot(high_normed, high_normed),
        );
    }
    partial[local] = sums;
    for (var step = lanes / 2u; step > 0u; step /= 2u) {
        workgroupBarrier();
        if lane < step {
            partial[local] += partial[local + step];
        }
    }
    workgroupBarrier();
    let means = partial[unit * lanes].yz / f32(params.row_eights * 8u);
    let scale = inverseSqrt(means.x + params.eps);
    if lane == 0u {
        let both = scale * inverseSqrt(means.y * scale * scale + EPS);
        let h = silu(partial[local].x * both + rest[own_rest + unit]);
        terms[unit] = h * w2_of(own_rest, unit);
    }
    if workgroup.y == 0u {
        for (var k = local; k < 2u * params.row_eights; k += WORKGROUP) {
            normed[row + k] = x[row + k] * scale * norm[k];
        }
    }
    for (var step = HIDDEN / 2u; step > 0u; step /= 2u) {
        workgroupBarrier();
        if local < step {
            terms[local] += terms[local + step];
        }
    }
    if local == 0u {
        let depth = depth_of(terms[0] + b2_of(own_rest), control[step_rows[token].first_control + site]);
        depths[workgroup.y * params.depths_row + step_rows[token].depth_row] = depth;
    }
}
