// Attention of one token with the rotation by its position and the store of its key and value into the cache: what
// shaders/rope_cache.wgsl and shaders/attention_split.wgsl do, in one launch. A workgroup takes one head and one of
// `splits` stretches. The token's own key and value come from qkv, as another workgroup may be storing them.
// qkv: [(H + 2K) * A] f32; keys, values: [K, C, A/8] vec4s of eight f16; A is a multiple of 16.
#import attend

struct Params {
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    context: u32,
    splits: u32,
}

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> qkv: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> positions: array<u32>;
// [C, A/4] of two (cos, sin).
@group(0) @binding(2) var<storage, read> turns: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> keys: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read_write> values: array<vec4<u32>>;
@group(0) @binding(5) var<storage, read_write> y: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> peaks: array<vec2<f32>>;

// Where the head, and the invocation's eight dimensions, begin in the cache.
var<private> cache: u32;
// The token's position, and its own key and value.
var<private> own: u32;
var<private> own_key: vec4<u32>;
var<private> own_value: vec4<u32>;

fn key_at(position: u32) -> vec4<u32> {
    if position == own {
        return own_key;
    }
    return keys[cache + position * (params.head_dim / 8u)];
}

fn value_at(position: u32) -> vec4<u32> {
    if position == own {
        return own_value;
    }
    return values[cache + position * (params.head_dim / 8u)];
}

// Eight dimensions of a head of qkv, turned by the position; `word` counts eights.
fn turned(slot: u32, word: u32) -> Query {
    let words = params.head_dim / 8u;
    let half = words / 2u;
    let start = (slot * words + word) * 2u;
    let other = (slot * words + (word + half) % words) * 2u;
    // The first half of a head is turned against the second one, and that against it.
    let sign = select(1.0, -1.0, word < half);
    let turn = (own * half + word % half) * 4u;
    let low = array<vec4<f32>, 2>(turns[turn], turns[turn + 1u]);
    let high = array<vec4<f32>, 2>(turns[turn + 2u], turns[turn + 3u]);
    let low_cos = vec4<f32>(low[0].xz, low[1].xz);
    let low_sin = vec4<f32>(low[0].yw, low[1].yw) * sign;
    let high_cos = vec4<f32>(high[0].xz, high[1].xz);
    let high_sin = vec4<f32>(high[0].yw, high[1].yw) * sign;
    return Query(
        qkv[start] * low_cos + qkv[other] * low_sin,
        qkv[start + 1u] * high_cos + qkv[other + 1u] * high_sin,
    );
}

fn packed(low: vec4<f32>, high: vec4<f32>) -> vec4<u32> {
    return vec4<u32>(pack2x16float(low.xy), pack2x16float(low.zw), pack2x16float(high.xy), pack2x16float(high.zw));
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let head = workgroup.x;
    let split = workgroup.y;
    let words = params.head_dim / 8u;
    let owns = local % LANES < words;
    // Lanes past the head's end read its last word and count it for nothing.
    let word = min(local % LANES, words - 1u);
    let sharing = params.heads / params.kv_heads;
    let kv_head = head / sharing;
    cache = kv_head * params.context * words + word;
    own = positions[0];
    let scale = select(0.0, inverseSqrt(f32(params.head_dim)), owns);
    var query = turned(head, word);
    query.low *= scale;
    query.high *= scale;
    let key = turned(params.heads + kv_head, word);
    own_key = packed(key.low, key.high);
    let value = ((params.heads + params.kv_heads + kv_head) * words + word) * 2u;
    own_value = packed(qkv[value], qkv[value + 1u]);
    if split == 0u && head % sharing == 0u && local < words {
        keys[cache + own * words] = own_key;
        values[cache + own * words] = own_value;
    }
    attend(local, stretch(own + 1u, split, params.splits), query, head * params.splits + split, params.splits == 1u);
}
