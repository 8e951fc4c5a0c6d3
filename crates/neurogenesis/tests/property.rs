//! What must hold for any network: growth keeps the function, metrics do not care about order.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use neurogenesis::config::{GrowthConfig, Moments, Start, Trigger};
use neurogenesis::init::{gradmax, weight};
use neurogenesis::metric::{self, Scale};
use neurogenesis::network::{Growable, Pass, cross_entropy};
use neurogenesis::stack::{Block, StackConfig};
use neurogenesis::{Batch, Grower, HiddenLayer, Stack, WideResNet, WideResNetConfig};
use proptest::prelude::*;
use tensor_core::{
    AdamW, AdamWConfig, Device, Kind, NoTap, Optimizer, ParamStore, Role, SeedTree, Tensor,
    Trainer, Validate,
};

const DOUBLE: (Kind, Device) = (Kind::Double, Device::Cpu);

/// Standard normal, drawn by the seed alone.
fn normal(size: &[i64], seed: u64) -> Tensor {
    tch::set_num_threads(1);
    let n: i64 = size.iter().product();
    neurogenesis::init::normal(1, n, &mut SeedTree::new(seed).rng()).reshape(size)
}

/// Random values in every parameter, biases and norms among them.
fn shake(store: &ParamStore, seed: u64) {
    for (at, p) in store.iter().enumerate() {
        let noise = normal(&p.size(), seed * 1000 + at as u64);
        let value = match (p.role(), p.name().ends_with("running_var")) {
            (_, true) => noise.abs() + 0.5,
            (Role::Norm, _) => noise * 0.3 + 1.0,
            (Role::Weight, _) => p.value().detach() + noise * 0.1,
            _ => noise * 0.3,
        };
        p.copy_from(&value).unwrap();
    }
}

fn dense(seed: u64) -> (Trainer<AdamW>, Stack, Tensor, Tensor) {
    let mut store = ParamStore::new(Device::Cpu, Kind::Double, SeedTree::new(seed));
    let config = StackConfig::mlp(6, &[5, 4], 40, 3).validate().unwrap();
    let net = Stack::new(&mut store.root(), &config).unwrap();
    shake(&store, seed);
    let x = normal(&[24, 6], seed + 1);
    let y = (Tensor::arange(24, DOUBLE)).remainder(3.0).to_kind(Kind::Int64);
    (Trainer::new(store, AdamW::new(AdamWConfig::default()).unwrap()), net, x, y)
}

fn images(seed: u64) -> (Trainer<AdamW>, Stack, Tensor, Tensor) {
    let mut store = ParamStore::new(Device::Cpu, Kind::Double, SeedTree::new(seed));
    let blocks = vec![
        Block::conv3(3, 20, true),
        Block::conv3(4, 20, false),
        Block::MaxPool { size: 2 },
        Block::Dense { units: 5, max_units: 20 },
    ];
    let config = StackConfig { input: vec![2, 6, 6], blocks, outputs: 3 }.validate().unwrap();
    let net = Stack::new(&mut store.root(), &config).unwrap();
    shake(&store, seed);
    let x = normal(&[8, 2, 6, 6], seed + 1);
    let y = (Tensor::arange(8, DOUBLE)).remainder(3.0).to_kind(Kind::Int64);
    (Trainer::new(store, AdamW::new(AdamWConfig::default()).unwrap()), net, x, y)
}

fn every_step(init: Start, units: i64) -> GrowthConfig {
    let trigger = Trigger::Periodic { every: 1, units };
    GrowthConfig { trigger, init, tries: 12, conv_tries: 6, ..GrowthConfig::default() }
}

/// One step and one event in every layer; the largest relative change of any event.
#[expect(clippy::needless_pass_by_value, reason = "configs are made at the call")]
fn grow(
    trainer: &mut Trainer<AdamW>,
    net: &dyn Growable,
    config: GrowthConfig,
    x: &Tensor,
    y: &Tensor,
    seed: u64,
) -> f64 {
    let config = config.validate().unwrap();
    let mut grower = Grower::new(net, &config, &SeedTree::new(seed)).unwrap();
    let batch = Batch { x, y };
    let mut worst: f64 = 0.0;
    for _ in 0..2 {
        let events =
            grower.train_step(net, trainer, batch, &cross_entropy, 1e-3, 0.5).unwrap().events;
        for event in events {
            assert!(event.after > event.before, "{event:?}");
            worst = worst.max(event.function_change.unwrap().relative);
        }
    }
    // The grown network trains on: store, optimiser and layers agree about every size.
    for layer in net.layers() {
        layer.check().unwrap();
        let id = layer.weight.id();
        assert_eq!(trainer.optim.state(id).unwrap().moments[0].size(), layer.weight.size());
    }
    worst
}

const KEEPING: [Start; 9] = [
    Start::Select,
    Start::Pre,
    Start::Random,
    Start::Weight,
    Start::Optimised,
    Start::RandomOut,
    Start::Gradmax,
    Start::Net2wider,
    Start::OpposedPairs,
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    #[test]
    fn dense_growth_keeps_the_function(seed in 0_u64..1 << 20) {
        for init in KEEPING {
            assert!(init.function_preserving());
            let (mut trainer, net, x, y) = dense(seed);
            let worst = grow(&mut trainer, &net, every_step(init, 2), &x, &y, seed);
            prop_assert!(worst <= 1e-12, "{init:?}: {worst:e}");
            prop_assert!(net.layers().iter().map(HiddenLayer::width).sum::<i64>() > 13);
        }
    }

    #[test]
    fn convolutional_growth_keeps_the_function(seed in 0_u64..1 << 20) {
        for init in KEEPING {
            let (mut trainer, net, x, y) = images(seed);
            let worst = grow(&mut trainer, &net, every_step(init, 2), &x, &y, seed);
            prop_assert!(worst <= 1e-12, "{init:?}: {worst:e}");
        }
    }

    #[test]
    fn splits_move_the_function_by_their_noise_only(seed in 0_u64..1 << 20) {
        for init in [Start::Firefly, Start::Splitting] {
            let (mut trainer, net, x, y) = dense(seed);
            let worst = grow(&mut trainer, &net, every_step(init, 2), &x, &y, seed);
            prop_assert!(worst < 1e-2, "{init:?}: {worst:e}");
        }
    }

    #[test]
    fn metrics_ignore_order_and_rotation_of_samples(seed in 0_u64..1 << 20) {
        let h = normal(&[30, 7], seed).relu();
        let count = |h: &Tensor| metric::activation_dimension(h, 0.01, Scale::Samples).unwrap().count;
        let order = Tensor::from_slice(&[6_i64, 2, 0, 5, 1, 4, 3]);
        prop_assert_eq!(count(&h.index_select(1, &order)), count(&h));
        prop_assert_eq!(count(&h.flip([0])), count(&h));
        let (q, _) = Tensor::linalg_qr(&normal(&[30, 30], seed + 1), "reduced");
        prop_assert_eq!(count(&q.matmul(&h)), count(&h));
        // A copy, a dead unit and a unit of tiny size add nothing; samples twice change nothing.
        let copy = Tensor::cat(&[h.shallow_clone(), h.narrow(1, 0, 1) * 3.0], 1);
        prop_assert_eq!(count(&copy), count(&h));
        let dead = Tensor::cat(&[h.shallow_clone(), h.narrow(1, 0, 1) * 0.0], 1);
        prop_assert_eq!(count(&dead), count(&h));
        prop_assert_eq!(count(&h.repeat([2, 1])), count(&h));
        prop_assert_eq!(count(&h.to_kind(Kind::Float)), count(&h));
    }

    #[test]
    fn sequential_rows_are_orthogonal_to_all_before(seed in 0_u64..1 << 20) {
        let (w, draws) = (normal(&[4, 9], seed), normal(&[5, 9], seed + 1));
        let rows = weight::off_row_space(&w, &draws, weight::Projection::Sequential).unwrap().rows;
        let all = Tensor::cat(&[w, rows.shallow_clone()], 0);
        let gram = rows.matmul(&all.transpose(0, 1));
        for j in 0..5 {
            let before = gram.get(j).narrow(0, 0, 4 + j).abs().max().double_value(&[]);
            prop_assert!(before < 1e-10, "{before:e}");
        }
    }

    #[test]
    fn gradmax_beats_every_random_frame(seed in 0_u64..1 << 20) {
        let a = normal(&[6, 9], seed);
        let best = gradmax::dense(&a, 3, 1.0).unwrap().fan_out;
        let gain = |f: &Tensor| f.transpose(0, 1).matmul(&a).square().sum(Kind::Double).double_value(&[]);
        for k in 0..20 {
            let (frame, _) = Tensor::linalg_qr(&normal(&[6, 3], seed + k), "reduced");
            prop_assert!(gain(&frame) <= gain(&best) * (1.0 + 1e-12));
        }
    }
}

#[test]
fn residual_groups_grow_together_and_keep_the_function() {
    let config = WideResNetConfig {
        depth: 10,
        widths: [2, 3, 4, 3],
        max_widths: [8; 4],
        outputs: 3,
        ..WideResNetConfig::default()
    };
    for init in KEEPING {
        let mut store = ParamStore::new(Device::Cpu, Kind::Double, SeedTree::new(5));
        let net = WideResNet::new(&mut store.root(), &config.validate().unwrap()).unwrap();
        shake(&store, 5);
        let mut trainer = Trainer::new(store, AdamW::new(AdamWConfig::default()).unwrap());
        let x = normal(&[4, 3, 8, 8], 6);
        let y = Tensor::from_slice(&[0_i64, 1, 2, 0]);
        let worst = grow(&mut trainer, &net, every_step(init, 2), &x, &y, 7);
        assert!(worst <= 1e-12, "{init:?}: {worst:e}");
        assert!(net.layers().iter().all(|l| l.width() > 4), "{init:?}");
    }
}

#[test]
fn pruning_dead_units_is_the_way_back() {
    for (mut trainer, net, x, y) in [dense(3), images(3)] {
        let config = every_step(Start::Random, 2).validate().unwrap();
        let mut grower = Grower::new(&net, &config, &SeedTree::new(1)).unwrap();
        let batch = Batch { x: &x, y: &y };
        grower.train_step(&net, &mut trainer, batch, &cross_entropy, 0.0, 0.5).unwrap();
        let before = net.forward(&x, Pass::Eval, &mut NoTap).unwrap().y;
        // New units have zero fan-out at rate 0: taking them out again changes nothing.
        for (l, layer) in net.layers().iter().enumerate() {
            let index: Vec<i64> = (0..layer.width() - 2).collect();
            let event = grower.keep(&net, &mut trainer, l, &index, "pruned").unwrap();
            assert!(event.function_change.unwrap().relative <= 1e-12);
        }
        let after = net.forward(&x, Pass::Eval, &mut NoTap).unwrap().y;
        assert!((after - before).abs().max().double_value(&[]) <= 1e-12);
        grower.train_step(&net, &mut trainer, batch, &cross_entropy, 1e-3, 0.5).unwrap();
    }
}

#[test]
fn a_new_entry_moves_by_3_16_lr_with_the_shared_step_and_by_lr_with_its_own() {
    for (moments, ratio) in [(Moments::SharedStep, 3.162), (Moments::OwnStep, 1.0)] {
        let (mut trainer, net, x, y) = dense(4);
        trainer.optim =
            AdamW::new(AdamWConfig { weight_decay: 0.0, ..AdamWConfig::default() }).unwrap();
        let trigger = Trigger::Periodic { every: 2, units: 2 };
        let config = GrowthConfig { moments, trigger, ..every_step(Start::Random, 2) };
        let config = config.validate().unwrap();
        let mut grower = Grower::new(&net, &config, &SeedTree::new(1)).unwrap();
        let batch = Batch { x: &x, y: &y };
        let step = |grower: &mut Grower, trainer: &mut Trainer<AdamW>, lr| {
            grower.train_step(&net, trainer, batch, &cross_entropy, lr, 0.5).unwrap().events
        };
        // At rate 0 only moments and counters move; then the optimiser is made old.
        assert!(step(&mut grower, &mut trainer, 0.0).is_empty());
        let ids: Vec<_> = trainer.store.iter().map(tensor_core::Param::id).collect();
        for id in ids {
            let _ = trainer.optim.states_mut().get_mut(id).unwrap().step.fill_(20_000.0);
        }
        assert_eq!(step(&mut grower, &mut trainer, 0.0).len(), 2);
        step(&mut grower, &mut trainer, 1e-4);
        let fan_out = trainer.store.get("out.weight").unwrap().value().narrow(1, 4, 2);
        let moved = fan_out.abs().max().double_value(&[]) / 1e-4;
        assert!((moved - ratio).abs() < 0.03, "{moments:?}: {moved}");
    }
}
