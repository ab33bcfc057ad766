// What the two kernels that choose a token share.

// The settings of one choice; src/sampling.rs says what the fields mean.
struct Choice {
    temperature: f32,
    top_k: u32,
    top_p: f32,
    min_p_ln: f32,
    repeat_penalty: f32,
    repeat_last_n: u32,
    // The random number's first 32 bits after the point, and 21 more.
    draw_high: u32,
    draw_low: u32,
}

// The key of a block's likeliest token, and the sum of exp(logit - its logit) over the block: of the logits as they are,
// and of those divided by the temperature.
struct Peak {
    key: u32,
    mass: f32,
    tempered_mass: f32,
}

// Leaders of a block: its likeliest tokens, each as (key, id), likelier ones first. Only tokens above minus infinity are
// leaders; where the block has fewer of them, the rest are (0, NONE).
const LEADERS: u32 = 8u;
// No token.
const NONE: u32 = 0xffffffffu;

// Logits are compared as keys: unsigned numbers in the order of the logits, of which minus infinity is the least.
const LOWEST_KEY: u32 = 0x007fffffu;
const HIGHEST_KEY: u32 = 0xff7fffffu;

fn key_of_bits(bits: u32) -> u32 {
    return bits ^ select(0x80000000u, 0xffffffffu, bits >= 0x80000000u);
}

fn bits_of_key(key: u32) -> u32 {
    return key ^ select(0xffffffffu, 0x80000000u, key >= 0x80000000u);
}

fn logit_of_key(key: u32) -> f32 {
    return bitcast<f32>(bits_of_key(key));
}

// The key of a logit that may be anything: no number becomes minus infinity, infinity the greatest number. Told by the
// bits, because a compiler may take it that a comparison of floats never sees either.
fn finite_key(bits: u32) -> u32 {
    let not_a_number = (bits & 0x7fffffffu) > 0x7f800000u;
    return select(min(key_of_bits(bits), HIGHEST_KEY), LOWEST_KEY, not_a_number);
}

// Whether a token comes before another: likelier ones first, of equally likely ones the lower id.
fn before(key: u32, id: u32, other_key: u32, other_id: u32) -> bool {
    return key > other_key || (key == other_key && id < other_id);
}

// exp((logit - best) / temperature) where that is a normal number, else 0.
fn weight(key: u32, best: u32, temperature: f32) -> f32 {
    let exponent = (logit_of_key(key) - logit_of_key(best)) / temperature;
    return select(exp(exponent), 0.0, key == LOWEST_KEY || exponent < -87.0);
}
