//! Writes every kind of figure with made-up data, plain and extreme, into a folder.
//!
//! ```text
//! cargo run -p experiments --example gallery -- target/gallery
//! ```

mod extremes;
mod samples;

use std::fmt::Write as _;
use std::path::PathBuf;

use experiments::figures::{Figure, Format};

fn main() -> anyhow::Result<()> {
    let folder = std::env::args().nth(1).unwrap_or_else(|| "target/gallery".to_owned());
    let folder = PathBuf::from(folder);
    let formats = [Format::Svg, Format::Png { scale: 2.0 }];
    let mut page = String::from(
        "<!doctype html><meta charset=utf-8><title>Figures</title>\n\
         <body style=\"font:16px sans-serif;max-width:60em;margin:2em auto;background:#eee\">\n",
    );
    let figures: Vec<Figure> = samples::all()?.into_iter().chain(extremes::all()?).collect();
    for figure in &figures {
        figure.save(&folder, &formats)?;
        write!(page, "<p id=\"{0}\"><code>{0}</code></p>\n{1}", figure.name, figure.svg)?;
    }
    std::fs::write(folder.join("index.html"), page)?;
    anyhow::ensure!(!figures.is_empty(), "no figures");
    Ok(())
}
