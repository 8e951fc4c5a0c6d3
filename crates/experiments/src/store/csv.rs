//! Comma-separated text by RFC 4180: the smallest reader and writer that keep every cell intact.

/// A problem in a CSV text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct CsvError {
    /// Line, from 1.
    pub line: usize,
    /// What was expected and found.
    pub message: String,
}

/// Appends one record to `out`.
///
/// ```
/// let mut text = String::new();
/// experiments::store::csv::write_record(&mut text, &["a", "b,c", "say \"x\""]);
/// assert_eq!(text, "a,\"b,c\",\"say \"\"x\"\"\"\n");
/// ```
pub fn write_record<S: AsRef<str>>(out: &mut String, cells: &[S]) {
    for (i, cell) in cells.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        let cell = cell.as_ref();
        // A lone empty cell is quoted, or the record would read back as an empty line.
        let quote = cell.contains([',', '"', '\n', '\r']) || (cells.len() == 1 && cell.is_empty());
        if quote {
            out.push('"');
            out.push_str(&cell.replace('"', "\"\""));
            out.push('"');
        } else {
            out.push_str(cell);
        }
    }
    out.push('\n');
}

/// All records of `text`, each with the line on which it starts. Empty lines are skipped.
///
/// # Errors
/// On a quote that is never closed and on text after a closing quote.
pub fn read(text: &str) -> Result<Vec<(usize, Vec<String>)>, CsvError> {
    let mut records = Vec::new();
    let mut chars = text.strip_prefix('\u{feff}').unwrap_or(text).chars().peekable();
    let mut line = 1;
    while chars.peek().is_some() {
        let start = line;
        let mut cells = Vec::new();
        loop {
            let mut cell = String::new();
            if chars.next_if_eq(&'"').is_some() {
                loop {
                    match chars.next() {
                        Some('"') if chars.next_if_eq(&'"').is_some() => cell.push('"'),
                        Some('"') => break,
                        Some(c) => {
                            line += usize::from(c == '\n');
                            cell.push(c);
                        }
                        None => {
                            return Err(CsvError {
                                line: start,
                                message: "expected a closing quote, found the end".to_owned(),
                            });
                        }
                    }
                }
                if let Some(c) = chars.peek()
                    && !matches!(c, ',' | '\n' | '\r')
                {
                    return Err(CsvError {
                        line,
                        message: format!("expected a comma after the closing quote, found {c:?}"),
                    });
                }
            } else {
                while let Some(c) = chars.next_if(|c| !matches!(c, ',' | '\n' | '\r')) {
                    cell.push(c);
                }
            }
            cells.push(cell);
            if chars.next_if_eq(&',').is_none() {
                break;
            }
        }
        chars.next_if_eq(&'\r');
        chars.next_if_eq(&'\n');
        line += 1;
        if cells.len() > 1 || !cells[0].is_empty() {
            records.push((start, cells));
        }
    }
    Ok(records)
}

/// Shortest decimal text that reads back to the same float64; `nan`, `inf`, `-inf`.
pub fn number_text(value: f64) -> String {
    if value.is_nan() { "nan".to_owned() } else { format!("{value}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quotes_lines_and_marks() {
        let text = "\u{feff}a,b\r\n\"x\ny\",\"\"\"q\"\"\"\n\nlast,";
        assert_eq!(
            read(text).unwrap(),
            vec![
                (1, vec!["a".to_owned(), "b".to_owned()]),
                (2, vec!["x\ny".to_owned(), "\"q\"".to_owned()]),
                (5, vec!["last".to_owned(), String::new()]),
            ]
        );
        assert!(read("\"open").is_err());
        assert!(read("\"a\"b").is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn round_trip(rows in prop::collection::vec(prop::collection::vec("[a,\"\n\r é]{0,6}", 2..4), 0..6)) {
            let mut text = String::new();
            for row in &rows {
                write_record(&mut text, row);
            }
            let back: Vec<Vec<String>> = read(&text).unwrap().into_iter().map(|(_, r)| r).collect();
            prop_assert_eq!(back, rows);
        }
    }
}
