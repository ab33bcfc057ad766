// What the products of one token share: each workgroup makes the site's input into pairs of int8s for itself, and
// multiplies its rows with it. A kernel says by `row_of` which rows are its workgroup's, by `ahead` what it will need
// beside their products, and by `finish` what becomes of them. The products of several tokens are in `few_tokens`.
//
// A team of LANES invocations of one subgroup works on ROWS rows at a time, each of the team on every LANES-th chunk of
// 64 weights, and so on for ROUNDS rounds.

struct Params {
    // Rows of the weight in this dispatch.
    rows: u32,
    // Row of y that this dispatch's first row belongs to.
    first_row: u32,
    // Added to the mean square by the norm.
    eps: f32,
    // The first site whose router selects a depth, or whose hidden units are computed.
    site: u32,
    // Entries from one site's depth to the next one's.
    depth_row: u32,
    // H, K and C, where rows are queries, keys and values.
    heads: u32,
    kv_heads: u32,
    cells: u32,
    // TOKENS again, as a number that no compiler knows.
    tokens: u32,
}

override WORKGROUP: u32 = 256u;
// A power of two, no more than a subgroup has and no less than ROWS.
override LANES: u32 = 32u;
// 1, 2 or 4.
override ROWS: u32 = 2u;
// Rows that a team works on, in so many at a time.
override ROUNDS: u32 = 1u;
// Chunks of 64 weights in a row, and in a quantization group, or in what a u32 of ranges is for.
override CHUNKS: u32 = 64u;
override GROUP_CHUNKS: u32 = 1u;
// A, where rows are queries, keys and values.
override HEAD_DIM: u32 = 64u;
// 1: the input is x / sqrt(mean(x^2) + eps) * norm; 0: it is x, or the combination of its partials.
override NORMED: u32 = 0u;
// Workgroups that have rows; a kernel may have others after them.
override ROW_WORKGROUPS: u32 = 0xffffffffu;
// Rows of a workgroup, a multiple of sixteen and no more than it has invocations; and those of a round.
override OWN_ROWS: u32 = WORKGROUP / LANES * ROWS * ROUNDS;
override ROUND_ROWS: u32 = WORKGROUP / LANES * ROWS;

var<immediate> params: Params;
@group(0) @binding(8) var<storage, read> x: array<vec4<u32>>;
@group(0) @binding(9) var<storage, read> norm: array<vec4<f32>>;

// Lengths of arrays have names, as naga wants. What one token's products need is of length one for several tokens.
override ALONE: u32 = 1u / TOKENS;
override PLANE_VEC4S: u32 = 1u + (8u * CHUNKS - 1u) * ALONE;
override UNITS_KEPT: u32 = 1u + (CHUNKS - 1u) * ALONE;
// Sums of second halves of chunks; one, where they are not kept.
override SECOND_SUMS: u32 = 1u + (CHUNKS - 1u) * WORD_RANGES * ALONE;

// The input without the norm's factor, which is one for all: four planes of high int8s, four of low ones.
var<workgroup> planes: array<vec4<u32>, PLANE_VEC4S>;
// What a low int8 counts for, and the sum of the numbers: of all, or of the first half where ranges are words.
var<workgroup> about: array<vec2<f32>, UNITS_KEPT>;
// The sums of the second halves then.
var<workgroup> second_sums: array<f32, SECOND_SUMS>;

// The one token's input begins with x, and the hidden units of its routers with `hidden`.
fn input_at() -> u32 {
    return 0u;
}

fn hidden_at() -> u32 {
    return 0u;
}

fn keep_words(chunk: u32, entry: u32, high: u32, low: u32) {
    planes[entry % 4u * CHUNKS + chunk][entry / 4u] = high;
    planes[(4u + entry % 4u) * CHUNKS + chunk][entry / 4u] = low;
}

fn keep_sums(chunk: u32, unit: f32, sum: i32, second: i32) {
    about[chunk] = vec2<f32>(unit, unit * f32(sum));
    if WORD_RANGES == 1u {
        second_sums[chunk] = unit * f32(second);
    }
}

fn load_input(chunk: u32) -> Input {
    var sums = vec2<f32>(about[chunk].y, 0.0);
    if WORD_RANGES == 1u {
        sums.y = second_sums[chunk];
    }
    return Input(
        array<vec4<u32>, 4>(
            planes[chunk], planes[CHUNKS + chunk], planes[2u * CHUNKS + chunk], planes[3u * CHUNKS + chunk],
        ),
        array<vec4<u32>, 4>(
            planes[4u * CHUNKS + chunk], planes[5u * CHUNKS + chunk],
            planes[6u * CHUNKS + chunk], planes[7u * CHUNKS + chunk],
        ),
        about[chunk].x,
        sums,
    );
}

// What a team reads of a chunk of its rows at any depth: the base slice, and the ranges.
struct Begun {
    base: array<vec4<u32>, 4>,
    ranges: vec4<u32>,
}

fn begin_ranges(rows: vec4<u32>, chunk: u32, slices: u32) -> vec4<u32> {
    let groups = rows * (CHUNKS / GROUP_CHUNKS) + chunk / GROUP_CHUNKS;
    if ROWS > 2u {
        return load_ranges(groups, slices);
    }
    var ranges: vec4<u32>;
    ranges.x = load_range(groups.x, slices);
    if ROWS > 1u {
        ranges.y = load_range(groups.y, slices);
    }
    return ranges;
}

// Called with the depth as a constant, or as 0, where it is not known yet: there are no ranges yet then, if they are
// words.
fn begin(rows: vec4<u32>, chunk: u32, slices: u32) -> Begun {
    let at = rows * CHUNKS + chunk;
    var begun: Begun;
    begun.base[0] = base_slice[at.x];
    if ROWS > 1u {
        begun.base[1] = base_slice[at.y];
    }
    if ROWS > 2u {
        begun.base[2] = base_slice[at.z];
        begun.base[3] = base_slice[at.w];
    }
    if WORD_RANGES == 0u || slices > 0u {
        begun.ranges = begin_ranges(rows, chunk, slices);
    }
    return begun;
}

// The codes of chunk `at` of the weight, read so many slices deep, in planes: of four bits at depth 2, and of eight, less
// 128, at the others.
fn codes_at(at: u32, base: vec4<u32>, slices: u32) -> array<vec4<u32>, 4> {
    if slices == 1u {
        return base_codes_of(base);
    }
    let first = first_slice[at];
    if slices == 2u {
        return nibbles_of(base, first);
    }
    var third: vec4<u32>;
    if slices == 4u {
        third = third_slice[at];
    }
    return codes_of(base, first, second_slice[at], third);
}

// The part of a row's product that lies in chunk `at` of the weight.
fn product(at: u32, base: vec4<u32>, range: u32, slices: u32, input: Input) -> f32 {
    let dots = dot_planes(codes_at(at, base, slices), slices, input);
    let scale = scale_at(slices);
    return part_of(affine_of(range, scale.x, scale.y), scale.x, input.unit, dots, input.sums);
}

fn products(rows: vec4<u32>, chunk: u32, begun: Begun, slices: u32) -> vec4<f32> {
    let at = rows * CHUNKS + chunk;
    let input = load_input(chunk);
    var all = vec4<f32>(product(at.x, begun.base[0], begun.ranges.x, slices, input), 0.0, 0.0, 0.0);
    if ROWS > 1u {
        all.y = product(at.y, begun.base[1], begun.ranges.y, slices, input);
    }
    if ROWS > 2u {
        all.z = product(at.z, begun.base[2], begun.ranges.z, slices, input);
        all.w = product(at.w, begun.base[3], begun.ranges.w, slices, input);
    }
    return all;
}

// What the lanes of a team have, added up for each of them.
fn sum_lanes(own: vec4<f32>) -> vec4<f32> {
    var sums = own;
    for (var other = LANES / 2u; other > 0u; other /= 2u) {
        sums.x += subgroupShuffleXor(sums.x, other);
        if ROWS > 1u {
            sums.y += subgroupShuffleXor(sums.y, other);
        }
        if ROWS > 2u {
            sums.z += subgroupShuffleXor(sums.z, other);
            sums.w += subgroupShuffleXor(sums.w, other);
        }
    }
    return sums;
}

// Where a team is in a round: which of its workgroup's rows it begins with, which of the weight's that is, and all it
// reads, where rows past the end are the last one.
struct Team {
    lane: u32,
    own: u32,
    first: u32,
    rows: vec4<u32>,
}

fn team_in(workgroup: u32, local: u32, round: u32) -> Team {
    let own = round * ROUND_ROWS + local / LANES * ROWS;
    let rows = vec4<u32>(
        row_of(workgroup, own), row_of(workgroup, own + 1u), row_of(workgroup, own + 2u), row_of(workgroup, own + 3u),
    );
    return Team(local % LANES, own, rows.x, min(rows, vec4<u32>(params.rows - 1u)));
}

// The rows of an invocation's teams, of which the first chunk has begun: each begins while the one before is
// multiplied. Called with each depth as a constant, so that each gets loops of its own.
fn multiply_rows(workgroup: u32, local: u32, slices: u32, factor: f32, first: Begun, first_beside: vec4<f32>) {
    var begun = first;
    var beside = first_beside;
    for (var round = 0u; round < ROUNDS; round++) {
        let team = team_in(workgroup, local, round);
        if round > 0u {
            beside = ahead(team);
        }
        var sums = vec4<f32>();
        for (var chunk = team.lane; chunk < CHUNKS; chunk += LANES) {
            let now = begun;
            if chunk + LANES < CHUNKS {
                begun = begin(team.rows, chunk + LANES, slices);
            } else if round + 1u < ROUNDS {
                begun = begin(team_in(workgroup, local, round + 1u).rows, team.lane, slices);
            }
            sums += products(team.rows, chunk, now, slices);
        }
        finish(team, sum_lanes(sums) * factor, beside);
    }
}

// Packs the input and multiplies the workgroup's rows with it, which begin to come meanwhile.
fn project(here: Invocation, slices: u32) {
    let workgroup = here.workgroup.x;
    let local = local_of(here);
    let team = team_in(workgroup, local, 0u);
    let chunk = min(team.lane, CHUNKS - 1u);
    var begun = begin(team.rows, chunk, 0u);
    let beside = ahead(team);
    let own_squares = pack_input(here);
    if WORD_RANGES == 1u {
        // Nothing has waited for the depth until here.
        begun.ranges = begin_ranges(team.rows, chunk, slices);
    }
    share_input(here, own_squares);
    let factor = norm_factor(here);
    switch slices {
        case 1u: { multiply_rows(workgroup, local, 1u, factor, begun, beside); }
        case 2u: { multiply_rows(workgroup, local, 2u, factor, begun, beside); }
        case 3u: { multiply_rows(workgroup, local, 3u, factor, begun, beside); }
        default: { multiply_rows(workgroup, local, 4u, factor, begun, beside); }
    }
}
