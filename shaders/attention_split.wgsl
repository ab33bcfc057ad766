// Attention over the cache in splits: a workgroup takes one token, one head, and one of `splits` stretches of the
// positions that the token looks at, with a running softmax (Milakov and Gimelshein, arXiv 1805.02867).
//
// With one split, y[t, h, :] is what shaders/attention_whole.wgsl computes. With more, y has the partials that
// shaders/shared/partials.wgsl reads.
//
// A team of LANES invocations of a subgroup reads two positions at a time, each of them every LANES-th eight of the
// dimensions, so that the loads of a team lie side by side. Each team has a running softmax of its own, so that none
// waits for another; they meet at the end, those of a subgroup first.
// q: [T, H, A] f32; keys, values: [K, C, A/8] vec4s of eight f16.
#import step_rows
#import cells
#import scores
#import invocation
#import write_partial
#import splits

struct Params {
    heads: u32,
    cells: u32,
    // vec4s of all means.
    vec4s: u32,
}

override WORKGROUP: u32 = 256u;
// A power of two, no more than a subgroup has.
override LANES: u32 = 16u;
// Eights of a lane, 8 at most: LANES of them are no less than a head.
override EIGHTS: u32 = 1u;
override HEAD_DIM: u32 = 128u;
// Heads that share keys and values.
override SHARED_BY: u32 = 1u;
// vec4s of all lanes of a team.
override HEAD_VEC4S: u32 = 2u * LANES * EIGHTS;
override TEAMS: u32 = WORKGROUP / LANES;

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> step_rows: array<StepRow>;
@group(0) @binding(2) var<storage, read> keys: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> values: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read_write> y: array<vec4<u32>>;

// Eight dimensions.
struct Eight {
    low: vec4<f32>,
    high: vec4<f32>,
}

fn unpacked(word: vec4<u32>) -> Eight {
    return Eight(
        vec4<f32>(unpack2x16float(word.x), unpack2x16float(word.y)),
        vec4<f32>(unpack2x16float(word.z), unpack2x16float(word.w)),
    );
}

fn dot_eights(a: Eight, b: Eight) -> f32 {
    return dot(a.low, b.low) + dot(a.high, b.high);
}

// a * by + the values, by their weights.
fn weighted(a: Eight, by: f32, value1: vec4<u32>, weight1: f32, value2: vec4<u32>, weight2: f32) -> Eight {
    let one = unpacked(value1);
    let two = unpacked(value2);
    return Eight(
        a.low * by + one.low * weight1 + two.low * weight2, a.high * by + one.high * weight1 + two.high * weight2,
    );
}

// The query of a lane, times the scale of scores. Eights past the head's end are its last one, and count for nothing.
fn load_query(row: u32, lane: u32) -> array<Eight, 8> {
    let words = HEAD_DIM / 8u;
    var query: array<Eight, 8>;
    for (var e = 0u; e < EIGHTS; e++) {
        let word = lane + e * LANES;
        let scale = select(0.0, inverseSqrt(f32(HEAD_DIM)), word < words);
        let at = (row * words + min(word, words - 1u)) * 2u;
        query[e] = Eight(q[at] * scale, q[at + 1u] * scale);
    }
    return query;
}

// Writes the sums of a subgroup's teams, which all of them have, to workgroup memory.
fn write_subgroup(here: Invocation, sum: array<Eight, 8>, peak: vec2<f32>) {
    if here.lane < LANES {
        for (var e = 0u; e < EIGHTS; e++) {
            let to = here.subgroup * HEAD_VEC4S + (here.lane + e * LANES) * 2u;
            subgroup_sums[to] = sum[e].low;
            subgroup_sums[to + 1u] = sum[e].high;
        }
    }
    if here.lane == 0u {
        subgroup_peaks[here.subgroup] = peak;
    }
}

@compute @workgroup_size(WORKGROUP)
fn main(here: Invocation) {
    let local = local_of(here);
    let head = here.workgroup.x;
    let split = here.workgroup.y;
    let token = here.workgroup.z;
    let lane = local % LANES;
    let team = local / LANES;
    let words = HEAD_DIM / 8u;
    let row = token * params.heads + head;
    let cache = (head / SHARED_BY * params.cells + first_cell_of(step_rows[token])) * words;
    let length = step_rows[token].position + 1u;
    let stretch = stretch_of(split, first_visible(length - 1u), length);
    let first = stretch.first;
    let end = stretch.end;

    let query = load_query(row, lane);
    var highest = LOWEST;
    var total = 0.0;
    var sum: array<Eight, 8>;
    for (var at = first; at < end; at += 2u * TEAMS) {
        let p1 = at + team;
        let p2 = p1 + TEAMS;
        let from1 = cache + place_of(min(p1, end - 1u)) * words;
        let from2 = cache + place_of(min(p2, end - 1u)) * words;
        // Values are on their way while scores are computed.
        var value1: array<vec4<u32>, 8>;
        var value2: array<vec4<u32>, 8>;
        var part1 = 0.0;
        var part2 = 0.0;
        for (var e = 0u; e < EIGHTS; e++) {
            let word = min(lane + e * LANES, words - 1u);
            value1[e] = values[from1 + word];
            value2[e] = values[from2 + word];
            part1 += dot_eights(query[e], unpacked(keys[from1 + word]));
            part2 += dot_eights(query[e], unpacked(keys[from2 + word]));
        }
        let score1 = select(LOWEST, capped(sum_lanes(part1)), p1 < end);
        let score2 = select(LOWEST, capped(sum_lanes(part2)), p2 < end);
        let higher = max(highest, max(score1, score2));
        let shrink = exp(highest - higher);
        let weight1 = select(0.0, exp(score1 - higher), p1 < end);
        let weight2 = select(0.0, exp(score2 - higher), p2 < end);
        highest = higher;
        total = total * shrink + weight1 + weight2;
        for (var e = 0u; e < EIGHTS; e++) {
            sum[e] = weighted(sum[e], shrink, value1[e], weight1, value2[e], weight2);
        }
    }

    for (var other = LANES; other < lanes_of(here); other *= 2u) {
        let theirs = subgroupShuffleXor(highest, other);
        let higher = max(highest, theirs);
        let shrink = exp(highest - higher);
        let their_shrink = exp(theirs - higher);
        highest = higher;
        total = total * shrink + subgroupShuffleXor(total, other) * their_shrink;
        for (var e = 0u; e < EIGHTS; e++) {
            let own = sum[e];
            sum[e].low = own.low * shrink + subgroupShuffleXor(own.low, other) * their_shrink;
            sum[e].high = own.high * shrink + subgroupShuffleXor(own.high, other) * their_shrink;
        }
    }
    write_subgroup(here, sum, vec2<f32>(highest, total));
    workgroupBarrier();
    let head_vec4s = 2u * words;
    for (var v = local; v < head_vec4s; v += WORKGROUP) {
        let at = (row * SPLITS + split) * head_vec4s + v;
        write_partial(combined_subgroups(here.subgroups, v), at, params.vec4s);
    }
}
