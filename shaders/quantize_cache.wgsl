// Quantizes the keys and values of a step's tokens to few bits: an invocation takes a group of a token's key and of its
// value. step_rows: [T]; keys, values: [K, C, A/8] vec4s of eight f16; rows: [K, C, ROW_VEC4S].
#import step_rows
#import cells
#import quantized_cache

struct Params {
    tokens: u32,
    kv_heads: u32,
    cells: u32,
}

override WORKGROUP: u32 = 64u;

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> step_rows: array<StepRow>;
@group(0) @binding(1) var<storage, read> keys: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> values: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read_write> rows: array<vec4<u32>>;

fn write_codes(at: u32, codes: Codes, bits: u32) {
    rows[at] = codes.first;
    if bits == 8u {
        rows[at + 1u] = codes.second;
    }
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) global: vec3<u32>) {
    let group = global.x % GROUPS;
    let kv_head = global.x / GROUPS;
    let token = global.y;
    if kv_head >= params.kv_heads || token >= params.tokens {
        return;
    }
    let at = kv_head * params.cells + cell_of(step_rows[token], step_rows[token].position);
    let first = (at * GROUPS + group) * 4u;
    let row = at * ROW_VEC4S;
    let key = group_of(keys[first], keys[first + 1u], keys[first + 2u], keys[first + 3u]);
    let value = group_of(values[first], values[first + 1u], values[first + 2u], values[first + 3u]);
    let key_codes = quantized(hadamard(key), KEY_BITS, false);
    let value_codes = quantized(hadamard(value), VALUE_BITS, true);
    rows[row + group / 4u][group % 4u] = pack2x16float(vec2<f32>(key_codes.scale, value_codes.scale));
    write_codes(codes_at(row, group, false), key_codes, KEY_BITS);
    write_codes(codes_at(row, group, true), value_codes, VALUE_BITS);
}
