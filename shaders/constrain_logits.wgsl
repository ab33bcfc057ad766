// logits[v] = logits[v] + bias[v] where the token v is allowed, minus infinity elsewhere.

struct Params {
    vocab: u32,
}

override WORKGROUP: u32 = 256u;

// Minus infinity, as bits: a compiler may take it that floats never are infinite.
const MINUS_INFINITY: u32 = 0xff800000u;

var<immediate> params: Params;
// A bit for each token, the first of a word the lowest.
@group(0) @binding(0) var<storage, read> allowed: array<u32>;
@group(0) @binding(1) var<storage, read> bias: array<f32>;
// Bits of f32.
@group(0) @binding(2) var<storage, read_write> logits: array<u32>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) global: vec3<u32>) {
    let v = global.x;
    if v >= params.vocab {
        return;
    }
    if (allowed[v / 32u] >> (v % 32u) & 1u) == 0u {
        logits[v] = MINUS_INFINITY;
    } else if bias[v] != 0.0 {
        logits[v] = bitcast<u32>(bitcast<f32>(logits[v]) + bias[v]);
    }
}
