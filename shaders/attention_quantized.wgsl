// Attention of one token over keys and values in few bits, in splits as in shaders/attention_split.wgsl: a workgroup
// takes one head and one of `splits` stretches of the positions that the token looks at, with a running softmax.
//
// The token's own key and value get their codes here. The workgroups that have its position read them from their own
// memory, and one of them writes the row for the tokens to come.
//
// A team of LANES invocations of a subgroup takes a position at a time, a lane a group of its numbers. All of it works
// on numbers after the Hadamard transform, as the rows have them; the weighted sum of values is transformed back.
// q: [H, A] f32; keys, values, of which the token's own are read: [K, C, A/4] pairs of words of two f16; rows: see
// shaders/shared/quantized_cache.wgsl. y: [H, A], or where there are splits what shaders/shared/partials.wgsl reads.
#import step_rows
#import cells
#import scores
#import invocation
#import quantized_cache
#import quantized_token
#import team_sums
#import write_partial
#import splits

struct Params {
    heads: u32,
    kv_heads: u32,
    cells: u32,
}

override WORKGROUP: u32 = 256u;
// A power of two, no less than GROUPS and no more than half a subgroup.
override LANES: u32 = 4u;
// Heads that share keys and values.
override SHARED_BY: u32 = 1u;
// 1: a subgroup has eight teams or more.
override SCATTERS: u32 = 0u;
override TEAMS: u32 = WORKGROUP / LANES;

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> step_rows: array<StepRow>;
@group(0) @binding(2) var<storage, read> keys: array<vec2<u32>>;
@group(0) @binding(3) var<storage, read> values: array<vec2<u32>>;
@group(0) @binding(4) var<storage, read_write> rows: array<vec4<u32>>;
@group(0) @binding(5) var<storage, read_write> y: array<vec4<u32>>;

// What a lane reads of a position.
struct Read {
    key: Codes,
    value: Codes,
}

fn read_group(row: u32, group: u32) -> Read {
    let scales = unpack2x16float(rows[row + group / 4u][group % 4u]);
    let key = codes_at(row, group, false);
    let value = codes_at(row, group, true);
    return Read(
        Codes(rows[key], rows[key + KEY_VEC4S - 1u], scales.x),
        Codes(rows[value], rows[value + VALUE_VEC4S - 1u], scales.y),
    );
}

// The same for the token's own position.
fn own_group(group: u32) -> Read {
    let key = codes_at(0u, group, false) - SCALE_VEC4S;
    let value = codes_at(0u, group, true) - SCALE_VEC4S;
    return Read(
        Codes(own_codes[key], own_codes[key + KEY_VEC4S - 1u], own_scales[group].x),
        Codes(own_codes[value], own_codes[value + VALUE_VEC4S - 1u], own_scales[group].y),
    );
}

// Makes four numbers of the query, or of the token's key or value, ready for the workgroup; `own` is its place among
// the positions of all heads.
fn make_token_ready(here: Invocation, head: u32, own: u32) {
    let part = local_of(here) / HEAD_VEC4S;
    let v = local_of(here) % HEAD_VEC4S;
    var four: vec4<f32>;
    if part == 0u {
        four = q[head * HEAD_VEC4S + v] * inverseSqrt(f32(HEAD_DIM));
    } else if part == 1u {
        four = f16_in(keys[own * HEAD_VEC4S + v]);
    } else {
        four = f16_in(values[own * HEAD_VEC4S + v]);
    }
    make_ready(four, v, part, here.lane);
}

// Writes the token's own row, which begins at `row`, for the tokens to come.
fn write_row(row: u32, local: u32) {
    rows[row + SCALE_VEC4S + local] = own_codes[local];
    if local < GROUPS {
        // A row in the cache has finite scales, as it may be read and thrown away.
        let scales = own_scales[local];
        let spoilt = (bitcast<vec2<u32>>(scales) & vec2<u32>(0x7fffffffu)) > vec2<u32>(0x7f800000u);
        rows[row + local / 4u][local % 4u] = pack2x16float(select(scales, vec2<f32>(), spoilt));
    }
}

// A lane's group of the query. Lanes behind the head's end count for nothing.
fn query_of_lane(lane: u32) -> Query {
    var query = ready_query(min(lane, GROUPS - 1u));
    query.unit = select(0.0, query.unit, lane < GROUPS);
    query.sum = select(0.0, query.sum, lane < GROUPS);
    return query;
}

// The sums of weight * value, times `shrink`, by those of weight * code and by the sum of the weights of codes.
fn centered(sum: Group, weights: f32, shrink: f32) -> Group {
    let middle = all_of((1024.0 + middle_of(VALUE_BITS)) * weights);
    return Group((sum.first - middle) * shrink, (sum.second - middle) * shrink);
}

// Adds up the sums of a subgroup's teams, and writes them to workgroup memory.
fn write_sums(here: Invocation, of_team: Group) {
    var sum = of_team;
    let lane = here.lane % LANES;
    let to = here.subgroup * HEAD_VEC4S + lane * 8u;
    if SCATTERS == 1u {
        let four = add_and_scatter(sum, here);
        if here.lane < 8u * LANES && lane < GROUPS {
            subgroup_sums[to + scattered_four(here.lane)] = four;
        }
    } else {
        for (var other = LANES; other < lanes_of(here); other *= 2u) {
            sum.first = add_across(sum.first, other);
            sum.second = add_across(sum.second, other);
        }
        if here.lane < GROUPS {
            subgroup_sums[to] = sum.first[0];
            subgroup_sums[to + 1u] = sum.first[1];
            subgroup_sums[to + 2u] = sum.first[2];
            subgroup_sums[to + 3u] = sum.first[3];
            subgroup_sums[to + 4u] = sum.second[0];
            subgroup_sums[to + 5u] = sum.second[1];
            subgroup_sums[to + 6u] = sum.second[2];
            subgroup_sums[to + 7u] = sum.second[3];
        }
    }
}

@compute @workgroup_size(WORKGROUP)
fn main(here: Invocation) {
    let local = local_of(here);
    let head = here.workgroup.x;
    let split = here.workgroup.y;
    let lane = local % LANES;
    let team = local / LANES;
    let group = min(lane, GROUPS - 1u);
    let kv_head = head / SHARED_BY;
    let position = step_rows[0].position;
    let length = position + 1u;
    let stretch = stretch_of(split, first_visible(position), length);
    let first = stretch.first;
    let end = stretch.end;
    let has_own = position >= first && position < end;

    // Two positions are always on their way, the first ones while the query is made ready; past the last one, it is
    // read.
    let first_row = kv_head * params.cells + first_cell_of(step_rows[0]);
    let last = max(end, 1u) - 1u;
    var next = read_group((first_row + place_of(min(first + team, last))) * ROW_VEC4S, group);
    var after_next = read_group((first_row + place_of(min(first + team + TEAMS, last))) * ROW_VEC4S, group);
    let own = first_row + place_of(position);
    if local / HEAD_VEC4S < select(1u, 3u, has_own) {
        make_token_ready(here, head, own);
    }
    workgroupBarrier();
    if has_own && head % SHARED_BY == 0u && local < OWN_VEC4S {
        write_row(own * ROW_VEC4S, local);
    }
    let query = query_of_lane(lane);

    var highest = LOWEST;
    var total = 0.0;
    // The sums of weight * code, and of the weights of codes.
    var sum: Group;
    var weights = 0.0;
    for (var block = first; block < end; block += TEAMS) {
        let at = block + team;
        var read = next;
        next = after_next;
        after_next = read_group((first_row + place_of(min(at + 2u * TEAMS, last))) * ROW_VEC4S, group);
        // Elsewhere its place in workgroup memory was not written, and a scale there may be no number.
        if has_own && at == position {
            read = own_group(group);
        }
        let score = select(LOWEST, capped(sum_lanes(score_of(query, read.key))), at < end);
        let higher = max(highest, score);
        let shrink = exp(highest - higher);
        highest = higher;
        let weight = select(0.0, exp(score - highest), at < end);
        let by = weight * read.value.scale;
        total = total * shrink + weight;
        weights = weights * shrink + by;
        let codes = bytes_of(read.value, VALUE_BITS);
        sum.first = sum.first * shrink + sixteen_numbers(codes.first) * by;
        sum.second = sum.second * shrink + sixteen_numbers(codes.second) * by;
    }

    var best = highest;
    for (var other = LANES; other < lanes_of(here); other *= 2u) {
        best = max(best, subgroupShuffleXor(best, other));
    }
    let shrink = exp(highest - best);
    total *= shrink;
    for (var other = LANES; other < lanes_of(here); other *= 2u) {
        total += subgroupShuffleXor(total, other);
    }
    write_sums(here, centered(sum, weights, shrink));
    if here.lane == 0u {
        subgroup_peaks[here.subgroup] = vec2<f32>(best, total);
    }
    workgroupBarrier();
    if local < HEAD_VEC4S {
        var own = combined_subgroups(here.subgroups, local);
        own.mean = hadamard_across(own.mean, here.lane);
        let at = (head * SPLITS + split) * HEAD_VEC4S + local;
        write_partial(own, at, params.heads * SPLITS * HEAD_VEC4S);
    }
}
