// y = W x for one token or few, at the depths in `depth`: the head.
#import invocation
#import bins
#import sliced
#import packed_dot
#import partials
#import packed_input
#import projection
#import few_tokens

// Rows of y.
override Y_ROWS: u32 = 0u;

@group(0) @binding(10) var<storage, read> depth: array<u32>;
@group(0) @binding(11) var<storage, read_write> y: array<f32>;

fn row_of(workgroup: u32, own: u32) -> u32 {
    return workgroup * OWN_ROWS + own;
}

fn ahead(team: Team) -> vec4<f32> {
    return vec4<f32>();
}

fn finish(team: Team, sums: vec4<f32>, beside: vec4<f32>) {
    let row = team.first + team.lane;
    if team.lane < ROWS && row < params.rows {
        y[params.first_row + row] = sums[team.lane];
    }
}

fn finish_two(team: Team, token: u32, products: vec2<f32>) {
    for (var r = 0u; r < 2u; r++) {
        if team.first + r < params.rows {
            y[token * Y_ROWS + params.first_row + team.first + r] = products[r];
        }
    }
}

@compute @workgroup_size(WORKGROUP)
fn main(here: Invocation) {
    if TOKENS > 1u {
        project_few(here);
    } else {
        project(here, depth[0]);
    }
}
