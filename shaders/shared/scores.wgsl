// Which positions a token looks at, and the bound of its scores; src/kernels/attention/problem.rs has the same.

// Positions that a token looks at, its own included. 0: all up to its own.
override WINDOW: u32 = 0u;
// The bits of the f32 that bounds scores. 0: nothing bounds them.
override CAP_BITS: u32 = 0u;

// The first position that the token at `position` looks at.
fn first_visible(position: u32) -> u32 {
    if WINDOW == 0u {
        return 0u;
    }
    return max(position + 1u, WINDOW) - WINDOW;
}

// Which of four positions the token at `position` looks at.
fn four_visible(at: vec4<u32>, position: u32) -> vec4<bool> {
    let past = at <= vec4<u32>(position);
    if WINDOW == 0u {
        return past;
    }
    return past & (vec4<u32>(position) - at < vec4<u32>(WINDOW));
}

// cap * tanh(score / cap). The argument is bounded, as drivers may compute tanh by exponentials that overflow. The
// comparison of bits keeps what is no number, which `clamp` may not.
fn capped(score: f32) -> f32 {
    if CAP_BITS == 0u {
        return score;
    }
    let cap = bitcast<f32>(CAP_BITS);
    let bounded = cap * tanh(clamp(score / cap, -15.0, 15.0));
    return select(bounded, score, (bitcast<u32>(score) & 0x7fffffffu) > 0x7f800000u);
}

fn four_capped(scores: vec4<f32>) -> vec4<f32> {
    if CAP_BITS == 0u {
        return scores;
    }
    return vec4<f32>(capped(scores.x), capped(scores.y), capped(scores.z), capped(scores.w));
}
