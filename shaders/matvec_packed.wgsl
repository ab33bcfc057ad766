// The product of a sliced weight with one token whose numbers are pairs of int8s, as `site_input` makes them, read at
// the depth that is told or that the site's router chooses. A team of LANES invocations of one subgroup works on ROWS
// rows, each of the team on every LANES-th chunk of 64 weights. Within a chunk all is whole numbers.
//
// Nothing waits for another subgroup: each adds up what the router needs by itself. The base slice, which every depth
// reads, is on its way before the depth is known, and the next chunk's while the last one is multiplied.
#import sliced
#import router

struct Params {
    rows: u32,
    // Chunks of 64 weights in a row.
    chunks: u32,
    // Row of y that this dispatch's first row belongs to.
    first_row: u32,
    // 1: add to y; 0: overwrite it.
    accumulate: u32,
    // 1: the router chooses the depth, and it is written; 0: it is read.
    routed: u32,
}

override WORKGROUP: u32 = 128u;
// A power of two, no more than a subgroup has.
override LANES: u32 = 32u;
// 1, 2 or 4.
override ROWS: u32 = 4u;
// Chunks of 64 weights in a quantization group.
override GROUP_CHUNKS: u32 = 1u;
// What a high int8 counts for, in low ones.
const HIGH: i32 = 254;

var<immediate> params: Params;
// Four planes of high int8s, four of low ones, one of scales and scaled sums, and the router's.
@group(0) @binding(5) var<storage, read> ready: array<vec4<u32>>;
@group(0) @binding(6) var<storage, read_write> depth: array<u32>;
@group(0) @binding(7) var<storage, read_write> y: array<f32>;

// 64 numbers: word c of plane i has those that belong to weights 16c + 4i to 16c + 4i + 3.
struct Input {
    high: array<vec4<u32>, 4>,
    low: array<vec4<u32>, 4>,
    // What a low int8 counts for, and the sum of the numbers.
    unit: f32,
    sum: f32,
}

fn load_input(chunk: u32) -> Input {
    let planes = params.chunks;
    let about = bitcast<vec2<f32>>(ready[8u * planes + chunk].xy);
    return Input(
        array<vec4<u32>, 4>(
            ready[chunk], ready[planes + chunk], ready[2u * planes + chunk], ready[3u * planes + chunk],
        ),
        array<vec4<u32>, 4>(
            ready[4u * planes + chunk], ready[5u * planes + chunk],
            ready[6u * planes + chunk], ready[7u * planes + chunk],
        ),
        about.x,
        about.y,
    );
}

fn dot_words(a: vec4<u32>, b: vec4<u32>) -> i32 {
    return dot4I8Packed(a.x, b.x) + dot4I8Packed(a.y, b.y) + dot4I8Packed(a.z, b.z) + dot4I8Packed(a.w, b.w);
}

fn dot_planes(codes0: vec4<u32>, codes1: vec4<u32>, codes2: vec4<u32>, codes3: vec4<u32>, input: Input) -> i32 {
    let high = dot_words(codes0, input.high[0]) + dot_words(codes1, input.high[1])
        + dot_words(codes2, input.high[2]) + dot_words(codes3, input.high[3]);
    let low = dot_words(codes0, input.low[0]) + dot_words(codes1, input.low[1])
        + dot_words(codes2, input.low[2]) + dot_words(codes3, input.low[3]);
    return HIGH * high + low;
}

const LOW_NIBBLES: vec4<u32> = vec4<u32>(0x0f0f0f0fu);

// Four-bit codes of two slices: of planes 0 and 2, in the low and the high half of each byte.
fn even_nibbles(high: vec4<u32>, low: vec4<u32>) -> vec4<u32> {
    return ((high << vec4<u32>(2u)) & vec4<u32>(0xccccccccu)) | (low & vec4<u32>(0x33333333u));
}

// The same of planes 1 and 3.
fn odd_nibbles(high: vec4<u32>, low: vec4<u32>) -> vec4<u32> {
    return (high & vec4<u32>(0xccccccccu)) | ((low >> vec4<u32>(2u)) & vec4<u32>(0x33333333u));
}

fn low_half(v: vec4<u32>) -> vec4<u32> {
    return v & LOW_NIBBLES;
}

fn high_half(v: vec4<u32>) -> vec4<u32> {
    return (v >> vec4<u32>(4u)) & LOW_NIBBLES;
}

fn pairs(v: vec4<u32>, i: u32) -> vec4<u32> {
    return (v >> vec4<u32>(2u * i)) & LOW_PAIRS;
}

// The codes of chunk `at`, whose base slice is loaded, times the int8s; at depth 4 less 128 each, as int8s have no more.
fn dot_chunk(base: vec4<u32>, at: u32, slices: u32, input: Input) -> i32 {
    if slices == 1u {
        return dot_planes(pairs(base, 0u), pairs(base, 1u), pairs(base, 2u), pairs(base, 3u), input);
    }
    let first = first_slice[at];
    let top_bit = vec4<u32>(select(0u, 0xaaaaaaaau, slices == 4u));
    let even = even_nibbles(base ^ top_bit, first);
    let odd = odd_nibbles(base ^ top_bit, first);
    if slices == 2u {
        return dot_planes(low_half(even), low_half(odd), high_half(even), high_half(odd), input);
    }
    let second = second_slice[at];
    if slices == 3u {
        let two = vec4<u32>(2u);
        return dot_planes(
            (low_half(even) << two) | pairs(second, 0u),
            (low_half(odd) << two) | pairs(second, 1u),
            (high_half(even) << two) | pairs(second, 2u),
            (high_half(odd) << two) | pairs(second, 3u),
            input,
        );
    }
    let third = third_slice[at];
    let low_even = even_nibbles(second, third);
    let low_odd = odd_nibbles(second, third);
    let four = vec4<u32>(4u);
    return dot_planes(
        (low_half(even) << four) | low_half(low_even),
        (low_half(odd) << four) | low_half(low_odd),
        (even & ~LOW_NIBBLES) | high_half(low_even),
        (odd & ~LOW_NIBBLES) | high_half(low_odd),
        input,
    );
}

// The part of a row's product that lies in one chunk.
fn product(base: vec4<u32>, at: u32, group: u32, slices: u32, input: Input) -> f32 {
    let lo_step = unpack2x16float(scales[group]);
    let bin = lo_step.y / f32(1u << (2u * slices - 2u));
    let middle = lo_step.x + bin * select(0.5, 128.5, slices == 4u);
    return bin * input.unit * f32(dot_chunk(base, at, slices, input)) + middle * input.sum;
}

// The base slice of a chunk of each of a team's rows.
struct Bases {
    x: vec4<u32>,
    y: vec4<u32>,
    z: vec4<u32>,
    w: vec4<u32>,
}

fn load_bases(at: vec4<u32>) -> Bases {
    var bases = Bases();
    bases.x = base_slice[at.x];
    if ROWS > 1u {
        bases.y = base_slice[at.y];
    }
    if ROWS > 2u {
        bases.z = base_slice[at.z];
        bases.w = base_slice[at.w];
    }
    return bases;
}

// One invocation's share of its team's rows; `first` is the base of its first chunk. Called with each depth as a
// constant, so that each gets a loop of its own.
fn own_share(lane: u32, rows: vec4<u32>, slices: u32, first: Bases) -> vec4<f32> {
    let first_group = rows * (params.chunks / GROUP_CHUNKS);
    let first_chunk = rows * params.chunks;
    var bases = first;
    var sums = vec4<f32>();
    for (var chunk = lane; chunk < params.chunks; chunk += LANES) {
        let base = bases;
        bases = load_bases(first_chunk + min(chunk + LANES, params.chunks - 1u));
        let input = load_input(chunk);
        let at = first_chunk + chunk;
        let group = first_group + chunk / GROUP_CHUNKS;
        sums.x += product(base.x, at.x, group.x, slices, input);
        if ROWS > 1u {
            sums.y += product(base.y, at.y, group.y, slices, input);
        }
        if ROWS > 2u {
            sums.z += product(base.z, at.z, group.z, slices, input);
            sums.w += product(base.w, at.w, group.w, slices, input);
        }
    }
    return sums;
}

// The depth that the router chooses: every subgroup adds up the same numbers in the same order.
fn chosen_depth(place: u32, size: u32) -> u32 {
    let at = 9u * params.chunks;
    var sum = vec3<f32>();
    // A workgroup may have fewer invocations than a subgroup.
    for (var unit = place; unit < HIDDEN; unit += min(size, WORKGROUP)) {
        sum += bitcast<vec3<f32>>(ready[at + unit].xyz);
    }
    let said = bitcast<vec4<f32>>(ready[at + HIDDEN]);
    let most = ready[at + HIDDEN + 1u].x;
    return depth_of(said.xyz + subgroupAdd(sum), Control(said.w, most));
}

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_size) size: u32,
    @builtin(subgroup_invocation_id) place: u32,
) {
    let team = (workgroup.x * WORKGROUP + subgroup * size + place) / LANES;
    let lane = place % LANES;
    let row = team * ROWS;
    // Rows past the end are the last one, for reading only.
    let rows = min(row + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(params.rows - 1u));
    let first = load_bases(rows * params.chunks + min(lane, params.chunks - 1u));

    var slices: u32;
    if params.routed == 1u {
        slices = chosen_depth(place, size);
        if workgroup.x == 0u && subgroup == 0u && place == 0u {
            depth[0] = slices;
        }
    } else {
        slices = depth[0];
    }
    var sums: vec4<f32>;
    switch slices {
        case 1u: { sums = own_share(lane, rows, 1u, first); }
        case 2u: { sums = own_share(lane, rows, 2u, first); }
        case 3u: { sums = own_share(lane, rows, 3u, first); }
        default: { sums = own_share(lane, rows, 4u, first); }
    }
    for (var other = LANES / 2u; other > 0u; other /= 2u) {
        sums += subgroupShuffleXor(sums, other);
    }
    for (var r = lane; r < ROWS; r += LANES) {
        if row + r < params.rows {
            let to = params.first_row + row + r;
            y[to] = sums[r] + select(0.0, y[to], params.accumulate == 1u);
        }
    }
}
