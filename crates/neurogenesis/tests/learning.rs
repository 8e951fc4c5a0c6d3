//! Growth in training: it stops by itself where it should, and the big configurations start.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use neurogenesis::config::GrowthConfig;
use neurogenesis::init::select::{self, Order, Score};
use neurogenesis::network::{Growable, cross_entropy};
use neurogenesis::stack::StackConfig;
use neurogenesis::toy::Toy;
use neurogenesis::trigger::Variant;
use neurogenesis::{Batch, Grower, HiddenLayer, Stack, WideResNet, WideResNetConfig};
use tensor_core::{
    AdamW, AdamWConfig, Device, Kind, ParamStore, SeedTree, Tensor, Trainer, Validate,
};

fn plain_adam() -> AdamW {
    tch::set_num_threads(1);
    AdamW::new(AdamWConfig { weight_decay: 0.0, ..AdamWConfig::default() }).unwrap()
}

/// Final width of one hidden layer on a shortened toy task.
#[expect(clippy::needless_pass_by_value, reason = "configs are made at the call")]
fn toy_width(config: GrowthConfig, independent: i64, epochs: u64, lr: f64) -> i64 {
    let toy = Toy::draw(independent, 64, 1280, &SeedTree::new(1337)).unwrap();
    let (x, y) = toy.train(Kind::Float, Device::Cpu);
    let mut store = ParamStore::new(Device::Cpu, Kind::Float, SeedTree::new(1));
    let sizes = StackConfig::mlp(64, &[4], 128, 2).validate().unwrap();
    let net = Stack::new(&mut store.root(), &sizes).unwrap();
    let mut trainer = Trainer::new(store, plain_adam());
    let config = config.validate().unwrap();
    let mut grower = Grower::new(&net, &config, &SeedTree::new(2)).unwrap();
    for epoch in 0..epochs {
        for at in 0..8 {
            let batch = Batch { x: &x.narrow(0, at * 128, 128), y: &y.narrow(0, at * 128, 128) };
            let progress = (epoch * 8 + at as u64 + 1) as f64 / (epochs * 8) as f64;
            grower.train_step(&net, &mut trainer, batch, &cross_entropy, lr, progress).unwrap();
        }
    }
    net.layers()[0].width()
}

fn named(name: &str) -> GrowthConfig {
    GrowthConfig { probe_rows: 0, ..GrowthConfig::named(name).unwrap() }
}

/// The trap that decides everything (section 13, trap 1): with the printed floor a layer of four
/// units never grows.
#[test]
fn the_printed_floor_never_grows_four_units() {
    let printed = GrowthConfig { variant: Variant::Paper, ..named("north-random") };
    assert_eq!(toy_width(printed, 2, 3, 3e-4), 4);
    assert!(toy_width(named("north-random"), 2, 3, 3e-4) > 4);
}

#[test]
fn weight_driven_growth_stops_near_the_number_of_inputs() {
    // M = d / (gamma phi0) = 64 / 0.99.
    let width = toy_width(named("north-weight"), 4, 12, 3e-4);
    assert!((58..=66).contains(&width), "{width}");
}

#[test]
fn one_feature_needs_fewer_units_than_eight() {
    let (one, eight) = (
        toy_width(named("north-random"), 1, 4, 3e-4),
        toy_width(named("north-random"), 8, 4, 3e-4),
    );
    assert!(one < 20 && eight > one + 8, "{one} and {eight}");
}

/// Section 13, trap 2: the reversed order picks what the described one leaves.
#[test]
fn the_released_order_keeps_the_worst() {
    let seed = SeedTree::new(1);
    let h = neurogenesis::init::normal(40, 5, &mut seed.child(0).rng()).relu();
    let a = neurogenesis::init::normal(40, 30, &mut seed.child(1).rng()).relu();
    let ranking = select::scores(&h, &a, 0.01, Score::EffectiveDimension)
        .unwrap()
        .ranking(Score::EffectiveDimension);
    let mean = |order| {
        let chosen = select::choose(&ranking, 5, order);
        chosen.iter().map(|i| ranking[*i as usize]).sum::<f64>() / 5.0
    };
    assert!(mean(Order::Described) > mean(Order::ReleasedDense) + 0.1);
}

/// First steps of the paper's convolutional configurations, on generated images of CIFAR's shape.
fn first_steps(net: &dyn Growable, store: ParamStore, name: &str) -> Vec<i64> {
    let mut trainer = Trainer::new(store, plain_adam());
    let config = GrowthConfig {
        conv_tries: 4,
        tries: 4,
        max_per_event: 2,
        ..GrowthConfig::named(name).unwrap()
    }
    .for_convolutions()
    .validate()
    .unwrap();
    let mut grower = Grower::new(net, &config, &SeedTree::new(2)).unwrap();
    let mut rng = SeedTree::new(3).rng();
    for step in 0..5_i32 {
        let x = neurogenesis::init::normal(2, 3 * 32 * 32, &mut rng)
            .reshape([2, 3, 32, 32])
            .to_kind(Kind::Float);
        let y = Tensor::from_slice(&[i64::from(step % 10), i64::from((step + 3) % 10)]);
        let batch = Batch { x: &x, y: &y };
        let progress = f64::from(step + 1) / 5.0;
        let neurogenesis::Step { loss, events } =
            grower.train_step(net, &mut trainer, batch, &cross_entropy, 3e-4, progress).unwrap();
        assert!(loss.double_value(&[]).is_finite());
        for event in events {
            assert!(event.function_change.unwrap().relative < 1e-4, "{event:?}");
        }
    }
    net.layers().iter().map(HiddenLayer::width).collect()
}

#[test]
fn vgg11_takes_its_first_steps() {
    for name in ["north-select", "north-weight"] {
        let mut store = ParamStore::new(Device::Cpu, Kind::Float, SeedTree::new(1));
        // The paper starts at 0.25; the dense layers alone would hold this test up for seconds.
        let config = StackConfig::vgg11(10, 0.0625, 0.5).validate().unwrap();
        let net = Stack::new(&mut store.root(), &config).unwrap();
        assert_eq!(net.layers().len(), 10);
        let widths = first_steps(&net, store, name);
        assert!(widths[0] > 4, "{name}: {widths:?}");
    }
}

#[test]
fn wide_resnet_28_takes_its_first_steps() {
    let mut store = ParamStore::new(Device::Cpu, Kind::Float, SeedTree::new(1));
    let net = WideResNet::new(&mut store.root(), &WideResNetConfig::default().validate().unwrap())
        .unwrap();
    assert_eq!(net.layers().iter().map(HiddenLayer::width).collect::<Vec<_>>(), [4, 4, 8, 16]);
    let widths = first_steps(&net, store, "north-random");
    assert!(widths.iter().zip([4, 4, 8, 16]).all(|(now, then)| *now >= then));
}
