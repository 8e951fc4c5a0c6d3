//! What must hold for any sizes and seeds.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod case;

use case::{Inputs, Sizes, error, full, same};
use mesa_layer::{
    CgConfig, Form, LayerConfig, LayerState, MesaConfig, MesaInputs, MesaLayer, MesaNet,
    MesaNetConfig, MesaOutput, Mixer, Precondition, Solver, Start, Stop, hawk::Hawk, mesa, model,
};
use proptest::prelude::*;
use tch::{Device, Kind, Tensor};
use tensor_core::{ParamStore, SeedTree, Validate, nn::GenerateConfig};

fn exact(form: Form) -> MesaConfig {
    MesaConfig { form, solver: Solver::Cholesky, ..MesaConfig::default() }
}

fn run(inputs: &MesaInputs<'_>, config: &MesaConfig) -> MesaOutput {
    mesa(inputs, &config.validate().unwrap()).unwrap()
}

fn sizes() -> impl Strategy<Value = Sizes> {
    (1_i64..3, 1_i64..40, 1_i64..3, 1_i64..20, 1_i64..20).prop_map(
        |(batch, seq_len, n_heads, head_dim, value_dim)| Sizes {
            batch,
            seq_len,
            n_heads,
            head_dim,
            value_dim,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_form_gives_one_answer(sizes in sizes(), seed in 0_u64..1000, chunk_len in 1_i64..70) {
        let inputs = Inputs::draw(sizes, Kind::Float, seed);
        let want = run(&inputs.map(|x| x.to_kind(Kind::Double)).get(), &exact(Form::Reference));
        for (form, precondition) in [
            (Form::Chunk, Precondition::None),
            (Form::Kernel, Precondition::None),
            (Form::Kernel, Precondition::MidChunk),
        ] {
            let solver = Solver::Cg(CgConfig {
                max_steps: 100,
                start: Start::Diag,
                stop: Stop::RelativeToQuery { eps: 1e-7 },
                precondition,
                refine: false,
            });
            let config = MesaConfig { form, chunk_len, solver, ..MesaConfig::default() };
            let got = run(&inputs.get(), &config);
            prop_assert!(error(&got.o, &want.o) < 3e-5, "{form:?}, {precondition:?}");
            prop_assert!(error(&got.state.h_kk, &want.state.h_kk) < 1e-6);
        }
    }

    #[test]
    fn the_order_of_the_past_does_not_matter_without_forgetting(sizes in sizes(), seed in 0_u64..1000) {
        let mut inputs = Inputs::draw(sizes, Kind::Double, seed);
        inputs.g = inputs.g.zeros_like();
        let last = sizes.seq_len - 1;
        let turned = inputs.tokens(|x| Tensor::cat(&[x.narrow(1, 0, last).flip([1]), x.narrow(1, last, 1)], 1));
        let (a, b) = (run(&inputs.get(), &exact(Form::Chunk)), run(&turned.get(), &exact(Form::Chunk)));
        prop_assert!(error(&a.o.select(1, last), &b.o.select(1, last)) < 1e-10);
    }

    #[test]
    fn values_scale_and_rotations_cancel(sizes in sizes(), seed in 0_u64..1000) {
        let mut inputs = Inputs::draw(sizes, Kind::Double, seed);
        inputs.initial = None;
        inputs.ridge = full(&[sizes.n_heads, sizes.head_dim], 0.7, Kind::Double);
        let want = run(&inputs.get(), &exact(Form::Chunk));
        let scaled = run(&MesaInputs { v: &(&inputs.v * 3.0), ..inputs.get() }, &exact(Form::Chunk));
        prop_assert!(error(&scaled.o, &(&want.o * 3.0)) < 1e-12);
        let noise = Inputs::draw(Sizes { batch: 1, seq_len: sizes.head_dim, n_heads: 1, ..sizes }, Kind::Double, seed + 1);
        let square = noise.q.reshape([sizes.head_dim, sizes.head_dim]);
        let (rotation, _) = Tensor::linalg_qr(&square, "complete");
        let (q, k) = (inputs.q.matmul(&rotation), inputs.k.matmul(&rotation));
        let turned = run(&MesaInputs { q: &q, k: &k, ..inputs.get() }, &exact(Form::Chunk));
        prop_assert!(error(&turned.o, &want.o) < 1e-10);
    }
}

#[test]
fn a_strong_ridge_is_linear_attention() {
    use mesa_layer::comparator::{Comparator, GatedLinearAttention, MixInputs};
    let sizes = Sizes { batch: 1, seq_len: 30, n_heads: 2, head_dim: 8, value_dim: 5 };
    let inputs = Inputs::draw(sizes, Kind::Double, 3);
    let ridge = full(&[2, 8], 1e9, Kind::Double);
    let q = &inputs.q * 1e9;
    let got = run(&MesaInputs { q: &q, ridge: &ridge, ..inputs.get() }, &exact(Form::Chunk));
    let past = [inputs.initial.as_ref().unwrap().g_kv.shallow_clone()];
    let (want, _) = GatedLinearAttention
        .mix(&MixInputs {
            q: &inputs.q,
            k: &inputs.k,
            v: &inputs.v,
            g: &inputs.g,
            beta: &inputs.beta,
            past: Some(&past),
        })
        .unwrap();
    assert!(error(&got.o, &want) < 1e-7);
    // No step from the start x = q / ridge is the same thing at any ridge that is a number.
    let none = Solver::Cg(CgConfig { max_steps: 0, ..CgConfig::default() });
    let config = MesaConfig { solver: none, ..MesaConfig::default() };
    let diag = run(&inputs.get(), &config);
    assert_eq!(diag.stats.steps.max().int64_value(&[]), 0);
}

fn layer_config(mixer: Mixer) -> LayerConfig {
    let mesa = MesaConfig {
        solver: Solver::Cg(CgConfig {
            max_steps: 60,
            stop: Stop::RelativeToQuery { eps: 1e-13 },
            ..CgConfig::default()
        }),
        ..MesaConfig::default()
    };
    LayerConfig {
        d_model: 24,
        n_heads: 2,
        head_dim: 8,
        window: 5,
        mixer,
        mesa,
        ..LayerConfig::default()
    }
}

#[test]
fn every_mixer_continues_where_it_stopped_and_looks_at_no_future() {
    let x = Tensor::from_slice(
        &(0..2 * 40 * 24).map(|i| f64::from(i * i % 97) / 48.0 - 1.0).collect::<Vec<_>>(),
    )
    .reshape([2, 40, 24]);
    for mixer in Mixer::ALL {
        let mut store = ParamStore::new(Device::Cpu, Kind::Double, SeedTree::new(1));
        let config = layer_config(mixer).validate().unwrap();
        let (hawk, heads) = if mixer == Mixer::Hawk {
            (Some(Hawk::new(&mut store.root(), &config, 1.0).unwrap()), None)
        } else {
            (None, Some(MesaLayer::new(&mut store.root(), &config, 1.0).unwrap()))
        };
        let forward = |x: &Tensor, past: Option<&LayerState>| match (&hawk, &heads) {
            (Some(layer), _) => layer.forward(x, past).unwrap(),
            (_, Some(layer)) => layer.forward(x, past).unwrap(),
            _ => unreachable!("one of the two was made"),
        };
        let want = forward(&x, None);
        assert!(want.y.isfinite().all().int64_value(&[]) != 0);
        let (mut parts, mut state, mut at) = (Vec::new(), None, 0);
        for len in [7, 1, 1, 20, 1, 10] {
            let mixed = forward(&x.narrow(1, at, len), state.as_ref());
            parts.push(mixed.y);
            state = Some(mixed.state);
            at += len;
        }
        let off = error(&Tensor::cat(&parts, 1), &want.y);
        assert!(off < 1e-9, "{mixer:?}: {off:e}");
        let changed = x.copy();
        let _ = changed.narrow(1, 25, 15).g_mul_scalar_(-2.0);
        let after = forward(&changed, None);
        let head = |y: &Tensor| y.narrow(1, 0, 25);
        assert!(error(&head(&after.y), &head(&want.y)) < 1e-12, "{mixer:?} sees the future");
        assert!(error(&after.y, &want.y) > 1e-3);
    }
}

#[test]
fn packed_sequences_do_not_mix() {
    let mut store = ParamStore::new(Device::Cpu, Kind::Double, SeedTree::new(2));
    let layer =
        MesaLayer::new(&mut store.root(), &layer_config(Mixer::Mesa).validate().unwrap(), 1.0)
            .unwrap();
    let x = Tensor::randn([1, 20, 24], (Kind::Double, Device::Cpu));
    let (y, states) = layer.forward_packed(&x, &[0, 3, 20]).unwrap();
    let alone = layer.forward(&x.narrow(1, 3, 17), None).unwrap();
    assert!(same(&y.narrow(1, 3, 17), &alone.y));
    assert_eq!((states[0].seen(), states[1].seen()), (3, 17));
    assert!(layer.forward_packed(&x, &[0, 3]).is_err());
}

#[test]
fn a_model_learns_generates_and_survives_a_file() {
    for (mixer, alternate_hawk) in [(Mixer::Mesa, true), (Mixer::GatedDeltanet, false)] {
        let layer = LayerConfig { mesa: MesaConfig::default(), ..layer_config(mixer) };
        let config = MesaNetConfig {
            vocab_size: 11,
            n_layers: 2,
            alternate_hawk,
            layer,
            ..MesaNetConfig::default()
        };
        let config = config.validate().unwrap();
        let mut store = ParamStore::new(Device::Cpu, Kind::Float, SeedTree::new(3));
        let net = MesaNet::new(&mut store.root(), &config).unwrap();
        // A sequence that repeats: after one period everything is known.
        let ids =
            Tensor::from_slice(&(0..48).map(|i| [3_i64, 1, 4, 1, 5, 9][i % 6]).collect::<Vec<_>>())
                .reshape([1, 48]);
        let (input, target) = (ids.narrow(1, 0, 47), ids.narrow(1, 1, 47));
        let loss = || net.loss(&input, &target).unwrap();
        let before = loss().double_value(&[]);
        let mut optim = tensor_core::AdamW::new(tensor_core::AdamWConfig::default()).unwrap();
        for _ in 0..15 {
            store.zero_grad();
            loss().backward();
            tensor_core::Optimizer::step(&mut optim, &store, 1e-2).unwrap();
        }
        let after = loss().double_value(&[]);
        assert!(after < 0.5 * before, "{mixer:?}: {before} to {after}");

        let greedy =
            GenerateConfig { max_new_tokens: 6, temperature: 0.0, top_k: None }.validate().unwrap();
        let out = net.generate(&ids.narrow(1, 0, 12), &greedy, &SeedTree::new(0)).unwrap();
        // The same by full passes.
        let mut slow = ids.narrow(1, 0, 12);
        for _ in 0..6 {
            let next = net.forward(&slow, None).unwrap().logits.select(1, -1).argmax(-1, true);
            slow = Tensor::cat(&[slow, next], 1);
        }
        assert_eq!(out, slow);
        let drawn = GenerateConfig { max_new_tokens: 5, temperature: 1.0, top_k: Some(3) }
            .validate()
            .unwrap();
        let draw = |seed| net.generate(&ids.narrow(1, 0, 2), &drawn, &SeedTree::new(seed)).unwrap();
        assert_eq!(draw(1), draw(1));

        let dir = std::env::temp_dir().join(format!("mesa-layer-{}-{mixer:?}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("weights.safetensors");
        model::save_weights(&store, &path).unwrap();
        let mut other = ParamStore::new(Device::Cpu, Kind::Float, SeedTree::new(4));
        let copy = MesaNet::new(&mut other.root(), &config).unwrap();
        model::load_weights(&other, &path).unwrap();
        assert_eq!(
            copy.forward(&input, None).unwrap().logits,
            net.forward(&input, None).unwrap().logits
        );
        std::fs::write(&path, b"junk").unwrap();
        assert!(model::load_weights(&other, &path).is_err());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}

/// Hawk's blocks know no gates of either sign; the mesa blocks between them keep theirs.
#[test]
fn a_hybrid_takes_the_gates_of_its_mesa_blocks() {
    let layer = LayerConfig {
        negative_gates: true,
        gamma_bound: None,
        ridge_floor: 49.0,
        ridge_init: 50.0,
        ..layer_config(Mixer::Mesa)
    };
    let config =
        MesaNetConfig { vocab_size: 5, n_layers: 3, layer, ..MesaNetConfig::default() }.hawk_mesa();
    let mut store = ParamStore::new(Device::Cpu, Kind::Float, SeedTree::new(3));
    let net = MesaNet::new(&mut store.root(), &config.validate().unwrap()).unwrap();
    let ids = Tensor::from_slice(&[1_i64, 0, 4, 2]).reshape([1, 4]);
    let logits = net.forward(&ids, None).unwrap().logits;
    assert_eq!(logits.size(), [1, 4, 5]);
    assert_eq!(logits.isfinite().all(), Tensor::from(true));
}

#[test]
fn sizes_of_the_paper() {
    for (config, millions) in [
        (MesaNetConfig::paper_140m(), 146.0),
        (MesaNetConfig::paper_440m(), 433.0),
        (MesaNetConfig::paper_940m(), 936.0),
    ] {
        config.validate().unwrap();
        let (d, n) = (config.layer.d_model as f64, config.n_layers as f64);
        let count = config.vocab_size as f64 * d
            + n * (4.0 * d * (config.layer.n_heads * config.layer.head_dim) as f64
                + 3.0 * d * config.d_ff() as f64);
        assert!((count / 1e6 - millions).abs() < 1.0, "{count}");
    }
}

#[test]
fn loss_by_position_by_hand() {
    let logits = Tensor::from_slice(&[0.0, 3.0_f64.ln(), 0.0, 0.0]).reshape([1, 2, 2]);
    let targets = Tensor::from_slice(&[1_i64, 0]).reshape([1, 2]);
    let loss = model::loss_by_position(&logits, &targets).unwrap();
    assert!((loss.double_value(&[0]) + 0.75_f64.ln()).abs() < 1e-14);
    assert!((loss.double_value(&[1]) - 2.0_f64.ln()).abs() < 1e-14);
}

#[test]
fn configs_read_from_text_and_refuse_nonsense() {
    let config: MesaNetConfig =
        toml::from_str("n_layers = 2\n[layer]\nmixer = \"gated-deltanet\"\nd_model = 64").unwrap();
    assert_eq!(config.layer.mixer, Mixer::GatedDeltanet);
    assert!(toml::from_str::<MesaNetConfig>("n_layer = 2").is_err());
    for (field, config) in [
        ("ridge_init", LayerConfig { ridge_init: 0.1, ..LayerConfig::default() }),
        ("head_dim", LayerConfig { head_dim: 0, ..LayerConfig::default() }),
        ("head_dim", LayerConfig { mixer: Mixer::Softmax, head_dim: 7, ..LayerConfig::default() }),
        ("gamma_bound", LayerConfig { gamma_bound: Some(1.5), ..LayerConfig::default() }),
        (
            "negative_gates",
            LayerConfig { mixer: Mixer::Gla, negative_gates: true, ..LayerConfig::default() },
        ),
    ] {
        let text = config.validate().unwrap_err().to_string();
        assert!(text.contains(field), "{text}");
    }
}
