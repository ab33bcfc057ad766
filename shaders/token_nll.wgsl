// scores[t, 0] = log(sum over v of exp(logits[t, v])) - logits[t, targets[t]], and scores[t, 1] = 1 where no logit is
// greater than the target's, else 0, and -1 where a logit is not finite; one workgroup a token.
// logits: [T, V] f32; scores: [T, 2] f32.

struct Params {
    vocab: u32,
}

override WORKGROUP: u32 = 64u;

/// The least f32 there is.
const LOWEST: f32 = -0x1.fffffep+127;

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> logits: array<f32>;
@group(0) @binding(1) var<storage, read> targets: array<u32>;
@group(0) @binding(2) var<storage, read_write> scores: array<f32>;

var<workgroup> scratch: array<f32, WORKGROUP>;
// Whether a logit is not finite.
var<workgroup> no_numbers: atomic<u32>;

// The test is by the bits, because a compiler may take it that arithmetic on floats never sees such a number.
fn is_finite(logit: f32) -> bool {
    return (bitcast<u32>(logit) & 0x7f800000u) != 0x7f800000u;
}

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
    if local == 0u {
        atomicStore(&no_numbers, 0u);
    }
    workgroupBarrier();
    var total = 0.0;
    for (var v = local; v < params.vocab; v += WORKGROUP) {
        let logit = logits[row + v];
        total += exp(logit - highest);
        if !is_finite(logit) {
            atomicStore(&no_numbers, 1u);
        }
    }
    scratch[local] = total;
    for (var half = WORKGROUP / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if local < half {
            scratch[local] += scratch[local + half];
        }
    }
    if local == 0u {
        let logit = logits[row + targets[workgroup.x]];
        scores[2u * workgroup.x] = log(scratch[0]) + highest - logit;
        let top = select(0.0, 1.0, logit >= highest);
        scores[2u * workgroup.x + 1u] = select(top, -1.0, atomicLoad(&no_numbers) == 1u);
    }
}
