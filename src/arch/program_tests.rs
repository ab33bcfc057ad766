//! Tests of the program: the list for LLaMA, and what other families would add to it.

use super::*;
use crate::arch::LayerNorms;

fn llama(layers: u32) -> Program {
    Program::new(&ModelSpec::default(), layers)
}

/// The norms of a program with the sites whose routers look at each.
fn placement(program: &Program) -> Vec<(NormAt, RoutedSites)> {
    let norms = program.layers.iter().flatten().filter_map(|op| match op {
        Op::Norm { at, routed, .. } => Some((*at, routed.clone())),
        _ => None,
    });
    norms.collect()
}

#[test]
fn llama_is_these_operations() {
    let layer = |layer: u32, first: RoutedSites, second: RoutedSites| {
        let project = |site, from, to| Op::Project { at: SiteAt { layer, site }, from, to };
        let norm = |at, routed| Op::Norm { at, from: Register::Residual, to: Register::Normed, routed };
        vec![
            norm(NormAt::BeforeAttention(layer), first),
            project(Site::Qkv, Register::Normed, Register::Qkv),
            Op::Rotate { layer, bias: false, head_norm: HeadNorm::None, rope_table: 0, query_growth: None },
            Op::Attend { layer, cap: None, window: None },
            project(Site::O, Register::Attended, Register::Branch),
            Op::Add { norm: None },
            norm(NormAt::BeforeFeedForward(layer), second),
            project(Site::GateUp, Register::Normed, Register::GateUp),
            Op::Gate { activation: ActivationFunction::Silu },
            project(Site::Down, Register::Hidden, Register::Branch),
            Op::Add { norm: None },
        ]
    };
    let routed = |own, next| RoutedSites { own, next };
    let expected = Program {
        embed: Op::Embed,
        layers: vec![
            layer(0, routed(0..2, 2..4), routed(4..4, 4..6)),
            layer(1, routed(6..6, 6..8), routed(8..8, 8..8)),
        ],
        head: vec![
            Op::Norm {
                at: NormAt::Final,
                from: Register::Residual,
                to: Register::Normed,
                routed: RoutedSites::default(),
            },
            Op::Head { cap: None },
        ],
    };
    assert_eq!(llama(2), expected);
    assert_eq!(llama(2).ops().count(), 1 + 2 * 11 + 2);
}

#[test]
fn every_router_looks_at_one_norm_before_its_site() {
    for layers in 1..4 {
        let sites: Vec<u32> = placement(&llama(layers)).into_iter().flat_map(|(_, routed)| routed.all()).collect();
        assert_eq!(sites, (0..4 * layers).collect::<Vec<_>>(), "{layers} layers");
    }
}

#[test]
fn norms_stand_where_the_spec_says() {
    let norms = |norms: LayerNorms| {
        let layer = LayerSpec { norms, ..LayerSpec::default() };
        placement(&Program::new(&ModelSpec { layers: vec![layer], ..ModelSpec::default() }, 2))
    };
    // Gemma's four norms a layer: routers look at those of the residual stream, and the others are of what is added.
    let all = LayerNorms { after_attention: true, after_feed_forward: true, ..LayerNorms::default() };
    let (at, routed): (Vec<NormAt>, Vec<RoutedSites>) = norms(all).into_iter().unzip();
    let of_layer = |layer| [NormAt::BeforeAttention(layer), NormAt::BeforeFeedForward(layer)];
    assert_eq!(at, [of_layer(0), of_layer(1)].concat());
    let ranges: Vec<_> = routed.iter().map(RoutedSites::all).collect();
    assert_eq!(ranges, [0..4, 4..6, 6..8, 8..8]);
    let gemma = ModelSpec { layers: vec![LayerSpec { norms: all, ..LayerSpec::default() }], ..ModelSpec::default() };
    let added: Vec<_> = Program::new(&gemma, 1)
        .ops()
        .filter_map(|op| match op {
            Op::Add { norm } => Some(*norm),
            _ => None,
        })
        .collect();
    assert_eq!(added, [Some(NormAt::AfterAttention(0)), Some(NormAt::AfterFeedForward(0))]);

    // OLMo 2 has none of the residual stream: its products read that, and routers have a norm for themselves.
    let after = LayerNorms { before_attention: false, before_feed_forward: false, ..all };
    let (at, of_routers): (Vec<NormAt>, Vec<RoutedSites>) = norms(after).into_iter().unzip();
    assert_eq!((at, of_routers), (vec![NormAt::Routers; 4], routed));
    let spec = ModelSpec { layers: vec![LayerSpec { norms: after, ..LayerSpec::default() }], ..ModelSpec::default() };
    let program = Program::new(&spec, 1);
    let inputs: Vec<Register> = program.layers[0]
        .iter()
        .filter_map(|op| match op {
            Op::Project { from, .. } => Some(*from),
            _ => None,
        })
        .collect();
    assert_eq!(inputs, [Register::Residual, Register::Attended, Register::Residual, Register::Hidden]);
}

#[test]
fn kinds_of_layers_follow_each_other_in_turn() {
    let mut windowed = LayerSpec::default();
    windowed.attention.window = Some(512);
    let spec = ModelSpec { layers: vec![windowed, windowed, LayerSpec::default()], ..ModelSpec::default() };
    let windows: Vec<bool> = Program::new(&spec, 7)
        .ops()
        .filter_map(|op| match op {
            Op::Attend { window, .. } => Some(window.is_some()),
            _ => None,
        })
        .collect();
    assert_eq!(windows, [true, true, false, true, true, false, true]);
}
