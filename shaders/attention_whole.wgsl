// y[t, h, :] = softmax over the p that t looks at of (q[t, h, :] . keys[g, p, :] / sqrt(A)) . values[g, p, :],
// g = h / (H/K), with a running softmax (Milakov and Gimelshein, arXiv 1805.02867); one workgroup a token and head.
// q, y: [T, H, A] f32; keys, values: [K, C, A/2] words of two f16.
#import step_rows
#import cells
#import scores

struct Params {
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    cells: u32,
}

// Positions that a workgroup takes at once, one an invocation.
const BLOCK: u32 = 64u;
const HEAD_DIM_MAX: u32 = 256u;
// Words of the output that an invocation may own.
const WORDS_EACH: u32 = HEAD_DIM_MAX / 2u / BLOCK;
const LOWEST: f32 = -3.4e38;

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> q: array<f32>;
@group(0) @binding(1) var<storage, read> step_rows: array<StepRow>;
@group(0) @binding(2) var<storage, read> keys: array<u32>;
@group(0) @binding(3) var<storage, read> values: array<u32>;
@group(0) @binding(4) var<storage, read_write> y: array<vec2<f32>>;

var<workgroup> query: array<f32, HEAD_DIM_MAX>;
var<workgroup> scores: array<f32, BLOCK>;
var<workgroup> scratch: array<f32, BLOCK>;

fn score(row: u32, words: u32) -> f32 {
    var sum = 0.0;
    for (var w = 0u; w < words; w++) {
        sum += dot(vec2<f32>(query[2u * w], query[2u * w + 1u]), unpack2x16float(keys[row + w]));
    }
    return capped(sum * inverseSqrt(f32(params.head_dim)));
}

@compute @workgroup_size(BLOCK)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let head = workgroup.x;
    let token = workgroup.y;
    let words = params.head_dim / 2u;
    let source = (token * params.heads + head) * params.head_dim;
    let cache = (head / (params.heads / params.kv_heads) * params.cells + first_cell_of(step_rows[token])) * words;
    let length = step_rows[token].position + 1u;

    for (var k = local; k < params.head_dim; k += BLOCK) {
        query[k] = q[source + k];
    }
    var highest = LOWEST;
    var total = 0.0;
    var sums: array<vec2<f32>, WORDS_EACH>;
    for (var block = first_visible(length - 1u); block < length; block += BLOCK) {
        workgroupBarrier();
        let position = block + local;
        var mine = LOWEST;
        if position < length {
            mine = score(cache + place_of(position) * words, words);
        }
        scratch[local] = mine;
        for (var half = BLOCK / 2u; half > 0u; half /= 2u) {
            workgroupBarrier();
            if local < half {
                scratch[local] = max(scratch[local], scratch[local + half]);
            }
        }
        workgroupBarrier();
        let higher = max(highest, scratch[0]);
        let shrink = exp(highest - higher);
        highest = higher;
        let weight = select(0.0, exp(mine - higher), position < length);
        scores[local] = weight;
        total = total * shrink + weight;
        workgroupBarrier();
        let count = min(BLOCK, length - block);
        for (var each = 0u; each < WORDS_EACH; each++) {
            let word = each * BLOCK + local;
            if word < words {
                var sum = sums[each] * shrink;
                for (var p = 0u; p < count; p++) {
                    sum += scores[p] * unpack2x16float(values[cache + place_of(block + p) * words + word]);
                }
                sums[each] = sum;
            }
        }
    }

    workgroupBarrier();
    scratch[local] = total;
    for (var half = BLOCK / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if local < half {
            scratch[local] += scratch[local + half];
        }
    }
    workgroupBarrier();
    for (var each = 0u; each < WORDS_EACH; each++) {
        let word = each * BLOCK + local;
        if word < words {
            y[source / 2u + word] = sums[each] / scratch[0];
        }
    }
}
