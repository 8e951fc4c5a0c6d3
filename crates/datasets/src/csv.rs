//! CSV: quoted or plain fields, columns of numbers or text, or a matrix of features with labels.

use std::path::{Path, PathBuf};

use ndarray::{Array1, Array2};

use crate::bytes::{self, MAX_BYTES};
use crate::error::{Error, Result};

/// How a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Character between fields; an ASCII character other than `"` and line ends.
    pub delimiter: u8,
    /// Whether the first record names the columns. Without it they are named `0`, `1`, ...
    pub header: bool,
    /// Largest file, after decompression, in bytes.
    pub max_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { delimiter: b',', header: true, max_bytes: MAX_BYTES }
    }
}

/// A table in memory: the text of all cells, one after the other, and where each ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    path: PathBuf,
    names: Vec<String>,
    /// Line on which each record starts, from 1.
    lines: Vec<u32>,
    text: String,
    /// End of each cell in `text`, row by row.
    ends: Vec<u32>,
}

/// Features with labels, as [`Table::labelled`] gives them.
#[derive(Clone, Debug, PartialEq)]
pub struct Labelled {
    /// `[n, n_features]`.
    pub features: Array2<f32>,
    /// Names of the features.
    pub names: Vec<String>,
    /// `[n]`.
    pub labels: Array1<i64>,
    /// Names of the classes where labels are text; empty where they are integers.
    pub classes: Vec<String>,
}

/// Reads a CSV file, gzip or not.
///
/// # Errors
/// [`Error::Io`], or [`Error::Format`] naming the line that is wrong.
pub fn read(path: impl AsRef<Path>, options: Options) -> Result<Table> {
    let path = path.as_ref();
    parse(path, &bytes::read_text(path, options.max_bytes)?, options)
}

/// Reads CSV from memory; `name` stands for the file in errors.
///
/// Fields may stand in double quotes, with `""` for a quote inside; they may then hold delimiters and
/// line ends. Lines end with LF or CRLF. Empty lines are skipped. Every record must have as many
/// fields as the first.
///
/// # Errors
/// [`Error::Format`] naming the line; [`Error::Argument`] for a delimiter that cannot be one.
pub fn parse(name: impl AsRef<Path>, text: &str, options: Options) -> Result<Table> {
    let path = name.as_ref();
    if !options.delimiter.is_ascii() || b"\"\r\n".contains(&options.delimiter) {
        let found = format!("{:#04x}", options.delimiter);
        return Err(Error::argument(
            "delimiter",
            "an ASCII character other than a quote or line end",
            found,
        ));
    }
    if u32::try_from(text.len()).is_err() {
        return Err(Error::format(
            path,
            "length",
            "less than 4 GiB",
            format!("{} bytes", text.len()),
        ));
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut table = Table {
        path: path.to_owned(),
        names: Vec::new(),
        lines: Vec::new(),
        text: String::with_capacity(text.len()),
        ends: Vec::new(),
    };
    let mut cursor = Cursor { rest: text, line: 1, delimiter: options.delimiter };
    let mut n_columns = None;
    while let Some(start) = cursor.skip_empty_lines() {
        let before = table.ends.len();
        let text_before = table.text.len();
        loop {
            let last = cursor.field(path, &mut table.text)?;
            table.ends.push(table.text.len() as u32);
            if last {
                break;
            }
        }
        let found = table.ends.len() - before;
        let expected = *n_columns.get_or_insert(found);
        if found != expected {
            let field = format!("line {start}");
            return Err(Error::format(
                path,
                field,
                format!("{expected} fields"),
                format!("{found} fields"),
            ));
        }
        if options.header && table.names.is_empty() {
            let mut from = text_before;
            for end in table.ends.drain(before..) {
                table.names.push(table.text[from..end as usize].trim().to_owned());
                from = end as usize;
            }
            table.text.truncate(text_before);
        } else {
            table.lines.push(start);
        }
    }
    if !options.header {
        table.names = (0..n_columns.unwrap_or_default()).map(|i| i.to_string()).collect();
    }
    Ok(table)
}

struct Cursor<'a> {
    rest: &'a str,
    line: u32,
    delimiter: u8,
}

impl Cursor<'_> {
    /// Steps over empty lines; the line number of the next record, or none at the end.
    fn skip_empty_lines(&mut self) -> Option<u32> {
        while let Some(rest) =
            self.rest.strip_prefix('\n').or_else(|| self.rest.strip_prefix("\r\n"))
        {
            self.rest = rest;
            self.line += 1;
        }
        (!self.rest.is_empty()).then_some(self.line)
    }

    /// Appends one field to `out`; true if it was the last of its record.
    fn field(&mut self, path: &Path, out: &mut String) -> Result<bool> {
        if let Some(rest) = self.rest.strip_prefix('"') {
            self.rest = rest;
            self.quoted(path, out)?;
        } else {
            let delimiter = self.delimiter;
            let stop = |b: u8| b == delimiter || b == b'\n' || b == b'"';
            let end = self.rest.bytes().position(stop).unwrap_or(self.rest.len());
            let (field, rest) = self.rest.split_at(end);
            if rest.starts_with('"') {
                return Err(self.wrong(
                    path,
                    "no quote inside a field that does not start with one",
                    "a quote",
                ));
            }
            let at_end = rest.is_empty() || rest.starts_with('\n');
            out.push_str(if at_end { field.strip_suffix('\r').unwrap_or(field) } else { field });
            self.rest = rest;
        }
        let after = self.rest.strip_prefix("\r\n").or_else(|| self.rest.strip_prefix('\n'));
        if let Some(rest) = after {
            self.rest = rest;
            self.line += 1;
            return Ok(true);
        }
        match self.rest.bytes().next() {
            None => Ok(true),
            Some(b) if b == self.delimiter => {
                self.rest = &self.rest[1..];
                Ok(false)
            }
            Some(_) => {
                let found: String = self.rest.chars().take(1).collect();
                Err(self.wrong(
                    path,
                    "a delimiter or line end after a closing quote",
                    &format!("{found:?}"),
                ))
            }
        }
    }

    fn quoted(&mut self, path: &Path, out: &mut String) -> Result<()> {
        let opened = self.line;
        loop {
            let Some(end) = self.rest.find('"') else {
                let field = format!("line {opened}");
                return Err(Error::format(path, field, "a closing quote", "the end of the file"));
            };
            let (field, rest) = self.rest.split_at(end);
            self.line += field.bytes().filter(|&b| b == b'\n').count() as u32;
            out.push_str(field);
            let rest = &rest[1..];
            let Some(after) = rest.strip_prefix('"') else {
                self.rest = rest;
                return Ok(());
            };
            out.push('"');
            self.rest = after;
        }
    }

    fn wrong(&self, path: &Path, expected: &str, found: &str) -> Error {
        Error::format(path, format!("line {}", self.line), expected, found)
    }
}

impl Table {
    /// Number of records, without the header.
    pub fn n_rows(&self) -> usize {
        self.lines.len()
    }

    /// Names of the columns.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The text of a cell; none outside the table.
    pub fn cell(&self, row: usize, column: usize) -> Option<&str> {
        if column >= self.names.len() {
            return None;
        }
        let at = row.checked_mul(self.names.len())?.checked_add(column)?;
        let end = *self.ends.get(at)? as usize;
        let start = if at == 0 { 0 } else { self.ends[at - 1] as usize };
        self.text.get(start..end)
    }

    /// A column as text, `[n_rows]`.
    ///
    /// # Errors
    /// [`Error::Format`] if there is no such column.
    pub fn text(&self, column: &str) -> Result<Vec<&str>> {
        let column = self.index(column)?;
        Ok((0..self.n_rows()).filter_map(|row| self.cell(row, column)).collect())
    }

    /// A column of finite numbers, `[n_rows]`.
    ///
    /// # Errors
    /// [`Error::Format`] if there is no such column, or naming the line of a cell that is empty or
    /// no finite number.
    pub fn f64(&self, column: &str) -> Result<Array1<f64>> {
        let column = self.index(column)?;
        (0..self.n_rows()).map(|row| self.number(row, column)).collect()
    }

    /// A column of integers, `[n_rows]`.
    ///
    /// # Errors
    /// [`Error::Format`] if there is no such column, or naming the line of a cell that is no integer.
    pub fn i64(&self, column: &str) -> Result<Array1<i64>> {
        let column = self.index(column)?;
        let parse = |row| {
            let text = self.cell(row, column).unwrap_or_default();
            text.trim().parse().map_err(|_| self.wrong(row, column, "an integer", text))
        };
        (0..self.n_rows()).map(parse).collect()
    }

    /// Columns of finite numbers as a matrix, `[n_rows, columns.len()]`, in the order asked for.
    ///
    /// # Errors
    /// As [`Table::f64`]; numbers beyond the range of float32 are not finite.
    pub fn matrix(&self, columns: &[&str]) -> Result<Array2<f32>> {
        let columns = columns.iter().map(|c| self.index(c)).collect::<Result<Vec<_>>>()?;
        let mut values = Vec::with_capacity(self.n_rows() * columns.len());
        for row in 0..self.n_rows() {
            for &column in &columns {
                let value = self.number(row, column)? as f32;
                if !value.is_finite() {
                    let text = self.cell(row, column).unwrap_or_default();
                    return Err(self.wrong(row, column, "a number in the range of float32", text));
                }
                values.push(value);
            }
        }
        Array2::from_shape_vec((self.n_rows(), columns.len()), values)
            .map_err(|e| Error::format(&self.path, "matrix", "rows of equal length", e.to_string()))
    }

    /// Splits the table into features and one column of labels. Labels that are all integers are
    /// taken as they are; others are numbered in the order of their sorted names.
    ///
    /// # Errors
    /// As [`Table::matrix`], or there is no column `label`.
    pub fn labelled(&self, label: &str) -> Result<Labelled> {
        let at = self.index(label)?;
        let columns: Vec<&str> = self
            .names
            .iter()
            .enumerate()
            .filter(|(i, _)| *i != at)
            .map(|(_, n)| n.as_str())
            .collect();
        let features = self.matrix(&columns)?;
        let names = columns.into_iter().map(str::to_owned).collect();
        if let Ok(labels) = self.i64(label) {
            return Ok(Labelled { features, names, labels, classes: Vec::new() });
        }
        let text = self.text(label)?;
        let mut classes: Vec<String> = text.iter().map(|&t| t.to_owned()).collect();
        classes.sort();
        classes.dedup();
        let number =
            |t: &str| classes.binary_search_by(|c| c.as_str().cmp(t)).unwrap_or_default() as i64;
        let labels = text.iter().map(|t| number(t)).collect();
        Ok(Labelled { features, names, labels, classes })
    }

    fn index(&self, column: &str) -> Result<usize> {
        self.names.iter().position(|n| n == column).ok_or_else(|| {
            let names: Vec<&String> = self.names.iter().take(40).collect();
            Error::format(
                &self.path,
                "columns",
                format!("a column `{column}`"),
                format!("{names:?}"),
            )
        })
    }

    fn number(&self, row: usize, column: usize) -> Result<f64> {
        let text = self.cell(row, column).unwrap_or_default();
        let value = text.trim().parse::<f64>().ok().filter(|v| v.is_finite());
        value.ok_or_else(|| self.wrong(row, column, "a finite number", text))
    }

    fn wrong(&self, row: usize, column: usize, expected: &str, found: &str) -> Error {
        let field = format!("line {}, column `{}`", self.lines[row], self.names[column]);
        Error::format(&self.path, field, expected, format!("`{found:.40}`"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    fn table(text: &str) -> Table {
        parse("t.csv", text, Options::default()).unwrap()
    }

    fn error(text: &str) -> String {
        parse("t.csv", text, Options::default()).unwrap_err().to_string()
    }

    #[test]
    fn reads_quotes_line_ends_and_empty_cells() {
        let t = table("\u{feff}a,\"b \"\"x\"\"\",c\r\n1,\"two\nlines, and a comma\",\n\n,é,3");
        assert_eq!(t.names(), ["a", "b \"x\"", "c"]);
        assert_eq!(
            (t.n_rows(), t.cell(0, 1), t.cell(0, 2)),
            (2, Some("two\nlines, and a comma"), Some(""))
        );
        assert_eq!((t.cell(1, 0), t.cell(1, 1), t.cell(1, 2)), (Some(""), Some("é"), Some("3")));
        assert_eq!((t.cell(2, 0), t.cell(0, 3), t.cell(usize::MAX, 0)), (None, None, None));
        let tabs =
            parse("t", "1\t2\n", Options { delimiter: b'\t', header: false, ..Options::default() })
                .unwrap();
        assert_eq!(tabs.matrix(&["0", "1"]).unwrap(), array![[1.0, 2.0]]);
        let empty = table("");
        assert_eq!((empty.n_rows(), empty.names().len()), (0, 0));
    }

    #[test]
    fn typed_columns_and_labels() {
        let t = table("x,kind,y,n\n1.5,b,-2e3,7\n 2 ,a,0,-1\n");
        assert_eq!(t.f64("y").unwrap(), array![-2000.0, 0.0]);
        assert_eq!(t.i64("n").unwrap(), array![7, -1]);
        assert_eq!(t.matrix(&["y", "x"]).unwrap(), array![[-2000.0, 1.5], [0.0, 2.0]]);
        let l = table("x,kind\n1,b\n2,a\n3,b\n").labelled("kind").unwrap();
        assert_eq!((l.labels, l.classes), (array![1, 0, 1], vec!["a".to_owned(), "b".to_owned()]));
        let l = table("x,kind\n1,7\n2,3\n").labelled("kind").unwrap();
        assert_eq!((l.labels, l.classes.len(), l.names), (array![7, 3], 0, vec!["x".to_owned()]));
    }

    #[test]
    fn errors_name_line_and_column() {
        assert_eq!(error("a,b\n1,2\n3\n"), "t.csv: line 3: expected 2 fields, found 1 fields");
        assert_eq!(
            error("a\n\"x\ny"),
            "t.csv: line 2: expected a closing quote, found the end of the file"
        );
        assert!(
            error("a\n\"x\"y\n")
                .contains("line 2: expected a delimiter or line end after a closing quote")
        );
        assert!(error("a\nx\"y\n").contains("line 2: expected no quote inside"));
        let t = table("a,b\n1,\"p\nq\"\nnan,1e39\n");
        assert_eq!(
            t.f64("a").unwrap_err().to_string(),
            "t.csv: line 4, column `a`: expected a finite number, found `nan`"
        );
        assert!(
            t.i64("b").unwrap_err().to_string().contains("line 2, column `b`: expected an integer")
        );
        assert!(t.f64("z").unwrap_err().to_string().contains("columns: expected a column `z`"));
        let wide = table("a\n1e39\n").matrix(&["a"]).unwrap_err();
        assert!(wide.to_string().contains("in the range of float32"), "{wide}");
        assert!(parse("t", "", Options { delimiter: b'"', ..Options::default() }).is_err());
    }
}
