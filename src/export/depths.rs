//! How deep each site of each layer is read in an export.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::json;
use crate::precision::{BITS, Depth};
use crate::shape::{LlamaShape, Site, SiteAt};

/// Slices read of the layers' weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SiteDepths {
    /// As many everywhere.
    Uniform(Depth),
    /// By layer, and by site in the order of [`Site::ALL`].
    BySite(Vec<[Depth; Site::ALL.len()]>),
}

/// Mean bits read at the sites of a layer.
#[derive(Deserialize)]
struct LayerBits {
    qkv: f32,
    o: f32,
    gate_up: f32,
    down: f32,
}

impl From<Depth> for SiteDepths {
    fn from(depth: Depth) -> SiteDepths {
        SiteDepths::Uniform(depth)
    }
}

impl SiteDepths {
    /// The depths that are nearest to the mean bits in the file at `path`, of each site of a model of `shape`: what
    /// `edge-run eval --detail --json` prints for one number of bits. Fails where the file has no such means, or those
    /// of another model.
    pub fn nearest(path: &Path, shape: &LlamaShape) -> Result<SiteDepths> {
        let damaged = |what: &str, expected: String, got: String| Error::damaged(path, what, expected, got);
        let text = json::read_text(path)?;
        let mut found = Vec::new();
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let mut line: Value = json::parse(path, line)?;
            found.extend(line.get_mut("detail").map(Value::take));
        }
        let [detail] = found.as_mut_slice() else {
            let expected = "one line with it, as `eval --detail --json` prints for one number of bits";
            return Err(damaged("detail", expected.into(), format!("{} of them", found.len())));
        };
        let layers = detail.get_mut("layers").map(Value::take).unwrap_or_default();
        let layers: Vec<LayerBits> = serde_json::from_value(layers).map_err(|fault| {
            damaged("detail.layers", "bits at qkv, o, gate_up and down of each layer".into(), fault.to_string())
        })?;
        if layers.len() != shape.layers as usize {
            return Err(damaged("detail.layers", format!("{} layers", shape.layers), layers.len().to_string()));
        }
        let nearest = |at: usize, site: Site, bits: f32| {
            let what = format!("detail.layers[{at}].{}", site.name());
            let depth = Some(bits)
                .filter(|bits| BITS.contains(bits))
                .and_then(|bits| Depth::new((bits / 2.0).round() as usize));
            depth.ok_or_else(|| damaged(&what, "2 to 8 bits".into(), bits.to_string()))
        };
        let rows = layers.iter().enumerate().map(|(at, LayerBits { qkv, o, gate_up, down })| {
            let [qkv, o, gate_up, down] = [(Site::Qkv, qkv), (Site::O, o), (Site::GateUp, gate_up), (Site::Down, down)]
                .map(|(site, bits)| nearest(at, site, *bits));
            Ok([qkv?, o?, gate_up?, down?])
        });
        Ok(SiteDepths::BySite(rows.collect::<Result<_>>()?))
    }

    /// That of a site.
    pub fn at(&self, at: SiteAt) -> Depth {
        match self {
            SiteDepths::Uniform(depth) => *depth,
            SiteDepths::BySite(layers) => layers[at.layer as usize][at.site as usize],
        }
    }

    /// The deepest of all.
    pub fn deepest(&self) -> Depth {
        match self {
            SiteDepths::Uniform(depth) => *depth,
            SiteDepths::BySite(layers) => {
                layers.iter().flatten().copied().max_by_key(|depth| depth.slices()).unwrap_or(Depth::FULL)
            }
        }
    }

    /// Mean bits of a weight of the layers.
    pub fn bits(&self, shape: &LlamaShape) -> f64 {
        let sites = (0..shape.layers).flat_map(|layer| Site::ALL.map(|site| SiteAt { layer, site }));
        let bits: f64 = sites.map(|at| f64::from(self.at(at).bits()) * at.site.weights(shape) as f64).sum();
        bits / shape.linear_params() as f64
    }
}
