// logits[i] = cap * tanh(logits[i] / cap).
#import scores

struct Params {
    // Logits of all tokens.
    count: u32,
}

override WORKGROUP: u32 = 256u;

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read_write> logits: array<f32>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>) {
    for (var at = global.x; at < params.count; at += workgroups.x * WORKGROUP) {
        logits[at] = capped(logits[at]);
    }
}
