// Copies `count` cells from `source` on to the cells from `target` on, in each head; the two ranges do not meet. An
// invocation copies EACH words. data: [heads, C, words].

struct Params {
    // C
    cells: u32,
    // Words of a cell of one head.
    words: u32,
    source: u32,
    // Where the first one goes.
    destination: u32,
    count: u32,
}

override WORKGROUP: u32 = 64u;
override EACH: u32 = 16u;

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read_write> data: array<u32>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let head = workgroup.y * params.cells;
    let source_word = (head + params.source) * params.words;
    let destination_word = (head + params.destination) * params.words;
    let all = params.count * params.words;
    for (var i = 0u; i < EACH; i++) {
        let at = (workgroup.x * EACH + i) * WORKGROUP + local;
        if at < all {
            data[destination_word + at] = data[source_word + at];
        }
    }
}
