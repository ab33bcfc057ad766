// The product of a sliced weight with few tokens, each on its own, on processor cores whose vectors are subgroups of
// eight. A load costs as much there as dozens of sums, as each lane loads for itself: so lanes take four rows each, and
// share what they load of x.
#import bins
#import sliced
#import product
#import matvec

const LANES: u32 = 8u;

// What a lane holds for all, of the sixteen entries of a chunk of x: entry `lane`, and `lane + 8`.
struct Shared {
    low: vec4<f32>,
    high: vec4<f32>,
}

// Entries i, i + 4, i + 8 and i + 12.
fn numbers(own: Shared, i: u32) -> mat4x4<f32> {
    return mat4x4<f32>(
        subgroupShuffle(own.low, i), subgroupShuffle(own.low, i + 4u),
        subgroupShuffle(own.high, i), subgroupShuffle(own.high, i + 4u),
    );
}

// The sum over the chunk, where its range is one; else the sums over its halves.
fn sums_of(own: Shared) -> vec2<f32> {
    if WORD_RANGES == 1u {
        return subgroupAdd(vec2<f32>(dot(own.low, vec4<f32>(1.0)), dot(own.high, vec4<f32>(1.0))));
    }
    return vec2<f32>(subgroupAdd(dot(own.low + own.high, vec4<f32>(1.0))), 0.0);
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(subgroup_invocation_id) lane: u32) {
    let row = (workgroup.x * LANES + lane) * 4u;
    let token = workgroup.y;
    let depth = depths[token];
    let rows = four_rows(row);
    let x_row = token * params.chunks * 16u;

    var sums = vec4<f32>();
    for (var chunk = 0u; chunk < params.chunks; chunk++) {
        let at = rows * params.chunks + chunk;
        let chunks = load_chunks(at, depth);
        let ranges = load_ranges(groups_of(at, params.group_chunks), depth);
        let first = x_row + chunk * 16u + lane;
        let own = Shared(x[first], x[first + LANES]);
        let products = dot_plane(chunks, 0u, depth, numbers(own, 0u)) + dot_plane(chunks, 1u, depth, numbers(own, 1u))
            + dot_plane(chunks, 2u, depth, numbers(own, 2u)) + dot_plane(chunks, 3u, depth, numbers(own, 3u));
        sums += scaled(ranges, depth, products, sums_of(own));
    }
    store(token, row, sums);
}
