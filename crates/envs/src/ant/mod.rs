//! The four-legged ant of `MuJoCo`: ant-pinpad, and gymnasium's Ant-v5.

mod body;
mod gait;
mod locomotion;
mod pinpad;

pub use gait::AntExpert;
pub use locomotion::{AntV5, AntV5Config};
pub use pinpad::{AntConfig, AntPinpad};

use crate::error::{Error, Result, ensure};
use crate::mujoco::{Library, Model, Sim};
use std::sync::{Arc, Mutex, Weak};

/// The model: the classic ant, with its own text so that nothing has to be fetched.
const XML: &str = include_str!("ant.xml");

/// Positions: torso x, y, z, quaternion, then hip and ankle of legs 1 to 4.
pub(crate) const NQ: usize = 15;
/// Velocities.
pub(crate) const NV: usize = 14;
/// Motors, in the order hip 4, ankle 4, hip 1, ankle 1, hip 2, ankle 2, hip 3, ankle 3.
pub(crate) const NU: usize = 8;
/// Bodies, the world among them.
pub(crate) const NBODY: usize = 14;

/// A simulation of the ant, or of another model of the same sizes.
fn simulation(xml: Option<&str>) -> Result<Sim> {
    let library = Library::find()?;
    let model = if let Some(xml) = xml { Model::new(library, xml)? } else { built_in(library)? };
    if model.sizes() != [NQ, NV, NU, NBODY] {
        return Err(Error::Mujoco {
            what: "use the model",
            expected: format!("{NQ} positions, {NV} velocities, {NU} motors, {NBODY} bodies"),
            found: format!("{:?}", model.sizes()),
        });
    }
    Sim::new(&model)
}

/// The built-in model, compiled once for all simulations that live at the same time.
fn built_in(library: Arc<Library>) -> Result<Arc<Model>> {
    static SHARED: Mutex<Weak<Model>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(model) = shared.upgrade() {
        return Ok(model);
    }
    let model = Model::new(library, XML)?;
    *shared = Arc::downgrade(&model);
    Ok(model)
}

/// An error unless every motor command is finite; the model clamps to -1 to 1 itself.
fn check_action(action: &[f64]) -> Result<()> {
    match action.iter().find(|a| !a.is_finite()) {
        Some(wrong) => Err(Error::argument("action", "finite numbers", wrong)),
        None => Ok(()),
    }
}

/// An error unless every number of a chosen start is finite and there are as many as needed.
fn check_start(name: &'static str, values: &[f64], len: usize) -> Result<()> {
    crate::error::ensure_len(name, len, values.len())?;
    let finite = values.iter().all(|v| v.is_finite());
    ensure(finite, name, || "finite numbers".into(), format!("{values:?}"))
}

/// Whether a state is finite and the torso at a healthy height.
fn healthy(sim: &Sim, [low, high]: [f64; 2]) -> bool {
    let finite = sim.qpos().iter().chain(sim.qvel()).all(|v| v.is_finite());
    finite && (low..=high).contains(&sim.qpos()[2])
}

/// Runs the bare library, for programs that check or time it: each row of motor commands is held
/// for `substeps` times `mj_step`. Returns the 29 positions and velocities before the first row and
/// after each.
///
/// # Errors
/// The library is missing, or an argument has the wrong length or is not finite.
pub fn simulate(
    qpos: &[f64],
    qvel: &[f64],
    ctrl: &[[f64; NU]],
    substeps: usize,
) -> Result<Vec<[f64; NQ + NV]>> {
    let mut sim = simulation(None)?;
    check_start("qpos", qpos, NQ)?;
    check_start("qvel", qvel, NV)?;
    sim.reset(qpos, qvel)?;
    let row = |sim: &Sim| {
        let mut out = [0.0; NQ + NV];
        out[..NQ].copy_from_slice(sim.qpos());
        out[NQ..].copy_from_slice(sim.qvel());
        out
    };
    let mut rows = vec![row(&sim)];
    for action in ctrl {
        check_action(action)?;
        sim.step(action, substeps)?;
        rows.push(row(&sim));
    }
    Ok(rows)
}
