// y = activation(Gate x) * (Up x) for one token or few, of W = [Gate, Up], and the hidden units of the routers that
// look at x.
#import invocation
#import bins
#import sliced
#import router
#import packed_dot
#import partials
#import packed_input
#import projection
#import few_tokens
#import router_hidden
#import gelu

@group(0) @binding(10) var<storage, read> depth: array<u32>;
// [4 L, REST] of all routers.
@group(0) @binding(11) var<storage, read> rest: array<f32>;
@group(0) @binding(12) var<storage, read> w1: array<vec2<u32>>;
@group(0) @binding(13) var<storage, read_write> hidden: array<f32>;
@group(0) @binding(14) var<storage, read_write> y: array<f32>;

// Rows of Gate and Up in turns.
fn row_of(workgroup: u32, own: u32) -> u32 {
    return (workgroup * OWN_ROWS + own) / 2u + own % 2u * (params.rows / 2u);
}

fn activation(v: f32) -> f32 {
    if GELU == 1u {
        return gelu(v);
    }
    return silu(v);
}

fn ahead(team: Team) -> vec4<f32> {
    return vec4<f32>();
}

fn finish(team: Team, sums: vec4<f32>, beside: vec4<f32>) {
    for (var r = 0u; r < ROWS; r += 2u) {
        let to = team.first + r / 2u;
        if team.lane == r && to < params.rows / 2u {
            y[to] = activation(sums[r]) * sums[r + 1u];
        }
    }
}

fn finish_two(team: Team, token: u32, products: vec2<f32>) {
    let to = team.first;
    if to < params.rows / 2u {
        y[token * (params.rows / 2u) + to] = activation(products.x) * products.y;
    }
}

@compute @workgroup_size(WORKGROUP)
fn main(here: Invocation) {
    if TOKENS > 1u {
        project_few(here);
    } else if here.workgroup.x >= ROW_WORKGROUPS {
        router_hidden(here);
    } else {
        project(here, depth[0]);
    }
}
