//! A compiled model and its simulations.

use super::library::{Library, Opaque};
use crate::error::{Error, Result, ensure_len};
use std::ffi::{CStr, CString, c_char, c_int};
use std::sync::Arc;

/// Parts of a state, as bits of `mjtState`.
const QPOS: c_int = 1 << 1;
const QVEL: c_int = 1 << 2;
const CTRL: c_int = 1 << 6;
const XFRC_APPLIED: c_int = 1 << 8;
/// All that decides the future (`mjSTATE_INTEGRATION`).
const INTEGRATION: c_int = (1 << 15) - 1;

/// Byte offset of the field `cfrc_ext` in `mjData` of version 4.0.0 on 64-bit machines. The two
/// fields before it, `cacc` and `cfrc_int`, have the same length, which a model checks.
const CFRC_EXT: usize = 161_480;

/// Byte offset of the field `xpos`, three numbers per body; `xquat` and `xmat` follow it.
const XPOS: usize = 160_848;

/// A compiled model; simulations share it.
#[derive(Debug)]
pub(crate) struct Model {
    library: Arc<Library>,
    compiled: Opaque,
    nq: usize,
    nv: usize,
    nu: usize,
    nbody: usize,
    integration: usize,
}

// SAFETY: a compiled model is only read (`const mjModel*` in every function used here).
unsafe impl Send for Model {}
// SAFETY: as above.
unsafe impl Sync for Model {}

impl Model {
    /// Compiles a model from XML text.
    pub(crate) fn new(library: Arc<Library>, xml: &str) -> Result<Arc<Self>> {
        let broken = |found: String| Error::Mujoco {
            what: "compile the model",
            expected: "valid MJCF text".into(),
            found,
        };
        let text = CString::new(xml).map_err(|e| broken(e.to_string()))?;
        let mut error = [0 as c_char; 1024];
        // SAFETY: text and buffer outlive the call; no virtual file system is given.
        let spec = unsafe {
            (library.parse_xml)(
                text.as_ptr(),
                std::ptr::null_mut(),
                error.as_mut_ptr(),
                error.len() as c_int,
            )
        };
        if spec.is_null() {
            // SAFETY: MuJoCo terminates what it writes into the buffer, which began as zeros.
            let why = unsafe { CStr::from_ptr(error.as_ptr()) };
            return Err(broken(why.to_string_lossy().into_owned()));
        }
        // SAFETY: `spec` is the live result of the parser, freed once, after its error was copied.
        let (model, why) = unsafe {
            let model = (library.compile)(spec, std::ptr::null_mut());
            let why = (library.spec_error)(spec);
            let why = if why.is_null() { None } else { Some(CStr::from_ptr(why).to_owned()) };
            (library.delete_spec)(spec);
            (model, why)
        };
        if model.is_null() {
            let why = why.map_or_else(String::new, |w| w.to_string_lossy().into_owned());
            return Err(broken(why));
        }
        // SAFETY: `model` is the live result of the compiler.
        let size = |part| unsafe { (library.state_size)(model, part) } as usize;
        let (nq, nv, nu) = (size(QPOS), size(QVEL), size(CTRL));
        let (nbody, integration) = (size(XFRC_APPLIED) / 6, size(INTEGRATION));
        Ok(Arc::new(Self { library, compiled: model, nq, nv, nu, nbody, integration }))
    }

    /// Numbers of positions, velocities, controls and bodies (the world is one).
    pub(crate) fn sizes(&self) -> [usize; 4] {
        [self.nq, self.nv, self.nu, self.nbody]
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        // SAFETY: made by the compiler, freed once; simulations hold an `Arc` of this.
        unsafe { (self.library.delete_model)(self.compiled) }
    }
}

/// One simulation.
#[derive(Debug)]
pub(crate) struct Sim {
    model: Arc<Model>,
    data: Opaque,
    /// Positions, then velocities, after the last call.
    state: Vec<f64>,
}

// SAFETY: the simulation's memory is reached through this owner alone; MuJoCo keeps nothing that
// belongs to a thread in it.
unsafe impl Send for Sim {}

impl Sim {
    pub(crate) fn new(model: &Arc<Model>) -> Result<Self> {
        let refused = |what, expected: &str, found: &str| Error::Mujoco {
            what,
            expected: expected.into(),
            found: found.into(),
        };
        // SAFETY: the model is live.
        let data = unsafe { (model.library.make_data)(model.compiled) };
        if data.is_null() {
            return Err(refused("make a simulation", "memory for it", "none"));
        }
        let sim = Self { model: model.clone(), data, state: vec![0.0; model.nq + model.nv] };
        // numbers per body in fields that lie next to each other: an offset that is off shows
        let neighbours = [(XPOS, 3), (XPOS + 8, 4), (CFRC_EXT - 16, 6), (CFRC_EXT - 8, 6)];
        for (field, per_body) in neighbours {
            let gap = sim.field(field + 8).wrapping_sub(sim.field(field));
            let want = model.nbody * per_body * size_of::<f64>();
            if !(want..want + 64).contains(&gap) {
                let expected = "the structure mjData of version 4.0.0";
                return Err(refused("find derived quantities", expected, "another structure"));
            }
        }
        Ok(sim)
    }

    /// The address in a pointer field of `mjData`.
    fn field(&self, offset: usize) -> usize {
        // SAFETY: the offset is of a pointer field within the structure (162120 bytes).
        unsafe { self.data.byte_add(offset).cast::<usize>().read() }
    }

    /// `mj_resetData`, then positions and velocities; nothing of an earlier episode stays, neither
    /// controls nor the solver's warm start.
    pub(crate) fn reset(&mut self, qpos: &[f64], qvel: &[f64]) -> Result<()> {
        ensure_len("qpos", self.model.nq, qpos.len())?;
        ensure_len("qvel", self.model.nv, qvel.len())?;
        self.state[..self.model.nq].copy_from_slice(qpos);
        self.state[self.model.nq..].copy_from_slice(qvel);
        let library = &self.model.library;
        // SAFETY: model and data are live and belong together; the state has the size of its parts.
        unsafe {
            (library.reset_data)(self.model.compiled, self.data);
            (library.set_state)(self.model.compiled, self.data, self.state.as_ptr(), QPOS | QVEL);
        }
        Ok(())
    }

    /// Derived quantities of the present state, among them contacts.
    pub(crate) fn forward(&mut self) {
        // SAFETY: model and data are live and belong together.
        unsafe { (self.model.library.forward)(self.model.compiled, self.data) }
    }

    /// Several `mj_step` with the same controls.
    pub(crate) fn step(&mut self, ctrl: &[f64], substeps: usize) -> Result<()> {
        ensure_len("ctrl", self.model.nu, ctrl.len())?;
        let (library, model) = (&self.model.library, self.model.compiled);
        // SAFETY: model and data are live and belong together; `ctrl` and `state` have the sizes of
        // the parts that are set and got.
        unsafe {
            (library.set_state)(model, self.data, ctrl.as_ptr(), CTRL);
            for _ in 0..substeps {
                (library.step)(model, self.data);
            }
            (library.get_state)(model, self.data, self.state.as_mut_ptr(), QPOS | QVEL);
        }
        Ok(())
    }

    pub(crate) fn qpos(&self) -> &[f64] {
        &self.state[..self.model.nq]
    }

    pub(crate) fn qvel(&self) -> &[f64] {
        &self.state[self.model.nq..]
    }

    /// The x coordinate of body 1 (the torso) as `MuJoCo` last derived it: after a step that is not
    /// the one of the new state.
    pub(crate) fn derived_x(&self) -> f64 {
        let xpos = self.field(XPOS) as *const f64;
        // SAFETY: the field points to `3 * nbody` numbers, and `new` has checked the field; every
        // model that is compiled has the world and at least the body of its joints.
        unsafe { xpos.add(3).read() }
    }

    /// Computes the external contact forces on all bodies, `6 * nbody` numbers.
    pub(crate) fn contact_forces(&mut self, out: &mut [f64]) -> Result<()> {
        ensure_len("cfrc_ext", 6 * self.model.nbody, out.len())?;
        // SAFETY: model and data are live and belong together.
        unsafe { (self.model.library.rne_post)(self.model.compiled, self.data) };
        let from = self.field(CFRC_EXT) as *const f64;
        // SAFETY: the field points to `6 * nbody` numbers in the simulation's buffer, which `new`
        // has checked against its neighbours.
        unsafe { std::ptr::copy_nonoverlapping(from, out.as_mut_ptr(), out.len()) };
        Ok(())
    }

    /// All that decides the future.
    pub(crate) fn snapshot(&self) -> Vec<f64> {
        let mut out = vec![0.0; self.model.integration];
        // SAFETY: as in `step`.
        unsafe {
            (self.model.library.get_state)(
                self.model.compiled,
                self.data,
                out.as_mut_ptr(),
                INTEGRATION,
            );
        }
        out
    }

    /// Length of a [`snapshot`](Self::snapshot).
    pub(crate) fn snapshot_len(&self) -> usize {
        self.model.integration
    }

    /// Goes back to a snapshot.
    pub(crate) fn restore(&mut self, snapshot: &[f64]) -> Result<()> {
        ensure_len("state.reals", self.model.integration, snapshot.len())?;
        let (library, model) = (&self.model.library, self.model.compiled);
        // SAFETY: as in `step`.
        unsafe {
            (library.reset_data)(model, self.data);
            (library.set_state)(model, self.data, snapshot.as_ptr(), INTEGRATION);
            (library.get_state)(model, self.data, self.state.as_mut_ptr(), QPOS | QVEL);
        }
        Ok(())
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        // SAFETY: made by `new`, freed once, before the model that this holds.
        unsafe { (self.model.library.delete_data)(self.data) }
    }
}
