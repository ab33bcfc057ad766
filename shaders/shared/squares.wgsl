// Matrices of sums in workgroup memory, one for each subgroup of a workgroup, through which results of cooperative
// matrices are read.

const SUBGROUP: u32 = 32u;
// Numbers of a matrix, and of one for each subgroup.
const SQUARE: u32 = 256u;
override SQUARES: u32 = WORKGROUP / SUBGROUP * SQUARE;

// [16 tokens, 16 rows] each.
var<workgroup> squares: array<f32, SQUARES>;

fn clear_squares(local: u32) {
    for (var at = local; at < SQUARES; at += WORKGROUP) {
        squares[at] = 0.0;
    }
    workgroupBarrier();
}

fn four_sums(at: u32) -> vec4<f32> {
    return vec4<f32>(squares[at], squares[at + 1u], squares[at + 2u], squares[at + 3u]);
}
