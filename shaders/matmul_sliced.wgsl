// The product of a sliced weight with many tokens at once, taken in an order whose tiles have one depth each.
// An invocation works on four rows and a tile of eight tokens; invocations side by side differ in rows, so that they
// read the same x.
#import bins
#import sliced
#import product
#import order

const TILE: u32 = 8u;
override WORKGROUP: u32 = 64u;

@group(0) @binding(8) var<storage, read> x: array<vec4<f32>>;
// See shaders/shared/order.wgsl.
@group(0) @binding(9) var<storage, read> order: array<u32>;

// One vec4 of four rows for each token of the tile.
struct Tile {
    t0: vec4<f32>, t1: vec4<f32>, t2: vec4<f32>, t3: vec4<f32>,
    t4: vec4<f32>, t5: vec4<f32>, t6: vec4<f32>, t7: vec4<f32>,
}

// weight = code * bin.x + bin.y, for the four neighbours of a word.
fn weights(code: vec4<f32>, bin: vec2<f32>) -> vec4<f32> {
    return code * bin.x + vec4<f32>(bin.y);
}

// The products of four rows with the tile's tokens at `depth`; first[t] is where the x of its entry t begins.
fn products(rows: vec4<u32>, first: array<u32, TILE>, depth: u32) -> Tile {
    var sums = Tile();
    for (var chunk = 0u; chunk < params.chunks; chunk++) {
        let at = rows * params.chunks + chunk;
        let chunk0 = load_chunk(at.x, depth);
        let chunk1 = load_chunk(at.y, depth);
        let chunk2 = load_chunk(at.z, depth);
        let chunk3 = load_chunk(at.w, depth);
        let ranges = load_ranges(groups_of(at, params.group_chunks), depth);
        let bins0 = bins_of(ranges.x, depth);
        let bins1 = bins_of(ranges.y, depth);
        let bins2 = bins_of(ranges.z, depth);
        let bins3 = bins_of(ranges.w, depth);
        for (var i = 0u; i < 4u; i++) {
            let codes0 = codes(chunk0, i, depth);
            let codes1 = codes(chunk1, i, depth);
            let codes2 = codes(chunk2, i, depth);
            let codes3 = codes(chunk3, i, depth);
            for (var word = 0u; word < 4u; word++) {
                let w = mat4x4<f32>(
                    weights(codes0[word], bin_of_word(bins0, word)),
                    weights(codes1[word], bin_of_word(bins1, word)),
                    weights(codes2[word], bin_of_word(bins2, word)),
                    weights(codes3[word], bin_of_word(bins3, word)),
                );
                let k = chunk * 16u + word * 4u + i;
                sums.t0 += x[first[0] + k] * w;
                sums.t1 += x[first[1] + k] * w;
                sums.t2 += x[first[2] + k] * w;
                sums.t3 += x[first[3] + k] * w;
                sums.t4 += x[first[4] + k] * w;
                sums.t5 += x[first[5] + k] * w;
                sums.t6 += x[first[6] + k] * w;
                sums.t7 += x[first[7] + k] * w;
            }
        }
    }
    return sums;
}

fn store_at(entry: u32, row: u32, sums: vec4<f32>) {
    if token_of(entry) < params.tokens {
        store(token_of(entry), row, sums);
    }
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let row = (workgroup.x * WORKGROUP + local) * 4u;
    let at = workgroup.y * TILE;
    let head = order[at];
    // Tiles are filled from the front, so that one without a first token has none.
    if row >= params.rows || token_of(head) >= params.tokens {
        return;
    }
    var first: array<u32, TILE>;
    for (var t = 0u; t < TILE; t++) {
        // Entries that are no token of this step read the first one and write nothing.
        let token = token_of(order[at + t]);
        first[t] = select(token_of(head), token, token < params.tokens) * params.chunks * 16u;
    }
    let sums = products(four_rows(row), first, depth_of_entry(head));
    store_at(head, row, sums.t0);
    store_at(order[at + 1u], row, sums.t1);
    store_at(order[at + 2u], row, sums.t2);
    store_at(order[at + 3u], row, sums.t3);
    store_at(order[at + 4u], row, sums.t4);
    store_at(order[at + 5u], row, sums.t5);
    store_at(order[at + 6u], row, sums.t6);
    store_at(order[at + 7u], row, sums.t7);
}
