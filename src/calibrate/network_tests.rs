//! Tests of the network: its logits against plain loops, and that training lowers the loss, for what families have.

use std::rc::Rc;

use super::*;
use crate::arch::ModelSpec;
use crate::calibrate::device::cpu;
use crate::calibrate::optimizer::{Optimizer, Rates};
use crate::calibrate::random_source::{RandomSource, WINDOW, ids, load, specs, untrained};
use crate::calibrate::scratch::Scratch;
use crate::calibrate::selection::{keep_better_ranges, loss_of, widen_gates};
use crate::calibrate::shelf::Keeping;
use crate::calibrate::step::{Batch, Target, losses, step, teacher};
use crate::calibrate::student::SiteParams;
use crate::calibrate::thresholds::Scale;
use crate::calibrate::trained::{Params, Trained};
use crate::unquantized;

/// The order of sums, of logits of order one.
const SUMS: f32 = 1e-4;

/// The products of the unquantized model.
struct Full<'a>(&'a Network);

impl SiteProducts for Full<'_> {
    fn product(&mut self, at: SiteAt, input: Tensor<2>) -> Tensor<2> {
        self.0.product(input, self.0.weights.get(at.layer as usize).unwrap()[at.site as usize].clone())
    }
}

#[test]
fn logits_are_those_of_plain_loops() {
    let mut before: Vec<Vec<f32>> = Vec::new();
    for spec in specs() {
        let mut source = RandomSource::new(spec);
        let network = load(&mut source, &Keeping::OnDevice);
        let layers = 0..network.layers();
        let x = layers.fold(network.embed(ids(1)), |x, at| network.block(at, x, &mut Full(&network)));
        let logits = network.logits(x.reshape([WINDOW, 64])).into_data().try_to_vec::<f32>().unwrap();
        let tokens: Vec<u32> = ids(1).into_data().iter::<u32>().collect();
        let expected = unquantized::logits(&mut source, &tokens, WINDOW as u32).unwrap().concat();
        let distance = |other: &[f32]| logits.iter().zip(other).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(distance(&expected) < SUMS, "{}: {:?}", distance(&expected), source.spec);
        assert!(before.iter().all(|other| distance(other) > SUMS), "nothing changes: {:?}", source.spec);
        before.push(logits);
    }
}

/// Changes every site's parameters.
fn change(trained: &mut Trained, change: impl Fn(SiteParams) -> SiteParams) {
    trained.replace(3, &|_, sites| Ok(sites.map(&change))).unwrap();
}

fn sites(params: &Params<'_>) -> Vec<SiteParams> {
    (0..3).flat_map(|at| params.layer(at).unwrap()).collect()
}

/// Takes so many steps on a batch.
fn train(network: &Network, trained: &mut Trained, steps: usize, rates: Rates, batch: &Batch, target: Target) {
    let optimizer = Optimizer::new(steps, rates);
    for at in 0..steps {
        let outcome = step(network, trained, batch, target).unwrap();
        optimizer.step(at, trained, network.layers(), outcome.squares).unwrap();
    }
}

#[test]
fn ranges_that_training_spoiled_are_taken_back_and_those_that_it_bettered_stay() {
    let network = load(&mut RandomSource::new(ModelSpec::default()), &Keeping::OnDevice);
    let mut trained = untrained(&network, &Keeping::OnDevice);
    let batch = Batch { ids: ids(4), micro: 4 };
    // No gate opens: the ranges of depth 1 alone are read, and trained.
    let target = Target { bits: 2.0, threshold: 100.0, weight: 1.0 };
    train(&network, &mut trained, 12, Rates { ranges: 5e-3, routers: 0.0 }, &batch, target);
    change(&mut trained, |site| SiteParams { shift_2: site.shift_2.clone().add_scalar(1.5), ..site });
    let teacher = teacher(&network, &batch).unwrap();
    let largest = |tensor: &Tensor<2>| tensor.clone().abs().max().into_scalar::<f32>();
    let kept = keep_better_ranges(&network, Params::of(&trained.params), &batch, &teacher).unwrap();
    for site in sites(&kept) {
        assert_eq!((largest(&site.shift_2), largest(&site.stretch_2)), (0.0, 0.0));
        assert!(largest(&site.shift_1) > 0.0);
    }
    change(&mut trained, |site| SiteParams { shift_1: site.shift_1.clone().add_scalar(1.5), ..site });
    let kept = keep_better_ranges(&network, Params::of(&trained.params), &batch, &teacher).unwrap();
    assert!(sites(&kept).iter().all(|site| largest(&site.shift_1) == 0.0));
}

#[test]
fn gates_are_moved_apart_where_one_depth_for_all_is_better() {
    let network = load(&mut RandomSource::new(ModelSpec::default()), &Keeping::OnDevice);
    let batch = Batch { ids: ids(4), micro: 4 };
    let teacher = teacher(&network, &batch).unwrap();
    // Routers that know nothing of the tokens, and would open the gates of all depths together.
    let mut trained = untrained(&network, &Keeping::OnDevice);
    change(&mut trained, |site| {
        let b2 = Tensor::from_data([[1.0, -8.0, -8.0]], &cpu());
        SiteParams { b2, w2: site.w2.clone().mul_scalar(20.0), ..site }
    });
    let params = Params::of(&trained.params);
    let mut on_measurement = |_| Ok(());
    let (network, batch, teacher) = (&network, &batch, &teacher);
    let mut scale = Scale { network, batch, teacher, on_measurement: &mut on_measurement, done: 0 };
    let (before, (widened, after)) = (scale.sketch(&params).unwrap(), widen_gates(&mut scale, &params).unwrap());
    assert!(loss_of(&after) < loss_of(&before), "{} and {}", loss_of(&after), loss_of(&before));
    // Moved once, they may stay: the loss never grows.
    let (_, again) = widen_gates(&mut scale, &widened).unwrap();
    assert!(loss_of(&again) <= loss_of(&after));
}

#[test]
fn rows_of_the_table_that_were_not_measured_are_near_to_what_is_read_there() {
    let network = load(&mut RandomSource::new(ModelSpec::default()), &Keeping::OnDevice);
    let batch = Batch { ids: ids(4), micro: 4 };
    let teacher = teacher(&network, &batch).unwrap();
    let mut trained = untrained(&network, &Keeping::OnDevice);
    // Routers that tell tokens apart.
    change(&mut trained, |site| SiteParams { w2: site.w2.clone().mul_scalar(20.0), ..site });
    let params = Params::of(&trained.params);
    let mut on_measurement = |_| Ok(());
    let (network, batch, teacher) = (&network, &batch, &teacher);
    let mut scale = Scale { network, batch, teacher, on_measurement: &mut on_measurement, done: 0 };
    let sketch = scale.sketch(&params).unwrap();
    let measured = scale.done;
    let table = scale.table(&sketch).unwrap();
    assert!(scale.done == measured && table.rows().len() > measured + 20, "{measured}: {}", table.rows().len());
    let mut distances = Vec::new();
    for row in &table.rows()[1..table.rows().len() - 1] {
        distances.push((scale.measure(&params, row.threshold).unwrap().bits - row.bits).abs());
    }
    let largest = distances.iter().copied().fold(0.0, f32::max);
    assert!(largest < 0.06, "bits away: {distances:?}");
}

#[test]
fn training_lowers_the_loss_of_all_that_families_have() {
    let specs = specs();
    for spec in [&specs[9], &specs[12]] {
        let network = load(&mut RandomSource::new(spec.clone()), &Keeping::OnDevice);
        let mut trained = untrained(&network, &Keeping::OnDevice);
        let batch = Batch { ids: ids(4), micro: 2 };
        let target = Target { bits: 4.0, threshold: 1.0, weight: 1.0 };
        let loss = |trained: &Trained| losses(&network, &Params::of(&trained.params), &batch, &[target]).unwrap()[0];
        let first = loss(&trained);
        train(&network, &mut trained, 25, Rates { ranges: 5e-3, routers: 2e-3 }, &batch, target);
        let last = loss(&trained);
        println!("{first} before, {last} after");
        assert!(last < 0.9 * first, "{first} before, {last} after: {spec:?}");
    }
}

#[test]
fn layers_that_come_from_a_file_train_as_those_on_the_device() {
    let dir = tempfile::tempdir().unwrap();
    let in_file = Keeping::InFile(Rc::new(Scratch::beside(&dir.path().join("a.pack")).unwrap()));
    let spec = specs().remove(12);
    let numbers = [Keeping::OnDevice, in_file].map(|keeping| {
        let network = load(&mut RandomSource::new(spec.clone()), &keeping);
        let mut trained = untrained(&network, &keeping);
        let target = Target { bits: 4.0, threshold: 1.0, weight: 1.0 };
        let batch = Batch { ids: ids(3), micro: 2 };
        train(&network, &mut trained, 3, Rates { ranges: 5e-3, routers: 2e-3 }, &batch, target);
        let sites = sites(&Params::of(&trained.params));
        let numbers = sites.iter().flat_map(SiteParams::tensors).map(|tensor| tensor.to_data());
        numbers.collect::<Vec<TensorData>>()
    });
    assert!(numbers[0] == numbers[1]);
    assert!(numbers[0].iter().any(|tensor| tensor.iter::<f32>().any(|number| number != 0.0)));
}
