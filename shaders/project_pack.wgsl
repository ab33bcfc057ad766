// The inputs of 2, 4 or 8 tokens as pairs of int8s, for the products of all of them: a workgroup a token, which does
// what each workgroup of a single token's product does for itself; and by workgroups beside these, the hidden units of
// the routers that look at the inputs.
#import invocation
#import router
#import partials
#import packed_input
#import router_hidden

struct Params {
    // Added to the mean square by the norm.
    eps: f32,
    // The first site whose router's hidden units are computed.
    site: u32,
}

override WORKGROUP: u32 = 256u;
// Chunks of 64 numbers of a token.
override CHUNKS: u32 = 64u;
// 1: the input is x / sqrt(mean(x^2) + eps) * norm; 0: it is x, or the combination of its partials.
override NORMED: u32 = 0u;
// Hidden units of all of a token's routers.
override HIDDEN_ROW: u32 = 64u;
// Halves of chunks have sums of their own, whatever form ranges have.
const WORD_RANGES: u32 = 1u;
// The workgroup of a token that packs; the others follow it.
const ROW_WORKGROUPS: u32 = 1u;
// vec4s of a token's packed input; shaders/shared/few_tokens.wgsl says what they are.
override INPUT_VEC4S: u32 = 9u * CHUNKS + 1u;

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> x: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> norm: array<vec4<f32>>;
// [4 L, REST] of all routers.
@group(0) @binding(2) var<storage, read> rest: array<f32>;
@group(0) @binding(3) var<storage, read> w1: array<vec2<u32>>;
@group(0) @binding(4) var<storage, read_write> packed: array<vec4<u32>>;
// [T, HIDDEN_ROW]
@group(0) @binding(5) var<storage, read_write> hidden: array<f32>;

var<private> token: u32;

fn input_at() -> u32 {
    return token * CHUNK_VEC4S * CHUNKS;
}

fn hidden_at() -> u32 {
    return token * HIDDEN_ROW;
}

fn keep_words(chunk: u32, entry: u32, high: u32, low: u32) {
    let at = token * INPUT_VEC4S + entry % 4u * CHUNKS + chunk;
    packed[at][entry / 4u] = high;
    packed[at + 4u * CHUNKS][entry / 4u] = low;
}

fn keep_sums(chunk: u32, unit: f32, sum: i32, second: i32) {
    packed[token * INPUT_VEC4S + 8u * CHUNKS + chunk] =
        vec4<u32>(bitcast<u32>(unit), bitcast<u32>(sum), bitcast<u32>(second), 0u);
}

@compute @workgroup_size(WORKGROUP)
fn main(here: Invocation) {
    token = here.workgroup.y;
    if here.workgroup.x >= ROW_WORKGROUPS {
        router_hidden(here);
        return;
    }
    share_input(here, pack_input(here));
    let factor = norm_factor(here);
    if local_of(here) == 0u {
        packed[token * INPUT_VEC4S + 9u * CHUNKS] = vec4<u32>(bitcast<u32>(factor), 0u, 0u, 0u);
    }
}
