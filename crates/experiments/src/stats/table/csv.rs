//! Reading a long-form CSV into a [`Table`].

use std::collections::{BTreeMap, BTreeSet};

use super::{Table, TableError};

const KNOWN: [&str; 8] = ["method", "task", "rep", "value", "metric", "split", "budget", "status"];

pub(super) fn read(text: &str, metric: Option<&str>) -> Result<Table, TableError> {
    let mut records = records(text.strip_prefix('\u{feff}').unwrap_or(text))?.into_iter();
    let Some((line, header)) = records.next() else {
        return Err(TableError::Content("the file is empty".into()));
    };
    let columns = Columns::find(line, &header)?;
    if metric.is_some() && columns.metric.is_none() {
        return Err(TableError::Content(
            "a metric was chosen, but there is no `metric` column".into(),
        ));
    }
    let mut builder = Builder::default();
    let mut metrics = BTreeSet::new();
    for (line, record) in records {
        if record.len() != header.len() {
            return Err(TableError::Csv {
                line,
                why: format!("expected {} fields, got {}", header.len(), record.len()),
            });
        }
        if let Some(column) = columns.metric {
            if metric.is_some_and(|wanted| record[column] != wanted) {
                continue;
            }
            metrics.insert(record[column].clone());
        }
        builder.add(line, &record, &columns)?;
    }
    if metrics.len() > 1 {
        let list: Vec<String> = metrics.into_iter().collect();
        return Err(TableError::Content(format!(
            "several metrics ({}); choose one",
            list.join(", ")
        )));
    }
    builder.finish()
}

struct Columns {
    method: usize,
    value: usize,
    task: Option<usize>,
    rep: Option<usize>,
    metric: Option<usize>,
    status: Option<usize>,
}

impl Columns {
    fn find(line: usize, header: &[String]) -> Result<Self, TableError> {
        let names: Vec<&str> = header.iter().map(|h| h.trim()).collect();
        for (i, name) in names.iter().enumerate() {
            if !KNOWN.contains(name) {
                let why = format!("unknown column `{name}`; known: {}", KNOWN.join(", "));
                return Err(TableError::Csv { line, why });
            }
            if names[..i].contains(name) {
                return Err(TableError::Csv {
                    line,
                    why: format!("column `{name}` appears twice"),
                });
            }
        }
        let at = |name: &str| names.iter().position(|n| *n == name);
        let must = |name: &str| {
            at(name).ok_or_else(|| TableError::Csv { line, why: format!("no column `{name}`") })
        };
        Ok(Self {
            method: must("method")?,
            value: must("value")?,
            task: at("task"),
            rep: at("rep"),
            metric: at("metric"),
            status: at("status"),
        })
    }
}

#[derive(Default)]
struct Builder {
    methods: Vec<String>,
    tasks: Vec<String>,
    cells: BTreeMap<(usize, usize), BTreeMap<Label, f64>>,
}

/// Repetition labels sort as numbers where they are numbers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Label {
    Number(i64),
    Text(String),
}

impl Builder {
    fn add(&mut self, line: usize, record: &[String], at: &Columns) -> Result<(), TableError> {
        let wrong = |why: String| Err(TableError::Csv { line, why });
        if let Some(status) = at.status.map(|c| record[c].trim()).filter(|s| *s != "ok") {
            return wrong(format!(
                "status `{status}`: decide first how failed runs count (penalise, worst value, \
                 leave out), then give rows that are `ok`"
            ));
        }
        let text = record[at.value].trim();
        let value = match text.parse::<f64>() {
            Ok(v) if v.is_finite() => v,
            _ => return wrong(format!("value `{text}`, expected a finite number")),
        };
        let method = index_of(&mut self.methods, record[at.method].trim());
        let task = index_of(&mut self.tasks, at.task.map_or("all", |c| record[c].trim()));
        let cell = self.cells.entry((method, task)).or_default();
        let label = match at.rep.map(|c| record[c].trim()) {
            Some(text) => text.parse().map_or_else(|_| Label::Text(text.into()), Label::Number),
            None => Label::Number(cell.len() as i64),
        };
        if cell.insert(label, value).is_some() {
            return wrong("this method, task and rep appeared before".into());
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Table, TableError> {
        if self.cells.is_empty() {
            return Err(TableError::Content("the file has no rows (of this metric)".into()));
        }
        let cells = (0..self.methods.len())
            .map(|m| {
                (0..self.tasks.len())
                    .map(|t| {
                        let cell = self.cells.remove(&(m, t)).unwrap_or_default();
                        cell.into_iter().map(|(label, v)| (label.into_text(), v)).collect()
                    })
                    .collect()
            })
            .collect();
        Ok(Table { methods: self.methods, tasks: self.tasks, cells })
    }
}

impl Label {
    fn into_text(self) -> String {
        match self {
            Self::Number(n) => n.to_string(),
            Self::Text(text) => text,
        }
    }
}

fn index_of(names: &mut Vec<String>, name: &str) -> usize {
    names.iter().position(|n| n == name).unwrap_or_else(|| {
        names.push(name.to_owned());
        names.len() - 1
    })
}

/// Records with the line on which each begins (RFC 4180: quotes, doubled quotes, CRLF, line breaks
/// inside quotes). Blank lines are skipped.
fn records(text: &str) -> Result<Vec<(usize, Vec<String>)>, TableError> {
    let mut out = Vec::new();
    let mut chars = text.chars().peekable();
    let (mut line, mut start) = (1, 1);
    let mut record: Vec<String> = Vec::new();
    let mut field = String::new();
    let mut quoted = false; // the current field was opened by a quote
    while chars.peek().is_some() {
        let c = chars.next().unwrap_or_default();
        match c {
            '"' if field.is_empty() && !quoted => {
                quoted = true;
                loop {
                    match chars.next() {
                        Some('"') if chars.peek() == Some(&'"') => {
                            field.push('"');
                            chars.next();
                        }
                        Some('"') => break,
                        Some(inner) => {
                            line += usize::from(inner == '\n');
                            field.push(inner);
                        }
                        None => {
                            let why = "a quote is never closed".into();
                            return Err(TableError::Csv { line: start, why });
                        }
                    }
                }
            }
            ',' => {
                record.push(std::mem::take(&mut field));
                quoted = false;
            }
            '\r' if chars.peek() == Some(&'\n') => {}
            '\n' => {
                if !record.is_empty() || !field.trim().is_empty() || quoted {
                    record.push(std::mem::take(&mut field));
                    out.push((start, std::mem::take(&mut record)));
                }
                field.clear();
                quoted = false;
                line += 1;
                start = line;
            }
            _ if quoted && !c.is_whitespace() => {
                return Err(TableError::Csv { line, why: "text after a closing quote".into() });
            }
            _ if quoted => {}
            _ => field.push(c),
        }
    }
    if !record.is_empty() || !field.trim().is_empty() || quoted {
        record.push(field);
        out.push((start, record));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_crlf_blank_lines_and_order() {
        let text = "\u{feff}value,method\r\n1.5,\"a, \"\"b\"\"\"\r\n\r\n2,\"c\nd\"\r\n";
        let t = read(text, None).unwrap();
        assert_eq!(t.methods, ["a, \"b\"", "c\nd"]);
        assert_eq!(t.tasks, ["all"]);
        assert_eq!(t.runs(0, 0), [1.5]);
    }

    #[test]
    fn errors_carry_their_line() {
        let line = |text: &str| match read(text, None) {
            Err(TableError::Csv { line, why }) => (line, why),
            other => panic!("{other:?}"),
        };
        assert_eq!(line("method,value\na,1\nb,nan\n").0, 3);
        assert_eq!(line("method,value\na,1e999\n").0, 2);
        assert_eq!(line("method,value\na\n").0, 2);
        assert_eq!(line("method,valeu\na,1\n").0, 1);
        assert_eq!(line("method,value,method\n").0, 1);
        assert_eq!(line("method,rep,value\na,0,1\na,0,2\n").0, 3);
        assert_eq!(line("method,value\n\"a,1\n").0, 2);
        let (at, why) = line("method,value,status\na,1,timeout\n");
        assert!(at == 2 && why.contains("timeout"));
    }

    #[test]
    fn one_metric_at_a_time() {
        let text = "method,metric,value\na,loss,1\na,acc,2\n";
        assert!(read(text, None).unwrap_err().to_string().contains("acc, loss"));
        assert_eq!(read(text, Some("acc")).unwrap().runs(0, 0), [2.0]);
        assert!(read(text, Some("f1")).is_err());
        assert!(read("", None).is_err());
        assert!(read("method,value\na,1\n", Some("acc")).is_err());
    }
}
