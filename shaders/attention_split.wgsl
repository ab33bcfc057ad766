// Attention over the cache in parts: a workgroup takes one token, one head, and one of `splits` stretches of the
// positions up to the token's own, with a running softmax (Milakov and Gimelshein, arXiv 1805.02867).
//
// With one split, y[t, h, :] is what shaders/attention.wgsl computes. With more, y[t, h, s, :] is the sum over the
// split's positions of exp(score - highest) * value, and peaks[t, h, s] is (highest, sum of exp(score - highest)), for
// shaders/attention_join.wgsl; a split without positions has (LOWEST, 0).
//
// A team of LANES invocations reads a position, each of them eight neighbouring dimensions, so that the loads of a team
// lie side by side. Each team has a running softmax of its own; they meet at the end.
// With one split and one token, a router may be told of y: that of the site whose input it is.
// q: [T, H, A] f32; keys, values: [K, C, A/8] vec4s of eight f16.
#import router
#import router_sums
#import add_term
#import tell

struct Params {
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    context: u32,
    splits: u32,
    // 1: a router is told of y.
    tells: u32,
}

override WORKGROUP: u32 = 128u;
// A power of two; eight times it is no less than a head.
override LANES: u32 = 16u;
// vec4s of a head at most.
override HEAD_VEC4S: u32 = 2u * LANES;
// Positions that a team takes at once.
const EACH: u32 = 8u;
const LOWEST: f32 = -3.4e38;

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> positions: array<u32>;
@group(0) @binding(2) var<storage, read> keys: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> values: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read_write> y: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> peaks: array<vec2<f32>>;
// The site's, [HIDDEN, H * A] f16.
@group(0) @binding(6) var<storage, read> w1: array<vec4<u32>>;
@group(0) @binding(7) var<storage, read_write> sums: array<atomic<u32>>;

// What each lane has of a position's score; rows are one longer, so that their columns lie in different banks.
var<workgroup> lane_scores: array<f32, WORKGROUP * EACH * (LANES + 1u) / LANES>;
var<workgroup> scores: array<f32, WORKGROUP * EACH / LANES>;
var<workgroup> team_peaks: array<vec2<f32>, WORKGROUP / LANES>;
var<workgroup> low_sums: array<vec4<f32>, WORKGROUP>;
var<workgroup> high_sums: array<vec4<f32>, WORKGROUP>;
var<workgroup> told: array<vec4<f32>, HEAD_VEC4S>;

fn low_half(word: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(word.x), unpack2x16float(word.y));
}

fn high_half(word: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(word.z), unpack2x16float(word.w));
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let head = workgroup.x;
    let split = workgroup.y;
    let token = workgroup.z;
    let teams = WORKGROUP / LANES;
    let block = teams * EACH;
    let lane = local % LANES;
    let team = local / LANES;
    let words = params.head_dim / 8u;
    let owns = lane < words;
    // Lanes past the head's end read its last word and count it for nothing.
    let word = min(lane, words - 1u);
    let row = token * params.heads + head;
    let cache = head / (params.heads / params.kv_heads) * params.context * words + word;
    let length = positions[token] + 1u;
    let share = ((length + params.splits - 1u) / params.splits + block - 1u) / block * block;
    let first = min(split * share, length);
    let end = min(first + share, length);

    var early: array<vec4<u32>, EARLY>;
    if params.tells == 1u {
        early = early_weights(local, params.heads * words, head * params.head_dim, words);
    }
    let scale = select(0.0, inverseSqrt(f32(params.head_dim)), owns);
    let query_low = q[(row * words + word) * 2u] * scale;
    let query_high = q[(row * words + word) * 2u + 1u] * scale;
    var highest = LOWEST;
    var total = 0.0;
    var low = vec4<f32>();
    var high = vec4<f32>();
    // Values are on their way while scores are computed.
    var coming: array<vec4<u32>, EACH>;
    for (var at = first; at < end; at += block) {
        for (var e = 0u; e < EACH; e++) {
            let p = e * teams + team;
            let key = keys[cache + min(at + p, end - 1u) * words];
            coming[e] = values[cache + min(at + p, end - 1u) * words];
            lane_scores[p * (LANES + 1u) + lane] = dot(query_low, low_half(key)) + dot(query_high, high_half(key));
        }
        workgroupBarrier();
        for (var p = local; p < block; p += WORKGROUP) {
            var score = 0.0;
            for (var l = 0u; l < LANES; l++) {
                score += lane_scores[p * (LANES + 1u) + l];
            }
            scores[p] = select(LOWEST, score, at + p < end);
        }
        workgroupBarrier();
        var higher = highest;
        for (var e = 0u; e < EACH; e++) {
            higher = max(higher, scores[e * teams + team]);
        }
        let shrink = exp(highest - higher);
        highest = higher;
        total *= shrink;
        low *= shrink;
        high *= shrink;
        for (var e = 0u; e < EACH; e++) {
            let p = e * teams + team;
            let value = coming[e];
            let weight = select(0.0, exp(scores[p] - higher), at + p < end);
            total += weight;
            low += weight * low_half(value);
            high += weight * high_half(value);
        }
    }

    if lane == 0u {
        team_peaks[team] = vec2<f32>(highest, total);
    }
    workgroupBarrier();
    var best = LOWEST;
    for (var t = 0u; t < teams; t++) {
        best = max(best, team_peaks[t].x);
    }
    var sum = 0.0;
    for (var t = 0u; t < teams; t++) {
        sum += team_peaks[t].y * exp(team_peaks[t].x - best);
    }
    let shrink = exp(highest - best);
    low_sums[local] = low * shrink;
    high_sums[local] = high * shrink;
    for (var half = WORKGROUP / 2u; half >= LANES; half /= 2u) {
        workgroupBarrier();
        if local < half {
            low_sums[local] += low_sums[local + half];
            high_sums[local] += high_sums[local + half];
        }
    }
    let to = row * params.splits + split;
    let share_of = select(1.0, 1.0 / sum, params.splits == 1u);
    if team == 0u && owns {
        let own_low = low_sums[local] * share_of;
        let own_high = high_sums[local] * share_of;
        y[(to * words + lane) * 2u] = own_low;
        y[(to * words + lane) * 2u + 1u] = own_high;
        told[2u * lane] = own_low;
        told[2u * lane + 1u] = own_high;
    }
    if local == 0u {
        peaks[to] = vec2<f32>(best, sum);
    }
    if params.tells == 1u {
        tell_router(local, params.heads * words, head * params.head_dim, words, early);
    }
}
