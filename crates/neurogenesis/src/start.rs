//! Initialisations applied to a layer in its network: what each entry of [`Start`] does.

use crate::config::{GrowthConfig, Start};
use crate::init::{
    firefly, glorot, gradmax, mean_fan_out_norm, mean_row_norm, nest, normal, pre, rescaled,
    select::{self, Order},
    tiny, weight,
};
use crate::layer::{Geometry, HiddenLayer, NewUnits};
use crate::metric::by_fan_in;
use crate::network::{relu, site};
use crate::strategy::{Copies, Growth, Scene};
use crate::subspace::{epsilon, row_norms, to_vec};
use crate::{Error, Result};
use rand::{Rng, RngExt};
use rand_chacha::ChaCha8Rng;
use tensor_core::error::TorchContext;
use tensor_core::tap::{Site, Tap};
use tensor_core::{Kind, Tensor};

/// New units of `layer` by `config.init`; `None` when it finds none worth adding.
pub(crate) fn propose(
    config: &GrowthConfig,
    k: i64,
    scene: &Scene<'_>,
    rng: &mut ChaCha8Rng,
) -> Result<Option<Growth>> {
    let layer = scene.layer();
    let conv = layer.geometry != Geometry::Dense;
    if conv && !config.init.convolutional() {
        let why = format!("{:?} is defined for dense layers only", config.init);
        return Err(Error::Layer { layer: layer.name.clone(), why });
    }
    let draws = Draws::of(layer)?;
    let silent = |rows: Tensor, remark: &str| {
        Ok(Some(Growth {
            append: Some(NewUnits::silent(rows)),
            remark: remark.to_owned(),
            ..Growth::default()
        }))
    };
    match config.init {
        Start::Random => silent(draws.rows(k, rng), ""),
        Start::Weight => {
            let w = layer.weight.value();
            let got = weight::off_row_space(&w, &draws.plain(k, rng), config.projection)?;
            let full = got.fallback && config.projection != weight::Projection::Off;
            silent(got.rows, if full { "weights span all inputs: plain random rows" } else { "" })
        }
        Start::Select => silent(selected(config, k, scene, &draws, rng)?, ""),
        Start::Optimised | Start::Pre if conv => {
            silent(selected(config, k, scene, &draws, rng)?, "by selection")
        }
        Start::Optimised => {
            let (x, h) = (scene.fan_in()?, scene.units()?);
            let rows = draws.rows(config.tries / 10 + k, rng);
            let steps = (config.tries / 10).max(1) as u64;
            let rows = select::ascend(x, h, &rows, draws.target, steps, 1e-3)?;
            silent(best(config, k, scene, &rows, config.order)?, "")
        }
        Start::Pre => prepared(config, k, scene, &draws, rng),
        Start::RandomOut => random_out(config, k, scene, rng, "").map(Some),
        Start::Gradmax => gradmax_units(config, k, scene, rng),
        Start::Nest => {
            let g = scene.gradients()?;
            let a = gradmax::bridge(&g.reader, &g.fan_in)?;
            let (outputs, inputs) = (a.size()[0], a.size()[1]);
            let signs: Vec<f64> = (0..k * outputs * inputs)
                .map(|_| if rng.random_bool(0.5) { 1.0 } else { -1.0 })
                .collect();
            let signs =
                Tensor::from_slice(&signs).reshape([k, outputs, inputs]).to_device(a.device());
            let norms = [draws.target, fan_out_norm(config, layer)?];
            let got = nest::dense(&a, &signs, config.nest_beta, config.nest_sign, norms)?;
            Ok(Some(append(got.fan_in, Some(got.fan_out), String::new())))
        }
        Start::Tiny => tiny_units(config, k, scene),
        Start::Firefly => firefly_units(config, k, scene, &draws, rng),
        Start::Splitting => split_units(config, k, scene),
        Start::Net2wider => {
            let width = layer.width();
            let seed = tensor_core::SeedTree::new(rng.next_u64());
            let source = tensor_core::grow::widening_sources(width, width + k, &seed)?;
            let shares = tensor_core::grow::unequal_shares(&source, &seed);
            let copies = Some(Copies { source, shares, shift: None });
            Ok(Some(Growth { copies, ..Growth::default() }))
        }
        Start::OpposedPairs => {
            let pairs = k / 2;
            if pairs == 0 {
                return Ok(None);
            }
            let rows = draws.rows(pairs, rng);
            let out = random_fan_out(config, layer, pairs, rng)?;
            let fan_out = Tensor::cat(&[&out, &-&out], 1);
            Ok(Some(append(Tensor::cat(&[&rows, &rows], 0), Some(fan_out), String::new())))
        }
    }
}

fn append(fan_in: Tensor, fan_out: Option<Tensor>, remark: String) -> Growth {
    Growth { copies: None, append: Some(NewUnits { fan_in, bias: None, fan_out }), remark }
}

/// Random fan-in of a layer at the mean norm of its rows.
struct Draws {
    target: f64,
    fan_in: i64,
    fan_out: i64,
    device: tensor_core::Device,
}

impl Draws {
    fn of(layer: &HiddenLayer) -> Result<Self> {
        let value = layer.weight.value();
        let area: i64 = value.size().iter().skip(2).product();
        let target = mean_row_norm(&value)?;
        if !target.is_finite() {
            let what = format!("weight of layer `{}`", layer.name);
            return Err(Error::NonFinite { op: "growth", what });
        }
        let (fan_in, fan_out) = (layer.fan_in(), layer.width() * area);
        Ok(Self { target, fan_in, fan_out, device: value.device() })
    }

    fn plain(&self, k: i64, rng: &mut impl Rng) -> Tensor {
        glorot(k, self.fan_in, self.fan_out, rng).to_device(self.device)
    }

    fn rows(&self, k: i64, rng: &mut impl Rng) -> Tensor {
        rescaled(&self.plain(k, rng), self.target)
    }
}

/// Post-activations of candidate rows on the layer's input, as the layer itself would give with zero
/// bias; a normalised layer standardises candidates by their own batch.
fn candidate_units(layer: &HiddenLayer, x: &Tensor, rows: &Tensor) -> Result<Tensor> {
    const OP: &str = "growth: candidates";
    let _guard = tch::no_grad_guard();
    match layer.geometry {
        Geometry::Dense => {
            let x = x.to_kind(Kind::Double);
            Ok(relu(&x.f_linear(rows, None::<Tensor>).op(OP)?))
        }
        Geometry::Conv { stride, padding, .. } => {
            let mut size = layer.weight.size();
            size[0] = rows.size()[0];
            let kernels = rows.to_kind(x.kind()).reshape(size.as_slice());
            let mut z = x.f_conv2d(&kernels, None::<Tensor>, stride, padding, [1, 1], 1).op(OP)?;
            if !layer.norms.is_empty() {
                let axes = [0_i64, 2, 3];
                let mean = z.mean_dim(axes.as_slice(), true, z.kind());
                let var = z.var_dim(axes.as_slice(), false, true);
                z = (z - mean) / (var + 1e-5).sqrt();
            }
            Ok(relu(&z))
        }
    }
}

fn selected(
    config: &GrowthConfig,
    k: i64,
    scene: &Scene<'_>,
    draws: &Draws,
    rng: &mut impl Rng,
) -> Result<Tensor> {
    let conv = scene.layer().geometry != Geometry::Dense;
    let tries = if conv { config.conv_tries } else { config.tries };
    // The reversed order is a slip of the dense routine alone.
    let order = if conv { Order::Described } else { config.order };
    best(config, k, scene, &draws.rows(tries + k, rng), order)
}

/// The `k` candidates that a score picks.
fn best(
    config: &GrowthConfig,
    k: i64,
    scene: &Scene<'_>,
    rows: &Tensor,
    order: Order,
) -> Result<Tensor> {
    let a = candidate_units(scene.layer(), scene.fan_in()?, rows)?;
    let scores = select::scores(scene.units()?, &a, config.eps, config.score)?;
    let chosen = select::choose(&scores.ranking(config.score), k as usize, order);
    let chosen = Tensor::from_slice(&chosen).to_device(rows.device());
    Ok(rows.f_index_select(0, &chosen).op("growth: selection")?)
}

fn prepared(
    config: &GrowthConfig,
    k: i64,
    scene: &Scene<'_>,
    draws: &Draws,
    rng: &mut impl Rng,
) -> Result<Option<Growth>> {
    let layer = scene.layer();
    let x = scene.fan_in()?;
    let room = (layer.max_width - layer.width()).max(k);
    let candidates = (config.tries + k).min(room);
    let z = normal(candidates, x.size()[0], rng).to_device(x.device());
    let bias = layer.bias.as_ref().map(tensor_core::Param::value);
    let got = pre::orthogonal_pre_activations(x, &layer.weight.value(), bias.as_ref(), &z, None)?;
    let reachable: Vec<i64> =
        (0_i64..).zip(&got.reachable).filter(|(_, r)| **r).map(|(j, _)| j).collect();
    let mut rows = Vec::new();
    if !reachable.is_empty() {
        let index = Tensor::from_slice(&reachable).to_device(x.device());
        let usable = got.rows.f_index_select(0, &index).op("growth: NORTH-Pre")?;
        rows.push(best(config, k, scene, &usable, Order::Described)?);
    }
    let missing = k - rows.first().map_or(0, |r| r.size()[0]);
    let mut remark = String::new();
    if missing > 0 {
        remark = format!("inputs leave no direction for {missing} of {k} rows: random instead");
        rows.push(draws.rows(missing, rng));
    }
    Ok(Some(append(Tensor::cat(&rows, 0), None, remark)))
}

fn fan_out_norm(config: &GrowthConfig, layer: &HiddenLayer) -> Result<f64> {
    let reader = &layer.readers[0];
    Ok(config.fan_out_scale * mean_fan_out_norm(&reader.weight.value(), reader.block)?)
}

/// Random columns of the first reader for `k` units, `[outputs, k * block, ..]`.
fn random_fan_out(
    config: &GrowthConfig,
    layer: &HiddenLayer,
    k: i64,
    rng: &mut impl Rng,
) -> Result<Tensor> {
    let reader = &layer.readers[0];
    let size = reader.weight.size();
    let per_unit = size[0] * reader.block * size.iter().skip(2).product::<i64>();
    let rows = rescaled(&glorot(k, per_unit, layer.width(), rng), fan_out_norm(config, layer)?);
    let device = reader.weight.value().device();
    Ok(as_columns(&rows.to_device(device), &size, reader.block))
}

/// Fan-out vectors as rows `[k, outputs * block * kernel]` to columns `[outputs, k * block, ..]`.
fn as_columns(rows: &Tensor, size: &[i64], block: i64) -> Tensor {
    let k = rows.size()[0];
    let columns = rows.reshape([k, size[0], -1]).transpose(0, 1).contiguous();
    let mut to = size.to_vec();
    to[1] = k * block;
    columns.reshape(to.as_slice())
}

fn random_out(
    config: &GrowthConfig,
    k: i64,
    scene: &Scene<'_>,
    rng: &mut impl Rng,
    remark: &str,
) -> Result<Growth> {
    let layer = scene.layer();
    let device = layer.weight.value().device();
    let zeros = Tensor::zeros([k, layer.fan_in()], (Kind::Double, device));
    Ok(append(zeros, Some(random_fan_out(config, layer, k, rng)?), remark.to_owned()))
}

/// Singular values and grow matrix of the bridge over a layer; `None` where none exists: a pool, a
/// flattening or a stride stands in between.
pub(crate) fn bridge(
    layer: &HiddenLayer,
    fan_in: &Tensor,
    reader: &Tensor,
) -> Result<Option<Tensor>> {
    match layer.geometry {
        Geometry::Dense => gradmax::bridge(reader, fan_in).map(Some),
        Geometry::Conv { stride: [1, 1], padding, next: Some((stride, after)) } => {
            let (k1, k2) = (kernel(&layer.weight.size()), kernel(&layer.readers[0].weight.size()));
            let size = [k1[0] + k2[0] - 1, k1[1] + k2[1] - 1];
            let border = [padding[0] + after[0], padding[1] + after[1]];
            let g = gradmax::conv_bridge(reader, fan_in, size, stride, border)?;
            gradmax::grow_matrix(&g, k1, k2).map(Some)
        }
        Geometry::Conv { .. } => Ok(None),
    }
}

fn kernel(size: &[i64]) -> [i64; 2] {
    [size.get(2).copied().unwrap_or(1), size.get(3).copied().unwrap_or(1)]
}

fn gradmax_units(
    config: &GrowthConfig,
    k: i64,
    scene: &Scene<'_>,
    rng: &mut impl Rng,
) -> Result<Option<Growth>> {
    let layer = scene.layer();
    let g = scene.gradients()?;
    let Some(matrix) = bridge(layer, &g.fan_in, &g.reader)? else {
        return random_out(config, k, scene, rng, "no bridge over pooling or strides: random")
            .map(Some);
    };
    let norm = fan_out_norm(config, layer)?;
    let got = if layer.geometry == Geometry::Dense {
        gradmax::dense(&matrix, k, norm)?
    } else {
        gradmax::conv(&matrix, k, kernel(&layer.readers[0].weight.size()), norm)?
    };
    let found = got.fan_out.size()[1];
    if found == 0 {
        return Ok(None); // no gradient reaches over the layer
    }
    let zeros = Tensor::zeros([found, layer.fan_in()], (Kind::Double, got.fan_out.device()));
    let remark =
        if found < k { format!("the bridge has {found} directions") } else { String::new() };
    Ok(Some(append(zeros, Some(got.fan_out), remark)))
}

/// Adds the output of units that are not in the network yet at the reader of their layer.
struct Insert<'a> {
    layer: usize,
    fan_in: &'a Tensor,
    fan_out: &'a Tensor,
    amplitude: f64,
    read: Option<Tensor>,
}

impl Tap for Insert<'_> {
    fn visit(&mut self, at: Site<'_>, x: Tensor) -> Tensor {
        if at.layer != self.layer {
            return x;
        }
        match at.name {
            site::FAN_IN => {
                self.read = Some(x.shallow_clone());
                x
            }
            site::READER => {
                let Some(input) = self.read.take() else { return x };
                let cast = |t: &Tensor| (t * self.amplitude).to_kind(x.kind());
                let h = relu(&input.matmul(&cast(self.fan_in).transpose(0, 1)));
                &x + h.matmul(&cast(self.fan_out).transpose(0, 1))
            }
            _ => x,
        }
    }
}

fn tiny_units(config: &GrowthConfig, k: i64, scene: &Scene<'_>) -> Result<Option<Growth>> {
    let g = scene.gradients()?;
    let got = tiny::dense(&g.fan_in, &g.units, &g.reader, k, config.tiny)?;
    if got.fan_in.size()[0] == 0 {
        return Ok(None);
    }
    let loss_at = |amplitude: f64| {
        let (layer, fan_in, fan_out) = (scene.index(), &got.fan_in, &got.fan_out);
        scene.loss_with(&mut Insert { layer, fan_in, fan_out, amplitude, read: None })
    };
    let mut best = (loss_at(0.0)?, 0.0);
    for halvings in -2..=12 {
        let amplitude = 0.5_f64.powf(f64::from(halvings) / 2.0);
        let loss = loss_at(amplitude)?;
        if loss < best.0 {
            best = (loss, amplitude);
        }
    }
    if best.1 == 0.0 {
        return Ok(None); // no step along them lowers the loss
    }
    let remark = format!("amplitude {:.3e}, first-order gain {:.3e}", best.1, got.first_order_gain);
    Ok(Some(append(got.fan_in * best.1, Some(got.fan_out * best.1), remark)))
}

/// Firefly (section 4.5): `tries + k` candidates, half of them splits; the `k` with the largest
/// fan-in gradient stay. The gradients are those that the candidates would have if they were all in
/// the network, to first order in `eps`, in closed form: nothing has to be inserted and taken out.
fn firefly_units(
    config: &GrowthConfig,
    k: i64,
    scene: &Scene<'_>,
    draws: &Draws,
    rng: &mut ChaCha8Rng,
) -> Result<Option<Growth>> {
    const OP: &str = "growth: Firefly";
    let _guard = tch::no_grad_guard();
    let layer = scene.layer();
    let g = scene.gradients()?;
    let [x, dz] = [&g.fan_in, &g.reader].map(|t| t.to_kind(Kind::Double));
    let w = by_fan_in(&layer.weight.value())?;
    let next = layer.readers[0].weight.value().to_kind(Kind::Double); // [outputs, units]
    let width = layer.width();
    let total = config.tries + k;
    let n_splits = (total / 2).min(width);
    let mut order: Vec<i64> = (0..width).collect();
    rand::seq::SliceRandom::shuffle(order.as_mut_slice(), rng);
    let sources: Vec<i64> = order.into_iter().take(n_splits as usize).collect();
    let index = Tensor::from_slice(&sources).to_device(w.device());
    let noise = firefly::split_noise(&w, config.firefly_eps, rng)?;
    let split_rows = (&w + &noise).f_index_select(0, &index).op(OP)?;
    let split_out = next.f_index_select(1, &index).op(OP)? * 0.5; // [outputs, n_splits]
    let n_new = total - n_splits;
    let new_rows = draws.rows(n_new, rng);
    let scale = config.firefly_eps * mean_fan_out_norm(&next, 1)?;
    let new_out = normal(next.size()[0], n_new, rng).to_device(w.device()) * scale;
    let bias = match &layer.bias {
        Some(b) => b.value().to_kind(Kind::Double).f_index_select(0, &index).op(OP)?,
        None => Tensor::zeros([n_splits], (Kind::Double, w.device())),
    };
    let bias = Tensor::cat(&[bias, Tensor::zeros([n_new], (Kind::Double, w.device()))], 0);
    let rows = Tensor::cat(&[split_rows, new_rows.shallow_clone()], 0);
    let out = Tensor::cat(&[split_out, new_out.shallow_clone()], 1);
    let active = (x.matmul(&rows.transpose(0, 1)) + bias).ge(0.0).to_kind(Kind::Double);
    let d_rows = (dz.matmul(&out) * active).transpose(0, 1).matmul(&x); // [total, inputs]
    let ranking = to_vec(OP, &row_norms(&d_rows))?;
    let (mut splits, mut fresh) = (Vec::new(), Vec::new());
    for j in select::choose(&ranking, k as usize, Order::Described) {
        if j < n_splits { splits.push(sources[j as usize]) } else { fresh.push(j - n_splits) }
    }
    splits.sort_unstable();
    let copies = (!splits.is_empty()).then(|| {
        let index = Tensor::from_slice(&splits).to_device(w.device());
        halves(width, &splits, &noise, &index)
    });
    let append = (!fresh.is_empty()).then(|| {
        let index = Tensor::from_slice(&fresh).to_device(w.device());
        NewUnits {
            fan_in: new_rows.index_select(0, &index),
            bias: None,
            fan_out: Some(new_out.index_select(1, &index)),
        }
    });
    let remark = format!("{} splits, {} new", splits.len(), fresh.len());
    Ok(Some(Growth { copies, append, remark }))
}

/// Splits units `chosen` (each once) into two halves, moved by plus and minus their row of `noise`
/// `[width, inputs]`.
fn halves(width: i64, chosen: &[i64], noise: &Tensor, index: &Tensor) -> Copies {
    let source: Vec<i64> = (0..width).chain(chosen.iter().copied()).collect();
    let mut shares = vec![1.0; source.len()];
    for (j, m) in chosen.iter().enumerate() {
        shares[*m as usize] = 0.5;
        shares[width as usize + j] = 0.5;
    }
    let moved = noise.index_select(0, index);
    let old = noise.zeros_like().index_copy(0, index, &-&moved);
    Copies { source, shares, shift: Some(Tensor::cat(&[old, moved], 0)) }
}

fn split_units(config: &GrowthConfig, k: i64, scene: &Scene<'_>) -> Result<Option<Growth>> {
    const OP: &str = "growth: splitting";
    let _guard = tch::no_grad_guard();
    let layer = scene.layer();
    let g = scene.gradients()?;
    let weight = layer.weight.value();
    let bias = layer.bias.as_ref().map(tensor_core::Param::value);
    let z = g.fan_in.f_linear(&weight, bias.as_ref()).op(OP)?;
    let (lowest, directions) = firefly::splitting_directions(&g.fan_in, &z, &g.d_units, 3.0)?;
    let values = to_vec(OP, &lowest)?;
    if values.iter().any(|v| !v.is_finite()) {
        return Err(Error::NonFinite { op: OP, what: "splitting matrix".to_owned() });
    }
    let noise_floor = epsilon(weight.kind());
    let mut chosen: Vec<i64> =
        (0..layer.width()).filter(|m| values[*m as usize] < -noise_floor).collect();
    chosen.sort_by(|a, b| values[*a as usize].total_cmp(&values[*b as usize]));
    chosen.truncate(k as usize);
    if chosen.is_empty() {
        return Ok(None); // no split lowers the loss
    }
    let remark = format!("lowest eigenvalue {:.3e}", values[chosen[0] as usize]);
    chosen.sort_unstable();
    let length = row_norms(&by_fan_in(&weight)?).unsqueeze(1) * config.firefly_eps;
    let index = Tensor::from_slice(&chosen).to_device(weight.device());
    let copies = Some(halves(layer.width(), &chosen, &(directions * length), &index));
    Ok(Some(Growth { copies, append: None, remark }))
}
