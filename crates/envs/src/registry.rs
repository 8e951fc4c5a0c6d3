//! Environments by name.

use crate::ant::{AntConfig, AntPinpad, AntV5, AntV5Config};
use crate::arena::ArenaConfig;
use crate::env::{Env, Info, ResetOptions, State, Transition};
use crate::error::{Error, Result};
use crate::pinpad::{GridConfig, GridPinpad};
use crate::point::PointPinpad;
use crate::render::{Frame, RenderMode};
use crate::space::Space;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The names that [`make`] knows.
pub const NAMES: [&str; 4] = ["gridworld-pinpad", "point-pinpad", "ant-pinpad", "ant-v5"];

/// Most numbers in a continuous action.
pub const MOST_ACTION: usize = 8;

/// An action of any environment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Action {
    /// Of a discrete space.
    Discrete(usize),
    /// Of a box: the first `len` numbers.
    Continuous {
        /// The numbers; those from `len` on are ignored.
        values: [f64; MOST_ACTION],
        /// How many there are.
        len: usize,
    },
}

impl From<usize> for Action {
    fn from(action: usize) -> Self {
        Self::Discrete(action)
    }
}

impl TryFrom<&[f64]> for Action {
    type Error = Error;

    fn try_from(slice: &[f64]) -> Result<Self> {
        let mut values = [0.0; MOST_ACTION];
        let Some(head) = values.get_mut(..slice.len()) else {
            let expected = format!("at most {MOST_ACTION} numbers");
            return Err(Error::argument("action", expected, slice.len()));
        };
        head.copy_from_slice(slice);
        Ok(Self::Continuous { values, len: slice.len() })
    }
}

impl TryFrom<Action> for usize {
    type Error = Error;

    fn try_from(action: Action) -> Result<Self> {
        match action {
            Action::Discrete(action) => Ok(action),
            Action::Continuous { .. } => {
                Err(Error::argument("action", "a discrete action", "a continuous one"))
            }
        }
    }
}

impl<const N: usize> TryFrom<Action> for [f64; N] {
    type Error = Error;

    fn try_from(action: Action) -> Result<Self> {
        match action {
            Action::Continuous { values, len } if len == N && N <= MOST_ACTION => {
                let mut out = [0.0; N];
                out.copy_from_slice(&values[..N]);
                Ok(out)
            }
            other => Err(Error::argument("action", format!("{N} numbers"), format!("{other:?}"))),
        }
    }
}

/// An environment that takes any [`Action`].
pub type DynEnv = Box<dyn Env<Act = Action>>;

/// Makes an environment by name; `config` holds the fields that differ from the defaults.
///
/// ```
/// use envs::{Env, ResetOptions, make};
/// let mut world = make("gridworld-pinpad", serde_json::json!({ "horizon": 50 }))?;
/// world.reset(Some(0), &ResetOptions::default())?;
/// world.step(&2.into())?;
/// # Ok::<(), envs::Error>(())
/// ```
///
/// # Errors
/// The name is unknown, a field is unknown or does not fit, or a library is missing.
pub fn make(name: &str, config: Value) -> Result<DynEnv> {
    match name {
        "gridworld-pinpad" => Ok(erase(GridPinpad::new(&parse::<GridConfig>(config)?)?)),
        "point-pinpad" => Ok(erase(PointPinpad::new(&parse::<ArenaConfig>(config)?)?)),
        "ant-pinpad" => Ok(erase(AntPinpad::new(&parse::<AntConfig>(config)?)?)),
        "ant-v5" => Ok(erase(AntV5::new(&parse::<AntV5Config>(config)?)?)),
        _ => Err(Error::Unknown { name: name.into(), known: NAMES.join(", ") }),
    }
}

fn parse<C: DeserializeOwned + Default>(config: Value) -> Result<C> {
    if config.is_null() {
        return Ok(C::default());
    }
    serde_json::from_value(config)
        .map_err(|e| Error::argument("config", "fields of this environment", e))
}

fn erase<E>(env: E) -> DynEnv
where
    E: Env + 'static,
    E::Act: TryFrom<Action, Error = Error>,
{
    Box::new(Erased(env))
}

struct Erased<E>(E);

impl<E> Env for Erased<E>
where
    E: Env,
    E::Act: TryFrom<Action, Error = Error>,
{
    type Act = Action;

    fn name(&self) -> &'static str {
        self.0.name()
    }
    fn observation_space(&self) -> &Space {
        self.0.observation_space()
    }
    fn action_space(&self) -> &Space {
        self.0.action_space()
    }
    fn seed(&mut self, seed: u64, stream: u64) {
        self.0.seed(seed, stream);
    }
    fn running(&self) -> bool {
        self.0.running()
    }
    fn restart(&mut self, options: &ResetOptions) -> Result<Info> {
        self.0.restart(options)
    }
    fn advance(&mut self, action: &Action) -> Result<Transition> {
        self.0.advance(&(*action).try_into()?)
    }
    fn observe(&self, obs: &mut [f32]) -> Result<()> {
        self.0.observe(obs)
    }
    fn refresh(&self, obs: &mut [f32]) -> Result<()> {
        self.0.refresh(obs)
    }
    fn state(&self) -> State {
        self.0.state()
    }
    fn set_state(&mut self, state: &State) -> Result<()> {
        self.0.set_state(state)
    }
    fn render(&self, mode: RenderMode) -> Result<Frame> {
        self.0.render(mode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_and_fields_are_checked() {
        for name in NAMES.iter().filter(|n| !n.starts_with("ant-")) {
            let mut env = make(name, Value::Null).unwrap();
            assert_eq!(env.name(), *name);
            env.reset(Some(0), &ResetOptions::default()).unwrap();
        }
        let message = |name, config| make(name, config).err().unwrap().to_string();
        assert!(message("gridworld", json!({})).contains("gridworld-pinpad"));
        assert!(message("gridworld-pinpad", json!({ "gird": 7 })).contains("gird"));
        assert!(message("gridworld-pinpad", json!({ "grid": -7 })).contains("config"));
    }

    #[test]
    fn an_action_of_the_wrong_kind_is_an_error() {
        let mut env = make("gridworld-pinpad", json!({})).unwrap();
        env.reset(Some(0), &ResetOptions::default()).unwrap();
        let torque = Action::try_from([0.0; 8].as_slice()).unwrap();
        assert!(env.step(&torque).is_err());
        assert!(Action::try_from([0.0; 9].as_slice()).is_err());
        assert!(<[f64; 2]>::try_from(torque).is_err());
        assert!(<[f64; 2]>::try_from(Action::Discrete(1)).is_err());
    }
}
