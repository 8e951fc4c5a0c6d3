//! Bad input is a named error or a documented no-op, and the network is as it was.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use neurogenesis::config::{GrowthConfig, NAMES, Start, Trigger};
use neurogenesis::layer::{HiddenLayer, NewUnits, Reader};
use neurogenesis::network::{Growable, cross_entropy};
use neurogenesis::stack::{Block, StackConfig};
use neurogenesis::strategy::Loss;
use neurogenesis::{Batch, Grower, Stack};
use tensor_core::{
    AdamW, AdamWConfig, Device, Init, Kind, ParamStore, Role, SeedTree, Tensor, Trainer, Validate,
};

fn network(max: i64) -> (Trainer<AdamW>, Stack) {
    tch::set_num_threads(1);
    let mut store = ParamStore::new(Device::Cpu, Kind::Double, SeedTree::new(1));
    let config = StackConfig::mlp(4, &[6, 6], max, 2).validate().unwrap();
    let net = Stack::new(&mut store.root(), &config).unwrap();
    (Trainer::new(store, AdamW::new(AdamWConfig::default()).unwrap()), net)
}

fn data(n: i64) -> (Tensor, Tensor) {
    let x = neurogenesis::init::normal(n, 4, &mut SeedTree::new(2).rng());
    (x, Tensor::arange(n, (Kind::Int64, Device::Cpu)).remainder(2))
}

fn contents(trainer: &Trainer<AdamW>) -> Vec<Tensor> {
    trainer.store.iter().map(|p| p.value().detach().copy()).collect()
}

#[expect(clippy::needless_pass_by_value, reason = "configs are made at the call")]
fn grower(net: &Stack, config: GrowthConfig) -> Grower {
    Grower::new(net, &config.validate().unwrap(), &SeedTree::new(3)).unwrap()
}

#[test]
fn empty_nan_and_misshapen_batches_are_named_and_change_nothing() {
    let (mut trainer, net) = network(32);
    let mut g = grower(&net, GrowthConfig::named("north-select").unwrap());
    let (x, y) = data(16);
    g.train_step(&net, &mut trainer, Batch { x: &x, y: &y }, &cross_entropy, 1e-2, 0.1).unwrap();
    let before = contents(&trainer);
    let loss: &Loss<'_> = &cross_entropy;
    let mut fails = |x: &Tensor, y: &Tensor, part: &str| {
        let error = g.train_step(&net, &mut trainer, Batch { x, y }, loss, 1e-2, 0.1).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
        assert_eq!(contents(&trainer), before);
    };
    fails(&x.narrow(0, 0, 0), &y.narrow(0, 0, 0), "batch >= 1");
    fails(&x.narrow(1, 0, 3), &y, "must be [batch");
    let bad = Tensor::full([16, 4], f64::NAN, (Kind::Double, Device::Cpu));
    let mut g = grower(&net, GrowthConfig::named("north-select").unwrap());
    g.remember(&x).unwrap();
    g.start(&net).unwrap();
    g.remember(&bad).unwrap();
    let batch = Batch { x: &x, y: &y };
    let error = g.after_step(&net, &mut trainer, batch, &cross_entropy, 0.1).unwrap_err();
    assert!(error.to_string().contains("layer `hidden0`"), "{error}");
    assert_eq!(contents(&trainer), before);
    let error = g.after_step(&net, &mut trainer, batch, &cross_entropy, 1.5).unwrap_err();
    assert!(error.to_string().contains("progress"), "{error}");
}

#[test]
fn order_of_calls_is_checked() {
    let (mut trainer, net) = network(32);
    let (x, y) = data(16);
    let batch = Batch { x: &x, y: &y };
    let mut g = grower(&net, GrowthConfig::named("north-random").unwrap());
    let error = g.after_step(&net, &mut trainer, batch, &cross_entropy, 0.1).unwrap_err();
    assert!(error.to_string().contains("start"), "{error}");
    assert!(g.start(&net).unwrap_err().to_string().contains("buffer"));
    let mut g = grower(&net, GrowthConfig::named("gradmax").unwrap());
    g.start(&net).unwrap();
    let error = g.after_step(&net, &mut trainer, batch, &cross_entropy, 0.1).unwrap_err();
    assert!(error.to_string().contains("note_gradients"), "{error}");
    assert!(g.note_gradients(&net).unwrap_err().to_string().contains("no gradients"));
}

#[test]
fn one_sample_and_a_dead_layer_are_no_trouble() {
    for name in NAMES {
        let (mut trainer, net) = network(12);
        let mut config = GrowthConfig::named(name).unwrap();
        (config.tries, config.every) = (10, 1);
        let mut g = grower(&net, config.clone());
        let (x, y) = data(1);
        let batch = Batch { x: &x, y: &y };
        for _ in 0..2 {
            g.train_step(&net, &mut trainer, batch, &cross_entropy, 1e-2, 0.5).unwrap();
        }
        let (mut trainer, net) = network(12);
        trainer
            .store
            .get("hidden0.bias")
            .unwrap()
            .copy_from(&Tensor::full([6], -1e3, (Kind::Double, Device::Cpu)))
            .unwrap();
        let (x, y) = data(20);
        let mut g = grower(&net, config);
        for _ in 0..2 {
            let batch = Batch { x: &x, y: &y };
            let events =
                g.train_step(&net, &mut trainer, batch, &cross_entropy, 1e-3, 0.5).unwrap().events;
            let by_activation = name.starts_with("north") && !name.contains("weight");
            assert!(
                !by_activation || events.iter().all(|e| e.layer != 0),
                "{name}: dead layer grew"
            );
        }
    }
}

#[test]
fn layers_that_may_not_grow_and_caps_are_kept() {
    let (x, y) = data(32);
    let run = |net: &Stack, trainer: &mut Trainer<AdamW>, config: GrowthConfig| -> Vec<i64> {
        let mut g = grower(net, config);
        for _ in 0..6 {
            g.train_step(net, trainer, Batch { x: &x, y: &y }, &cross_entropy, 1e-3, 0.5).unwrap();
        }
        net.layers().iter().map(HiddenLayer::width).collect()
    };
    let every = || GrowthConfig {
        trigger: Trigger::Periodic { every: 1, units: 3 },
        init: Start::Random,
        ..GrowthConfig::default()
    };
    let (mut trainer, mut net) = network(11);
    net.set_growable(1, false).unwrap();
    assert!(net.set_growable(2, false).is_err());
    assert_eq!(run(&net, &mut trainer, every()), [11, 6]);
    let (mut trainer, net) = network(4); // a cap below the present width: nothing grows or shrinks
    assert_eq!(run(&net, &mut trainer, every()), [6, 6]);
    let (mut trainer, net) = network(20);
    assert_eq!(run(&net, &mut trainer, GrowthConfig { freeze_first: 1, ..every() }), [6, 20]);
    let (mut trainer, net) = network(20);
    assert_eq!(run(&net, &mut trainer, GrowthConfig { freeze_last: 1, ..every() }), [20, 6]);
    let (mut trainer, net) = network(20);
    run(&net, &mut trainer, GrowthConfig { max_params: Some(150), ..every() });
    let params = neurogenesis::weights_and_biases(&trainer);
    assert!((130..=150).contains(&params), "{params}");
    let (mut trainer, net) = network(20);
    let robin = Trigger::RoundRobin { every: 2, units: 1 };
    assert_eq!(run(&net, &mut trainer, GrowthConfig { trigger: robin, ..every() }), [7, 8]);
}

#[test]
fn grouped_convolutions_and_foreign_shapes_are_refused() {
    let mut store = ParamStore::new(Device::Cpu, Kind::Double, SeedTree::new(1));
    let mut param = |name: &str, size: &[i64]| {
        store.root().param(name, size, Role::Weight, &Init::Ones).unwrap()
    };
    let (conv, grouped) = (param("conv", &[4, 3, 3, 3]), param("next", &[4, 2, 3, 3]));
    let layer = HiddenLayer::dense("conv", &conv, None, &grouped, 9);
    let message = layer.check().unwrap_err().to_string();
    assert!(message.contains("layer `conv`") && message.contains("grouped"), "{message}");
    let next = param("fine", &[2, 4]);
    let layer = HiddenLayer::dense("conv", &conv, None, &next, 9);
    let zeros = |size: &[i64]| Tensor::zeros(size, (Kind::Double, Device::Cpu));
    let mut rng = SeedTree::new(0).rng();
    assert!(layer.append(&NewUnits::silent(zeros(&[2, 26])), &mut rng, "").is_err());
    let units = NewUnits { fan_out: Some(zeros(&[3, 2])), ..NewUnits::silent(zeros(&[2, 27])) };
    assert!(layer.append(&units, &mut rng, "").is_err());
    let nan = NewUnits::silent(zeros(&[2, 27]) * f64::NAN);
    assert!(layer.append(&nan, &mut rng, "").is_err());
    assert!(layer.keep(&[], "").is_err());
    assert!(layer.keep(&[0, 0], "").is_err());
    assert!(layer.keep(&[4], "").is_err());
    let block = Reader { weight: next, block: 3 };
    assert!(HiddenLayer { readers: vec![block], ..layer }.check().is_err());
}

#[test]
fn dense_only_strategies_refuse_convolutions_by_name() {
    let mut store = ParamStore::new(Device::Cpu, Kind::Double, SeedTree::new(1));
    let blocks = vec![Block::conv3(3, 8, false)];
    let config = StackConfig { input: vec![1, 4, 4], blocks, outputs: 2 }.validate().unwrap();
    let net = Stack::new(&mut store.root(), &config).unwrap();
    for name in ["nest", "firefly", "tiny", "splitting"] {
        let config = GrowthConfig::named(name).unwrap().validate().unwrap();
        let error = Grower::new(&net, &config, &SeedTree::new(1)).unwrap_err().to_string();
        assert!(error.contains("layer `hidden0`") && error.contains("dense"), "{error}");
        let frozen = GrowthConfig { freeze_first: 1, ..config.into_inner() };
        assert!(Grower::new(&net, &frozen.validate().unwrap(), &SeedTree::new(1)).is_ok());
    }
}

#[test]
fn impossible_networks_are_refused() {
    let bad = |config: StackConfig, part: &str| {
        let message = config.validate().map(|_| ()).unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    };
    bad(StackConfig::mlp(0, &[3], 9, 2), "input");
    bad(StackConfig::mlp(4, &[], 9, 2), "at least one");
    bad(StackConfig::mlp(4, &[0], 9, 2), "units");
    bad(StackConfig::mlp(4, &[3], i64::MAX, 2), "max_units");
    let pool = vec![Block::MaxPool { size: 2 }];
    bad(StackConfig { input: vec![1, 4, 4], blocks: pool, outputs: 2 }, "pooling");
    let conv = vec![Block::conv3(3, 8, false)];
    bad(StackConfig { input: vec![4], blocks: conv, outputs: 2 }, "maps");
}
