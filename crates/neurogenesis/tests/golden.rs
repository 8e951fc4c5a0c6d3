//! Every golden file: metrics, triggers, initialisations, growth of whole networks, a training run.
//!
//! Long because every group of the schema is checked in one program.
//!
//! `GOLDEN_DIR` points the same program at other cases of the same schema.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use anyhow::Result;
use golden::{Case, Tolerance};
use neurogenesis::init::{
    self, gradmax, nest,
    select::{self, Order, Score},
    tiny,
    weight::{self, Projection},
};
use neurogenesis::layer::{Geometry, HiddenLayer, NewUnits, Reader};
use neurogenesis::metric::{self, Between, Dimension, Scale};
use neurogenesis::network::{Growable, Pass, cross_entropy, relu};
use neurogenesis::schedule::{Preset, Standing};
use neurogenesis::stack::{Stack, StackConfig};
use neurogenesis::strategy::{
    Batch, Configured, Demand, Growth, Needs, Observation, Scene, Strategy, gradient_norms,
    gradients,
};
use neurogenesis::toy::Toy;
use neurogenesis::trigger::{Baseline, Variant, capped, gradient_units_wanted, units_wanted};
use neurogenesis::{Grower, GrowthConfig};
use tensor_core::grow::{AxisPlan, Edit, Fill, MomentPolicy};
use tensor_core::nn::{BatchNorm2d, LayerNorm, Mode};
use tensor_core::{
    AdamW, AdamWConfig, Device, Init, Kind, NoTap, Optimizer, Param, ParamStore, ResizePlan, Role,
    SeedTree, Sgd, SgdConfig, Tensor, Trainer, Validate, interop,
};

/// The README of the golden folder: floats to 1e-9 absolute and relative.
const TOLERANCE: Tolerance = Tolerance::F64_CHAIN;

#[test]
fn golden() -> Result<()> {
    tch::set_num_threads(1);
    golden::suite!()?
        .group("act_dim", act_dim)
        .group("weight_dim", weight_dim)
        .group("trigger_table", trigger_table)
        .group("trigger_running_max", trigger_running_max)
        .group("init_weight", init_weight)
        .group("init_pre", init_pre)
        .group("select", select_candidates)
        .group("gradmax_dense", gradmax_dense)
        .group("gradmax_conv", gradmax_conv)
        .group("nest_dense", nest_dense)
        .group("tiny_dense", tiny_dense)
        .group("simdata", simdata)
        .group("schedule", schedule)
        .group("trigger_net", trigger_net)
        .group("preserve_mlp", preserve_mlp)
        .group("preserve_conv", preserve_conv)
        .group("layernorm_not_preserved", layernorm_not_preserved)
        .group("adam_growth", adam_growth)
        .group("trace", trace)
        .run()
}

fn tensor(case: &Case, name: &str) -> Result<Tensor> {
    Ok(interop::to_tensor(&case.f64(name)?)?)
}

fn ints(case: &Case, name: &str) -> Result<Vec<i64>> {
    Ok(case.i64(name)?.iter().copied().collect())
}

fn floats(case: &Case, name: &str) -> Result<Vec<f64>> {
    Ok(case.f64(name)?.iter().copied().collect())
}

fn check(case: &Case, name: &str, got: &Tensor) -> Result<()> {
    let got = interop::to_array::<f64, ndarray::IxDyn>(&got.to_kind(Kind::Double))?;
    case.check(name, &got, TOLERANCE);
    Ok(())
}

fn exact(case: &Case, name: &str, got: &[i64]) {
    case.check_flat(name, got, Tolerance::EXACT);
}

fn act_dim(case: &Case) -> Result<()> {
    let (h, eps) = (tensor(case, "H")?, case.param("eps")?);
    let by_samples = metric::activation_dimension(&h, eps, Scale::Samples)?;
    exact(case, "count", &[by_samples.count]);
    case.check_scalar("phi", by_samples.phi(), TOLERANCE);
    exact(case, "count_scale_width", &[metric::activation_dimension(&h, eps, Scale::Width)?.count]);
    let s = metric::activation_spectrum(&h, Scale::Samples)?;
    case.check_flat("singular_values", &s, TOLERANCE);
    case.ensure(s.iter().filter(|s| **s > eps).count() as i64 == by_samples.count, || {
        "the Gram route and the singular values disagree".to_owned()
    });
    for (name, between) in
        [("orth_gap_samples", Between::Samples), ("orth_gap_units", Between::Units)]
    {
        match metric::orthogonality_gap(&h, between)? {
            Some(gap) => case.check_scalar(name, gap, TOLERANCE),
            None => case.ensure(!case.has(name), || format!("{name} is defined")),
        }
    }
    if case.has("relu_sep") {
        case.check_scalar("relu_sep", metric::relu_agreement(&h)?, TOLERANCE);
    }
    Ok(())
}

fn weight_dim(case: &Case) -> Result<()> {
    let w = tensor(case, "W")?;
    let d = metric::weight_dimension(&w, case.param("eps")?)?;
    exact(case, "count", &[d.count]);
    case.check_scalar("phi", d.phi(), TOLERANCE);
    case.check_flat("singular_values", &metric::weight_spectrum(&w)?, TOLERANCE);
    Ok(())
}

fn trigger_table(case: &Case) -> Result<()> {
    let (count, width) = (ints(case, "count")?, ints(case, "width")?);
    let (phi0, gamma) = (floats(case, "phi0")?, floats(case, "gamma")?);
    let cap = ints(case, "max_width")?;
    for (variant, name) in [(Variant::Paper, "add_paper"), (Variant::Released, "add_official_code")]
    {
        let wanted: Vec<i64> = (0..count.len())
            .map(|i| {
                let now = Dimension { count: count[i], width: width[i] };
                units_wanted(now, gamma[i] * phi0[i], variant)
            })
            .collect();
        exact(case, name, &wanted);
        let left: Vec<i64> =
            (0..count.len()).map(|i| capped(wanted[i], width[i], cap[i])).collect();
        exact(case, &format!("{name}_capped"), &left);
    }
    Ok(())
}

fn trigger_running_max(case: &Case) -> Result<()> {
    let gamma: f64 = case.param("gamma")?;
    let before = floats(case, "baseline_before")?;
    let mut baseline = Baseline::RunningMax(before[0]);
    let (mut seen, mut paper, mut released) = (vec![], vec![], vec![]);
    for (count, width) in ints(case, "count")?.into_iter().zip(ints(case, "width")?) {
        let now = Dimension { count, width };
        seen.push(baseline.value());
        paper.push(units_wanted(now, baseline.value(), Variant::Paper));
        released.push(units_wanted(now, baseline.value(), Variant::Released));
        baseline.observe(now, gamma);
    }
    case.check_flat("baseline_before", &seen, TOLERANCE);
    case.check_scalar("baseline_final", baseline.value(), TOLERANCE);
    exact(case, "add_paper", &paper);
    exact(case, "add_official_code", &released);
    Ok(())
}

fn init_weight(case: &Case) -> Result<()> {
    let (w, draws) = (tensor(case, "W")?, tensor(case, "draws")?);
    case.check_scalar("target_norm", init::mean_row_norm(&w)?, TOLERANCE);
    let rows = weight::off_row_space(&w, &draws, Projection::Existing)?;
    check(case, "W_new", &rows.rows)?;
    exact(case, "row_space_rank", &[rows.rank]);
    exact(case, "fallback_plain_random", &[i64::from(rows.fallback)]);
    let sequential = weight::off_row_space(&w, &draws, Projection::Sequential)?;
    check(case, "W_new_sequential", &sequential.rows)?;
    let before = metric::weight_dimension(&w, 0.01)?;
    exact(case, "count_before", &[before.count]);
    let both = Tensor::cat(&[metric::by_fan_in(&w)?, rows.rows], 0);
    exact(case, "count_after", &[metric::weight_dimension(&both, 0.01)?.count]);
    Ok(())
}

fn init_pre(case: &Case) -> Result<()> {
    let (x, w, b) = (tensor(case, "X")?, tensor(case, "W")?, tensor(case, "b")?);
    let rtol = case.param("pinv_rcond")?;
    let rows = init::pre::orthogonal_pre_activations(
        &x,
        &w,
        Some(&b),
        &tensor(case, "draws")?,
        Some(rtol),
    )?;
    check(case, "W_new_unscaled", &rows.unscaled)?;
    check(case, "W_new", &rows.rows)?;
    check(case, "preact_new", &rows.pre_activations)?;
    case.check_scalar("target_norm", init::mean_row_norm(&w)?, TOLERANCE);
    case.ensure(rows.reachable.iter().all(|r| *r), || "a row is called noise".to_owned());
    Ok(())
}

fn select_candidates(case: &Case) -> Result<()> {
    let (x, w, b) = (tensor(case, "X")?, tensor(case, "W")?, tensor(case, "b")?);
    let (k, eps): (usize, f64) = (case.param("k")?, case.param("eps")?);
    let rows = init::rescaled(&tensor(case, "candidates")?, init::mean_row_norm(&w)?);
    check(case, "candidates_rescaled", &rows)?;
    let h = x.linear(&w, Some(&b)).relu();
    let a = x.linear(&rows, None::<Tensor>).relu();
    let scores = select::scores(&h, &a, eps, Score::EffectiveDimension)?;
    exact(case, "effective_count", &scores.effective_count);
    case.check_flat("nuclear_norm", &scores.nuclear_norm, TOLERANCE);
    case.check_flat("residual_norm", &scores.residual_norm, TOLERANCE);
    let by_score = scores.ranking(Score::EffectiveDimension);
    case.check_flat("score", &by_score, TOLERANCE);
    let chosen = select::choose(&by_score, k, Order::Described);
    exact(case, "chosen_by_score", &chosen);
    let by_residual = select::scores(&h, &a, eps, Score::Residual)?.ranking(Score::Residual);
    exact(case, "chosen_by_residual", &select::choose(&by_residual, k, Order::Described));
    let mut sorted = by_score;
    sorted.sort_by(|a, b| b.total_cmp(a));
    case.check_scalar("gap_at_cut", sorted[k - 1] - sorted[k], TOLERANCE);
    Ok(())
}

fn gradmax_dense(case: &Case) -> Result<()> {
    let (x, dz, next) = (tensor(case, "X")?, tensor(case, "dZ")?, tensor(case, "W_next")?);
    let a = gradmax::bridge(&dz, &x)?;
    check(case, "A", &a)?;
    let scale: f64 = case.param("scale")?;
    let norm = scale * init::mean_fan_out_norm(&next, 1)?;
    case.check_scalar("fanout_column_norm", norm, TOLERANCE);
    let got = gradmax::dense(&a, case.param("k")?, norm)?;
    case.check_flat("singular_values", &got.singular_values, TOLERANCE);
    let omega = &got.fan_out;
    check(case, "fanout_projector", &(omega.matmul(&omega.transpose(0, 1)) / (norm * norm)))?;
    let gain = omega.transpose(0, 1).matmul(&a).square().sum(Kind::Double).double_value(&[]);
    case.check_scalar("grad_sq_norm_new_fanin", gain, TOLERANCE);
    let k = omega.size()[1];
    check(case, "fanin_expected", &x.zeros_like().narrow(0, 0, 1).repeat([k, 1]))?;
    Ok(())
}

fn gradmax_conv(case: &Case) -> Result<()> {
    let (x, w1, w2) = (tensor(case, "X")?, tensor(case, "W1")?, tensor(case, "W2")?);
    let target = tensor(case, "target")?;
    let (k, k1, k2): (i64, i64, i64) = (case.param("k")?, case.param("k1")?, case.param("k2")?);
    let plain = |x: &Tensor, w: &Tensor| x.conv2d(w, None::<Tensor>, [1, 1], [0, 0], [1, 1], 1);
    let z = plain(&plain(&x, &w1).relu(), &w2);
    if case.has("loss") {
        let loss = (&z - &target).square().mean(Kind::Double).double_value(&[]);
        case.check_scalar("loss", loss, TOLERANCE);
    }
    let dz = (&z - &target) * (2.0 / z.numel() as f64);
    let size = k1 + k2 - 1;
    let g = gradmax::conv_bridge(&dz, &x, [size, size], [1, 1], [0, 0])?;
    check(case, "aux_grad", &g)?;
    let matrix = gradmax::grow_matrix(&g, [k1, k1], [k2, k2])?;
    check(case, "grow_matrix", &matrix)?;
    let got = gradmax::conv(&matrix, k, [k2, k2], 1.0)?;
    case.check_flat("singular_values", &got.singular_values, TOLERANCE);
    let rows = init::by_fan_out(&got.fan_out, 1)?; // [k, m2 k2 k2]
    check(case, "fanout_projector", &rows.transpose(0, 1).matmul(&rows))?;
    // The claim itself: insert the kernels and differentiate with respect to the new fan-in, the
    // activation's derivative at 0 being 1.
    let fan_in =
        Tensor::zeros([k, x.size()[1], k1, k1], (Kind::Double, x.device())).set_requires_grad(true);
    let grown = &z + plain(&plain(&x, &fan_in).clamp_min(0.0), &got.fan_out);
    (grown - target).square().mean(Kind::Double).backward();
    let energy = fan_in.grad().square().sum(Kind::Double).double_value(&[]);
    case.check_scalar("grad_sq_norm_new_fanin", energy, TOLERANCE);
    Ok(())
}

fn nest_dense(case: &Case) -> Result<()> {
    let (w, next) = (tensor(case, "W")?, tensor(case, "W_next")?);
    let a = gradmax::bridge(&tensor(case, "dZ")?, &tensor(case, "X")?)?;
    check(case, "A", &a)?;
    let signs = tensor(case, "signs")?;
    let norms = [init::mean_row_norm(&w)?, init::mean_fan_out_norm(&next, 1)?];
    for (sign, name) in [(nest::Sign::Ignored, "official"), (nest::Sign::Descent, "signed")] {
        let got = nest::dense(&a, &signs, case.param("beta")?, sign, norms)?;
        case.check_scalar("threshold", got.threshold, TOLERANCE);
        check(case, &format!("fanin_{name}"), &got.fan_in)?;
        check(case, &format!("fanout_{name}"), &got.fan_out)?;
    }
    Ok(())
}

fn tiny_dense(case: &Case) -> Result<()> {
    let thresholds = tiny::Thresholds {
        numerical: case.param("numerical_threshold")?,
        statistical: case.param("statistical_threshold")?,
    };
    let got = tiny::dense(
        &tensor(case, "X")?,
        &tensor(case, "H_mid")?,
        &tensor(case, "dZ")?,
        case.param("max_added")?,
        thresholds,
    )?;
    check(case, "S", &got.s)?;
    check(case, "N", &got.n)?;
    check(case, "optimal_delta_T", &got.delta)?;
    check(case, "residual_goal", &got.residual)?;
    case.check_flat("singular_values", &got.singular_values, TOLERANCE);
    exact(case, "n_selected", &[got.fan_in.size()[0]]);
    check(case, "omega_alpha_product", &got.fan_out.matmul(&got.fan_in))?;
    case.check_scalar("first_order_gain", got.first_order_gain, TOLERANCE);
    Ok(())
}

fn simdata(case: &Case) -> Result<()> {
    let portion = case.param("noise_portion")?;
    let toy = Toy::from_parts(
        &tensor(case, "base")?.narrow(1, 0, case.param("independent")?),
        &tensor(case, "mix")?,
        &tensor(case, "noise")?,
        portion,
    )?;
    check(case, "X", &toy.x)?;
    check(case, "response", &toy.response)?;
    exact(case, "labels", &Vec::<i64>::try_from(&toy.labels)?);
    exact(case, "train_rows", &[toy.train_rows]);
    let rank = toy.x.linalg_matrix_rank(1e-10, false).int64_value(&[]);
    exact(case, "rank_X", &[rank]);
    Ok(())
}

fn schedule(case: &Case) -> Result<()> {
    let (epochs, per_epoch): (i64, i64) = (case.param("epochs")?, case.param("steps_per_epoch")?);
    let (initial, last): (i64, i64) = (case.param("init")?, case.param("static")?);
    let mut axis = Vec::new();
    for (preset, name) in [(Preset::Linear, "linear_width"), (Preset::Batched, "batched_width")] {
        let mut width = initial;
        let mut widths = Vec::new();
        axis.clear();
        for step in 1..=epochs * per_epoch {
            let epoch = step as f64 / per_epoch as f64;
            axis.push(epoch);
            let progress = epoch / epochs as f64;
            let end_fraction = case.param("end_fraction")?;
            width += preset.units_wanted(
                Standing { width, initial, last, max_width: last, progress, end_fraction },
                0.0,
            );
            widths.push(width);
        }
        exact(case, name, &widths);
    }
    case.check_flat("epoch_axis", &axis, TOLERANCE);
    Ok(())
}

fn store() -> ParamStore {
    ParamStore::new(Device::Cpu, Kind::Double, SeedTree::new(1))
}

fn param(store: &mut ParamStore, name: &str, value: &Tensor) -> Result<Param> {
    let role = if value.dim() > 1 { Role::Weight } else { Role::Bias };
    let param = store.root().param(name, &value.size(), role, &Init::Zeros)?;
    param.copy_from(value)?;
    Ok(param)
}

/// An MLP in float64 with the weights `W{i}{suffix}` and biases `b{i}{suffix}` of a case.
fn mlp(case: &Case, suffix: &str, max_width: i64) -> Result<(ParamStore, Stack)> {
    let n = (0..64).take_while(|i| case.has(&format!("W{i}{suffix}"))).count();
    let mut values = Vec::new();
    for i in 0..n {
        values.push((
            tensor(case, &format!("W{i}{suffix}"))?,
            tensor(case, &format!("b{i}{suffix}"))?,
        ));
    }
    let widths: Vec<i64> = values.iter().map(|(w, _)| w.size()[0]).collect();
    let features = values[0].0.size()[1];
    let config =
        StackConfig::mlp(features, &widths[..n - 1], max_width, widths[n - 1]).validate()?;
    let mut store = store();
    let net = Stack::new(&mut store.root(), &config)?;
    for (i, (w, b)) in values.iter().enumerate() {
        let name = if i + 1 == n { "out".to_owned() } else { format!("hidden{i}") };
        store.get(&format!("{name}.weight"))?.copy_from(w)?;
        store.get(&format!("{name}.bias"))?.copy_from(b)?;
    }
    Ok((store, net))
}

fn trigger_net(case: &Case) -> Result<()> {
    let (gamma, eps): (f64, f64) = (case.param("gamma")?, case.param("eps")?);
    let (x, y) = (tensor(case, "X")?, interop::to_tensor(&case.i64("y")?)?);
    let (_, before) = mlp(case, "_init", 1000)?;
    let (_, net) = mlp(case, "", 1000)?;
    let dimensions = |net: &Stack, weights: bool| -> Result<Vec<Dimension>> {
        let mut watch = neurogenesis::network::Watch::all(net.layers().len());
        net.forward(&x, Pass::Measure, &mut watch)?;
        let seen = watch.into_seen().into_iter().zip(net.layers());
        seen.map(|(seen, layer)| {
            Ok(if weights {
                metric::weight_dimension(&layer.weight.value(), eps)?
            } else {
                metric::activation_dimension(&seen.units.unwrap(), eps, Scale::Samples)?
            })
        })
        .collect()
    };
    for (name, weights) in [("act", false), ("weight", true)] {
        let (old, new) = (dimensions(&before, weights)?, dimensions(&net, weights)?);
        let counts = |d: &[Dimension]| d.iter().map(|d| d.count).collect::<Vec<_>>();
        exact(case, &format!("{name}_count_init"), &counts(&old));
        exact(case, &format!("{name}_count"), &counts(&new));
        for (variant, form) in [(Variant::Paper, "paper"), (Variant::Released, "official_code")] {
            let wanted: Vec<i64> = old
                .iter()
                .zip(&new)
                .map(|(old, new)| units_wanted(*new, gamma * old.phi(), variant))
                .collect();
            exact(case, &format!("{name}_add_{form}"), &wanted);
        }
    }
    let batch = Batch { x: &x, y: &y };
    let loss = cross_entropy(&net.forward(&x, Pass::Train, &mut NoTap)?.y, &y)?;
    case.check_scalar("loss", loss.double_value(&[]), TOLERANCE);
    loss.backward();
    let (mut paper, mut released) = (Vec::new(), Vec::new());
    for (l, g) in gradients(&net, batch, &cross_entropy, None)?.iter().enumerate() {
        let (into, out) = gradient_norms(&net.layers()[l])?;
        case.check_flat(&format!("grad_norm_in{l}"), &into, TOLERANCE);
        case.check_flat(&format!("grad_norm_out{l}"), &out, TOLERANCE);
        let sum: f64 = into.iter().chain(&out).sum();
        let a = gradmax::bridge(&g.reader, &g.fan_in)?;
        check(case, &format!("A{l}"), &a)?;
        let s = gradmax::dense(&a, 1, 1.0)?.singular_values;
        case.check_flat(&format!("A{l}_singular_values"), &s, TOLERANCE);
        paper.push(gradient_units_wanted(&s, sum, Variant::Paper));
        released.push(gradient_units_wanted(&s, sum, Variant::Released));
    }
    exact(case, "grad_add_paper", &paper);
    exact(case, "grad_add_official_code", &released);
    Ok(())
}

fn largest(x: &Tensor) -> f64 {
    x.abs().max().double_value(&[])
}

fn preserve_mlp(case: &Case) -> Result<()> {
    let (store, net) = mlp(case, "", 1000)?;
    let mut trainer = Trainer::new(store, AdamW::new(AdamWConfig::default())?);
    let x = tensor(case, "X")?;
    let forward = || -> Result<Tensor> { Ok(net.forward(&x, Pass::Eval, &mut NoTap)?.y) };
    let before = forward()?;
    check(case, "y_before", &before)?;
    let mode: String = case.param("mode")?;
    let l: usize = case.param("layer")?;
    let layer = &net.layers()[l];
    let width = layer.width();
    let (fan_in, fan_out) = (tensor(case, "fanin")?, tensor(case, "fanout")?);
    let plan = if mode == "net2wider" {
        let mut source: Vec<i64> = (0..width).collect();
        source.extend(ints(case, "source")?);
        let count = |s: &i64| source.iter().filter(|t| *t == s).count() as f64;
        let shares: Vec<f64> = source.iter().map(|s| 1.0 / count(s)).collect();
        layer.duplicate(&source, &shares, "golden")?
    } else {
        let bias = Some(tensor(case, "bias_new")?);
        let units = NewUnits {
            fan_in: fan_in.shallow_clone(),
            bias,
            fan_out: Some(fan_out.shallow_clone()),
        };
        layer.append(&units, &mut SeedTree::new(0).rng(), "golden")?
    };
    trainer.grow(&plan)?;
    let after = forward()?;
    check(case, "y_after", &after)?;
    let weight = layer.weight.value();
    check(case, "fanin", &weight.narrow(0, width, weight.size()[0] - width))?;
    let next = layer.readers[0].weight.value();
    check(case, "fanout", &next.narrow(1, width, next.size()[1] - width))?;
    if case.has("W_next_rescaled") {
        check(case, "W_next_rescaled", &next.narrow(1, 0, width))?;
    }
    let change = largest(&(after - before));
    if mode == "both_random" {
        case.check_scalar("max_abs_change", change, TOLERANCE);
        case.ensure(change > 1e-6, || "the negative control changed nothing".to_owned());
    } else {
        // Rounding on both sides: the stored change is as meaningless as ours, if both are tiny.
        let stored = case.scalar("max_abs_change")?;
        case.ensure(change.max(stored) <= 1e-12, || format!("{mode}: {change:e}, {stored:e}"));
    }
    Ok(())
}

fn preserve_conv(case: &Case) -> Result<()> {
    let mut store = store();
    let (w1, w2) = (tensor(case, "W1")?, tensor(case, "W2")?);
    let (x, fan_in) = (tensor(case, "X")?, tensor(case, "fanin")?);
    let weight = param(&mut store, "conv", &w1)?;
    let next = param(&mut store, "next", &w2)?;
    let channels = w1.size()[0];
    let eps: f64 = case.param("bn_eps")?;
    let norm = BatchNorm2d::with(&mut store.root().sub("norm"), channels, 0.1, eps)?;
    for (p, name) in [
        (&norm.weight, "gamma"),
        (&norm.bias, "beta"),
        (&norm.running_mean, "running_mean"),
        (&norm.running_var, "running_var"),
    ] {
        p.copy_from(&tensor(case, name)?)?;
    }
    let dense: bool = case.param("dense_after")?;
    let block = if dense { w2.size()[1] / channels } else { 1 };
    let layer = HiddenLayer {
        norms: vec![norm.clone()],
        geometry: Geometry::Conv { stride: [1, 1], padding: [1, 1], next: None },
        readers: vec![Reader { weight: next.clone(), block }],
        ..HiddenLayer::dense("conv", &weight, None, &next, 100)
    };
    let mode = if case.param("training")? { Mode::Train } else { Mode::Eval };
    let forward = || -> Result<Tensor> {
        let _guard = tch::no_grad_guard();
        let z = x.conv2d(&weight.value(), None::<Tensor>, [1, 1], [1, 1], [1, 1], 1);
        let h = relu(&norm.forward(&z, &norm.stats(), mode)?.0);
        Ok(if dense {
            let pooled = h.max_pool2d([2, 2], [2, 2], [0, 0], [1, 1], false);
            pooled.flatten(1, -1).linear(&next.value(), None::<Tensor>)
        } else {
            h.conv2d(&next.value(), None::<Tensor>, [1, 1], [1, 1], [1, 1], 1)
        })
    };
    let before = forward()?;
    check(case, "y_before", &before)?;
    let rows = fan_in.reshape([fan_in.size()[0], -1]);
    let plan = layer.append(&NewUnits::silent(rows), &mut SeedTree::new(0).rng(), "golden")?;
    Trainer::new(store, Sgd::new(SgdConfig::default())?).grow(&plan)?;
    let after = forward()?;
    check(case, "y_after", &after)?;
    check(case, "W2_after", &next.value())?;
    let change = largest(&(after - before));
    case.ensure(change <= 1e-12, || format!("changed the function by {change:e}"));
    Ok(())
}

fn layernorm_not_preserved(case: &Case) -> Result<()> {
    let mut store = store();
    let x = tensor(case, "X")?;
    let weight = param(&mut store, "up", &tensor(case, "W1")?)?;
    let next = param(&mut store, "down", &tensor(case, "W2")?)?;
    let layer = HiddenLayer::dense("up", &weight, None, &next, 100);
    let eps: f64 = case.param("ln_eps")?;
    let forward = || -> Result<Tensor> {
        let _guard = tch::no_grad_guard();
        let mut store = ParamStore::new(Device::Cpu, Kind::Double, SeedTree::new(1));
        let norm = LayerNorm::new(&mut store.root(), layer.width(), eps, false)?;
        let z = norm.forward(&x.linear(&weight.value(), None::<Tensor>))?;
        Ok(relu(&z).linear(&next.value(), None::<Tensor>))
    };
    let before = forward()?;
    check(case, "y_before", &before)?;
    let plan = layer.append(
        &NewUnits::silent(tensor(case, "fanin")?),
        &mut SeedTree::new(0).rng(),
        "golden",
    )?;
    store.resize(&plan)?;
    let after = forward()?;
    check(case, "y_after", &after)?;
    let change = largest(&(after - before));
    case.check_scalar("max_abs_change", change, TOLERANCE);
    case.ensure(change > 1e-3, || {
        "zero fan-out preserved the function under a layer norm".to_owned()
    });
    Ok(())
}

fn adam_growth(case: &Case) -> Result<()> {
    let config = AdamWConfig {
        beta1: case.param("beta1")?,
        beta2: case.param("beta2")?,
        eps: case.param("eps")?,
        weight_decay: 0.0,
        ..AdamWConfig::default()
    };
    let (old, grown) = (tensor(case, "W_old")?, tensor(case, "W_grown")?);
    let (rows, columns) = (old.size()[0], old.size()[1]);
    let t0: i64 = case.param("t0")?;
    for shared in [true, false] {
        let mut store = store();
        let w = param(&mut store, "w", &old)?;
        let mut trainer = Trainer::new(store, AdamW::new(config.clone())?);
        let state = vec![
            ("w.exp_avg".to_owned(), tensor(case, "m_old")?),
            ("w.exp_avg_sq".to_owned(), tensor(case, "v_old")?),
            ("w.step".to_owned(), Tensor::from(t0 as f32)),
        ];
        trainer.optim.load_state_dict(&trainer.store, state)?;
        let append = |n, fill| AxisPlan::Append { n, fill };
        let plan = ResizePlan::new("golden").with(Edit::new(
            w.id(),
            vec![
                append(grown.size()[0] - rows, Fill::Zeros),
                append(grown.size()[1] - columns, Fill::Zeros),
            ],
        ));
        trainer.grow(&plan.with_moments(MomentPolicy::CopyMapped))?;
        w.copy_from(&grown)?;
        if shared {
            neurogenesis::share_steps(&mut trainer, &[w.id()]);
        }
        let moment = |trainer: &Trainer<AdamW>, k: usize| -> Tensor {
            trainer.optim.state(w.id()).unwrap().moments[k].copy()
        };
        check(case, "m_grown", &moment(&trainer, 0))?;
        check(case, "v_grown", &moment(&trainer, 1))?;
        // d/dw sum(g w) = g.
        trainer.backward_step(
            &(w.value() * tensor(case, "grad")?).sum(Kind::Double),
            case.param("lr")?,
        )?;
        check(case, "m_after", &moment(&trainer, 0))?;
        check(case, "v_after", &moment(&trainer, 1))?;
        let name = if shared { "W_after_shared_step" } else { "W_after_own_step" };
        check(case, name, &w.value())?;
    }
    Ok(())
}

/// The trigger under test, with the draws of the case for new rows.
struct Given {
    trigger: Configured,
    draws: Tensor,
    counts: Vec<i64>,
    phi0: f64,
    step: i64,
}

impl Strategy for Given {
    fn needs(&self) -> Needs {
        self.trigger.needs()
    }

    fn start(&mut self, dimensions: &[Option<Dimension>]) {
        self.phi0 = dimensions[0].unwrap().phi();
        self.trigger.start(dimensions);
    }

    fn demand(&mut self, at: &Observation) -> Demand {
        self.counts.push(at.dimension.unwrap().count);
        self.step = self.counts.len() as i64 - 1;
        self.trigger.demand(at)
    }

    fn settle(&mut self, layer: usize, dimension: Dimension) {
        self.trigger.settle(layer, dimension);
    }

    fn grow(
        &mut self,
        k: i64,
        scene: &Scene<'_>,
        _: &mut rand_chacha::ChaCha8Rng,
    ) -> neurogenesis::Result<Option<Growth>> {
        let draws = self.draws.get(self.step).narrow(0, 0, k);
        let rows =
            weight::off_row_space(&scene.layer().weight.value(), &draws, Projection::Existing)?;
        Ok(Some(Growth { append: Some(NewUnits::silent(rows.rows)), ..Growth::default() }))
    }
}

fn trace(case: &Case) -> Result<()> {
    let (x, y) = (tensor(case, "X")?, interop::to_tensor(&case.i64("y")?)?);
    let (store, net) = mlp(case, "_init", case.param("max_width")?)?;
    let trigger: String = case.param("trigger")?;
    let variant: String = case.param("variant")?;
    let config = GrowthConfig {
        trigger: match trigger.as_str() {
            "act" => neurogenesis::config::Trigger::Activation,
            "weight" => neurogenesis::config::Trigger::Weight,
            other => anyhow::bail!("trigger `{other}`"),
        },
        variant: match variant.as_str() {
            "paper" => Variant::Paper,
            "code" => Variant::Released,
            other => anyhow::bail!("variant `{other}`"),
        },
        gamma: case.param("gamma")?,
        eps: case.param("eps")?,
        buffer_len: Some(48),
        max_per_event: 8,
        ..GrowthConfig::default()
    }
    .validate()?;
    let strategy = Given {
        trigger: Configured::new(&config),
        draws: tensor(case, "draws")?,
        counts: Vec::new(),
        phi0: 0.0,
        step: 0,
    };
    let lr: f64 = case.param("lr")?;
    let mut trainer = Trainer::new(store, Sgd::new(SgdConfig::default())?);
    let mut grower = Grower::with_strategy(&net, &config, strategy, &SeedTree::new(0))?;
    for s in 0..3 {
        grower.remember(&x.get(s))?;
    }
    grower.start(&net)?;
    let (mut losses, mut widths) = (Vec::new(), Vec::new());
    let steps = x.size()[0];
    for s in 0..steps {
        let (x, y) = (x.get(s), y.get(s));
        if s >= 3 {
            grower.remember(&x)?;
        }
        let loss = cross_entropy(&net.forward(&x, Pass::Train, &mut NoTap)?.y, &y)?;
        losses.push(loss.double_value(&[]));
        trainer.backward_step(&loss, lr)?;
        let batch = Batch { x: &x, y: &y };
        for event in grower.after_step(&net, &mut trainer, batch, &cross_entropy, 0.5)? {
            let change = event.function_change.unwrap().max_abs;
            case.ensure(change <= 1e-12, || format!("event {event:?}"));
        }
        widths.push(net.layers()[0].width());
    }
    case.check_scalar("phi0", grower.strategy().phi0, TOLERANCE);
    case.check_flat("loss", &losses, Tolerance::F64_TRAINING);
    exact(case, "metric_count", &grower.strategy().counts);
    exact(case, "width_after", &widths);
    for (file, name) in [
        ("W0_final", "hidden0.weight"),
        ("b0_final", "hidden0.bias"),
        ("W1_final", "out.weight"),
        ("b1_final", "out.bias"),
    ] {
        let got = trainer.store.get(name)?.value();
        let got = interop::to_array::<f64, ndarray::IxDyn>(&got)?;
        case.check(file, &got, Tolerance::F64_TRAINING);
    }
    Ok(())
}
