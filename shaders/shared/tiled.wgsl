// What the kernels share that multiply a tile of rows with a tile of tokens through workgroup memory.

// Rows, and tokens, of a tile.
const TILE: u32 = 64u;
const WORKGROUP: u32 = 128u;
// Neighbours taken at a time, and fours of them.
const DEEP: u32 = 32u;
const DEEP_QUADS: u32 = 8u;
const DEPTH_SHIFT: u32 = 16u;

// Depth in the high 16 bits, token in the low ones; an entry whose token is past the step's end is padding.
@group(0) @binding(6) var<storage, read> order: array<u32>;

fn token_of(entry: u32) -> u32 {
    return entry & 0xffffu;
}

// The codes of four neighbours in word `word` of chunk `at`.
fn four_codes(at: u32, word: u32, shift: u32, depth: u32) -> vec4<f32> {
    var bytes = ((base_slice[at][word] >> shift) & LOW_PAIRS.x) << 6u;
    if depth > 1u {
        bytes |= ((first_slice[at][word] >> shift) & LOW_PAIRS.x) << 4u;
    }
    if depth > 2u {
        bytes |= ((second_slice[at][word] >> shift) & LOW_PAIRS.x) << 2u;
    }
    if depth > 3u {
        bytes |= (third_slice[at][word] >> shift) & LOW_PAIRS.x;
    }
    return vec4<f32>(unpack4xU8(bytes));
}

// Weights of a row: its `deep`th four neighbours.
fn four_weights(row: u32, deep: u32, depth: u32) -> vec4<f32> {
    let chunk = deep / 16u;
    let groups = params.chunks / params.group_chunks;
    let range = bin_of_group(row * groups + chunk / params.group_chunks, depth);
    let codes = four_codes(row * params.chunks + chunk, deep / 4u % 4u, deep % 4u * 2u, depth);
    return codes * range.x + vec4<f32>(range.y);
}

// Where the x of the four tokens begins whose entries are `entry` and the three after it. Entries that are no token of
// this step stand for the first one of their tile, `head`.
fn four_tokens(entry: u32, head: u32) -> vec4<u32> {
    let tokens = vec4<u32>(
        token_of(order[entry]), token_of(order[entry + 1u]), token_of(order[entry + 2u]), token_of(order[entry + 3u]),
    );
    let sound = select(vec4<u32>(token_of(head)), tokens, tokens < vec4<u32>(params.tokens));
    return sound * params.chunks * 16u;
}
