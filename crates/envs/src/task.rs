//! Tasks: sequences of pads to enter, and what entering a pad means.

use crate::error::{Error, Result, ensure};
use serde::{Deserialize, Serialize};

/// The 16 pretraining tasks of the grid (Table A1).
pub const GRID_PRETRAIN: [[u8; 6]; 16] = [
    [0, 1, 4, 5, 0, 1],
    [0, 1, 4, 5, 2, 3],
    [0, 1, 6, 7, 2, 3],
    [2, 3, 0, 1, 4, 5],
    [2, 3, 6, 7, 2, 3],
    [2, 3, 6, 7, 4, 5],
    [4, 5, 0, 1, 4, 5],
    [4, 5, 0, 1, 6, 7],
    [4, 5, 2, 3, 6, 7],
    [6, 7, 2, 3, 0, 1],
    [6, 7, 2, 3, 6, 7],
    [6, 7, 4, 5, 0, 1],
    [0, 1, 6, 7, 4, 5],
    [2, 3, 0, 1, 6, 7],
    [4, 5, 2, 3, 0, 1],
    [6, 7, 4, 5, 2, 3],
];

/// The post-training task of the grid: twice as long, and no step from pair to pair was ever seen.
pub const GRID_POST: [u8; 12] = [0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3];

/// The 16 pretraining tasks of the ant (Table A2).
pub const ANT_PRETRAIN: [[u8; 3]; 16] = [
    [0, 3, 2],
    [1, 0, 3],
    [2, 1, 0],
    [3, 2, 1],
    [0, 2, 0],
    [0, 2, 1],
    [0, 3, 1],
    [1, 0, 2],
    [1, 3, 1],
    [1, 3, 2],
    [2, 0, 2],
    [2, 0, 3],
    [2, 1, 3],
    [3, 1, 0],
    [3, 1, 3],
    [3, 2, 0],
];

/// The post-training task of the ant.
pub const ANT_POST: [u8; 4] = [0, 1, 2, 3];

/// Longest task and longest list of tasks.
const MOST: usize = 4096;

/// Which tasks an environment draws from, uniformly, at each reset.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tasks {
    /// The paper's pretraining list for 8 pads ([`GRID_PRETRAIN`]) or for 4 ([`ANT_PRETRAIN`]).
    #[default]
    Pretrain,
    /// The paper's post-training task for 8 pads ([`GRID_POST`]) or for 4 ([`ANT_POST`]).
    Post,
    /// These.
    List(Vec<Vec<u8>>),
}

impl Tasks {
    /// The tasks as a list.
    ///
    /// # Errors
    /// The list is empty or too long, a task is empty or too long or names a pad that is not there,
    /// or the paper has no list for this number of pads.
    pub fn resolve(&self, pads: usize) -> Result<Vec<Vec<u8>>> {
        let rows = |tasks: &[&[u8]]| tasks.iter().map(|t| t.to_vec()).collect::<Vec<_>>();
        let list = match (self, pads) {
            (Self::List(list), _) => list.clone(),
            (Self::Pretrain, 8) => rows(&GRID_PRETRAIN.each_ref().map(<[u8; 6]>::as_slice)),
            (Self::Pretrain, 4) => rows(&ANT_PRETRAIN.each_ref().map(<[u8; 3]>::as_slice)),
            (Self::Post, 8) => rows(&[&GRID_POST]),
            (Self::Post, 4) => rows(&[&ANT_POST]),
            _ => {
                let expected = "a list of tasks, because the paper's are for 4 or 8 pads";
                return Err(Error::argument("tasks", expected, format!("{self:?}, {pads} pads")));
            }
        };
        ensure(
            (1..=MOST).contains(&list.len()),
            "tasks",
            || format!("1 to {MOST} tasks"),
            list.len(),
        )?;
        for task in &list {
            check(task, pads)?;
        }
        Ok(list)
    }
}

/// An error unless the task is one for so many pads.
pub(crate) fn check(task: &[u8], pads: usize) -> Result<()> {
    ensure((1..=MOST).contains(&task.len()), "task", || format!("1 to {MOST} pads"), task.len())?;
    let wrong = task.iter().find(|p| usize::from(**p) >= pads);
    match wrong {
        Some(pad) => Err(Error::argument("task", format!("pads below {pads}"), pad)),
        None => Ok(()),
    }
}

/// What counts as one abstract subgoal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subgoals {
    /// The pairs 01, 23, 45, 67, with labels 0..4 (grid).
    #[default]
    Pairs,
    /// Every pad by itself (ant).
    Pads,
}

impl Subgoals {
    /// Ground-truth label of the subgoal after `progress` pads: it changes when the last pad of a
    /// subgoal is entered; -1 after the end of the task.
    pub fn label(self, task: &[u8], progress: usize) -> i32 {
        match (task.get(progress), self) {
            (None, _) => -1,
            (Some(pad), Self::Pairs) => i32::from(pad / 2),
            (Some(pad), Self::Pads) => i32::from(*pad),
        }
    }
}

/// What entering a pad means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Visit {
    /// The pad that was next.
    Right,
    /// The last pad of the task.
    Success,
    /// Any other pad.
    Wrong,
}

impl Visit {
    /// Judges `pad` after `progress` pads of `task`.
    pub(crate) fn judge(task: &[u8], progress: usize, pad: u8) -> Self {
        match task.get(progress) {
            Some(next) if *next == pad && progress + 1 == task.len() => Self::Success,
            Some(next) if *next == pad => Self::Right,
            _ => Self::Wrong,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn transitions<T: AsRef<[u8]>>(tasks: &[T], unit: usize) -> BTreeSet<(u8, u8)> {
        let units = |t: &[u8]| t.chunks(unit).map(|c| c[0] / unit as u8).collect::<Vec<_>>();
        tasks
            .iter()
            .flat_map(|t| units(t.as_ref()).windows(2).map(|w| (w[0], w[1])).collect::<Vec<_>>())
            .collect()
    }

    #[test]
    fn no_transition_of_the_post_task_occurs_in_pretraining() {
        let (seen, post) = (transitions(&GRID_PRETRAIN, 2), transitions(&[GRID_POST], 2));
        assert_eq!(post, BTreeSet::from([(0, 1), (1, 2), (2, 3), (3, 0)]));
        assert!(seen.is_disjoint(&post) && seen.len() == 8);
        let (seen, post) = (transitions(&ANT_PRETRAIN, 1), transitions(&[ANT_POST], 1));
        assert_eq!(post, BTreeSet::from([(0, 1), (1, 2), (2, 3)]));
        assert!(seen.is_disjoint(&post) && !seen.contains(&(3, 0)) && seen.len() == 8);
    }

    #[test]
    fn the_sixteen_grid_tasks_are_made_of_pairs_and_differ() {
        assert_eq!(BTreeSet::from(GRID_PRETRAIN).len(), 16);
        assert_eq!(BTreeSet::from(ANT_PRETRAIN).len(), 16);
        for task in GRID_PRETRAIN {
            assert!(task.chunks(2).all(|p| p[0] % 2 == 0 && p[1] == p[0] + 1));
        }
    }

    #[test]
    fn labels_change_with_the_second_pad_of_a_pair() {
        let labels =
            |s: Subgoals| (0..=6).map(|k| s.label(&GRID_PRETRAIN[1], k)).collect::<Vec<_>>();
        assert_eq!(labels(Subgoals::Pairs), [0, 0, 2, 2, 1, 1, -1]);
        assert_eq!(labels(Subgoals::Pads), [0, 1, 4, 5, 2, 3, -1]);
    }

    #[test]
    fn bad_lists_are_errors() {
        assert!(Tasks::List(vec![]).resolve(8).is_err());
        assert!(Tasks::List(vec![vec![]]).resolve(8).is_err());
        assert!(Tasks::List(vec![vec![0, 8]]).resolve(8).is_err());
        assert!(Tasks::Pretrain.resolve(5).is_err());
        assert_eq!(Tasks::List(vec![vec![0, 0]]).resolve(1).unwrap(), [[0, 0]]);
    }
}
