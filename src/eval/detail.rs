//! Bits read, layer by layer and site by site, as reports show them.

use serde::Serialize;

use crate::model::BitsRead;
use crate::shape::Site;

/// Mean bits read of each weight at the sites of a layer, or of all layers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct SiteBits {
    /// At [`Site::Qkv`].
    pub qkv: f32,
    /// At [`Site::O`].
    pub o: f32,
    /// At [`Site::GateUp`].
    pub gate_up: f32,
    /// At [`Site::Down`].
    pub down: f32,
    /// Over these sites, weighted by parameters.
    pub all: f32,
}

/// Mean bits read, by layer and site.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Detail {
    /// First layer to last.
    pub layers: Vec<SiteBits>,
    /// Over all layers.
    pub all: SiteBits,
}

impl Detail {
    /// What was read of a model of `layers` layers.
    pub fn of(read: &BitsRead, layers: usize) -> Detail {
        let layer = |layer| SiteBits::new(|site| read.at(layer, site), read.of_layer(layer));
        Detail { layers: (0..layers).map(layer).collect(), all: SiteBits::new(|site| read.of_site(site), read.mean()) }
    }
}

impl SiteBits {
    fn new(at: impl Fn(Site) -> f32, all: f32) -> SiteBits {
        SiteBits { qkv: at(Site::Qkv), o: at(Site::O), gate_up: at(Site::GateUp), down: at(Site::Down), all }
    }

    /// The columns in the order of [`Site::ALL`], `all` last.
    pub fn columns(&self) -> [f32; 5] {
        [self.qkv, self.o, self.gate_up, self.down, self.all]
    }
}
