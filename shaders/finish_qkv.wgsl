// Adds biases to the queries, keys and values of the step's tokens, normalizes queries and keys, rotates them by their
// positions, and lets queries grow with these; queries go to `q`, keys and values as f16 into the cache. A workgroup has
// a head of a token, or with a norm of all heads all queries, all keys or all values of a token. An invocation handles
// dimensions 2j, 2j + 1 and their partners half a head further on, of as many heads as come to it.
// qkv: [T, (H + 2K) * A] f32, q: [T, H, A] f32, keys and values: [K, C, A/2] words of two f16.
#import step_rows
#import cells
#import rotation
#import workgroup_sum

struct Params {
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    cells: u32,
    // Where the norms' weights lie in `vectors`, in pairs of numbers.
    query_norm: u32,
    key_norm: u32,
    // Added to the mean square.
    eps: f32,
    // Queries at position p are multiplied by 1 + beta * log(1 + p / original_context).
    beta: f32,
    original_context: u32,
}

override WORKGROUP: u32 = 64u;
// 1: there are biases.
override BIAS: u32 = 0u;
// 0: there are no norms; 1: there is one of each head; 2: there is one of all heads.
override HEAD_NORM: u32 = 0u;

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> qkv: array<vec2<f32>>;
@group(0) @binding(1) var<storage, read> step_rows: array<StepRow>;
// [context, A/2] of (cos, sin), two to an entry.
@group(0) @binding(2) var<storage, read> rope_table: array<vec4<f32>>;
// Biases [(H + 2K) * A] and the norms' weights.
@group(0) @binding(3) var<storage, read> vectors: array<vec2<f32>>;
@group(0) @binding(4) var<storage, read_write> q: array<vec2<f32>>;
@group(0) @binding(5) var<storage, read_write> keys: array<u32>;
@group(0) @binding(6) var<storage, read_write> values: array<u32>;

// Neighbouring heads among queries, keys and values.
struct Heads {
    first: u32,
    count: u32,
}

fn heads_of(workgroup: u32) -> Heads {
    if HEAD_NORM != 2u {
        return Heads(workgroup, 1u);
    }
    switch workgroup {
        case 0u: { return Heads(0u, params.heads); }
        case 1u: { return Heads(params.heads, params.kv_heads); }
        default: { return Heads(params.heads + params.kv_heads, params.kv_heads); }
    }
}

// Dimensions 2j, 2j + 1 and their partners of a head of a token, with their biases.
fn four_at(token: u32, slot: u32, j: u32) -> vec4<f32> {
    let quarter = params.head_dim / 4u;
    let at = slot * 2u * quarter + j;
    let source = token * (params.heads + 2u * params.kv_heads) * 2u * quarter + at;
    var four = vec4<f32>(qkv[source], qkv[source + quarter]);
    if BIAS == 1u {
        four += vec4<f32>(vectors[at], vectors[at + quarter]);
    }
    return four;
}

// What the norm multiplies all numbers of these heads with.
fn norm_factor(token: u32, heads: Heads, local: u32) -> f32 {
    let quarter = params.head_dim / 4u;
    var sum = 0.0;
    for (var at = local; at < heads.count * quarter; at += WORKGROUP) {
        let four = four_at(token, heads.first + at / quarter, at % quarter);
        sum += dot(four, four);
    }
    return inverseSqrt(sum_of_workgroup(sum, local) / f32(heads.count * params.head_dim) + params.eps);
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let heads = heads_of(workgroup.x);
    let token = workgroup.y;
    let quarter = params.head_dim / 4u;
    let first_value = params.heads + params.kv_heads;
    let position = step_rows[token].position;
    let cell = cell_of(step_rows[token], position);
    var factor = 1.0;
    if HEAD_NORM != 0u && heads.first < first_value {
        factor = norm_factor(token, heads, local);
    }
    let growth = 1.0 + params.beta * log(1.0 + f32(position / params.original_context));
    for (var at = local; at < heads.count * quarter; at += WORKGROUP) {
        let slot = heads.first + at / quarter;
        let j = at % quarter;
        var four = four_at(token, slot, j);
        if slot >= first_value {
            let to = ((slot - first_value) * params.cells + cell) * 2u * quarter + j;
            values[to] = pack2x16float(four.xy);
            values[to + quarter] = pack2x16float(four.zw);
            continue;
        }
        if HEAD_NORM != 0u {
            let weight = select(params.key_norm, params.query_norm, slot < params.heads)
                + (slot - heads.first) * 2u * quarter + j;
            four *= factor * vec4<f32>(vectors[weight], vectors[weight + quarter]);
        }
        let by = rope_table[position * quarter + j];
        let first = rotate(four.x, four.z, by.xy);
        let second = rotate(four.y, four.w, by.zw);
        if slot < params.heads {
            let to = (token * params.heads + slot) * 2u * quarter + j;
            q[to] = growth * vec2<f32>(first.x, second.x);
            q[to + quarter] = growth * vec2<f32>(first.y, second.y);
        } else {
            let to = ((slot - params.heads) * params.cells + cell) * 2u * quarter + j;
            keys[to] = pack2x16float(vec2<f32>(first.x, second.x));
            keys[to + quarter] = pack2x16float(vec2<f32>(first.y, second.y));
        }
    }
}
