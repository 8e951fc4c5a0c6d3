//! One operation, several forms: fused, reference and step-wise attention; whole and cut sequences;
//! a batch and its rows; a decoder with and without taps; and the model written out in plain `tch`.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use anyhow::Result;
use tensor_core::{
    Checked, Compute, Device, Init, Kind, Param, ParamStore, Role, SeedTree, Tensor, Validate,
    nn::{
        Activation, AttentionConfig, AttentionForm, CausalSelfAttention, DecodeState, Decoder,
        DecoderConfig, GenerateConfig, KvCache, Mode, NormKind, Positions, Rope, Span, attend,
    },
    tap::{FnTap, Intervene, NoTap, Record, Site, site},
};

const F64: f64 = 1e-12;
const F32: f64 = 1e-5;

/// Standard normal values that depend on `seed` alone.
fn normal(size: &[i64], seed: u64, kind: Kind) -> Tensor {
    tch::set_num_threads(1); // more are slower at these sizes
    let mut store = ParamStore::new(Device::Cpu, kind, SeedTree::new(seed));
    let init = Init::Normal { std: 1.0 };
    store.root().param("x", size, Role::Buffer, &init).expect("a small size").value()
}

fn ids(batch: i64, seq_len: i64, vocab_size: i64, seed: u64) -> Tensor {
    let x = normal(&[batch, seq_len], seed, Kind::Double);
    (x.abs() * 1e6).to_kind(Kind::Int64).remainder(vocab_size)
}

/// Norm of the difference over the norm of `want`.
fn miss(got: &Tensor, want: &Tensor) -> f64 {
    assert_eq!(got.size(), want.size());
    assert_eq!(got.kind(), want.kind());
    let (got, want) = (got.to_kind(Kind::Double), want.to_kind(Kind::Double));
    ((got - &want).norm() / want.norm().clamp_min(1e-300)).double_value(&[])
}

fn attention(config: &AttentionConfig, kind: Kind) -> Result<CausalSelfAttention> {
    let mut store = ParamStore::new(Device::Cpu, kind, SeedTree::new(3));
    Ok(CausalSelfAttention::new(&mut store.root(), &config.validate()?)?)
}

fn small_attention() -> AttentionConfig {
    AttentionConfig {
        d_model: 24,
        n_heads: 4,
        n_kv_heads: Some(2),
        bias: true,
        max_seq_len: 16,
        ..AttentionConfig::default()
    }
}

fn small_decoder() -> DecoderConfig {
    DecoderConfig {
        vocab_size: 13,
        d_model: 24,
        n_layers: 3,
        n_heads: 4,
        n_kv_heads: Some(2),
        max_seq_len: 16,
        init_std: 0.3, // far from zero, so that no part of the network hides behind a small scale
        ..DecoderConfig::default()
    }
}

/// Configs that together touch every option.
fn decoders() -> [DecoderConfig; 4] {
    [
        small_decoder(),
        DecoderConfig { window: Some(4), tie_embeddings: false, ..small_decoder() },
        DecoderConfig {
            norm: NormKind::Layer,
            positions: Positions::Learned,
            activation: Activation::GeluTanh,
            bias: true,
            n_kv_heads: None,
            ..small_decoder()
        },
        DecoderConfig {
            positions: Positions::None,
            activation: Activation::Relu,
            head_dim: Some(10),
            n_kv_heads: Some(1),
            form: AttentionForm::Reference,
            ..small_decoder()
        },
    ]
}

fn decoder(config: &DecoderConfig, kind: Kind) -> Result<(ParamStore, Decoder)> {
    let mut store = ParamStore::new(Device::Cpu, kind, SeedTree::new(7));
    let model = Decoder::new(&mut store.root(), &config.validate()?)?;
    // Biases start at zero, where mistakes about them hide.
    for (i, param) in store.iter().enumerate().filter(|(_, p)| p.role() != Role::Embedding) {
        let noise = normal(&param.size(), 100 + i as u64, kind) * 0.1;
        param.copy_from(&(param.value() + noise))?;
    }
    Ok((store, model))
}

#[test]
fn fused_attention_is_reference_attention() {
    for (kind, tolerance) in [(Kind::Double, F64), (Kind::Float, F32)] {
        for (q_len, kv_len, q_start, kv_start, window) in [
            (1, 1, 0, 0, None),
            (7, 7, 0, 0, None),
            (7, 7, 0, 0, Some(1)),
            (7, 7, 0, 0, Some(3)),
            (7, 7, 0, 0, Some(100)),
            (1, 9, 8, 0, None),
            (1, 3, 8, 6, Some(3)),
            (4, 9, 5, 0, None),
            (4, 6, 5, 3, Some(3)),
            (65, 65, 0, 0, None),
        ] {
            let q = normal(&[2, 4, q_len, 6], 1, kind).set_requires_grad(true);
            let k = normal(&[2, 2, kv_len, 6], 2, kind).set_requires_grad(true);
            let v = normal(&[2, 2, kv_len, 6], 3, kind).set_requires_grad(true);
            let cotangent = normal(&[2, 4, q_len, 6], 4, kind);
            let span = Span { q_start, kv_start, window };
            let both = [AttentionForm::Fused, AttentionForm::Reference].map(|form| {
                let y = attend(&q, &k, &v, span, form).unwrap();
                let loss = (&y * &cotangent).sum(kind);
                let mut out = Tensor::run_backward(&[loss], &[&q, &k, &v], false, false);
                out.push(y.detach());
                out
            });
            for (fused, reference) in both[0].iter().zip(&both[1]) {
                // Alone with its key a query has no gradient: rounding is then that of the values.
                let scale = reference.norm().double_value(&[]).max(1.0);
                let off = (fused - reference).norm().double_value(&[]) / scale;
                assert!(off < tolerance, "{q_len} {kv_len} {window:?} {kind:?}: {off:e}");
            }
        }
    }
}

#[test]
fn grouped_heads_are_repeated_heads() -> Result<()> {
    let q = normal(&[2, 6, 5, 4], 1, Kind::Double);
    let (k, v) = (normal(&[2, 3, 5, 4], 2, Kind::Double), normal(&[2, 3, 5, 4], 3, Kind::Double));
    // Head h of six reads key head h / 2.
    let pick = Tensor::from_slice(&[0_i64, 0, 1, 1, 2, 2]);
    let (k6, v6) = (k.index_select(1, &pick), v.index_select(1, &pick));
    for form in [AttentionForm::Fused, AttentionForm::Reference] {
        let grouped = attend(&q, &k, &v, Span::default(), form)?;
        let repeated = attend(&q, &k6, &v6, Span::default(), form)?;
        assert!(miss(&grouped, &repeated) < F64);
    }
    Ok(())
}

#[test]
fn a_window_hides_what_lies_before_it() -> Result<()> {
    let [q, k, v] = [1, 2, 3].map(|seed| normal(&[1, 1, 8, 4], seed, Kind::Double));
    let span = Span { window: Some(3), ..Span::default() };
    for form in [AttentionForm::Fused, AttentionForm::Reference] {
        let y = attend(&q, &k, &v, span, form)?;
        for t in 0..8_i64 {
            let from = (t - 2).max(0);
            let cut = |x: &Tensor| x.narrow(2, from, t + 1 - from);
            let alone = Span { q_start: t, kv_start: from, window: None };
            let want = attend(&q.narrow(2, t, 1), &cut(&k), &cut(&v), alone, form)?;
            assert!(miss(&y.narrow(2, t, 1), &want) < F64);
        }
    }
    Ok(())
}

#[test]
fn attend_refuses_what_does_not_fit() {
    let x = |size: &[i64]| Tensor::ones(size, (Kind::Float, Device::Cpu));
    let span = |q_start, kv_start, window| Span { q_start, kv_start, window };
    let good = x(&[1, 4, 3, 2]);
    for (q, k, v, span) in [
        (&good, &x(&[1, 3, 3, 2]), &x(&[1, 3, 3, 2]), Span::default()),
        (&good, &x(&[1, 0, 3, 2]), &x(&[1, 0, 3, 2]), Span::default()),
        (&good, &x(&[1, 4, 0, 2]), &x(&[1, 4, 0, 2]), Span::default()),
        (&good, &x(&[2, 4, 3, 2]), &good, Span::default()),
        (&good, &good, &x(&[1, 4, 2, 2]), Span::default()),
        (&good, &good, &good.to_kind(Kind::Double), Span::default()),
        (&good, &good, &good, span(0, 1, None)),
        (&good, &good, &good, span(-1, -1, None)),
        (&good, &good, &good, span(i64::MAX, 0, None)),
        (&good, &good, &good, span(9, 0, Some(2))),
        (&good, &good, &good, span(0, 0, Some(0))),
        (&good, &good, &good, span(0, 0, Some(i64::MIN))),
    ] {
        for form in [AttentionForm::Fused, AttentionForm::Reference] {
            assert!(attend(q, k, v, span, form).is_err(), "{:?} {span:?}", k.size());
        }
    }
}

#[test]
fn rotated_products_depend_on_distance_alone() -> Result<()> {
    let rope = Rope::new(8, 64, 500.0, Device::Cpu, Kind::Double)?;
    let [q, k] = [1, 2].map(|seed| normal(&[1, 1, 1, 8], seed, Kind::Double));
    let product = |p, s| -> Result<f64> {
        Ok((rope.forward(&q, p)? * rope.forward(&k, s)?).sum(Kind::Double).double_value(&[]))
    };
    for distance in [0, 1, 5, 40] {
        let first = product(distance, 0)?;
        for shift in [1, 7, 23] {
            assert!((product(distance + shift, shift)? - first).abs() < 1e-12);
        }
    }
    assert!((product(3, 0)? - product(0, 3)?).abs() > 1e-3, "direction matters");
    Ok(())
}

#[test]
fn attention_step_by_step_is_attention_at_once() -> Result<()> {
    for window in [None, Some(1), Some(3), Some(16)] {
        for form in [AttentionForm::Fused, AttentionForm::Reference] {
            let config = AttentionConfig { window, form, ..small_attention() };
            let layer = attention(&config, Kind::Double)?;
            for seq_len in [1, 2, 5, 16] {
                let x = normal(&[2, seq_len, 24], 5, Kind::Double);
                let whole = layer.forward(&x)?;
                for chunk in [1, 2, 3, seq_len] {
                    let mut cache = KvCache::default();
                    let mut parts = Vec::new();
                    for start in (0..seq_len).step_by(chunk as usize) {
                        let n = chunk.min(seq_len - start);
                        let (y, next) = layer.step(&x.narrow(1, start, n), &cache)?;
                        parts.push(y);
                        cache = next;
                        assert_eq!(cache.seen(), start + n);
                        assert_eq!(
                            cache.kept(),
                            window.map_or(start + n, |w| (w - 1).min(start + n))
                        );
                    }
                    let off = miss(&Tensor::cat(&parts, 1), &whole);
                    assert!(off < F64, "{window:?} {form:?} {seq_len} by {chunk}: {off:e}");
                }
            }
        }
    }
    Ok(())
}

#[test]
fn a_cache_can_be_branched_from_and_has_an_end() -> Result<()> {
    let layer = attention(&small_attention(), Kind::Double)?;
    let x = normal(&[1, 16, 24], 5, Kind::Double);
    let (_, cache) = layer.step(&x.narrow(1, 0, 10), &KvCache::default())?;
    let (first, _) = layer.step(&x.narrow(1, 10, 3), &cache)?;
    let _ = layer.step(&x.narrow(1, 2, 6), &cache)?;
    let (again, _) = layer.step(&x.narrow(1, 10, 3), &cache)?;
    assert_eq!(first, again);
    let too_long = layer.step(&x.narrow(1, 0, 7), &cache).unwrap_err().to_string();
    assert!(too_long.contains("1..=6 tokens after 10"), "{too_long}");
    assert!(layer.step(&x.narrow(1, 10, 1).repeat([2, 1, 1]), &cache).is_err());
    assert!(layer.forward(&x.repeat([1, 2, 1])).is_err());
    assert!(layer.forward(&x.narrow(1, 0, 0)).is_err());
    Ok(())
}

#[test]
fn decoder_step_by_step_is_decoder_at_once() -> Result<()> {
    for config in decoders() {
        let (_store, model) = decoder(&config, Kind::Double)?;
        let ids = ids(2, 11, 13, 1);
        let whole = model.forward(&ids, &mut NoTap)?;
        for chunks in [vec![11], vec![1; 11], vec![4, 1, 6]] {
            let (mut state, mut start, mut parts) = (DecodeState::default(), 0, Vec::new());
            for n in chunks {
                let (y, next) = model.step(&ids.narrow(1, start, n), &state, &mut NoTap)?;
                (state, start) = (next, start + n);
                parts.push(y);
            }
            assert_eq!(state.seen(), 11);
            let off = miss(&Tensor::cat(&parts, 1), &whole);
            assert!(off < F64, "{config:?}: {off:e}");
        }
    }
    Ok(())
}

#[test]
fn later_tokens_never_change_earlier_outputs() -> Result<()> {
    for kind in [Kind::Float, Kind::Double] {
        for config in decoders() {
            let (_store, model) = decoder(&config, kind)?;
            let before = ids(2, 12, 13, 1);
            let y = model.forward(&before, &mut NoTap)?;
            for t in [1, 5, 11] {
                let changed = before.copy();
                changed
                    .narrow(1, t, 12 - t)
                    .copy_(&((before.narrow(1, t, 12 - t) + 5).remainder(13)));
                let z = model.forward(&changed, &mut NoTap)?;
                assert_eq!(z.narrow(1, 0, t), y.narrow(1, 0, t), "bits before token {t}");
                assert_ne!(z.narrow(1, t, 1), y.narrow(1, t, 1), "token {t} is read");
            }
        }
    }
    Ok(())
}

#[test]
fn a_batch_of_one_is_a_row_of_the_batch() -> Result<()> {
    for config in decoders() {
        let (_store, model) = decoder(&config, Kind::Double)?;
        let ids = ids(3, 9, 13, 2);
        let all = model.forward(&ids, &mut NoTap)?;
        for row in 0..3 {
            let one = model.forward(&ids.narrow(0, row, 1), &mut NoTap)?;
            assert!(miss(&one, &all.narrow(0, row, 1)) < F64);
        }
    }
    Ok(())
}

/// The default form (RMS norm, rotary positions, grouped heads, SwiGLU, tied table) in plain `tch`.
fn by_hand(store: &ParamStore, config: &Checked<DecoderConfig>, ids: &Tensor) -> Result<Tensor> {
    let w = |name: &str| store.get(name).map(|p| p.value());
    let head_dim = config.d_model / config.n_heads;
    let (seq_len, half) = (ids.size()[1], head_dim / 2);
    let rms = |x: &Tensor, w: Tensor| {
        let mean_square = x.square().mean_dim(&[-1_i64][..], true, Kind::Double);
        x / (mean_square + config.norm_eps).sqrt() * w
    };
    let p = Tensor::arange(seq_len, (Kind::Double, Device::Cpu)).unsqueeze(1);
    let i = Tensor::arange(half, (Kind::Double, Device::Cpu));
    let angle = p * (i * (-2.0 / head_dim as f64 * 10_000_f64.ln())).exp(); // [t, d/2]
    let turn = |x: Tensor| {
        // [b, h, t, d] as complex numbers x1 + i x2 times e^(i angle)
        let z = Tensor::complex(&x.narrow(3, 0, half), &x.narrow(3, half, half));
        let z = z * Tensor::polar(&angle.ones_like(), &angle);
        Tensor::cat(&[z.real(), z.imag()], 3)
    };
    let table = w("embed.weight")?;
    let mut x = table.index_select(0, &ids.reshape([-1])).reshape([-1, seq_len, config.d_model]);
    for layer in 0..config.n_layers {
        let w = |name: &str| w(&format!("blocks.{layer}.{name}.weight"));
        let h = rms(&x, w("attn_norm")?);
        let split = |w: Tensor| {
            h.matmul(&w.tr())
                .reshape([-1, seq_len, w.size()[0] / head_dim, head_dim])
                .transpose(1, 2)
        };
        let (q, k, v) = (turn(split(w("attn.q")?)), turn(split(w("attn.k")?)), split(w("attn.v")?));
        let mut heads = Vec::new();
        for head in 0..config.n_heads {
            let kv = head * config.attention().kv_heads() / config.n_heads;
            let (q, k, v) = (q.select(1, head), k.select(1, kv), v.select(1, kv));
            let scores = q.matmul(&k.transpose(1, 2)) / (head_dim as f64).sqrt();
            let hidden = Tensor::ones([seq_len, seq_len], (Kind::Bool, Device::Cpu)).triu(1);
            heads.push(scores.masked_fill(&hidden, f64::NEG_INFINITY).softmax(-1, None).matmul(&v));
        }
        x = &x + Tensor::cat(&heads, 2).matmul(&w("attn.out_proj")?.tr());
        let h = rms(&x, w("mlp_norm")?);
        let gate = h.matmul(&w("mlp.gate")?.tr());
        let hidden = &gate * gate.sigmoid() * h.matmul(&w("mlp.up")?.tr());
        x = &x + hidden.matmul(&w("mlp.down")?.tr());
    }
    Ok(rms(&x, w("final_norm.weight")?).matmul(&table.tr()))
}

#[test]
fn the_decoder_is_the_formula_written_out() -> Result<()> {
    let config = small_decoder();
    let (store, model) = decoder(&config, Kind::Double)?;
    let text = ids(2, 12, 13, 3);
    let (ids, targets) = (text.narrow(1, 0, 11), text.narrow(1, 1, 11));
    let want = by_hand(&store, &config.validate()?, &ids)?;
    let got = model.forward(&ids, &mut NoTap)?;
    assert!(miss(&got, &want) < F64, "{:e}", miss(&got, &want));

    let loss = model.loss(&ids, &targets, Mode::Train, &mut NoTap)?;
    let want = want.log_softmax(-1, None).gather(2, &targets.unsqueeze(2), false).mean(None).neg();
    assert!(miss(&loss, &want) < F64);
    let params: Vec<Tensor> = store.trainable().map(Param::value).collect();
    let got = Tensor::run_backward(&[loss], &params, false, false);
    let want = Tensor::run_backward(&[want], &params, false, false);
    for ((got, want), param) in got.iter().zip(&want).zip(store.trainable()) {
        assert!(miss(got, want) < 1e-10, "{param:?}: {:e}", miss(got, want));
    }
    Ok(())
}

#[test]
fn reading_leaves_the_output_bit_equal() -> Result<()> {
    for config in decoders() {
        for compute in [Compute::F32, Compute::Bf16] {
            let config = DecoderConfig { compute, ..config.clone() };
            let (_store, model) = decoder(&config, Kind::Float)?;
            let ids = ids(2, 6, 13, 1);
            let plain = model.forward(&ids, &mut NoTap)?;
            let mut record = Record::all();
            assert_eq!(model.forward(&ids, &mut record)?, plain);
            assert_eq!(record.iter().count(), 3 * 7 + 1);
            for (site, visits) in record.iter() {
                assert_eq!(visits.len(), 1, "{site}");
                assert_eq!(visits[0].kind(), Kind::Float, "{site}");
                assert!(!visits[0].requires_grad());
            }
            // The recorded stream is the sum of what was recorded beside it.
            let at = |layer, name| record.get(layer, name).expect("recorded");
            for layer in 0..3 {
                let mid = at(layer, site::RESID_PRE) + at(layer, site::ATTN_OUT);
                assert_eq!(&mid, at(layer, site::RESID_MID));
                let post = mid + at(layer, site::MLP_OUT);
                assert_eq!(&post, at(layer, site::RESID_POST));
            }
            assert_eq!(at(0, site::RESID_POST), at(1, site::RESID_PRE));
            assert_eq!(model.logits(at(3, site::FINAL_NORM))?, plain);
        }
    }
    Ok(())
}

#[test]
fn an_intervention_changes_only_what_lies_downstream() -> Result<()> {
    let (_store, model) = decoder(&small_decoder(), Kind::Double)?;
    let ids = ids(1, 8, 13, 1);
    let mut plain = Record::all();
    let y = model.forward(&ids, &mut plain)?;
    // Only token 5 is steered, at layer 1.
    let delta = normal(&[1, 8, 24], 9, Kind::Double)
        * Tensor::from_slice(&[0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0]).reshape([1, 8, 1]);
    let steer = Intervene::new().add(1, site::RESID_MID, &delta);
    let mut taps = (steer, Record::all());
    let z = model.forward(&ids, &mut taps)?;
    assert_eq!(z.narrow(1, 0, 5), y.narrow(1, 0, 5), "earlier tokens");
    assert_ne!(z.narrow(1, 5, 1), y.narrow(1, 5, 1));
    assert_ne!(z.narrow(1, 7, 1), y.narrow(1, 7, 1), "later tokens read it through attention");
    let order = [
        site::RESID_PRE,
        site::ATTN_HEADS,
        site::ATTN_OUT,
        site::RESID_MID,
        site::MLP_HIDDEN,
        site::MLP_OUT,
        site::RESID_POST,
    ];
    for (at, before) in plain.iter() {
        let place = order.iter().position(|name| *name == at.name).unwrap_or(0);
        let upstream = (at.layer, place) < (1, 3);
        let after = taps.1.get(at.layer, at.name).expect("the same sites");
        assert_eq!(&before[0] == after, upstream, "{at}");
    }
    assert!(
        miss(
            taps.1.get(1, site::RESID_MID).unwrap(),
            &(plain.get(1, site::RESID_MID).unwrap() + &delta)
        ) < F64
    );

    // Replacing the stream before the last block by another run's is that run from there on.
    let other = (&ids + 3).remainder(13);
    let mut donor = Record::of(&[site::RESID_POST]);
    let want = model.forward(&other, &mut donor)?;
    let stream = donor.get(1, site::RESID_POST).unwrap();
    let mut patch = Intervene::new().replace(1, site::RESID_POST, stream);
    assert_eq!(model.forward(&ids, &mut patch)?, want);
    Ok(())
}

#[test]
fn gradients_flow_into_an_intervention() -> Result<()> {
    let (_store, model) = decoder(&small_decoder(), Kind::Double)?;
    let direction = Tensor::zeros([24], (Kind::Double, Device::Cpu)).set_requires_grad(true);
    let mut steer = Intervene::new().add(2, site::MLP_OUT, &direction);
    let loss = model.forward(&ids(2, 4, 13, 1), &mut steer)?.square().sum(Kind::Double);
    loss.backward();
    assert!(direction.grad().norm().double_value(&[]) > 1e-3);
    Ok(())
}

#[test]
fn a_tap_that_returns_the_wrong_thing_is_an_error() -> Result<()> {
    let (_store, model) = decoder(&small_decoder(), Kind::Float)?;
    let ids = ids(1, 4, 13, 1);
    for name in [site::RESID_PRE, site::ATTN_HEADS, site::MLP_HIDDEN, site::RESID_POST] {
        let mut cut =
            FnTap(|at: Site<'_>, x: Tensor| if at.name == name { x.narrow(1, 0, 2) } else { x });
        let message = model.forward(&ids, &mut cut).unwrap_err().to_string();
        assert!(message.contains(&format!("tap at 0.{name}")), "{message}");
        let mut widen = FnTap(|_: Site<'_>, x: Tensor| x.to_kind(Kind::Double));
        assert!(model.forward(&ids, &mut widen).is_err());
    }
    Ok(())
}

#[test]
fn generation_continues_what_the_scores_say() -> Result<()> {
    let (_store, model) = decoder(&small_decoder(), Kind::Double)?;
    let prompt = ids(2, 3, 13, 4);
    let greedy = GenerateConfig { max_new_tokens: 6, temperature: 0.0, top_k: None }.validate()?;
    let text = model.generate(&prompt, &greedy, &SeedTree::new(0))?;
    assert_eq!(text.size(), [2, 9]);
    assert_eq!(text.narrow(1, 0, 3), prompt);
    let scores = model.forward(&text.narrow(1, 0, 8), &mut NoTap)?;
    assert_eq!(scores.argmax(-1, false).narrow(1, 2, 6), text.narrow(1, 3, 6));

    let draw =
        GenerateConfig { max_new_tokens: 13, temperature: 1.5, top_k: Some(5) }.validate()?;
    let seed = SeedTree::new(1);
    let text = model.generate(&prompt, &draw, &seed)?;
    assert_eq!(model.generate(&prompt, &draw, &seed)?, text, "same seed, same text");
    assert_ne!(model.generate(&prompt, &draw, &SeedTree::new(2))?, text);
    assert_eq!(model.generate(&prompt.narrow(0, 0, 1), &draw, &seed)?, text.narrow(0, 0, 1));
    // Every token drawn is among the five most likely.
    let scores = model.forward(&text.narrow(1, 0, 15), &mut NoTap)?.narrow(1, 2, 13);
    let drawn = scores.gather(2, &text.narrow(1, 3, 13).unsqueeze(2), false);
    let above = scores.gt_tensor(&drawn).sum_dim_intlist(&[-1_i64][..], false, Kind::Int64);
    assert!(above.max().int64_value(&[]) < 5);

    let too_long = GenerateConfig { max_new_tokens: 14, ..GenerateConfig::default() }.validate()?;
    assert!(model.generate(&prompt, &too_long, &seed).is_err());
    let too_many =
        GenerateConfig { max_new_tokens: 1, top_k: Some(14), ..GenerateConfig::default() };
    assert!(model.generate(&prompt, &too_many.validate()?, &seed).is_err());
    Ok(())
}

#[test]
fn a_network_of_nans_does_not_speak() -> Result<()> {
    let (store, model) = decoder(&small_decoder(), Kind::Float)?;
    let norm = store.get("final_norm.weight")?;
    norm.copy_from(&Tensor::full([24], f64::NAN, (Kind::Float, Device::Cpu)))?;
    let config = GenerateConfig { max_new_tokens: 2, ..GenerateConfig::default() }.validate()?;
    let message =
        model.generate(&ids(1, 2, 13, 1), &config, &SeedTree::new(0)).unwrap_err().to_string();
    assert!(message.contains("`logits` is not finite"), "{message}");
    Ok(())
}

#[test]
fn bad_ids_are_errors() -> Result<()> {
    let (_store, model) = decoder(&small_decoder(), Kind::Float)?;
    let good = ids(2, 16, 13, 1);
    assert!(model.forward(&good, &mut NoTap).is_ok());
    for bad in [
        good.repeat([1, 2]),
        good.narrow(1, 0, 0),
        good.narrow(0, 0, 0),
        good.select(0, 0),
        good.to_kind(Kind::Float),
        &good + 1,
        &good - 13,
    ] {
        assert!(model.forward(&bad, &mut NoTap).is_err(), "{bad:?}");
        assert!(model.loss(&bad, &good, Mode::Eval, &mut NoTap).is_err());
        assert!(model.loss(&good, &bad, Mode::Eval, &mut NoTap).is_err());
        assert!(model.step(&bad, &DecodeState::default(), &mut NoTap).is_err());
    }
    Ok(())
}
