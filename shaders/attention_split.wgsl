// Attention over the cache in parts: a workgroup takes one token, one head, and one of `splits` stretches of the
// positions up to the token's own, with a running softmax (Milakov and Gimelshein, arXiv 1805.02867).
//
// With one split, y[t, h, :] is what shaders/attention.wgsl computes. With more, y[t, h, s, :] is the sum over the
// split's positions of exp(score - highest) * value, and peaks[t, h, s] is (highest, sum of exp(score - highest)), for
// shaders/attention_join.wgsl; a split without positions has (LOWEST, 0).
//
// q: [T, H, A] f32; keys, values: [K, C, A/8] vec4s of eight f16.

#import attend

struct Params {
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    context: u32,
    splits: u32,
}

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> positions: array<u32>;
@group(0) @binding(2) var<storage, read> keys: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> values: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read_write> y: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> peaks: array<vec2<f32>>;

// Where the token's head, and the invocation's eight dimensions, begin in the cache.
var<private> cache: u32;

fn key_at(position: u32) -> vec4<u32> {
    return keys[cache + position * (params.head_dim / 8u)];
}

fn value_at(position: u32) -> vec4<u32> {
    return values[cache + position * (params.head_dim / 8u)];
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let head = workgroup.x;
    let split = workgroup.y;
    let token = workgroup.z;
    let words = params.head_dim / 8u;
    // Lanes past the head's end read its last word and count it for nothing.
    let word = min(local % LANES, words - 1u);
    let row = token * params.heads + head;
    cache = head / (params.heads / params.kv_heads) * params.context * words + word;
    let scale = select(0.0, inverseSqrt(f32(params.head_dim)), local % LANES < words);
    let query = Query(q[(row * words + word) * 2u] * scale, q[(row * words + word) * 2u + 1u] * scale);
    let span = stretch(positions[token] + 1u, split, params.splits);
    attend(local, span, query, row * params.splits + split, params.splits == 1u);
}
