//! Which data a stage may read.

use crate::{plan::Stage, spec::Split};

/// Splits that trials of a stage may read: `tune` and `pilot` choose, so they never see the test
/// split.
pub fn readable(stage: Stage) -> &'static [Split] {
    match stage {
        Stage::Tune | Stage::Pilot => &[Split::Train, Split::Validation],
        Stage::Main | Stage::Smoke | Stage::Ablation | Stage::Replay => {
            &[Split::Train, Split::Validation, Split::Test]
        }
    }
}
