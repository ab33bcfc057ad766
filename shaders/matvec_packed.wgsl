// The product of a sliced weight with one token whose numbers are int8s, as `site_input` makes them, read at the depth
// that is told or that the site's router chooses. A team of LANES invocations works on ROWS rows, each of the team on
// every LANES-th chunk of 64 weights. Within a chunk all is whole numbers.
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
override LANES: u32 = 32u;
// 1, 2 or 4.
override ROWS: u32 = 4u;
// Chunks of 64 weights in a quantization group.
override GROUP_CHUNKS: u32 = 1u;

var<immediate> params: Params;
// Four planes of int8s, one of scales and scaled sums, and the router's.
@group(0) @binding(5) var<storage, read> ready: array<vec4<u32>>;
@group(0) @binding(6) var<storage, read_write> depth: array<u32>;
@group(0) @binding(7) var<storage, read_write> y: array<f32>;

var<workgroup> router_parts: array<vec3<f32>, 8>;
var<workgroup> partial: array<vec4<f32>, WORKGROUP>;

// 64 numbers: word c of `plane_i` has those that belong to weights 16c + 4i to 16c + 4i + 3.
struct Input {
    plane0: vec4<u32>,
    plane1: vec4<u32>,
    plane2: vec4<u32>,
    plane3: vec4<u32>,
    // What an int8 counts for, and the sum of the numbers.
    unit: f32,
    sum: f32,
}

fn load_input(chunk: u32) -> Input {
    let about = bitcast<vec2<f32>>(ready[4u * params.chunks + chunk].xy);
    return Input(
        ready[chunk],
        ready[params.chunks + chunk],
        ready[2u * params.chunks + chunk],
        ready[3u * params.chunks + chunk],
        about.x,
        about.y,
    );
}

fn dot_words(a: vec4<u32>, b: vec4<u32>) -> i32 {
    return dot4I8Packed(a.x, b.x) + dot4I8Packed(a.y, b.y) + dot4I8Packed(a.z, b.z) + dot4I8Packed(a.w, b.w);
}

fn dot_planes(codes0: vec4<u32>, codes1: vec4<u32>, codes2: vec4<u32>, codes3: vec4<u32>, input: Input) -> i32 {
    return dot_words(codes0, input.plane0) + dot_words(codes1, input.plane1)
        + dot_words(codes2, input.plane2) + dot_words(codes3, input.plane3);
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

// The codes of the chunk's weights times the int8s; at depth 4 less 128 each, as int8s have no more.
fn dot_chunk(at: u32, slices: u32, input: Input) -> i32 {
    let chunk = load_chunk(at, slices);
    if slices == 1u {
        let v = chunk.base_slice;
        return dot_planes(pairs(v, 0u), pairs(v, 1u), pairs(v, 2u), pairs(v, 3u), input);
    }
    let top_bit = vec4<u32>(select(0u, 0xaaaaaaaau, slices == 4u));
    let even = even_nibbles(chunk.base_slice ^ top_bit, chunk.first_slice);
    let odd = odd_nibbles(chunk.base_slice ^ top_bit, chunk.first_slice);
    if slices == 2u {
        return dot_planes(low_half(even), low_half(odd), high_half(even), high_half(odd), input);
    }
    if slices == 3u {
        let v = chunk.second_slice;
        let two = vec4<u32>(2u);
        return dot_planes(
            (low_half(even) << two) | pairs(v, 0u),
            (low_half(odd) << two) | pairs(v, 1u),
            (high_half(even) << two) | pairs(v, 2u),
            (high_half(odd) << two) | pairs(v, 3u),
            input,
        );
    }
    let low_even = even_nibbles(chunk.second_slice, chunk.third_slice);
    let low_odd = odd_nibbles(chunk.second_slice, chunk.third_slice);
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
fn product(at: u32, group: u32, slices: u32, input: Input) -> f32 {
    let lo_step = unpack2x16float(scales[group]);
    let bin = lo_step.y / f32(1u << (2u * slices - 2u));
    let middle = lo_step.x + bin * select(0.5, 128.5, slices == 4u);
    return bin * input.unit * f32(dot_chunk(at, slices, input)) + middle * input.sum;
}

// One invocation's share of its team's rows. Called with each depth as a constant, so that each gets a loop of its own.
fn own_share(lane: u32, rows: vec4<u32>, slices: u32) -> vec4<f32> {
    let first_group = rows * (params.chunks / GROUP_CHUNKS);
    let first_chunk = rows * params.chunks;
    var sums = vec4<f32>();
    for (var chunk = lane; chunk < params.chunks; chunk += LANES) {
        let input = load_input(chunk);
        let at = first_chunk + chunk;
        let group = first_group + chunk / GROUP_CHUNKS;
        sums.x += product(at.x, group.x, slices, input);
        if ROWS > 1u {
            sums.y += product(at.y, group.y, slices, input);
        }
        if ROWS > 2u {
            sums.z += product(at.z, group.z, slices, input);
            sums.w += product(at.w, group.w, slices, input);
        }
    }
    return sums;
}

// The depth that the router chooses: every workgroup adds up the same numbers in the same order.
fn chosen_depth(local: u32) -> u32 {
    let at = 5u * params.chunks;
    for (var part = local; part < 8u; part += WORKGROUP) {
        var sum = vec3<f32>();
        for (var unit = part; unit < HIDDEN; unit += 8u) {
            sum += bitcast<vec3<f32>>(ready[at + unit].xyz);
        }
        router_parts[part] = sum;
    }
    workgroupBarrier();
    let said = bitcast<vec4<f32>>(ready[at + HIDDEN]);
    var o = said.xyz;
    for (var part = 0u; part < 8u; part++) {
        o += router_parts[part];
    }
    return depth_of(o, Control(said.w, ready[at + HIDDEN + 1u].x));
}

fn store(row: u32, sum: f32) {
    if row < params.rows {
        let to = params.first_row + row;
        y[to] = sum + select(0.0, y[to], params.accumulate == 1u);
    }
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    var slices: u32;
    if params.routed == 1u {
        slices = chosen_depth(local);
        if workgroup.x == 0u && local == 0u {
            depth[0] = slices;
        }
    } else {
        slices = depth[0];
    }

    let teams = WORKGROUP / LANES;
    let first_row = workgroup.x * teams * ROWS;
    let row = first_row + local / LANES * ROWS;
    // Rows past the end are the last one, for reading only.
    let rows = min(row + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(params.rows - 1u));
    let lane = local % LANES;
    var sums: vec4<f32>;
    switch slices {
        case 1u: { sums = own_share(lane, rows, 1u); }
        case 2u: { sums = own_share(lane, rows, 2u); }
        case 3u: { sums = own_share(lane, rows, 3u); }
        default: { sums = own_share(lane, rows, 4u); }
    }

    if LANES == 1u {
        for (var r = 0u; r < ROWS; r++) {
            store(row + r, sums[r]);
        }
        return;
    }
    partial[local] = sums;
    workgroupBarrier();
    // One invocation a row; each begins at another lane, so that they meet in no bank of the memory.
    if local < teams * ROWS {
        let first_lane = local / ROWS * LANES;
        var sum = 0.0;
        for (var i = 0u; i < LANES; i++) {
            sum += partial[first_lane + (i + local) % LANES][local % ROWS];
        }
        store(first_row + local, sum);
    }
}
