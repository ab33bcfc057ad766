// An entry of the order in which a product takes its tokens: the token's depth in the high 16 bits, the token in the
// low ones. The token of padding is past the step's end.

const DEPTH_SHIFT: u32 = 16u;
const PADDING: u32 = 0xffffffffu;

fn entry_of(token: u32, depth: u32) -> u32 {
    return (depth << DEPTH_SHIFT) | token;
}

fn token_of(entry: u32) -> u32 {
    return entry & 0xffffu;
}

fn depth_of_entry(entry: u32) -> u32 {
    return entry >> DEPTH_SHIFT;
}
