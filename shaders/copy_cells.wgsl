// Copies `count` cells from `source` on to the cells from `destination` on, in each head; the two ranges do not meet.
// Each invocation takes every so manyth word of its head. data: [heads, C, words].

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

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read_write> data: array<u32>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>) {
    let head = global.y * params.cells;
    let source_word = (head + params.source) * params.words;
    let destination_word = (head + params.destination) * params.words;
    let stride = workgroups.x * WORKGROUP;
    for (var at = global.x; at < params.count * params.words; at += stride) {
        data[destination_word + at] = data[source_word + at];
    }
}
