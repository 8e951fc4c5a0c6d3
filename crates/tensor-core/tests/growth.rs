//! Growth keeps what it claims to keep: the function, the moments, and on a misfit every bit.
#![allow(clippy::unwrap_used, reason = "a test that cannot set up its case must stop")]

mod mlp;

use mlp::{Mlp, bytes, normal};
use proptest::prelude::*;
use tensor_core::grow::{
    AxisPlan, Change, Edit, Fill, MomentPolicy, ResizePlan, Share, Values, widening_sources,
};
use tensor_core::{
    AdamW, AdamWConfig, Error, Init, Kind, Optimizer, ParamId, Role, SeedTree, Sgd, SgdConfig,
    Tensor, Trainer,
};

fn trainer(seed: u64, widths: &[i64]) -> (Trainer<AdamW>, Mlp) {
    let (store, mlp) = Mlp::store(seed, Kind::Double, widths);
    (Trainer::new(store, AdamW::new(AdamWConfig::default()).unwrap()), mlp)
}

fn train(trainer: &mut Trainer<impl Optimizer>, mlp: &Mlp, x: &Tensor, steps: usize) {
    for _ in 0..steps {
        let loss = (mlp.forward(x) - 0.3).square().mean(Kind::Double);
        trainer.backward_step(&loss, 0.01).unwrap();
    }
}

fn policy() -> impl Strategy<Value = MomentPolicy> {
    prop_oneof![
        Just(MomentPolicy::ZeroNew),
        Just(MomentPolicy::MeanOfOld),
        Just(MomentPolicy::CopyMapped),
        Just(MomentPolicy::ResetAll),
    ]
}

/// Any plan for an axis of length `n`, fitting or not.
fn axis_plan(n: i64) -> impl Strategy<Value = AxisPlan> {
    let fill = prop_oneof![
        Just(Fill::Zeros),
        (-2.0..2.0).prop_map(Fill::Const),
        (0.0..2.0, any::<u64>()).prop_map(|(std, seed)| Fill::Normal { std, seed }),
        proptest::collection::vec(-1.0..1.0, 1..6)
            .prop_map(|v| Fill::Given(Values::new(vec![v.len() as i64], v).unwrap())),
    ];
    let share = prop_oneof![
        Just(Share::Copy),
        Just(Share::Equal),
        proptest::collection::vec(0.0..1.0, 1..6).prop_map(Share::Weighted),
    ];
    prop_oneof![
        Just(AxisPlan::Keep),
        (-1_i64..4, fill).prop_map(|(n, fill)| AxisPlan::Append { n, fill }),
        proptest::collection::vec(-1..=n, 0..6).prop_map(AxisPlan::Select),
        (proptest::collection::vec(-1..=n, 0..6), share)
            .prop_map(|(source, share)| AxisPlan::Duplicate { source, share }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn widening_keeps_the_function(
        seed in any::<u64>(),
        widths in proptest::collection::vec(1_i64..7, 3..6),
        extra in proptest::collection::vec(0_i64..9, 3),
        moments in policy(),
    ) {
        let (mut trainer, mlp) = trainer(seed, &widths);
        let x = normal(seed ^ 1, &[8, widths[0]], Kind::Double);
        train(&mut trainer, &mlp, &x, 2);
        // All hidden layers at once: the matrices between them change on both axes.
        let mut plan = ResizePlan::new("wider").with_moments(moments);
        for i in 0..widths.len() - 2 {
            let hidden = mlp.hidden(i);
            let node = SeedTree::new(seed).child(i);
            plan = plan.and(hidden.widen(hidden.n_units() + extra[i % 3], &node, "").unwrap());
        }
        let change = trainer.grow_checked(&plan, || Ok(mlp.forward(&x))).unwrap();
        prop_assert!(change.relative <= 1e-10, "{change:?}");
        train(&mut trainer, &mlp, &x, 2);
    }

    #[test]
    fn permuting_and_appending_silent_units_keeps_the_function(
        seed in any::<u64>(), width in 2_i64..8, n in 0_i64..5,
    ) {
        let (mut trainer, mlp) = trainer(seed, &[3, width, 2]);
        let x = normal(seed ^ 1, &[8, 3], Kind::Double);
        train(&mut trainer, &mlp, &x, 2);
        let noise = Fill::Normal { std: 1.0, seed };
        let plan = mlp.hidden(0).append(n, &noise, &noise, &Fill::Zeros, "silent");
        let change = trainer.grow_checked(&plan, || Ok(mlp.forward(&x))).unwrap();
        prop_assert!(change.relative <= 1e-10, "{change:?}");
        let reversed: Vec<i64> = (0..width + n).rev().collect();
        let change = trainer
            .grow_checked(&mlp.hidden(0).select(&reversed, "reversed"), || Ok(mlp.forward(&x)))
            .unwrap();
        prop_assert!(change.relative <= 1e-10, "{change:?}");
    }

    #[test]
    fn a_plan_fits_or_changes_nothing_and_survives_json(
        seed in any::<u64>(),
        axes in proptest::collection::vec((0_usize..3, axis_plan(4)), 1..4),
        bias in axis_plan(4),
        moments in policy(),
        scale in prop_oneof![Just(1.0), Just(0.0), Just(-2.0), Just(f64::MAX)],
    ) {
        let (mut trainer, mlp) = trainer(seed, &[4, 4, 4]);
        let x = normal(seed ^ 1, &[3, 4], Kind::Double);
        train(&mut trainer, &mlp, &x, 1);
        let (weight, other) = (&mlp.layers[0], &mlp.layers[1]);
        let plan = axes.into_iter().fold(ResizePlan::new("any"), |plan, (axis, p)| {
            plan.with(Edit::axis(weight.0.id(), axis, p))
        });
        // The one that may not fit comes last, after others have been prepared.
        let plan = plan
            .with(Edit::axis(other.0.id(), 0, AxisPlan::Append { n: 1, fill: Fill::Zeros }))
            .with(Edit::axis(other.1.id(), 0, bias).scaled(scale))
            .with_moments(moments);
        let text = serde_json::to_string(&plan).unwrap();
        prop_assert_eq!(&serde_json::from_str::<ResizePlan>(&text).unwrap(), &plan);

        let before = bytes(&trainer);
        let events = trainer.growth_log().events.len();
        match trainer.grow(&plan) {
            Ok(()) => {
                let state = |id| trainer.optim.state(id).unwrap();
                for p in trainer.store.iter() {
                    for m in &state(p.id()).moments {
                        prop_assert_eq!(m.size(), p.size());
                    }
                }
            }
            Err(Error::Plan { .. }) => {
                prop_assert!(bytes(&trainer) == before);
                prop_assert_eq!(trainer.growth_log().events.len(), events);
            }
            Err(other) => prop_assert!(false, "{}", other),
        }
    }
}

#[test]
fn weighted_copies_separate_and_equal_ones_never_do() {
    let spread = |share: [f64; 2]| {
        let (mut trainer, mlp) = trainer(7, &[3, 1, 2]);
        let x = normal(8, &[16, 3], Kind::Double);
        train(&mut trainer, &mlp, &x, 5);
        trainer.grow(&mlp.hidden(0).duplicate(&[0, 0], &share, "split")).unwrap();
        train(&mut trainer, &mlp, &x, 200);
        let w = mlp.layers[0].0.value();
        (w.get(0) - w.get(1)).abs().max().double_value(&[])
    };
    // Rounding aside: vector and tail elements of one kernel round differently.
    let together = spread([0.5, 0.5]);
    assert!(together < 1e-12, "{together:e}");
    let apart = spread([0.3, 0.7]);
    assert!(apart > 1e-3, "{apart:e}");
}

/// The moments of a widened network equal those that the wide network would have gathered itself,
/// had it stood at the same function all along: one step of SGD momentum and of `AdamW` shows it.
#[test]
fn moments_are_those_of_the_wide_network() {
    let x = normal(8, &[16, 3], Kind::Double);
    let (store, mlp) = Mlp::store(7, Kind::Double, &[3, 4, 5, 2]);
    let loss = |mlp: &Mlp| mlp.forward(&x).square().mean(Kind::Double);
    let wider = |mlp: &Mlp, i| mlp.hidden(i).widen(9, &SeedTree::new(i as u64), "").unwrap();
    let plan = |mlp: &Mlp| wider(mlp, 0).and(wider(mlp, 1));
    // Steps at learning rate 0 gather moments and leave the function alone.
    let mut grown = Trainer::new(store, AdamW::new(AdamWConfig::default()).unwrap());
    for _ in 0..3 {
        grown.backward_step(&loss(&mlp), 0.0).unwrap();
    }
    grown.grow(&plan(&mlp)).unwrap();
    let (store, wide_mlp) = Mlp::store(7, Kind::Double, &[3, 4, 5, 2]);
    let mut wide = Trainer::new(store, AdamW::new(AdamWConfig::default()).unwrap());
    wide.grow(&plan(&wide_mlp)).unwrap();
    for _ in 0..3 {
        wide.backward_step(&loss(&wide_mlp), 0.0).unwrap();
    }
    for (a, b) in grown.store.iter().zip(wide.store.iter()) {
        let (a, b) = (grown.optim.state(a.id()).unwrap(), wide.optim.state(b.id()).unwrap());
        for (a, b) in a.moments.iter().zip(&b.moments) {
            assert!((a - b).abs().max().double_value(&[]) < 1e-15);
        }
    }
}

/// A weight scaled by `c` with its input scaled by `1/c`: gradients scale by `1/c`, and so must moments.
#[test]
fn scaled_weights_have_scaled_moments() {
    let x = normal(8, &[16, 3], Kind::Double);
    let c = vec![4.0, 0.5, -3.0];
    let scaled_x = &x / Tensor::from_slice(&c);
    let run = |x: &Tensor, grow_first: bool, steps: usize| {
        let (store, mlp) = Mlp::store(7, Kind::Double, &[3, 2]);
        let mut t = Trainer::new(store, AdamW::new(AdamWConfig::default()).unwrap());
        let id = mlp.layers[0].0.id();
        let plan = ResizePlan::new("").with(Edit::new(id, vec![]).scaled_along(1, c.clone()));
        if grow_first {
            t.grow(&plan).unwrap();
        }
        for _ in 0..steps {
            t.backward_step(&mlp.forward(x).square().mean(Kind::Double), 0.0).unwrap();
        }
        if !grow_first {
            t.grow(&plan).unwrap();
        }
        (t, id)
    };
    let ((a, id), (b, other)) = (run(&x, false, 3), run(&scaled_x, true, 3));
    let (a, b) = (a.optim.state(id).unwrap(), b.optim.state(other).unwrap());
    for (a, b) in a.moments.iter().zip(&b.moments) {
        let error = ((a - b).abs() / b.abs().clamp_min(1e-6)).max().double_value(&[]);
        assert!(error < 1e-12, "{error:e}");
    }
}

#[test]
fn the_log_tells_what_happened() {
    let (mut trainer, mlp) = trainer(1, &[3, 4, 2]);
    let x = normal(8, &[4, 3], Kind::Double);
    train(&mut trainer, &mlp, &x, 3);
    let plan = mlp.hidden(0).widen(6, &SeedTree::new(1), "loss stopped falling").unwrap();
    trainer.grow_checked(&plan, || Ok(mlp.forward(&x))).unwrap();
    let event = &trainer.growth_log().events[0];
    assert_eq!((event.step, event.reason.as_str()), (3, "loss stopped falling"));
    assert_eq!((event.before.total, event.after.total), (26, 38));
    assert!(event.function_change.unwrap().max_abs < 1e-12);
    let Change::Resize { plan: logged, resized } = &event.change else { panic!("a resize") };
    assert_eq!(*logged, plan);
    assert_eq!((resized[0].from.as_slice(), resized[0].to.as_slice()), (&[4, 3][..], &[6, 3][..]));
}

#[test]
fn a_probe_that_fails_undoes_the_growth() {
    let (mut trainer, mlp) = trainer(1, &[3, 4, 2]);
    let x = normal(8, &[4, 3], Kind::Double);
    train(&mut trainer, &mlp, &x, 2);
    let before = bytes(&trainer);
    let plan = mlp.hidden(0).widen(6, &SeedTree::new(1), "").unwrap();
    let mut calls = 0;
    let result = trainer.grow_checked(&plan, || {
        calls += 1;
        if calls == 2 {
            return Err(Error::Argument {
                op: "probe",
                arg: "x",
                expected: "luck".into(),
                got: "none".into(),
            });
        }
        Ok(mlp.forward(&x))
    });
    assert!(result.is_err() && bytes(&trainer) == before);
    // One output more is not comparable.
    let more = AxisPlan::Append { n: 1, fill: Fill::Zeros };
    let plan = ResizePlan::new("")
        .with(Edit::axis(mlp.layers[1].0.id(), 0, more.clone()))
        .with(Edit::axis(mlp.layers[1].1.id(), 0, more));
    assert!(matches!(
        trainer.grow_checked(&plan, || Ok(mlp.forward(&x))),
        Err(Error::Shape { .. })
    ));
    assert!(bytes(&trainer) == before && trainer.growth_log().events.is_empty());
    train(&mut trainer, &mlp, &x, 1);
}

#[test]
fn an_unknown_parameter_or_an_absurd_size_changes_nothing() {
    let (mut trainer, mlp) = trainer(1, &[3, 4, 2]);
    train(&mut trainer, &mlp, &normal(8, &[4, 3], Kind::Double), 1);
    let before = bytes(&trainer);
    let nobody: ParamId = serde_json::from_str("4711").unwrap();
    let append = |n| AxisPlan::Append { n, fill: Fill::Zeros };
    let plan = mlp.hidden(0).widen(6, &SeedTree::new(1), "").unwrap();
    let unknown = plan.clone().with(Edit::axis(nobody, 0, append(1)));
    assert!(matches!(trainer.grow(&unknown), Err(Error::UnknownParam { .. })));
    let id = mlp.layers[1].1.id();
    for n in [(1 << 38) + 1, i64::MAX] {
        let huge = plan.clone().with(Edit::axis(id, 0, append(n)));
        assert!(trainer.grow(&huge).is_err(), "{n}");
    }
    assert!(bytes(&trainer) == before);
}

#[test]
fn whole_parameters_come_and_go_or_nothing_does() {
    let (store, mlp) = Mlp::store(1, Kind::Double, &[3, 4, 2]);
    let mut trainer =
        Trainer::new(store, Sgd::new(SgdConfig { momentum: 0.9, ..Default::default() }).unwrap());
    let x = normal(8, &[4, 3], Kind::Double);
    train(&mut trainer, &mlp, &x, 2);
    let before = bytes(&trainer);
    let failed: Result<(), Error> = trainer.restructure("fails half-way", |store| {
        store.root().param("new", &[2], Role::Gate, &Init::Ones)?;
        store.rename_prefix("fc1", "out")?;
        store.remove(mlp.layers[0].1.id())?;
        store.root().param("out.weight", &[2], Role::Gate, &Init::Ones).map(drop)
    });
    assert!(matches!(failed, Err(Error::DuplicateParam { .. })));
    assert!(bytes(&trainer) == before && trainer.growth_log().events.is_empty());

    trainer
        .restructure("one layer more", |store| {
            store.rename_prefix("fc1", "fc2")?;
            store.root().sub("fc1").param("weight", &[4, 4], Role::Weight, &Init::Zeros)
        })
        .unwrap();
    let Change::Structure { added, removed, renamed } = &trainer.growth_log().events[0].change
    else {
        panic!("a structure event")
    };
    assert_eq!((added.len(), removed.len(), renamed.len()), (1, 0, 2));
    let names: Vec<String> =
        trainer.optim.state_dict(&trainer.store).unwrap().into_iter().map(|(n, _)| n).collect();
    assert!(names.contains(&"fc2.weight.momentum".to_owned()), "{names:?}");

    // The log alone leads from the base config to these names and sizes.
    trainer.grow(&mlp.hidden(0).widen(5, &SeedTree::new(3), "").unwrap()).unwrap();
    let (mut base, _) = Mlp::store(99, Kind::Double, &[3, 4, 2]);
    trainer.growth_log().rebuild(&mut base).unwrap();
    let shapes = |s: &tensor_core::ParamStore| -> Vec<(String, Vec<i64>)> {
        s.iter().map(|p| (p.name(), p.size())).collect()
    };
    assert_eq!(shapes(&base), shapes(&trainer.store));
    let (mut other, _) = Mlp::store(99, Kind::Double, &[3, 9, 2]);
    assert!(matches!(trainer.growth_log().rebuild(&mut other), Err(Error::Plan { .. })));
    assert_eq!(other.get("fc0.weight").unwrap().size(), [9, 3]);
}

#[test]
fn sources_that_repeat_share_the_load() {
    let source = widening_sources(4, 12, &SeedTree::new(2)).unwrap();
    for i in 0..4 {
        assert_eq!(source.iter().filter(|s| **s == i).count(), 3);
    }
}
