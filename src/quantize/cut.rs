//! How a model is to be cut: in groups of which size, and with which calibration pack.

use std::ops::ControlFlow;

use serde_json::Value;

use super::source::Source;
use super::weights_hash::weights_sha256;
use super::{QuantizeOptions, QuantizeProgress};
use crate::error::{Error, Result};
use crate::format::{Calibration, Pack, Quantization, layout};
use crate::shape::LlamaShape;

/// Digits of a hash that messages show.
const SHOWN_DIGITS: usize = 12;

/// How a model is to be cut.
#[derive(Debug)]
pub struct Cut {
    /// G
    pub group: u32,
    /// Where ranges and routers come from, if not from the weights alone.
    pub pack: Option<Pack>,
}

impl Cut {
    /// What the options ask for, if it fits the source's shape. Whether a pack was made for the source's weights is
    /// left to [`check_weights`](Cut::check_weights), which has to read them.
    pub fn choose(source: &dyn Source, options: &QuantizeOptions) -> Result<Cut> {
        let shape = source.shape();
        let Some(path) = &options.calibration else {
            let group = options.group_size.unwrap_or(layout::DEFAULT_GROUP);
            return match layout::group_fault(shape, group) {
                Some((expected, got)) => Err(Error::argument("group size", expected, got)),
                None => Ok(Cut { group, pack: None }),
            };
        };
        let pack = Pack::open(path)?;
        let info = pack.info();
        if let Some((field, expected, got)) = difference(shape, &info.shape) {
            let expected = format!("a pack for `{}`, whose {field} is {expected}", source.model_source().name);
            return Err(Error::argument(
                setting(&pack),
                expected,
                format!("one for `{}`, with {got}", info.source_name),
            ));
        }
        match options.group_size {
            Some(group) if group != info.group_size => {
                let expected = format!("{}, as in the calibration pack `{}`", info.group_size, path.display());
                Err(Error::argument("group size", expected, group))
            }
            _ => Ok(Cut { group: info.group_size, pack: Some(pack) }),
        }
    }

    /// Fails where there is a pack that was made for other weights than the source's, all of which it reads.
    pub fn check_weights(
        &self,
        source: &mut dyn Source,
        on_progress: &mut dyn FnMut(&QuantizeProgress<'_>) -> ControlFlow<()>,
    ) -> Result<()> {
        let Some(pack) = &self.pack else { return Ok(()) };
        let hash = weights_sha256(source, on_progress)?;
        let made_for = pack.info();
        if hash == made_for.source_sha256 {
            return Ok(());
        }
        let weights =
            |name: &str, hash: &str| format!("the weights of `{name}` (SHA-256 {}...)", &hash[..SHOWN_DIGITS]);
        let expected = format!("a pack for {}", weights(&source.model_source().name, &hash));
        let got = format!("one for {}", weights(&made_for.source_name, &made_for.source_sha256));
        Err(Error::argument(setting(pack), expected, got))
    }

    /// The manifest's word on it.
    pub fn quantization(&self) -> Quantization {
        let calibration = self.pack.as_ref().map(|pack| Calibration {
            pack_sha256: pack.sha256(),
            source_sha256: pack.info().source_sha256.clone(),
            recipe: pack.info().recipe.clone(),
        });
        Quantization { calibration, ..Quantization::new(self.group) }
    }
}

/// What errors call the pack.
fn setting(pack: &Pack) -> String {
    format!("calibration `{}`", pack.path().display())
}

/// The first field in which two shapes differ, and its values.
fn difference(ours: &LlamaShape, theirs: &LlamaShape) -> Option<(String, Value, Value)> {
    let fields = |shape: &LlamaShape| serde_json::to_value(shape).expect("a shape has only text and numbers");
    let (ours, theirs) = (fields(ours), fields(theirs));
    let fields = ours.as_object().into_iter().flatten();
    fields
        .map(|(field, value)| (field.clone(), value.clone(), theirs[field].clone()))
        .find(|(_, ours, theirs)| ours != theirs)
}
