//! The input of a site, made ready for [`matvec_packed`](super::matvec_packed): one token's numbers as pairs of int8s,
//! and what the site's router needs to choose the depth.
//!
//! The result is one buffer of `vec4<u32>`s, for C chunks of 64 numbers:
//!
//! ```text
//! [4, C]        high int8s: component c of chunk n in plane i is four of them, numbers 64n + 16c + 4i to + 3
//! [4, C]        low int8s in the same order, of what the high ones leave: one counts for 1/254 of a high one
//! [C]           what a low int8 counts for, and the sum of the chunk's numbers (f32, f32, 0, 0)
//! [HIDDEN]      what each hidden unit of the router adds to its three outputs (f32, f32, f32, 0)
//! [2]           the router's b2 and the threshold (f32 each); the most slices that may be read (u32, 0, 0, 0)
//! ```
//!
//! the last two only where there is a router. Plane i holds what `(word >> 2i) & 0x03030303` of a slice's words is
//! multiplied with, so a product reads whole `vec4`s, and invocations side by side read side by side.

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::route::{Control, Router, silu};
use super::sliced::{CHUNK, dot};
use super::{bindings, params};
use crate::engine::Traits;
use crate::recording::{Arguments, Buffer, Dispatch, Kernel, Recording, Span};
use crate::routing::{EPS, HIDDEN, SCORES};

params! {
    /// vec4s of the input.
    row_vec4s: u32,
    /// Workgroups, which share the chunks; HIDDEN where there is a router.
    groups: u32,
    /// What the input is: 0 x as it is, 1 the norm of x, 2 the gate of x.
    source: u32,
    /// 1: there is a router.
    routed: u32,
    /// The site's entry in the control buffer.
    site: u32,
    /// Added to the mean square by the norm.
    eps: f32,
}

/// `shaders/site_input.wgsl`; bindings: x `[input]` or [2, input], weight `[input]`, w1 [HIDDEN, input] f16,
/// b1 `[HIDDEN]`, w2 [SCORES, HIDDEN], b2 `[SCORES]`, control [4 L] of [`Control`], the result. Those without use may
/// be anything.
pub static KERNEL: Kernel = Kernel {
    name: "site_input",
    wgsl: include_str!("../../shaders/site_input.wgsl"),
    params: Params::FIELDS,
    bindings: &bindings::<8>(7),
    reference: site_input,
};

/// Invocations of a workgroup; four work on a chunk.
const WORKGROUP: u32 = 256;
const SOFTWARE_WORKGROUP: u32 = 16;
/// Invocations of a chunk, which lie in one subgroup: no smaller subgroup will do.
pub const TEAM: u32 = 4;
/// Planes of high int8s and of low ones.
const PLANES: usize = 8;
/// The greatest int8; what it counts for, in the int8s of what it leaves.
const PEAK: f32 = 127.0;
const HIGH: f32 = 254.0;
/// Chunks with no number greater than this become zeros.
const LEAST: f32 = 1e-30;
/// Bytes of a vec4.
const VEC4: u64 = 16;
/// vec4s after those of the hidden units.
const SAID: u64 = 2;

/// What a site's input is.
#[derive(Debug, Clone, Copy)]
pub enum Source {
    /// x as it is.
    Plain,
    /// `x / sqrt(mean(x^2) + eps) * weight`
    Norm {
        /// `[input]` f32
        weight: Buffer,
        /// Added to the mean square.
        eps: f32,
    },
    /// silu(gate) * up, with x = [gate, up].
    Gate,
}

/// The router whose hidden units are computed beside.
#[derive(Debug, Clone, Copy)]
pub struct Routing<'a> {
    /// The site's router.
    pub router: &'a Router,
    /// A [`Control`] for each site.
    pub control: Span,
    /// The site's place in it.
    pub site: u32,
}

/// Bytes of what is made of `input` numbers, a multiple of 64.
pub fn bytes(input: u32) -> u64 {
    (u64::from(input / CHUNK) * (PLANES as u64 + 1) + u64::from(HIDDEN) + SAID) * VEC4
}

/// Records `ready = site_input(x)` for one token and a site of `input` numbers; `ready` has [`bytes`] bytes.
pub fn record(
    recording: &mut Recording,
    traits: Traits,
    input: u32,
    (x, source): (Span, Source),
    routing: Option<Routing<'_>>,
    ready: Span,
) {
    assert_eq!(ready.bytes, bytes(input), "room for an input of {input}");
    let workgroup = if traits.software { SOFTWARE_WORKGROUP } else { WORKGROUP };
    // Few chunks a workgroup, as each one's are packed in turn; every workgroup sums up the whole input.
    let shared = (input / CHUNK).div_ceil(if traits.software { workgroup / TEAM } else { 2 }).min(HIDDEN);
    let (code, weight, eps) = match source {
        Source::Plain => (0, x, 0.0),
        Source::Norm { weight, eps } => (1, weight.all(), eps),
        Source::Gate => (2, x, 0.0),
    };
    let params = Params {
        row_vec4s: input / 4,
        groups: if routing.is_some() { HIDDEN } else { shared },
        source: code,
        routed: u32::from(routing.is_some()),
        site: routing.map_or(0, |routing| routing.site),
        eps,
    };
    let [w1, b1, w2, b2, control] = match routing {
        None => [x; 5],
        Some(Routing { router, control, .. }) => {
            [router.w1.all(), router.b1.all(), router.w2.all(), router.b2.all(), control]
        }
    };
    recording.dispatch(Dispatch {
        kernel: &KERNEL,
        constants: vec![("WORKGROUP", workgroup)],
        params: bytemuck::bytes_of(&params).to_vec(),
        bindings: vec![x, weight, w1, b1, w2, b2, control, ready],
        workgroups: [params.groups, 1, 1],
    });
}

/// A packed input as references read it.
pub(super) struct Ready<'a> {
    words: &'a [u32],
    chunks: usize,
}

impl<'a> Ready<'a> {
    pub(super) fn new(words: &'a [u32], chunks: usize) -> Ready<'a> {
        Ready { words, chunks }
    }

    /// The numbers of a chunk, counted in low int8s.
    pub(super) fn ints(&self, chunk: usize) -> [i32; CHUNK as usize] {
        std::array::from_fn(|at| {
            let int8 = |words: &[u32]| words[place(self.chunks, chunk, at / 4)].to_le_bytes()[at % 4] as i8;
            let (high, low) = (int8(self.words), int8(&self.words[low_plane(self.chunks)..]));
            HIGH as i32 * i32::from(high) + i32::from(low)
        })
    }

    /// What a low int8 of a chunk counts for, and the sum of the chunk's numbers.
    pub(super) fn unit_and_sum(&self, chunk: usize) -> (f32, f32) {
        let at = (PLANES * self.chunks + chunk) * 4;
        (f32::from_bits(self.words[at]), f32::from_bits(self.words[at + 1]))
    }

    /// The router's outputs, and what the host said.
    pub(super) fn outputs(&self) -> ([f32; SCORES as usize], Control) {
        let numbers = |vec4: usize| &self.words[((PLANES + 1) * self.chunks + vec4) * 4..][..4];
        let said = numbers(HIDDEN as usize);
        let outputs = std::array::from_fn(|e| {
            let terms = (0..HIDDEN as usize).map(|unit| f32::from_bits(numbers(unit)[e]));
            f32::from_bits(said[e]) + terms.sum::<f32>()
        });
        (outputs, Control { threshold: f32::from_bits(said[3]), most: numbers(HIDDEN as usize + 1)[0] })
    }
}

/// Where the low int8s begin.
fn low_plane(chunks: usize) -> usize {
    PLANES / 2 * chunks * 4
}

/// Where word `word` of a chunk's sixteen lies.
fn place(chunks: usize, chunk: usize, word: usize) -> usize {
    (word % 4 * chunks + chunk) * 4 + word / 4
}

/// `x * factor` as pairs of int8s, without a router: what the kernel writes.
pub fn pack(x: &[f32], factor: f32, ready: &mut [u32]) {
    let chunks = x.len() / CHUNK as usize;
    for (chunk, x) in x.chunks_exact(CHUNK as usize).enumerate() {
        let peak = x.iter().fold(0f32, |peak, x| peak.max(x.abs()));
        let (to_int, unit) = if peak > LEAST { (PEAK / peak, peak * factor / (PEAK * HIGH)) } else { (0.0, 0.0) };
        let scaled = |x: &f32| (x * to_int, (x * to_int).round_ties_even());
        let high: Vec<i8> = x.iter().map(|x| scaled(x).1 as i8).collect();
        let left = |x: &f32| ((scaled(x).0 - scaled(x).1) * HIGH).round_ties_even() as i8;
        let low: Vec<i8> = x.iter().map(left).collect();
        for (at, ints) in [(0, &high), (low_plane(chunks), &low)] {
            for (word, ints) in ints.chunks_exact(4).enumerate() {
                ready[at + place(chunks, chunk, word)] = u32::from_le_bytes(std::array::from_fn(|b| ints[b] as u8));
            }
        }
        let sum: i32 = high.iter().zip(&low).map(|(high, low)| HIGH as i32 * i32::from(*high) + i32::from(*low)).sum();
        let about = [unit.to_bits(), (unit * sum as f32).to_bits(), 0, 0];
        ready[(PLANES * chunks + chunk) * 4..][..4].copy_from_slice(&about);
    }
}

/// The numbers that the int8s stand for: the inverse of [`pack`], as far as there is one.
pub fn unpack(ready: &[u32], input: u32) -> Vec<f32> {
    let chunks = (input / CHUNK) as usize;
    let ready = Ready::new(ready, chunks);
    (0..chunks)
        .flat_map(|chunk| {
            let (unit, _) = ready.unit_and_sum(chunk);
            ready.ints(chunk).map(|int| int as f32 * unit)
        })
        .collect()
}

fn site_input(args: &mut Arguments<'_>) {
    let p: Params = args.params();
    let input = p.row_vec4s as usize * 4;
    let (x, weight): (&[f32], &[f32]) = (args.read(0), args.read(1));
    let ready: &mut [u32] = args.write(7);
    let (numbers, factor): (Vec<f32>, f32) = match p.source {
        0 => (x[..input].to_vec(), 1.0),
        1 => {
            let x = &x[..input];
            let factor = 1.0 / (dot(x, x) / input as f32 + p.eps).sqrt();
            (x.iter().zip(weight).map(|(x, weight)| x * weight).collect(), factor)
        }
        _ => {
            let (gate, up) = x[..2 * input].split_at(input);
            (gate.iter().zip(up).map(|(gate, up)| silu(*gate) * up).collect(), 1.0)
        }
    };
    pack(&numbers, factor, ready);
    if p.routed == 1 {
        tell_router(args, &p, &numbers, factor, &mut ready[(PLANES + 1) * input / CHUNK as usize * 4..]);
    }
}

/// What the router's hidden units add to its outputs, its biases, and what the host said of the site.
fn tell_router(args: &Arguments<'_>, p: &Params, numbers: &[f32], factor: f32, out: &mut [u32]) {
    let w1: &[f16] = args.read(2);
    let (b1, w2, b2): (&[f32], &[f32], &[f32]) = (args.read(3), args.read(4), args.read(5));
    let control: &[Control] = args.read(6);
    let norm = 1.0 / (dot(numbers, numbers) * factor * factor / numbers.len() as f32 + EPS).sqrt();
    let mut row = vec![0f32; numbers.len()];
    for (unit, out) in out.chunks_exact_mut(4).take(HIDDEN as usize).enumerate() {
        w1[unit * numbers.len()..][..numbers.len()].convert_to_f32_slice(&mut row);
        let h = silu(dot(&row, numbers) * factor * norm + b1[unit]);
        let term = |e: usize| (h * w2[e * HIDDEN as usize + unit]).to_bits();
        out.copy_from_slice(&[term(0), term(1), term(2), 0]);
    }
    let Control { threshold, most } = control[p.site as usize];
    let said = [b2[0].to_bits(), b2[1].to_bits(), b2[2].to_bits(), threshold.to_bits(), most, 0, 0, 0];
    out[HIDDEN as usize * 4..][..said.len()].copy_from_slice(&said);
}
