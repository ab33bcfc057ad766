// Tokens in tiles of one depth: the order in which a product over many tokens takes them. One workgroup.
// Tokens of one depth keep their order; each depth begins a tile, and what is left of its last tile is padding.

struct Params {
    tokens: u32,
    // Entries of `order`.
    entries: u32,
    // Entries of a tile.
    tile: u32,
}

// Tokens and entries at most.
const TOKENS: u32 = 512u;
const ENTRIES: u32 = 704u;
const PADDING: u32 = 0xffffffffu;
const DEPTH_SHIFT: u32 = 16u;
override WORKGROUP: u32 = 64u;

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> depths: array<u32>;
// Depth in the high 16 bits, token in the low ones.
@group(0) @binding(1) var<storage, read_write> order: array<u32>;

var<workgroup> depth_of: array<u32, TOKENS>;
var<workgroup> placed: array<u32, ENTRIES>;

// The place of a token: after all tiles of lesser depths, and after the tokens of its own depth before it.
fn place(token: u32) -> u32 {
    let depth = depth_of[token];
    var counts = vec4<u32>();
    var before = 0u;
    for (var t = 0u; t < params.tokens; t++) {
        let other = depth_of[t];
        counts += vec4<u32>(vec4<u32>(other) == vec4<u32>(1u, 2u, 3u, 4u));
        before += u32(other == depth && t < token);
    }
    let tiles = (counts + params.tile - 1u) / params.tile;
    let lesser = vec4<u32>(vec4<u32>(depth) > vec4<u32>(1u, 2u, 3u, 4u));
    return dot(tiles, lesser) * params.tile + before;
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(local_invocation_index) local: u32) {
    for (var t = local; t < params.tokens; t += WORKGROUP) {
        depth_of[t] = depths[t];
    }
    for (var at = local; at < params.entries; at += WORKGROUP) {
        placed[at] = PADDING;
    }
    workgroupBarrier();
    for (var t = local; t < params.tokens; t += WORKGROUP) {
        placed[place(t)] = (depth_of[t] << DEPTH_SHIFT) | t;
    }
    workgroupBarrier();
    for (var at = local; at < params.entries; at += WORKGROUP) {
        order[at] = placed[at];
    }
}
