// nll[t] = log(sum over v of exp(logits[t, v])) - logits[t, targets[t]]; one workgroup a token.
// logits: [T, V] f32.

struct Params {
    vocab: u32,
}

override WORKGROUP: u32 = 64u;

const LOWEST: f32 = -3.4e38;

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> logits: array<f32>;
@group(0) @binding(1) var<storage, read> targets: array<u32>;
@group(0) @binding(2) var<storage, read_write> nll: array<f32>;

var<workgroup> scratch: array<f32, WORKGROUP>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let row = workgroup.x * params.vocab;
    var highest = LOWEST;
    for (var v = local; v < params.vocab; v += WORKGROUP) {
        highest = max(highest, logits[row + v]);
    }
    scratch[local] = highest;
    for (var half = WORKGROUP / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if local < half {
            scratch[local] = max(scratch[local], scratch[local + half]);
        }
    }
    workgroupBarrier();
    highest = scratch[0];
    workgroupBarrier();

    var total = 0.0;
    for (var v = local; v < params.vocab; v += WORKGROUP) {
        total += exp(logits[row + v] - highest);
    }
    scratch[local] = total;
    for (var half = WORKGROUP / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if local < half {
            scratch[local] += scratch[local + half];
        }
    }
    if local == 0u {
        nll[workgroup.x] = log(scratch[0]) + highest - logits[row + targets[workgroup.x]];
    }
}
