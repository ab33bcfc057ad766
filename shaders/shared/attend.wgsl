// A workgroup's running softmax (Milakov and Gimelshein, arXiv 1805.02867) over a stretch of the positions before a token.
// The kernel that imports this has `params.head_dim`, `y` and `peaks`, and says by `key_at` and `value_at` what eight
// numbers an invocation has of a position.
//
// A team of LANES invocations reads a position, each of them eight neighbouring dimensions, so that the loads of a team
// lie side by side. Each team has a running softmax of its own; they meet at the end.

override WORKGROUP: u32 = 128u;
// A power of two; eight times it is no less than a head.
override LANES: u32 = 16u;
// Positions that a team takes at once.
const EACH: u32 = 8u;
const LOWEST: f32 = -3.4e38;

// What each lane has of a position's score; rows are one longer, so that their columns lie in different banks.
var<workgroup> parts: array<f32, WORKGROUP * EACH * (LANES + 1u) / LANES>;
var<workgroup> scores: array<f32, WORKGROUP * EACH / LANES>;
var<workgroup> team_peaks: array<vec2<f32>, WORKGROUP / LANES>;
var<workgroup> low_sums: array<vec4<f32>, WORKGROUP>;
var<workgroup> high_sums: array<vec4<f32>, WORKGROUP>;

fn low_half(word: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(word.x), unpack2x16float(word.y));
}

fn high_half(word: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(word.z), unpack2x16float(word.w));
}

// Positions that a workgroup takes at once.
fn block() -> u32 {
    return WORKGROUP / LANES * EACH;
}

// The positions of one of `splits` stretches of those before `length`.
fn stretch(length: u32, split: u32, splits: u32) -> vec2<u32> {
    let share = ((length + splits - 1u) / splits + block() - 1u) / block() * block();
    let first = min(split * share, length);
    return vec2<u32>(first, min(first + share, length));
}

// Eight numbers of a query, scaled; zeros for lanes past the head's end.
struct Query {
    low: vec4<f32>,
    high: vec4<f32>,
}

// Attends to the positions of `span` and writes the result to place `to`: the average of the values where it is the
// `whole`, else their weighted sum.
fn attend(local: u32, span: vec2<u32>, query: Query, to: u32, whole: bool) {
    let teams = WORKGROUP / LANES;
    let lane = local % LANES;
    let team = local / LANES;
    let words = params.head_dim / 8u;
    let end = span.y;
    var highest = LOWEST;
    var total = 0.0;
    var low = vec4<f32>();
    var high = vec4<f32>();
    for (var at = span.x; at < end; at += block()) {
        for (var e = 0u; e < EACH; e++) {
            let p = e * teams + team;
            let key = key_at(min(at + p, end - 1u));
            parts[p * (LANES + 1u) + lane] = dot(query.low, low_half(key)) + dot(query.high, high_half(key));
        }
        workgroupBarrier();
        for (var p = local; p < block(); p += WORKGROUP) {
            var score = 0.0;
            for (var l = 0u; l < LANES; l++) {
                score += parts[p * (LANES + 1u) + l];
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
            let value = value_at(min(at + p, end - 1u));
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
    let share_of = select(1.0, 1.0 / sum, whole);
    if team == 0u && lane < words {
        y[(to * words + lane) * 2u] = low_sums[local] * share_of;
        y[(to * words + lane) * 2u + 1u] = high_sums[local] * share_of;
    }
    if local == 0u {
        peaks[to] = vec2<f32>(best, sum);
    }
}
