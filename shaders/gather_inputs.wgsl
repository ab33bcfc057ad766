// A product's inputs as f16, in the order in which it takes the tokens; zero for entries that are padding.
// x: [T, input] f32, y: [entries, input] f16, where each four neighbours have the order 0, 2, 1, 3, in which weights are
// unpacked with the fewest instructions.
#import order

struct Params {
    tokens: u32,
    // vec4s of a token's input.
    row_vec4s: u32,
}

override WORKGROUP: u32 = 64u;
// 1: y has blocks of sixteen entries and sixteen neighbours one after the other, [entries / 16, input / 16, 16, 16].
override BLOCKS: u32 = 0u;
const F16_MAX: vec4<f32> = vec4<f32>(65504.0);

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
// See shaders/shared/order.wgsl.
@group(0) @binding(1) var<storage, read> order: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<vec2<u32>>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) global: vec3<u32>) {
    if global.x >= params.row_vec4s {
        return;
    }
    let token = token_of(order[global.y]);
    var numbers = vec4<f32>();
    if token < params.tokens {
        numbers = clamp(x[token * params.row_vec4s + global.x], -F16_MAX, F16_MAX);
    }
    let x_f16 = vec2<u32>(pack2x16float(numbers.xz), pack2x16float(numbers.yw));
    var to = global.y * params.row_vec4s + global.x;
    if BLOCKS == 1u {
        let block = global.y / 16u * (params.row_vec4s / 4u) + global.x / 4u;
        to = (block * 16u + global.y % 16u) * 4u + global.x % 4u;
    }
    y[to] = x_f16;
}
