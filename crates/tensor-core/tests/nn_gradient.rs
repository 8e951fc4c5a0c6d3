//! Central differences in float64 for every block: libtorch's backward pass through our forward
//! agrees with how the loss really moves.

use anyhow::Result;
use tensor_core::{
    Device, Init, Kind, Param, ParamStore, Role, SeedTree, Tensor, Validate,
    nn::{
        Activation, AttentionConfig, AttentionForm, BatchNorm2d, CausalSelfAttention, Conv2d,
        Conv2dConfig, Decoder, DecoderConfig, Embedding, Gru, GruConfig, LayerNorm, Linear, Mlp,
        MlpConfig, Mode, NormKind, Positions, RmsNorm, Rope, cross_entropy,
    },
    tap::NoTap,
};

const STEP: f64 = 1e-6;

fn store(seed: u64) -> ParamStore {
    tch::set_num_threads(1); // more are slower at these sizes
    ParamStore::new(Device::Cpu, Kind::Double, SeedTree::new(seed))
}

/// Checks the gradient of `sum(f() * c)` along random directions, one for each parameter and input.
///
/// `inputs` are buffers of `store` that `f` reads; they are checked as the parameters are.
fn check(store: &ParamStore, name: &str, f: impl Fn() -> Result<Tensor>) -> Result<()> {
    let mut noise = store_of_noise();
    let y = f()?;
    let cotangent = noise(&y.size())?;
    let loss = || -> Result<Tensor> { Ok((f()? * &cotangent).sum(Kind::Double)) };
    // A generic point: zeros and ones hide mistakes.
    for param in store.iter().filter(|p| p.role() != Role::Buffer) {
        param.copy_from(&(param.value() + noise(&param.size())? * 0.3))?;
    }
    let leaves: Vec<_> = store.trainable().cloned().collect();
    let values: Vec<Tensor> = leaves.iter().map(Param::value).collect();
    let grads = Tensor::run_backward(&[loss()?], &values, false, false);
    for (leaf, grad) in leaves.iter().zip(grads) {
        assert!(grad.defined(), "{name}: {leaf:?} is not reached");
        let direction = noise(&leaf.size())?;
        let start = leaf.value().copy();
        let at = |t: f64| -> Result<f64> {
            leaf.copy_from(&(&start + &direction * t))?;
            let _guard = tch::no_grad_guard();
            Ok(loss()?.double_value(&[]))
        };
        let measured = (at(STEP)? - at(-STEP)?) / (2.0 * STEP);
        at(0.0)?;
        let computed = (grad * direction).sum(Kind::Double).double_value(&[]);
        // Truncation is STEP^2, rounding 1e-16 * loss / STEP.
        let off = (measured - computed).abs() / computed.abs().max(1.0);
        assert!(off < 1e-7, "{name}: {leaf:?}: {measured} measured, {computed} computed");
    }
    Ok(())
}

fn store_of_noise() -> impl FnMut(&[i64]) -> Result<Tensor> {
    let mut noise = store(99);
    move |size| {
        let name = format!("n{}", noise.len());
        Ok(noise.root().param(&name, size, Role::Buffer, &Init::Normal { std: 1.0 })?.value())
    }
}

/// An input that is checked like a parameter.
fn input(store: &mut ParamStore, size: &[i64]) -> Result<Param> {
    Ok(store.root().param("input", size, Role::Weight, &Init::Normal { std: 1.0 })?)
}

#[test]
fn linear_norms_and_embedding() -> Result<()> {
    let mut s = store(1);
    let x = input(&mut s, &[2, 3, 5])?;
    let layer = Linear::new(&mut s.root(), 5, 4, true)?;
    check(&s, "Linear", || Ok(layer.forward(&x.value())?))?;

    let mut s = store(2);
    let x = input(&mut s, &[2, 3, 5])?;
    let norm = LayerNorm::new(&mut s.root(), 5, 1e-5, true)?;
    check(&s, "LayerNorm", || Ok(norm.forward(&x.value())?))?;

    let mut s = store(3);
    let x = input(&mut s, &[2, 3, 5])?;
    let norm = RmsNorm::new(&mut s.root(), 5, 1e-5)?;
    check(&s, "RmsNorm", || Ok(norm.forward(&x.value())?))?;

    let mut s = store(4);
    let table = Embedding::new(&mut s.root(), 6, 3)?;
    let ids = Tensor::from_slice(&[0_i64, 5, 5, 2]).reshape([2, 2]);
    check(&s, "tied Embedding", || Ok(table.unembed(&table.forward(&ids)?)?))
}

#[test]
fn mlps() -> Result<()> {
    for activation in [Activation::Gelu, Activation::GeluTanh, Activation::Relu, Activation::SwiGlu]
    {
        let mut s = store(1);
        let x = input(&mut s, &[3, 4])?;
        let config =
            MlpConfig { d_model: 4, d_ff: 6, activation, bias: true, ..Default::default() };
        let mlp = Mlp::new(&mut s.root(), &config.validate()?)?;
        check(&s, "Mlp", || Ok(mlp.forward(&x.value())?))?;
    }
    Ok(())
}

#[test]
fn rope_and_attention() -> Result<()> {
    let mut s = store(1);
    let x = input(&mut s, &[2, 3, 2, 4])?;
    let rope = Rope::new(4, 8, 100.0, Device::Cpu, Kind::Double)?;
    check(&s, "Rope", || Ok(rope.forward(&x.value(), 2)?))?;
    for form in [AttentionForm::Fused, AttentionForm::Reference] {
        for window in [None, Some(2)] {
            let mut s = store(2);
            let x = input(&mut s, &[2, 5, 8])?;
            let config = AttentionConfig {
                d_model: 8,
                n_heads: 4,
                n_kv_heads: Some(2),
                bias: true,
                window,
                form,
                ..Default::default()
            };
            let layer = CausalSelfAttention::new(&mut s.root(), &config.validate()?)?;
            check(&s, "attention", || Ok(layer.forward(&x.value())?))?;
        }
    }
    Ok(())
}

#[test]
fn the_reference_form_is_differentiable_twice() -> Result<()> {
    let mut s = store(2);
    let x = input(&mut s, &[1, 4, 8])?;
    let form = AttentionForm::Reference;
    let config = AttentionConfig { d_model: 8, n_heads: 2, form, ..Default::default() };
    let layer = CausalSelfAttention::new(&mut s.root(), &config.validate()?)?;
    let cotangent = store_of_noise()(&[1, 4, 8])?;
    // The gradient itself as a function whose gradient is checked.
    check(&s, "gradient of attention", || {
        let x = x.value();
        // Central differences run without recording; this inner derivative must record.
        let y = tch::with_grad(|| layer.forward(&x).map(|y| (y * &cotangent).sum(Kind::Double)))?;
        Ok(Tensor::run_backward(&[y], &[&x], true, true).remove(0))
    })
}

#[test]
fn convolution_and_batch_norm() -> Result<()> {
    let dilated = Conv2dConfig { stride: [2, 1], dilation: [1, 2], ..Conv2dConfig::same(2, 4, 3) };
    for config in [dilated, Conv2dConfig::depthwise(2, 3)] {
        let mut s = store(1);
        let x = input(&mut s, &[2, 2, 5, 6])?;
        let conv = Conv2d::new(&mut s.root(), &config.validate()?)?;
        check(&s, "Conv2d", || Ok(conv.forward(&x.value())?))?;
    }
    for mode in [Mode::Train, Mode::Eval] {
        let mut s = store(2);
        let x = input(&mut s, &[3, 2, 2, 2])?;
        let norm = BatchNorm2d::new(&mut s.root(), 2)?;
        check(&s, "BatchNorm2d", || Ok(norm.forward(&x.value(), &norm.stats(), mode)?.0))?;
    }
    Ok(())
}

#[test]
fn gru_in_both_forms() -> Result<()> {
    let mut s = store(1);
    let x = input(&mut s, &[2, 3, 4])?;
    let config = GruConfig { d_in: 4, d_hidden: 3, n_layers: 2, ..Default::default() };
    let gru = Gru::new(&mut s.root(), &config.validate()?)?;
    check(&s, "Gru::forward", || Ok(gru.forward(&x.value(), &gru.start(2))?.0))?;
    check(&s, "Gru::step", || {
        let (_, h) = gru.step(&x.value().select(1, 0), &gru.start(2))?;
        Ok(gru.step(&x.value().select(1, 1), &h)?.1)
    })
}

#[test]
fn decoder_loss() -> Result<()> {
    let base = DecoderConfig {
        vocab_size: 7,
        d_model: 8,
        n_layers: 2,
        n_heads: 2,
        max_seq_len: 6,
        init_std: 0.3,
        ..DecoderConfig::default()
    };
    let gpt2 = DecoderConfig {
        norm: NormKind::Layer,
        positions: Positions::Learned,
        activation: Activation::GeluTanh,
        bias: true,
        tie_embeddings: false,
        max_seq_len: 4,
        ..base.clone()
    };
    for config in [DecoderConfig { n_kv_heads: Some(1), window: Some(2), ..base }, gpt2] {
        let mut s = store(1);
        let model = Decoder::new(&mut s.root(), &config.validate()?)?;
        let text = Tensor::from_slice(&[1_i64, 6, 0, 3, 3, 2, 5, 4, 1, 0]).reshape([2, 5]);
        let (ids, targets) = (text.narrow(1, 0, 4), text.narrow(1, 1, 4));
        check(&s, "Decoder", || Ok(model.loss(&ids, &targets, Mode::Train, &mut NoTap)?))?;
        check(&s, "cross_entropy", || {
            let targets = targets.masked_fill(&targets.eq(3), -100);
            Ok(cross_entropy(&model.forward(&ids, &mut NoTap)?, &targets)?)
        })?;
    }
    Ok(())
}
