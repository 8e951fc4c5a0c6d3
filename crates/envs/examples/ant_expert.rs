//! Success rate of the scripted expert of ant-pinpad.
//!
//! `cargo run -p envs --example ant_expert -- [EPISODES]`
#![expect(clippy::print_stdout, reason = "a program that prints its result")]

use anyhow::Result;
use envs::task::Tasks;
use envs::{AntConfig, AntExpert, AntPinpad, ArenaConfig, Env, Reason, ResetOptions};

fn main() -> Result<()> {
    let episodes: u64 = std::env::args().nth(1).map_or(Ok(200), |n| n.parse())?;
    for (name, tasks) in [("pretraining", Tasks::Pretrain), ("post-training", Tasks::Post)] {
        let arena = ArenaConfig { tasks, ..ArenaConfig::default() };
        let mut world = AntPinpad::new(&AntConfig { arena, ..AntConfig::default() })?;
        let (mut ends, mut steps) = ([0_u64; 7], 0);
        for episode in 0..episodes {
            world.seed(0, episode);
            world.restart(&ResetOptions::default())?;
            let mut expert = AntExpert::new();
            while world.running() {
                let action = expert.act(&mut world);
                let step = world.advance(&action)?;
                if step.ended() {
                    ends[step.info.reason as usize] += 1;
                    steps += u64::from(step.info.step) * u64::from(step.reward > 0.0);
                }
            }
        }
        let count = |reason: Reason| ends[reason as usize];
        let solved = count(Reason::Success);
        println!(
            "{name:<14} {solved} of {episodes} solved, {:.0} steps each; wrong pad {}, wall {}, fallen {}, outside {}, time {}",
            steps as f64 / solved.max(1) as f64,
            count(Reason::WrongPad),
            count(Reason::Wall),
            count(Reason::Unhealthy),
            count(Reason::Outside),
            count(Reason::Time),
        );
    }
    Ok(())
}
