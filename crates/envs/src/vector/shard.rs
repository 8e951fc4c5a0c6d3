//! A contiguous piece of a vector with its piece of the buffers; pieces are split until they are
//! small enough for one thread.

use super::{Autoreset, Buffers};
use crate::env::{Env, Info, ResetOptions, Transition};
use crate::error::{Error, Result};

/// How many environments failed, and the first of them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Failures {
    pub(super) count: usize,
    pub(super) first: Option<usize>,
}

impl Failures {
    fn plus(self, other: Self) -> Self {
        Self { count: self.count + other.count, first: self.first.or(other.first) }
    }
}

pub(super) struct Shard<'a, E> {
    /// Index of the first environment.
    at: usize,
    obs_len: usize,
    /// Whether the observations are those from before this call.
    fresh: bool,
    lanes: &'a mut [E],
    obs: &'a mut [f32],
    rewards: &'a mut [f64],
    terminated: &'a mut [bool],
    truncated: &'a mut [bool],
    filler: &'a mut [bool],
    infos: &'a mut [Info],
    /// Empty unless the mode is [`Autoreset::SameStep`].
    final_obs: &'a mut [f32],
    final_infos: &'a mut [Info],
    errors: &'a mut [Option<Error>],
}

impl<'a, E: Env> Shard<'a, E> {
    pub(super) fn new(
        lanes: &'a mut [E],
        out: &'a mut Buffers,
        obs_len: usize,
        fresh: bool,
    ) -> Self {
        Self {
            at: 0,
            obs_len,
            fresh,
            lanes,
            obs: &mut out.obs,
            rewards: &mut out.rewards,
            terminated: &mut out.terminated,
            truncated: &mut out.truncated,
            filler: &mut out.filler,
            infos: &mut out.infos,
            final_obs: &mut out.final_obs,
            final_infos: &mut out.final_infos,
            errors: &mut out.errors,
        }
    }

    /// Does the work in pieces of at most `grain` environments.
    pub(super) fn run(
        mut self,
        grain: usize,
        work: &(impl Fn(&mut Shard<'_, E>) -> Failures + Sync),
    ) -> Failures {
        if self.lanes.len() <= grain {
            return work(&mut self);
        }
        let (left, right) = self.split();
        let (left, right) = rayon::join(|| left.run(grain, work), || right.run(grain, work));
        left.plus(right)
    }

    fn split(self) -> (Self, Self) {
        let half = self.lanes.len() / 2;
        let finals = half.min(self.final_infos.len());
        let (lanes, lanes_b) = self.lanes.split_at_mut(half);
        let (obs, obs_b) = self.obs.split_at_mut(half * self.obs_len);
        let (rewards, rewards_b) = self.rewards.split_at_mut(half);
        let (terminated, terminated_b) = self.terminated.split_at_mut(half);
        let (truncated, truncated_b) = self.truncated.split_at_mut(half);
        let (filler, filler_b) = self.filler.split_at_mut(half);
        let (infos, infos_b) = self.infos.split_at_mut(half);
        let (final_obs, final_obs_b) = self.final_obs.split_at_mut(finals * self.obs_len);
        let (final_infos, final_infos_b) = self.final_infos.split_at_mut(finals);
        let (errors, errors_b) = self.errors.split_at_mut(half);
        let (at, obs_len, fresh) = (self.at, self.obs_len, self.fresh);
        let left = Self {
            at,
            obs_len,
            fresh,
            lanes,
            obs,
            rewards,
            terminated,
            truncated,
            filler,
            infos,
            final_obs,
            final_infos,
            errors,
        };
        let right = Self {
            at: at + half,
            obs_len,
            fresh,
            lanes: lanes_b,
            obs: obs_b,
            rewards: rewards_b,
            terminated: terminated_b,
            truncated: truncated_b,
            filler: filler_b,
            infos: infos_b,
            final_obs: final_obs_b,
            final_infos: final_infos_b,
            errors: errors_b,
        };
        (left, right)
    }

    /// Calls `one` for every environment and collects what fails.
    fn each(&mut self, mut one: impl FnMut(&mut Self, usize) -> Result<()>) -> Failures {
        let mut failures = Failures::default();
        for lane in 0..self.lanes.len() {
            if let Err(error) = one(self, lane) {
                self.rewards[lane] = 0.0;
                self.terminated[lane] = false;
                self.truncated[lane] = false;
                self.filler[lane] = false;
                self.errors[lane] = Some(error);
                let first = Some(self.at + lane);
                failures = failures.plus(Failures { count: 1, first });
            }
        }
        failures
    }

    fn row(&mut self, lane: usize) -> (&mut E, &mut [f32]) {
        let range = lane * self.obs_len..(lane + 1) * self.obs_len;
        (&mut self.lanes[lane], &mut self.obs[range])
    }

    /// Begins an episode and writes its observation.
    fn begin(&mut self, lane: usize, options: &ResetOptions) -> Result<()> {
        let (env, obs) = self.row(lane);
        let info = env.restart(options)?;
        env.observe(obs)?;
        self.infos[lane] = info;
        Ok(())
    }

    pub(super) fn reset(&mut self, mask: Option<&[bool]>, options: &ResetOptions) -> Failures {
        self.each(|shard, lane| {
            if mask.is_some_and(|m| !m[shard.at + lane]) {
                // keeps its row, which another vector may have written
                return if shard.fresh { Ok(()) } else { shard.show(lane) };
            }
            shard.write(lane, &Transition::default(), false);
            shard.begin(lane, options)
        })
    }

    fn show(&mut self, lane: usize) -> Result<()> {
        let (env, obs) = self.row(lane);
        env.observe(obs)
    }

    /// Writes all observations, as of steps in which nothing happened.
    pub(super) fn look(&mut self) -> Failures {
        self.each(|shard, lane| {
            shard.write(lane, &Transition::default(), false);
            shard.show(lane)
        })
    }

    fn write(&mut self, lane: usize, step: &Transition, filler: bool) {
        self.rewards[lane] = step.reward;
        self.terminated[lane] = step.terminated;
        self.truncated[lane] = step.truncated;
        self.filler[lane] = filler;
        self.infos[lane] = step.info;
    }

    pub(super) fn step(&mut self, actions: &[E::Act], mode: Autoreset) -> Failures {
        // made once: a default has no heap memory
        let options = ResetOptions::default();
        self.each(|shard, lane| {
            if mode == Autoreset::NextStep && !shard.lanes[lane].running() {
                shard.write(lane, &Transition::default(), true);
                return shard.begin(lane, &options);
            }
            let (at, fresh) = (shard.at, shard.fresh);
            let (env, obs) = shard.row(lane);
            let step = match env.advance(&actions[at + lane]) {
                Ok(step) => step,
                Err(error) => {
                    if !fresh {
                        env.observe(obs)?;
                    }
                    return Err(error);
                }
            };
            if fresh {
                env.refresh(obs)?;
            } else {
                env.observe(obs)?;
            }
            shard.write(lane, &step, false);
            if step.ended() && mode == Autoreset::SameStep {
                let range = lane * shard.obs_len..(lane + 1) * shard.obs_len;
                shard.final_obs[range.clone()].copy_from_slice(&shard.obs[range]);
                shard.final_infos[lane] = step.info;
                shard.begin(lane, &options)?;
            }
            Ok(())
        })
    }
}
