//! Pictures of a state.

mod animation;
mod canvas;

use crate::error::{Result, ensure};
use serde::{Deserialize, Serialize};

/// What kind of picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RenderMode {
    /// Text for a terminal.
    Ansi,
    /// Pixels; a cell of the grid has this side.
    RgbArray {
        /// Pixels along the side of a cell, 4 to 256.
        px: usize,
    },
}

/// A picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Lines of text.
    Ansi(String),
    /// Rows of red, green, blue bytes.
    Rgb(Image),
}

/// Pixels: `height` rows of `width` times red, green, blue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Pixels per row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `height * width * 3` bytes.
    pub rgb: Vec<u8>,
}

pub use animation::Animation;
pub(crate) use canvas::{BODY, Canvas, INK, board};

/// The name of a pad in text: a digit, a letter, or `?`.
pub(crate) fn pad_char(pad: u8) -> char {
    char::from_digit(u32::from(pad), 36).unwrap_or('?')
}

/// `0-1-[4]-5` with the next pad in brackets.
pub(crate) fn task_line(task: &[u8], progress: usize) -> String {
    let name = |(k, pad): (usize, &u8)| {
        let name = pad_char(*pad);
        if k == progress { format!("[{name}]") } else { name.to_string() }
    };
    task.iter().enumerate().map(name).collect::<Vec<_>>().join("-")
}

/// An error unless a cell has a sensible side and the picture a sensible size.
pub(crate) fn check_px(px: usize, grid: usize) -> Result<()> {
    ensure((4..=256).contains(&px), "px", || "4 to 256".into(), px)?;
    ensure(px * grid <= 4096, "px", || format!("at most 4096 / {grid} cells"), px)
}
