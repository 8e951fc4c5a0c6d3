//! Every kind of figure: bytes, layout, refusals, files.
//!
//! The drawings under `tests/figures/` are compared byte for byte; after a wanted change run the
//! tests with `UPDATE_FIGURES=1`, look at the files and commit them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../examples/gallery/extremes.rs"]
mod extremes;
#[path = "../examples/gallery/samples.rs"]
mod samples;

use std::collections::BTreeSet;
use std::path::Path;

use experiments::figures::{
    CriticalDifference, Curves, Draw, Estimate, Figure, Format, IntervalPanel, Intervals, Palette,
    RankTest, RankedMethod, ScaleKind, Width,
};
use proptest::prelude::*;
use resvg::usvg::roxmltree::{Document, Node};

fn everything() -> Vec<Figure> {
    let mut all = samples::all().unwrap();
    all.extend(extremes::all().unwrap());
    all
}

#[test]
fn drawings_are_as_checked_in() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/figures");
    let update = std::env::var_os("UPDATE_FIGURES").is_some();
    let mut wrong = Vec::new();
    let mut expected = BTreeSet::new();
    for figure in samples::all().unwrap() {
        let path = folder.join(format!("{}.svg", figure.name));
        expected.insert(path.clone());
        if update {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(&path, &figure.svg).unwrap();
        }
        let kept = std::fs::read_to_string(&path).unwrap_or_default();
        if kept != figure.svg {
            let line = kept.lines().zip(figure.svg.lines()).position(|(a, b)| a != b);
            wrong.push(format!("{} (first difference in line {line:?})", path.display()));
        }
    }
    assert!(wrong.is_empty(), "changed drawings: {wrong:#?}");
    let present: BTreeSet<_> =
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(present, expected, "files without a figure");
}

#[test]
fn same_input_same_bytes() {
    for (a, b) in everything().iter().zip(everything()) {
        assert_eq!(a.svg, b.svg);
        assert_eq!(a.data.to_string(), b.data.to_string());
    }
}

#[test]
fn documents_are_valid_and_self_contained() {
    let mut names = BTreeSet::new();
    for figure in everything() {
        assert!(names.insert(figure.name.clone()), "{} twice", figure.name);
        let doc = Document::parse(&figure.svg).unwrap_or_else(|e| panic!("{}: {e}", figure.name));
        let root = doc.root_element();
        assert!(root.attribute("viewBox").is_some());
        let child = |tag: &str| {
            root.children().find(|n| n.has_tag_name(tag)).and_then(|n| n.text()).unwrap_or("")
        };
        assert!(!child("title").is_empty() && !child("desc").is_empty(), "{}", figure.name);
        let mut ids = BTreeSet::new();
        for node in doc.descendants() {
            assert!(!node.has_tag_name("style") && !node.has_tag_name("script"));
            if let Some(id) = node.attribute("id") {
                let prefix = figure.name.replace('.', "-");
                assert!(id.starts_with(&prefix) && ids.insert(id.to_owned()), "{id}");
            }
        }
        for number in figure.svg.split(['"', ' ', 'M', 'L', 'Z', 'H', 'V', ',']) {
            assert!(number != "NaN" && number != "inf" && number != "-inf", "{}", figure.name);
        }
        assert!(!figure.svg.contains("href"), "{}", figure.name);
    }
}

/// Corners of a text's box, turned as the text is.
fn corners(node: &Node) -> [(f64, f64); 4] {
    let value = |name: &str| node.attribute(name).map_or(0.0, |v| v.parse::<f64>().unwrap());
    let (x, y, size, length) = (value("x"), value("y"), value("font-size"), value("textLength"));
    let left = match node.attribute("text-anchor") {
        Some("middle") => x - length / 2.0,
        Some("end") => x - length,
        _ => x,
    };
    let degrees = node.attribute("transform").map_or(0.0, |t| {
        t.trim_start_matches("rotate(").split(' ').next().unwrap().parse::<f64>().unwrap()
    });
    let (sin, cos) = degrees.to_radians().sin_cos();
    // Capital height above the base line, a little less than the descent below it.
    let (top, bottom) = (y - 0.72 * size, y + 0.14 * size);
    [(left, top), (left + length, top), (left + length, bottom), (left, bottom)].map(|(px, py)| {
        let (dx, dy) = (px - x, py - y);
        (x + dx * cos - dy * sin, y + dx * sin + dy * cos)
    })
}

/// Whether two convex quadrilaterals overlap by more than a hair (separating axes).
fn overlap(a: &[(f64, f64); 4], b: &[(f64, f64); 4]) -> bool {
    let separated = |p: &[(f64, f64); 4], q: &[(f64, f64); 4]| {
        (0..4).any(|i| {
            let (s, e) = (p[i], p[(i + 1) % 4]);
            let (nx, ny) = (e.1 - s.1, s.0 - e.0);
            let length = nx.hypot(ny).max(1e-9);
            let span = |r: &[(f64, f64); 4]| {
                r.iter()
                    .map(|c| (c.0 * nx + c.1 * ny) / length)
                    .fold((f64::MAX, f64::MIN), |m, v| (m.0.min(v), m.1.max(v)))
            };
            let ((a0, a1), (b0, b1)) = (span(p), span(q));
            a1 <= b0 + 0.15 || b1 <= a0 + 0.15
        })
    };
    !separated(a, b) && !separated(b, a)
}

fn assert_layout(figure: &Figure) {
    let doc = Document::parse(&figure.svg).unwrap();
    let view: Vec<f64> = doc
        .root_element()
        .attribute("viewBox")
        .unwrap()
        .split(' ')
        .map(|v| v.parse().unwrap())
        .collect();
    let texts: Vec<_> = doc
        .descendants()
        .filter(|n| n.has_tag_name("text"))
        .map(|n| (n.text().unwrap_or("").to_owned(), corners(&n)))
        .collect();
    for (i, (words, a)) in texts.iter().enumerate() {
        for &(x, y) in a {
            assert!(
                x >= -0.01 && x <= view[2] + 0.01 && y >= -0.01 && y <= view[3] + 0.01,
                "{}: `{words}` leaves the page at {x:.1}, {y:.1} of {} x {}",
                figure.name,
                view[2],
                view[3]
            );
        }
        for (others, b) in &texts[i + 1..] {
            assert!(
                !overlap(a, b),
                "{}: `{words}` overlaps `{others}`: {a:.1?} {b:.1?}",
                figure.name
            );
        }
    }
}

#[test]
fn no_label_overlaps_another_or_leaves_the_page() {
    for figure in everything() {
        assert_layout(&figure);
    }
}

#[test]
#[should_panic(expected = "overlaps")]
fn the_layout_check_sees_an_overlap() {
    let mut figure = samples::sparkline().draw(&Palette::default()).unwrap();
    let line = figure.svg.lines().find(|l| l.starts_with("<text")).unwrap().to_owned();
    let turned = line.replace(" textLength", " transform=\"rotate(-20 4 10)\" textLength");
    figure.svg = figure.svg.replace(&line, &format!("{line}\n{turned}"));
    assert_layout(&figure);
}

#[test]
fn side_files_hold_origin_and_numbers() {
    let figure = samples::intervals(&samples::names(4))
        .draw(&Palette::for_methods(&samples::names(4)))
        .unwrap();
    let data = &figure.data;
    assert_eq!(data["kind"], "intervals");
    assert_eq!(data["seed"], 20_260_101);
    assert_eq!(data["command"], "exp figures growth-spiral --only intervals");
    assert!(data["interval_method"].as_str().unwrap().contains("bootstrap"));
    assert_eq!(data["input_hash"].as_str().unwrap().len(), 64);
    let row = &data["plotted"]["panels"][0]["rows"][0];
    assert_eq!(row["n"], 40);
    assert!(row["point"].as_f64().unwrap() > 0.1 && row["interval"][1].is_f64());
    // The hash follows the numbers.
    let mut other = samples::intervals(&samples::names(4));
    other.panels[0].rows[0] = Some(Estimate::new(0.2, [0.1, 0.3], 40));
    let other = other.draw(&Palette::for_methods(&samples::names(4))).unwrap();
    assert_ne!(other.data["input_hash"], data["input_hash"]);
}

#[test]
fn inputs_survive_json() {
    let input = samples::curves(&samples::names(4), 2);
    let text = serde_json::to_string(&input).unwrap();
    let back: Curves = serde_json::from_str(&text).unwrap();
    assert_eq!(input, back);
    assert!(
        serde_json::from_str::<Estimate>(r#"{"point":1,"interval":null,"n":1,"m":2}"#).is_err()
    );
}

#[test]
fn png_is_drawn_from_the_svg_without_system_fonts() {
    let figure = samples::profile(&samples::names(4))
        .draw(&Palette::for_methods(&samples::names(4)))
        .unwrap();
    let png = figure.png(1.0).unwrap();
    assert_eq!(&png[..8], b"\x89PNG\r\n\x1a\n");
    let side = |at: usize| u32::from_be_bytes(png[at..at + 4].try_into().unwrap());
    assert_eq!(side(16), (3.4_f64 * 96.0).ceil() as u32);
    assert_eq!(png, figure.png(1.0).unwrap());
    // Text leaves ink: without its letters the picture differs.
    let mut silent = figure.clone();
    silent.svg = silent.svg.replace("<text ", "<desc ").replace("</text>", "</desc>");
    assert_ne!(png, silent.png(1.0).unwrap());
    for scale in [0.0, -1.0, f32::NAN, 17.0] {
        assert!(figure.png(scale).unwrap_err().to_string().contains("scale"));
    }
}

#[test]
fn files_appear_whole() {
    let folder = tempfile::tempdir().unwrap();
    let figure = samples::sparkline().draw(&Palette::default()).unwrap();
    let paths = figure.save(folder.path(), &[Format::Svg, Format::Png { scale: 1.0 }]).unwrap();
    let found: BTreeSet<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    let expected = ["sparkline.json", "sparkline.png", "sparkline.svg"];
    assert_eq!(found, expected.map(str::to_owned).into());
    assert_eq!(paths.len(), 3);
    let data: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&paths[2]).unwrap()).unwrap();
    assert_eq!(data, figure.data);
    // A folder that is a file: an error that names it, and the file stays.
    let file = folder.path().join("sparkline.svg");
    let error = figure.save(&file, &[Format::Svg]).unwrap_err().to_string();
    assert!(error.contains("sparkline.svg"), "{error}");
    assert_eq!(std::fs::read_to_string(file).unwrap(), figure.svg);
}

/// The message of a refused figure.
fn refusal(figure: &impl Draw) -> String {
    let palette = Palette::for_methods(&samples::names(7));
    figure.draw(&palette).unwrap_err().to_string()
}

#[test]
fn a_mean_without_interval_is_refused() {
    let mut f = samples::intervals(&samples::names(4));
    f.panels[1].rows[2] = Some(Estimate { point: 0.1, interval: None, n: 3 });
    let message = refusal(&f);
    assert!(message.contains("panels[1].rows[2]") && message.contains("interval"), "{message}");
    let mut f = samples::curves(&samples::names(2), 1);
    f.panels[0].curves[0].points[7].value.interval = None;
    assert!(refusal(&f).contains("panels[0].curves[0].points[7]"));
    let mut f = samples::profile(&samples::names(2));
    f.curves[0].band.clear();
    assert!(refusal(&f).contains("curves[0].band"));
    let mut f = samples::curves(&samples::names(2), 1);
    f.centre = "best of 10 runs".to_owned();
    assert!(refusal(&f).contains("centre"));
}

#[test]
fn a_single_run_is_hollow_and_has_no_bar() {
    let methods = samples::names(1);
    let mut f = samples::intervals(&methods);
    f.panels.truncate(1);
    f.panels[0].references.clear();
    f.panels[0].rows = vec![Some(Estimate::single(0.3))];
    let palette = Palette::for_methods(&methods);
    let svg = f.draw(&palette).unwrap().svg;
    assert!(svg.contains("Hollow point"));
    let ink = format!("stroke=\"{}\"", palette.colour(&methods[0]).unwrap());
    let marks: Vec<&str> = svg.lines().filter(|l| l.contains(&ink)).collect();
    assert_eq!(marks.len(), 1, "{marks:?}");
    assert!(marks[0].starts_with("<circle") && marks[0].contains("fill=\"#ffffff\""));
    // An interval that a caller made up from one run is not drawn either.
    f.panels[0].rows = vec![Some(Estimate::new(0.3, [0.3, 0.3], 1))];
    let svg = f.draw(&palette).unwrap().svg;
    assert_eq!(svg.lines().filter(|l| l.contains(&ink)).count(), 1);
}

#[test]
fn bad_numbers_and_empty_inputs_name_their_place() {
    let methods = samples::names(4);
    let mut f = samples::intervals(&methods);
    f.panels[0].rows[1] = Some(Estimate::new(f64::NAN, [0.0, 1.0], 5));
    assert!(refusal(&f).contains("panels[0].rows[1].point"));
    let mut f = samples::intervals(&methods);
    f.panels[0].rows[1] = Some(Estimate::new(0.0, [1.0, 0.5], 5));
    assert!(refusal(&f).contains("low <= high"));
    let mut f = samples::intervals(&methods);
    f.methods.clear();
    assert!(refusal(&f).contains("`methods` is empty"));
    let mut f = samples::intervals(&methods);
    f.panels.clear();
    assert!(refusal(&f).contains("`panels` is empty"));
    let mut f = samples::intervals(&methods);
    f.methods[0] = "stranger".to_owned();
    assert!(refusal(&f).contains("stranger"));
    let mut f = samples::intervals(&methods);
    f.panels[0].scale = ScaleKind::Log10;
    f.panels[0].rows[0] = Some(Estimate::new(0.1, [0.0, 0.2], 5));
    assert!(refusal(&f).contains("logarithmic"));
    let mut f = samples::intervals(&methods);
    f.head.name = "../up".to_owned();
    assert!(refusal(&f).contains("head.name"));
    let mut f = samples::ecdf(&methods);
    f.curves[0].budget[0] = -1.0;
    assert!(refusal(&f).contains("above 0"));
    let mut f = samples::dolan_more(&methods);
    f.curves[1].share[3] = 2.0;
    assert!(refusal(&f).contains("curves[1].share[3]"));
    let mut f = samples::paired(true);
    f.panels[0].runs[0].values.pop();
    assert!(refusal(&f).contains("panels[0].runs[0].values"));
    let mut f = samples::importance();
    f.bars[0].seed_noise = 0.9;
    assert!(refusal(&f).contains("sum to at most 1"));
    let mut f = samples::matrix(&methods);
    f.p[0][1] = 0.9;
    assert!(refusal(&f).contains("p[0][1]"));
    let mut f = samples::ranks(&methods, 2);
    f.ranks[0][0] = Some(9.0);
    assert!(refusal(&f).contains("ranks[0][0]"));
    let mut f = samples::cost(&methods);
    f.panels[0].rows[0] = Some(Estimate::new(-1.0, [-2.0, 0.0], 4));
    assert!(refusal(&f).contains("cost of at least 0"));
    let mut f = samples::improvement();
    f.rows[0].probability = Estimate::new(1.2, [0.9, 1.3], 4);
    assert!(refusal(&f).contains("rows[0].probability"));
    let mut f = samples::overtuning();
    f.methods[0].test.clear();
    assert!(refusal(&f).contains("methods[0].test"));
    let mut f = samples::ablation();
    f.steps.clear();
    assert!(refusal(&f).contains("`steps` is empty"));
    let mut f = samples::sparkline();
    f.points[3].0 = 0.0;
    assert!(refusal(&f).contains("points[3].0"));
}

#[test]
fn a_method_keeps_its_colour_in_every_figure() {
    let methods = samples::names(4);
    let palette = Palette::for_methods(&methods);
    let colour = palette.colour(&methods[2]).unwrap();
    let curves = samples::curves(&methods, 1).draw(&palette).unwrap();
    // The same method alone, in another kind of figure.
    let alone = samples::ecdf(&methods[2..3]).draw(&palette).unwrap();
    assert!(curves.svg.contains(colour) && alone.svg.contains(colour));
    for other in [0, 1, 3] {
        assert!(!alone.svg.contains(palette.colour(&methods[other]).unwrap()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_numbers_and_names_give_a_clean_layout(
        points in prop::collection::vec((-1e9..1e9f64, 0.0..1e6f64, 1usize..9), 1..9),
        exponent in -12..12i32,
        name in "[ -~]{0,60}",
        column in any::<bool>(),
    ) {
        let methods: Vec<String> = (0..points.len()).map(|i| format!("{name}{i}")).collect();
        let unit = 10f64.powi(exponent);
        let rows = points
            .iter()
            .map(|&(p, h, n)| Some(Estimate::new(p * unit, [(p - h) * unit, (p + h) * unit], n)))
            .collect();
        let width = if column { Width::Column } else { Width::Page };
        let figure = Intervals {
            head: samples::head("random", &name).with_width(width),
            methods: methods.clone(),
            runs: 8,
            tasks: 2,
            panels: vec![IntervalPanel::new(name.clone(), rows)],
        }
        .draw(&Palette::for_methods(&methods))
        .unwrap();
        assert_layout(&figure);
    }

    #[test]
    fn any_ranks_give_a_clean_diagram(
        weights in prop::collection::vec(0.0..1.0f64, 2..16),
        length in 1usize..40,
        best_right in any::<bool>(),
        column in any::<bool>(),
    ) {
        // Ranks of the weights, mixed with the mean rank so that they are fractional.
        let k = weights.len();
        let mean = f64::midpoint(k as f64, 1.0);
        let methods: Vec<RankedMethod> = weights
            .iter()
            .enumerate()
            .map(|(i, w)| {
                // Mid-rank: half of how many are below plus how many are not above.
                let below = weights.iter().filter(|o| *o < w).count();
                let up_to = weights.iter().filter(|o| *o <= w).count();
                let rank = (below + up_to + 1) as f64 / 2.0;
                RankedMethod { name: format!("{}{i}", "name ".repeat(length / 5 + 1)), mean_rank: 0.4 * mean + 0.6 * rank }
            })
            .collect();
        let names: Vec<String> = methods.iter().map(|m| m.name.clone()).collect();
        let figure = CriticalDifference {
            head: samples::head("random-cd", "t").with_width(if column { Width::Column } else { Width::Page }),
            methods,
            tasks: 5,
            test: RankTest::Nemenyi { cd: weights[0] * 9.0 + 0.1 },
            friedman_p: weights[0],
            alpha: 0.05,
            groups: Vec::new(),
            uncovered: Vec::new(),
            best_right,
        }
        .draw(&Palette::for_methods(&names))
        .unwrap();
        assert_layout(&figure);
    }
}
