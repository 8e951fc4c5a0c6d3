//! What grew, when, where, by how many, why, what it did to the function and what it cost.

use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use tensor_core::grow::FunctionChange;

/// One growth (or pruning) of one layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// Optimiser steps taken before it.
    pub step: u64,
    /// Index of the hidden layer.
    pub layer: usize,
    /// Its name.
    pub name: String,
    /// Width before.
    pub before: i64,
    /// Width after.
    pub after: i64,
    /// Units that the trigger asked for, before caps.
    pub wanted: i64,
    /// What the trigger measured.
    pub measured: f64,
    /// What it held that against.
    pub threshold: f64,
    /// Fall-backs and step sizes of the initialisation; empty when there is nothing to say.
    pub remark: String,
    /// How far the outputs moved on the probe; `None` when unmeasured.
    pub function_change: Option<FunctionChange>,
    /// Milliseconds that the trigger took in this step, all layers together.
    pub trigger_ms: f64,
    /// Milliseconds that new units and their plan took.
    pub init_ms: f64,
    /// Weights and biases of the network afterwards, normalisations not counted.
    pub params: i64,
}

/// All events of a run, the widths over time and the summed costs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Journal {
    /// Events in order.
    pub events: Vec<Event>,
    /// Widths of all hidden layers, at the start and at each step in which one changed.
    pub widths: Vec<(u64, Vec<i64>)>,
    /// How often the trigger was asked.
    pub evaluations: u64,
    /// Milliseconds of all triggers, those that did not fire included.
    pub trigger_ms: f64,
    /// Milliseconds of all initialisations and resizes.
    pub init_ms: f64,
}

impl Journal {
    /// The last step at which any layer grew; `None` when none did.
    pub fn last_growth(&self) -> Option<u64> {
        self.events.iter().filter(|e| e.after > e.before).map(|e| e.step).next_back()
    }

    /// Widths over time as one small SVG: a step line per layer, from step 0 to `steps`.
    pub fn svg(&self, steps: u64, title: &str) -> String {
        const COLORS: [&str; 8] = [
            "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#666666", "#000000",
        ];
        let (w, h, edge) = (640.0, 320.0, 48.0);
        let n = self.widths.first().map_or(0, |(_, v)| v.len());
        let top = self.widths.iter().flat_map(|(_, v)| v).copied().max().unwrap_or(1).max(1);
        let x = |step: u64| edge + (w - 2.0 * edge) * (step as f64 / steps.max(1) as f64).min(1.0);
        let y = |width: i64| h - edge - (h - 2.0 * edge) * width as f64 / top as f64;
        let mut svg = format!(
            r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w} {h}" font-family="sans-serif" font-size="12"><rect width="{w}" height="{h}" fill="white"/><path d="M{edge} {edge}V{b}H{r}" fill="none" stroke="#444"/><text x="{m}" y="24" text-anchor="middle">{title}</text><text x="{m}" y="{l}" text-anchor="middle">step</text><text x="{e2}" y="{t}" text-anchor="end">{top}</text><text x="{e2}" y="{b}" text-anchor="end">0</text><text x="{r}" y="{u}" text-anchor="end">{steps}</text>"##,
            b = h - edge,
            r = w - edge,
            m = w / 2.0,
            l = h - 12.0,
            e2 = edge - 6.0,
            t = edge + 4.0,
            u = h - edge + 16.0,
            title = title.replace('&', "&amp;").replace('<', "&lt;"),
        );
        for layer in 0..n {
            let color = COLORS[layer % COLORS.len()];
            let mut path = String::new();
            for (step, widths) in &self.widths {
                let Some(width) = widths.get(layer) else { continue };
                let (at, to) = (x(*step), y(*width));
                if path.is_empty() {
                    let _ = write!(path, "M{at:.1} {to:.1}");
                } else {
                    let _ = write!(path, "H{at:.1}V{to:.1}");
                }
            }
            let _ = write!(path, "H{:.1}", x(steps));
            let at = edge + 16.0 + 14.0 * layer as f64;
            let _ = write!(
                svg,
                r#"<path d="{path}" fill="none" stroke="{color}" stroke-width="2"/><text x="{}" y="{at}" fill="{color}">layer {layer}</text>"#,
                edge + 8.0,
            );
        }
        svg.push_str("</svg>\n");
        svg
    }
}
