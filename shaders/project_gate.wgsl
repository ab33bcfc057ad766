// y = silu(Gate x) * (Up x) for one token, of W = [Gate, Up]. The router of the site whose input is y is told of it.
#import place
#import bins
#import sliced
#import router
#import router_sums
#import add_term
#import packed_dot
#import packed_input
#import projection
#import tell_by_teams

// The next site's, [HIDDEN, rows / 2] f16.
@group(0) @binding(12) var<storage, read> w1: array<u32>;
@group(0) @binding(13) var<storage, read_write> depth: array<u32>;
@group(0) @binding(14) var<storage, read_write> sums: array<atomic<u32>>;
@group(0) @binding(15) var<storage, read_write> y: array<f32>;

// Rows of Gate and Up in turns.
fn row_of(workgroup: u32, own: u32) -> u32 {
    return (workgroup * OWN_ROWS + own) / 2u + own % 2u * (params.rows / 2u);
}

fn ahead(team: Team) -> Beside {
    var beside = Beside();
    if TELLS == 1u {
        let first = min(team.first, params.rows / 2u - 1u);
        beside.told = fetch_told(team.lane, first, first, params.rows / 2u);
    }
    return beside;
}

fn finish(team: Team, sums: vec4<f32>, beside: Beside) {
    for (var r = 0u; r < ROWS; r += 2u) {
        let to = team.first + r / 2u;
        if to < params.rows / 2u {
            let gated = silu(sums[r]) * sums[r + 1u];
            if team.lane == r {
                y[to] = gated;
            }
            if TELLS == 1u {
                tell_number(beside.told, r / 2u, to, gated);
            }
        }
    }
}

@compute @workgroup_size(WORKGROUP)
fn main(place: Place) {
    multiply(place);
    if TELLS == 1u {
        end_telling(local_of(place));
    }
}
