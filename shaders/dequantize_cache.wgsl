// The rows of shaders/quantize_cache.wgsl for the positions before a step's first one that its tokens look at, as f16
// again; an invocation takes groups of a key and a value, one after the other.
// step_rows: [T]; rows: [K, C, ROW_VEC4S]; keys, values: [K, C, A/8] vec4s of eight f16.
#import step_rows
#import cells
#import scores
#import quantized_cache

struct Params {
    kv_heads: u32,
    cells: u32,
    invocations: u32,
}

override WORKGROUP: u32 = 64u;

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> step_rows: array<StepRow>;
@group(0) @binding(1) var<storage, read> rows: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read_write> keys: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read_write> values: array<vec4<u32>>;

fn to_f16(a: vec4<f32>, b: vec4<f32>) -> vec4<u32> {
    return vec4<u32>(pack2x16float(a.xy), pack2x16float(a.zw), pack2x16float(b.xy), pack2x16float(b.zw));
}

// A group of the key, or of the value, in the row that begins at `row`.
fn group_in(row: u32, group: u32, bits: u32, of_value: bool, scale: f32) -> Group {
    let at = codes_at(row, group, of_value);
    let bytes = bytes_of(Codes(rows[at], rows[at + bits / 8u], scale), bits);
    let sign = vec4<u32>(select(0u, 0x80808080u, bits == 8u && !of_value));
    let middle = all_of(1024.0 + middle_of(bits));
    let first = (sixteen_numbers(bytes.first ^ sign) - middle) * scale;
    return hadamard(Group(first, (sixteen_numbers(bytes.second ^ sign) - middle) * scale));
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) global: vec3<u32>) {
    let row = step_rows[0];
    let first = first_visible(row.position);
    let before = row.position - first;
    let groups = params.kv_heads * before * GROUPS;
    for (var g = global.x; g < groups; g += params.invocations) {
        let group = g % GROUPS;
        let at = g / GROUPS / before * params.cells + cell_of(row, first + g / GROUPS % before);
        let words = at * ROW_VEC4S;
        let scales = unpack2x16float(rows[words + group / 4u][group % 4u]);
        let key = group_in(words, group, KEY_BITS, false, scales.x);
        let value = group_in(words, group, VALUE_BITS, true, scales.y);
        let to = (at * GROUPS + group) * 4u;
        keys[to] = to_f16(key.first[0], key.first[1]);
        keys[to + 1u] = to_f16(key.first[2], key.first[3]);
        keys[to + 2u] = to_f16(key.second[0], key.second[1]);
        keys[to + 3u] = to_f16(key.second[2], key.second[3]);
        values[to] = to_f16(value.first[0], value.first[1]);
        values[to + 1u] = to_f16(value.first[2], value.first[3]);
        values[to + 2u] = to_f16(value.second[0], value.second[1]);
        values[to + 3u] = to_f16(value.second[2], value.second[3]);
    }
}
