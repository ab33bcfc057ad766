// y = silu(Gate x) * (Up x) for one token, of W = [Gate, Up]. The router of the site whose input is y is told of it.
#import sliced
#import router
#import router_sums
#import add_term
#import packed_dot
#import packed_input
#import projection
#import tell_by_teams

// The next site's, [HIDDEN, rows / 2] f16.
@group(0) @binding(12) var<storage, read> w1: array<vec4<u32>>;
@group(0) @binding(13) var<storage, read_write> depth: array<u32>;
@group(0) @binding(14) var<storage, read_write> sums: array<atomic<u32>>;
@group(0) @binding(15) var<storage, read_write> y: array<f32>;

override NUMBERS: u32 = OWN_ROWS / 2u;

// Rows of Gate and Up in turns.
fn row_of(workgroup: u32, own: u32) -> u32 {
    return (workgroup * OWN_ROWS + own) / 2u + own % 2u * (params.rows / 2u);
}

fn ahead(team: Team) -> Beside {
    return Beside();
}

fn finish(team: Team, sums: vec4<f32>, beside: Beside) {
    for (var r = 0u; r < ROWS; r += 2u) {
        let to = team.first + r / 2u;
        if to < params.rows / 2u {
            let gated = silu(sums[r]) * sums[r + 1u];
            if team.lane == r {
                y[to] = gated;
            }
            if params.tells == 1u {
                tell_number(team.at, team.lane, team.own / 2u + r / 2u, gated);
            }
        }
    }
}

@compute @workgroup_size(WORKGROUP)
fn main(place: Place) {
    let local = local_of(place);
    let first = row_of(place.workgroup.x, 0u);
    if params.tells == 1u {
        begin_telling(local, params.rows / 16u, first, min(NUMBERS, params.rows / 2u - first));
    }
    multiply(place);
    if params.tells == 1u {
        end_telling(local);
    }
}
