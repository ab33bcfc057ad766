// Rotates the queries and keys of the step's tokens by their positions; queries go to `q`, keys and values as f16 into
// the cache. An invocation handles dimensions 2j, 2j + 1 and their partners half a head further on.
// qkv: [T, (H + 2K) * A] f32, q: [T, H, A] f32, keys and values: [K, C, A/2] words of two f16.
#import step_rows
#import cells
#import rotation

struct Params {
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    cells: u32,
}

override WORKGROUP: u32 = 64u;

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> qkv: array<f32>;
@group(0) @binding(1) var<storage, read> step_rows: array<StepRow>;
// [C, A/2] of (cos, sin).
@group(0) @binding(2) var<storage, read> rope_table: array<vec2<f32>>;
@group(0) @binding(3) var<storage, read_write> q: array<f32>;
@group(0) @binding(4) var<storage, read_write> keys: array<u32>;
@group(0) @binding(5) var<storage, read_write> values: array<u32>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) global: vec3<u32>) {
    let quarter = params.head_dim / 4u;
    let slots = params.heads + 2u * params.kv_heads;
    let j = global.x % quarter;
    let slot = global.x / quarter;
    let token = global.y;
    if slot >= slots {
        return;
    }
    let half = params.head_dim / 2u;
    let source = (token * slots + slot) * params.head_dim + 2u * j;
    let low = vec2<f32>(qkv[source], qkv[source + 1u]);
    let high = vec2<f32>(qkv[source + half], qkv[source + half + 1u]);
    let position = step_rows[token].position;
    let cell = cell_of(step_rows[token], position);
    let table_at = position * half + 2u * j;
    let first = rotate(low.x, high.x, rope_table[table_at]);
    let second = rotate(low.y, high.y, rope_table[table_at + 1u]);

    if slot < params.heads {
        let to = (token * params.heads + slot) * params.head_dim + 2u * j;
        q[to] = first.x;
        q[to + 1u] = second.x;
        q[to + half] = first.y;
        q[to + half + 1u] = second.y;
    } else if slot < params.heads + params.kv_heads {
        let to = ((slot - params.heads) * params.cells + cell) * half + j;
        keys[to] = pack2x16float(vec2<f32>(first.x, second.x));
        keys[to + quarter] = pack2x16float(vec2<f32>(first.y, second.y));
    } else {
        let to = ((slot - params.heads - params.kv_heads) * params.cells + cell) * half + j;
        values[to] = pack2x16float(low);
        values[to + quarter] = pack2x16float(high);
    }
}
