//! Tables of a report as LaTeX with booktabs, and the lines that include its figures.

use super::page::{Grid, Page};
use std::fmt::Write;

/// The tables and figure includes of a page; needs the packages `booktabs` and `svg` (or the PNG
/// copies with `graphicx`).
pub fn latex(page: &Page) -> String {
    let mut out = String::from("% \\usepackage{booktabs,graphicx}\n");
    table(&mut out, &page.primary, &format!("{}: {}.", page.title, page.metric), "primary");
    table(&mut out, &page.per_task, "Results by task.", "tasks");
    table(&mut out, &page.pairs, "Methods against each other.", "pairs");
    table(&mut out, &page.execution, "Trials by outcome, and cost.", "execution");
    for figure in &page.figures {
        let _ = writeln!(
            out,
            "\\begin{{figure}}\n  \\centering\n  \\includegraphics[width=\\linewidth]{{figures/{}.png}}\n  \
             \\label{{fig:{}}}\n\\end{{figure}}\n",
            figure.name, figure.name
        );
    }
    out
}

fn table(out: &mut String, grid: &Grid, caption: &str, label: &str) {
    if grid.rows.is_empty() {
        return;
    }
    let columns = "l".repeat(grid.head.len());
    let line = |cells: &[String], bold: bool| {
        let cells: Vec<String> = cells
            .iter()
            .map(|c| if bold { format!("\\textbf{{{}}}", escape(c)) } else { escape(c) })
            .collect();
        format!("  {} \\\\\n", cells.join(" & "))
    };
    let _ = write!(
        out,
        "\\begin{{table}}\n  \\centering\n  \\caption{{{}}}\\label{{tab:{label}}}\n  \
         \\begin{{tabular}}{{{columns}}}\n  \\toprule\n",
        escape(caption)
    );
    out.push_str(&line(&grid.head, false));
    out.push_str("  \\midrule\n");
    for (i, row) in grid.rows.iter().enumerate() {
        out.push_str(&line(row, grid.bold.get(i).copied().unwrap_or(false)));
    }
    out.push_str("  \\bottomrule\n  \\end{tabular}\n");
    if !grid.note.is_empty() {
        let _ = writeln!(out, "  \\par\\small {}", escape(&grid.note));
    }
    out.push_str("\\end{table}\n\n");
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => {
                out.push('\\');
                out.push(c);
            }
            '~' => out.push_str("\\textasciitilde{}"),
            '^' => out.push_str("\\textasciicircum{}"),
            '\\' => out.push_str("\\textbackslash{}"),
            '<' => out.push_str("$<$"),
            '>' => out.push_str("$>$"),
            '±' => out.push_str("$\\pm$"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_characters_are_escaped() {
        assert_eq!(escape("50% of a_b & p < 0.01"), "50\\% of a\\_b \\& p $<$ 0.01");
    }

    #[test]
    fn a_table_has_its_rules_and_bold_rows() {
        let grid = Grid {
            head: vec!["a".into(), "b".into()],
            rows: vec![vec!["1".into(), "2".into()]],
            bold: vec![true],
            note: String::new(),
        };
        let mut out = String::new();
        table(&mut out, &grid, "c", "l");
        assert!(
            out.contains("\\toprule\n  a & b \\\\\n  \\midrule\n  \\textbf{1} & \\textbf{2}"),
            "{out}"
        );
    }
}
