// GELU by its approximation with tanh, for kernels that have SiLU beside it.

// 0: the activation is SiLU; 1: it is GELU.
override GELU: u32 = 0u;

// v * (1 + tanh(u)) / 2 with u = sqrt(2 / pi) * (v + 0.044715 v^3). As (1 + tanh(u)) / 2 = 1 / (1 + exp(-2u)), no tanh
// is computed: that of some drivers is no number where exp overflows, and here a quotient by infinity is zero.
fn gelu(v: f32) -> f32 {
    return v / (1.0 + exp(-1.5957691216 * (v + 0.044715 * v * v * v)));
}
