//! Shows an episode in the terminal, and on request as PNG and animated GIF.
//!
//! `cargo run -p envs --example watch -- [grid|point|ant] [SEED] [--gif FILE] [--png FILE] [--fast]`
#![expect(clippy::print_stdout, reason = "a program for the terminal")]

use anyhow::{Context, Result, bail};
use envs::{
    Animation, AntConfig, AntExpert, AntPinpad, ArenaConfig, Env, Expert, Frame, GridConfig,
    GridPinpad, Image, PointExpert, PointPinpad, RenderMode, ResetOptions, Transition,
};
use std::thread::sleep;
use std::time::Duration;

struct Options {
    world: String,
    seed: u64,
    gif: Option<String>,
    png: Option<String>,
    fast: bool,
}

fn options() -> Result<Options> {
    let mut out = Options { world: "grid".into(), seed: 1, gif: None, png: None, fast: false };
    let mut args = std::env::args().skip(1);
    let mut free = 0;
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--gif" => out.gif = Some(args.next().context("--gif needs a file")?),
            "--png" => out.png = Some(args.next().context("--png needs a file")?),
            "--fast" => out.fast = true,
            _ if free == 0 => (out.world, free) = (arg, 1),
            _ if free == 1 => (out.seed, free) = (arg.parse().context("SEED")?, 2),
            _ => bail!("one argument too many: {arg}"),
        }
    }
    Ok(out)
}

fn main() -> Result<()> {
    let options = options()?;
    match options.world.as_str() {
        "grid" => {
            let mut world = GridPinpad::new(&GridConfig::post())?;
            let mut expert = Expert::new(&world, 0.0)?;
            world.reset(Some(options.seed), &ResetOptions::default())?;
            expert.begin(&world);
            // the switch gate of a perfect controller: open where a subgoal is done
            show(&options, world, 32, 1, 120, |w| expert.act(w))
        }
        "point" => {
            let mut world = PointPinpad::new(&ArenaConfig::default())?;
            let mut expert = PointExpert::new(0.1, options.seed)?;
            world.reset(Some(options.seed), &ResetOptions::default())?;
            show(&options, world, 64, 4, 100, |w| expert.act(w))
        }
        "ant" => {
            let mut world = AntPinpad::new(&AntConfig::default())?;
            world.reset(Some(options.seed), &ResetOptions::default())?;
            let mut expert = AntExpert::new();
            show(&options, world, 64, 4, 100, |w| expert.act(w))
        }
        other => bail!("no world `{other}`, expected grid, point or ant"),
    }
}

/// Plays to the end of the episode (at most 300 pictures), one picture in `every` steps.
fn show<E: Env>(
    options: &Options,
    mut world: E,
    px: usize,
    every: u32,
    delay_ms: u32,
    mut act: impl FnMut(&mut E) -> E::Act,
) -> Result<()> {
    let mut film = Animation::new(delay_ms);
    let mut last: Option<Transition> = None;
    let mut subgoal = None;
    film.push(picture(&world, px)?, Some(0.0))?;
    let mut open = 0.0;
    while world.running() && film.len() < 300 {
        let action = act(&mut world);
        let step = world.advance(&action)?;
        if subgoal.is_some_and(|s| s != step.info.subgoal) {
            open = 1.0;
        }
        subgoal = Some(step.info.subgoal);
        last = Some(step);
        if !step.info.step.is_multiple_of(every) && world.running() {
            continue;
        }
        film.push(picture(&world, px)?, Some(open))?;
        open = 0.0;
        if let Frame::Ansi(text) = world.render(RenderMode::Ansi)? {
            println!("{text}");
        }
        if !options.fast {
            sleep(Duration::from_millis(u64::from(delay_ms)));
        }
    }
    if let Some(step) = last {
        println!("{:?} after {} steps, reward {}", step.info.reason, step.info.step, step.reward);
    }
    if let Some(path) = &options.png {
        picture(&world, px)?.save_png(path)?;
        println!("{path}");
    }
    if let Some(path) = &options.gif {
        film.save_gif(path)?;
        println!("{path}: {} frames, {} bytes", film.len(), std::fs::metadata(path)?.len());
    }
    Ok(())
}

fn picture<E: Env>(world: &E, px: usize) -> Result<Image> {
    match world.render(RenderMode::RgbArray { px })? {
        Frame::Rgb(image) => Ok(image),
        Frame::Ansi(_) => bail!("text where pixels were asked for"),
    }
}
