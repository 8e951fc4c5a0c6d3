//! What a step of a vector writes.

use super::Autoreset;
use crate::env::Info;
use crate::error::{Error, Result, ensure};

/// Contiguous arrays that steps write into, owned by the caller and made by
/// [`Vector::buffers`](super::Vector::buffers).
///
/// For `n` environments with observations of `d` numbers: observations are `n * d` `f32` in rows;
/// rewards `n` `f64`; flags `n` bytes of 0 or 1; infos `n` times six 32-bit integers (visited,
/// progress, reason, subgoal, step, task; all signed but progress and step). A binding can hand
/// each of them out as an array without a copy.
#[derive(Debug)]
pub struct Buffers {
    pub(super) obs: Vec<f32>,
    pub(super) rewards: Vec<f64>,
    pub(super) terminated: Vec<bool>,
    pub(super) truncated: Vec<bool>,
    pub(super) filler: Vec<bool>,
    pub(super) infos: Vec<Info>,
    pub(super) final_obs: Vec<f32>,
    pub(super) final_infos: Vec<Info>,
    pub(super) errors: Vec<Option<Error>>,
    failed: usize,
    /// Which vector wrote last, and when: only then can it write just what has changed.
    writer: (u64, u64),
}

impl Buffers {
    pub(super) fn new(lanes: usize, obs_len: usize, mode: Autoreset) -> Self {
        let finals = if mode == Autoreset::SameStep { lanes } else { 0 };
        Self {
            obs: vec![0.0; lanes * obs_len],
            rewards: vec![0.0; lanes],
            terminated: vec![false; lanes],
            truncated: vec![false; lanes],
            filler: vec![false; lanes],
            infos: vec![Info::default(); lanes],
            final_obs: vec![0.0; finals * obs_len],
            final_infos: vec![Info::default(); finals],
            errors: (0..lanes).map(|_| None).collect(),
            failed: 0,
            writer: (0, 0),
        }
    }

    pub(super) fn check(&self, lanes: usize, obs_len: usize, mode: Autoreset) -> Result<()> {
        let finals = if mode == Autoreset::SameStep { lanes } else { 0 };
        let fits = self.rewards.len() == lanes
            && self.obs.len() == lanes * obs_len
            && self.final_infos.len() == finals;
        let found = || format!("those of {} environments", self.rewards.len());
        ensure(
            fits,
            "out",
            || "buffers of this vector".into(),
            if fits { String::new() } else { found() },
        )
    }

    /// Clears errors; true if these buffers hold what this vector wrote last.
    pub(super) fn begin(&mut self, id: u64, tick: u64) -> bool {
        if self.failed > 0 {
            self.errors.fill_with(|| None);
            self.failed = 0;
        }
        let fresh = self.writer == (id, tick);
        self.writer = (0, 0);
        fresh
    }

    pub(super) fn end(&mut self, id: u64, tick: u64, failed: usize) {
        self.writer = (id, tick);
        self.failed = failed;
    }

    /// Observations, row by row.
    pub fn obs(&self) -> &[f32] {
        &self.obs
    }

    /// Observations, to be changed in place (scaled, say); the next step writes them anew.
    pub fn obs_mut(&mut self) -> &mut [f32] {
        self.writer = (0, 0);
        &mut self.obs
    }

    /// The observation of one environment.
    ///
    /// # Panics
    /// There is no such environment.
    pub fn row(&self, lane: usize) -> &[f32] {
        let len = self.obs.len() / self.rewards.len();
        &self.obs[lane * len..(lane + 1) * len]
    }

    /// Rewards.
    pub fn rewards(&self) -> &[f64] {
        &self.rewards
    }

    /// Episodes that ended by the rules.
    pub fn terminated(&self) -> &[bool] {
        &self.terminated
    }

    /// Episodes that were cut off by the time limit.
    pub fn truncated(&self) -> &[bool] {
        &self.truncated
    }

    /// With [`Autoreset::NextStep`]: environments that ignored their action and began an episode.
    /// Training must leave these steps out.
    pub fn filler(&self) -> &[bool] {
        &self.filler
    }

    /// Infos.
    pub fn infos(&self) -> &[Info] {
        &self.infos
    }

    /// With [`Autoreset::SameStep`]: the last observation of each environment's last episode, in
    /// rows; of this step where `terminated` or `truncated` is set. Otherwise empty.
    pub fn final_obs(&self) -> &[f32] {
        &self.final_obs
    }

    /// With [`Autoreset::SameStep`]: the infos that belong to [`final_obs`](Self::final_obs).
    pub fn final_infos(&self) -> &[Info] {
        &self.final_infos
    }

    /// What failed in the last call, per environment.
    pub fn errors(&self) -> &[Option<Error>] {
        &self.errors
    }
}
