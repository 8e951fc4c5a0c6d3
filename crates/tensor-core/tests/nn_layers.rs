//! Norms, convolutions and recurrent layers against libtorch's own and against each other's forms.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use anyhow::Result;
use tensor_core::{
    Compute, Device, Init, Kind, Param, ParamStore, Role, SeedTree, Tensor, Validate,
    nn::{
        Activation, BatchNorm2d, Conv2d, Conv2dConfig, Gru, GruConfig, LayerNorm, Layout, Mlp,
        MlpConfig, Mode, RmsNorm, RunningStats,
    },
};

/// Standard normal values that depend on `seed` alone.
fn normal(size: &[i64], seed: u64, kind: Kind) -> Tensor {
    tch::set_num_threads(1); // more are slower at these sizes
    let mut store = ParamStore::new(Device::Cpu, kind, SeedTree::new(seed));
    let init = Init::Normal { std: 1.0 };
    store.root().param("x", size, Role::Buffer, &init).expect("a small size").value()
}

fn store(kind: Kind) -> ParamStore {
    ParamStore::new(Device::Cpu, kind, SeedTree::new(3))
}

fn miss(got: &Tensor, want: &Tensor) -> f64 {
    assert_eq!(got.size(), want.size());
    let (got, want) = (got.to_kind(Kind::Double), want.to_kind(Kind::Double));
    ((got - &want).norm() / want.norm().clamp_min(1e-300)).double_value(&[])
}

fn within(kind: Kind) -> f64 {
    if kind == Kind::Double { 1e-12 } else { 1e-5 }
}

#[test]
fn norms_are_the_formulas() -> Result<()> {
    for kind in [Kind::Double, Kind::Float] {
        let mut store = store(kind);
        let layer = LayerNorm::new(&mut store.root().sub("layer"), 7, 1e-3, true)?;
        let rms = RmsNorm::new(&mut store.root().sub("rms"), 7, 1e-3)?;
        for (i, param) in store.iter().enumerate() {
            param.copy_from(&normal(&[7], i as u64, kind))?;
        }
        let x = normal(&[2, 3, 7], 9, kind) * 2.0 + 0.5;
        let mean = x.mean_dim(&[-1_i64][..], true, kind);
        let var = (&x - &mean).square().mean_dim(&[-1_i64][..], true, kind);
        let (w, b) = (layer.weight.value(), layer.bias.as_ref().unwrap().value());
        let want = (&x - mean) / (var + 1e-3).sqrt() * w + b;
        assert!(miss(&layer.forward(&x)?, &want) < within(kind));
        let square = x.square().mean_dim(&[-1_i64][..], true, kind);
        let want = &x / (square + 1e-3).sqrt() * rms.weight.value();
        assert!(miss(&rms.forward(&x)?, &want) < within(kind));
        // Half-precision input is normalised in the kind of the parameters.
        let half = x.to_kind(Kind::BFloat16);
        assert_eq!(rms.forward(&half)?.kind(), kind);
        assert_eq!(layer.forward(&half)?, layer.forward(&half.to_kind(kind))?);
    }
    Ok(())
}

#[test]
fn channels_last_is_the_other_order() -> Result<()> {
    for kind in [Kind::Double, Kind::Float] {
        for config in [
            Conv2dConfig::same(4, 6, 3),
            Conv2dConfig { bias: false, ..Conv2dConfig::depthwise(4, 3) },
            Conv2dConfig {
                in_channels: 4,
                out_channels: 8,
                kernel: [3, 2],
                stride: [2, 1],
                padding: [1, 0],
                dilation: [1, 2],
                groups: 2,
                ..Conv2dConfig::default()
            },
        ] {
            let x = normal(&[2, 4, 7, 6], 1, kind).set_requires_grad(true);
            let run = |layout| -> Result<Vec<Tensor>> {
                let mut store = store(kind);
                let config = Conv2dConfig { layout, ..config.clone() };
                let conv = Conv2d::new(&mut store.root(), &config.validate()?)?;
                let y = conv.forward(&x)?;
                let loss = (&y * normal(&y.size(), 2, kind)).sum(kind);
                let weight = conv.weight.value();
                let mut all = Tensor::run_backward(&[loss], &[&x, &weight], false, false);
                all.push(y.detach());
                // libtorch's own call beside it.
                let bias = conv.bias.as_ref().map(Param::value);
                let Conv2dConfig { stride, padding, dilation, groups, .. } = config;
                all.push(x.conv2d(&weight, bias, stride, padding, dilation, groups).detach());
                Ok(all)
            };
            let [auto, last, input] =
                [run(Layout::Auto)?, run(Layout::ChannelsLast)?, run(Layout::Input)?];
            for ((auto, last), input) in auto.iter().zip(&last).zip(&input) {
                assert_eq!(auto, last, "on the CPU channels last is the default");
                assert!(miss(last, input) < within(kind));
            }
            assert!(miss(&auto[2], &auto[3]) < within(kind));
        }
    }
    Ok(())
}

#[test]
fn the_order_in_memory_is_kept_through_a_stack() -> Result<()> {
    let mut store = store(Kind::Float);
    let conv =
        Conv2d::new(&mut store.root().sub("conv"), &Conv2dConfig::same(3, 8, 3).validate()?)?;
    let norm = BatchNorm2d::new(&mut store.root().sub("norm"), 8)?;
    let y = conv.forward(&normal(&[2, 3, 6, 5], 1, Kind::Float))?;
    let (z, _) = norm.forward(&y, &norm.stats(), Mode::Train)?;
    for t in [&y, &z.relu()] {
        assert_eq!(t.stride(), [8 * 30, 1, 8 * 5, 8], "[b, h, w, c] in memory");
    }
    Ok(())
}

#[test]
fn a_depthwise_layer_filters_each_channel_alone() -> Result<()> {
    let mut store = store(Kind::Double);
    let conv = Conv2d::new(&mut store.root(), &Conv2dConfig::depthwise(3, 3).validate()?)?;
    let x = normal(&[2, 3, 5, 5], 1, Kind::Double);
    let y = conv.forward(&x)?;
    let (weight, bias) = (conv.weight.value(), conv.bias.as_ref().unwrap().value());
    for c in 0..3 {
        let one = |t: &Tensor, dim| t.narrow(dim, c, 1);
        let want =
            one(&x, 1).conv2d(&one(&weight, 0), Some(one(&bias, 0)), [1, 1], [1, 1], [1, 1], 1);
        assert!(miss(&one(&y, 1), &want) < 1e-12);
    }
    Ok(())
}

#[test]
fn batch_norm_moves_its_statistics_as_pytorch_does() -> Result<()> {
    let mut store = store(Kind::Double);
    let norm = BatchNorm2d::with(&mut store.root(), 3, 0.25, 1e-3)?;
    norm.weight.copy_from(&normal(&[3], 1, Kind::Double))?;
    norm.bias.copy_from(&normal(&[3], 2, Kind::Double))?;
    let x = normal(&[4, 3, 2, 5], 3, Kind::Double) * 2.0 + 1.0;
    let before = RunningStats {
        mean: normal(&[3], 4, Kind::Double),
        var: normal(&[3], 5, Kind::Double).square() + 0.5,
    };
    let (kept_mean, kept_var) = (before.mean.copy(), before.var.copy());
    let wide = |t: &Tensor| t.reshape([1, 3, 1, 1]);
    let affine = |x: Tensor| x * wide(&norm.weight.value()) + wide(&norm.bias.value());

    let (y, after) = norm.forward(&x, &before, Mode::Train)?;
    let dims = &[0_i64, 2, 3][..];
    let mean = x.mean_dim(dims, false, Kind::Double);
    let var = x.var_dim(dims, false, false);
    let want = affine((&x - wide(&mean)) / (wide(&var) + 1e-3).sqrt());
    assert!(miss(&y, &want) < 1e-12);
    let unbiased = var * (40.0 / 39.0);
    assert!(miss(&after.mean, &(&kept_mean * 0.75 + mean * 0.25)) < 1e-12);
    assert!(miss(&after.var, &(&kept_var * 0.75 + unbiased * 0.25)) < 1e-12);
    assert_eq!(before.mean, kept_mean, "what went in is as it was");
    assert_eq!(before.var, kept_var);

    let (y, same) = norm.forward(&x, &after, Mode::Eval)?;
    let want = affine((&x - wide(&after.mean)) / (wide(&after.var) + 1e-3).sqrt());
    assert!(miss(&y, &want) < 1e-12);
    assert_eq!(same.mean, after.mean);

    norm.commit(&after)?;
    assert_eq!(norm.stats().var, after.var);
    let buffers: Vec<String> =
        store.iter().filter(|p| p.role() == Role::Buffer).map(Param::name).collect();
    assert_eq!(buffers, ["running_mean", "running_var"]);
    assert_eq!(store.trainable().count(), 2);
    let short = RunningStats { mean: normal(&[2], 1, Kind::Double), var: after.var };
    assert!(norm.commit(&short).is_err());
    assert!(norm.forward(&x, &short, Mode::Eval).is_err());
    Ok(())
}

fn gru(n_layers: i64, compute: Compute, kind: Kind) -> Result<(ParamStore, Gru)> {
    let mut store = store(kind);
    let config = GruConfig { d_in: 3, d_hidden: 5, n_layers, compute };
    let gru = Gru::new(&mut store.root(), &config.validate()?)?;
    Ok((store, gru))
}

#[test]
fn a_gru_step_by_step_is_libtorchs_gru() -> Result<()> {
    for kind in [Kind::Double, Kind::Float] {
        for n_layers in [1, 2, 3] {
            let (store, gru) = gru(n_layers, Compute::F32, kind)?;
            let x = normal(&[2, 7, 3], 1, kind).set_requires_grad(true);
            let h = normal(&[n_layers, 2, 5], 2, kind).set_requires_grad(true);
            let params: Vec<Tensor> = store.iter().map(Param::value).collect();
            let (y, last) = x.gru(&h, &params, true, n_layers, 0.0, true, false, true);
            let (ours, ours_last) = gru.forward(&x, &h)?;
            assert_eq!((&ours, &ours_last), (&y, &last));

            let mut state = h.shallow_clone();
            let mut outs = Vec::new();
            for input in x.unbind(1) {
                let (out, next) = gru.step(&input, &state)?;
                outs.push(out);
                state = next;
            }
            let steps = Tensor::stack(&outs, 1);
            assert!(miss(&steps, &y) < within(kind));
            assert!(miss(&state, &last) < within(kind));

            let mut wrt = params;
            wrt.extend([x.shallow_clone(), h.shallow_clone()]);
            let cotangent = normal(&[2, 7, 5], 4, kind);
            let grads =
                |y: &Tensor| Tensor::run_backward(&[(y * &cotangent).sum(kind)], &wrt, true, false);
            for (got, want) in grads(&steps).iter().zip(grads(&y)) {
                assert!(miss(got, &want) < 10.0 * within(kind));
            }
        }
    }
    Ok(())
}

#[test]
fn a_sequence_cut_in_two_is_the_sequence() -> Result<()> {
    let (_store, gru) = gru(2, Compute::F32, Kind::Double)?;
    let x = normal(&[2, 9, 3], 1, Kind::Double);
    let (whole, last) = gru.forward(&x, &gru.start(2))?;
    let (a, h) = gru.forward(&x.narrow(1, 0, 4), &gru.start(2))?;
    let (b, h) = gru.forward(&x.narrow(1, 4, 5), &h)?;
    assert!(miss(&Tensor::cat(&[a, b], 1), &whole) < 1e-12);
    assert!(miss(&h, &last) < 1e-12);
    let (row, _) = gru.forward(&x.narrow(0, 1, 1), &gru.start(1))?;
    assert!(miss(&row, &whole.narrow(0, 1, 1)) < 1e-12);
    Ok(())
}

/// bfloat16 keeps 8 bits: a product of rounded operands is off by about 2^-8 = 0.004.
const BF16: f64 = 0.02;

#[test]
fn bfloat16_operands_give_nearly_the_same() -> Result<()> {
    let build = |compute| -> Result<Vec<(Tensor, Vec<Tensor>)>> {
        let mut out = Vec::new();
        let mut finish = |y: Tensor, store: &ParamStore| {
            assert_eq!(y.kind(), Kind::Float);
            (&y * normal(&y.size(), 5, Kind::Float)).sum(Kind::Float).backward();
            let grads = store.trainable().map(|p| p.grad().unwrap()).collect();
            out.push((y.detach(), grads));
        };
        let (s, gru) = gru(2, compute, Kind::Float)?;
        finish(gru.forward(&normal(&[2, 4, 3], 1, Kind::Float), &gru.start(2))?.0, &s);
        let mut s = store(Kind::Float);
        let config = Conv2dConfig { compute, ..Conv2dConfig::same(4, 6, 3) };
        let conv = Conv2d::new(&mut s.root(), &config.validate()?)?;
        finish(conv.forward(&normal(&[2, 4, 6, 6], 1, Kind::Float))?, &s);
        for activation in [Activation::Gelu, Activation::SwiGlu] {
            let mut s = store(Kind::Float);
            let config = MlpConfig { d_model: 16, d_ff: 32, activation, bias: true, compute };
            let mlp = Mlp::new(&mut s.root(), &config.validate()?)?;
            finish(mlp.forward(&normal(&[3, 16], 1, Kind::Float))?, &s);
        }
        Ok(out)
    };
    for ((y, grads), (want, want_grads)) in build(Compute::Bf16)?.iter().zip(&build(Compute::F32)?)
    {
        assert_ne!(y, want, "the products did run in another precision");
        assert!(miss(y, want) < BF16, "{:e}", miss(y, want));
        for (grad, want) in grads.iter().zip(want_grads) {
            assert_eq!(grad.kind(), Kind::Float, "master weights get float32 gradients");
            assert!(miss(grad, want) < 2.0 * BF16, "{:e}", miss(grad, want));
        }
    }
    Ok(())
}
