// Tokens in tiles of one depth: the order in which a product over many tokens takes them. One workgroup.
// Tokens of one depth stay in their order; each depth begins a tile, and what is left of its last tile is padding.
#import order

struct Params {
    tokens: u32,
    // Entries of `order`.
    entries: u32,
    // Entries of a tile.
    tile: u32,
}

// Entries at most.
const ENTRIES: u32 = 2432u;
override WORKGROUP: u32 = 64u;

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> depths: array<u32>;
// See shaders/shared/order.wgsl.
@group(0) @binding(1) var<storage, read_write> order: array<u32>;

// How many tokens of each depth an invocation has, together with those before it.
var<workgroup> counts: array<vec4<u32>, WORKGROUP>;
var<workgroup> placed: array<u32, ENTRIES>;

// One at the place of a depth.
fn one_of(depth: u32) -> vec4<u32> {
    return vec4<u32>(vec4<u32>(depth) == vec4<u32>(1u, 2u, 3u, 4u));
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(local_invocation_index) local: u32) {
    // Each invocation has neighbours.
    let share = (params.tokens + WORKGROUP - 1u) / WORKGROUP;
    let first = min(local * share, params.tokens);
    let end = min(first + share, params.tokens);
    var own = vec4<u32>();
    for (var t = first; t < end; t++) {
        own += one_of(depths[t]);
    }
    counts[local] = own;
    for (var at = local; at < params.entries; at += WORKGROUP) {
        placed[at] = PADDING;
    }
    for (var step = 1u; step < WORKGROUP; step *= 2u) {
        workgroupBarrier();
        let before = select(vec4<u32>(), counts[max(local, step) - step], local >= step);
        workgroupBarrier();
        counts[local] += before;
    }
    workgroupBarrier();
    // Where its next token of each depth goes: after all tiles of lesser depths, and tokens of the same before it.
    let tiles = (counts[WORKGROUP - 1u] + params.tile - 1u) / params.tile * params.tile;
    var next = counts[local] - own + vec4<u32>(0u, tiles.x, tiles.x + tiles.y, tiles.x + tiles.y + tiles.z);
    for (var t = first; t < end; t++) {
        let one = one_of(depths[t]);
        placed[dot(next, one)] = entry_of(t, depths[t]);
        next += one;
    }
    workgroupBarrier();
    for (var at = local; at < params.entries; at += WORKGROUP) {
        order[at] = placed[at];
    }
}
