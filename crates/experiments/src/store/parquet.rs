//! The export tables as Parquet files (feature `parquet`). [`super::export`] lists the columns and
//! their types.

use super::{
    StoreError,
    export::{Entry, Kind, Table},
};
use ::parquet::{arrow::ArrowWriter, basic::Compression, file::properties::WriterProperties};
use arrow_array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow_schema::{Field, Schema};
use std::{fs::File, path::Path, sync::Arc};

/// Writes `table` to `path`, compressed with Snappy; the same table gives the same bytes. A table
/// without rows keeps the types of its columns, so that the files of several stores fit together.
///
/// # Errors
/// [`StoreError::File`] when the file cannot be written.
pub fn write(table: &Table, path: &Path) -> Result<(), StoreError> {
    let fail = |error: &dyn std::fmt::Display| StoreError::File {
        path: path.display().to_string(),
        message: error.to_string(),
    };
    let mut fields = Vec::with_capacity(table.columns.len());
    let mut arrays = Vec::with_capacity(table.columns.len());
    for (i, column) in table.columns.iter().enumerate() {
        let array = array(column.kind, table.rows.iter().map(|row| &row[i]));
        fields.push(Field::new(&column.name, array.data_type().clone(), column.kind != Kind::Text));
        arrays.push(array);
    }
    let schema = Arc::new(Schema::new(fields));
    let batch = RecordBatch::try_new(Arc::clone(&schema), arrays).map_err(|e| fail(&e))?;
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    let file = File::create(path).map_err(|e| fail(&e))?;
    let mut writer = ArrowWriter::try_new(file, schema, Some(properties)).map_err(|e| fail(&e))?;
    writer.write(&batch).map_err(|e| fail(&e))?;
    writer.close().map_err(|e| fail(&e))?;
    Ok(())
}

fn array<'a>(kind: Kind, entries: impl Iterator<Item = &'a Entry>) -> ArrayRef {
    match kind {
        Kind::Text => Arc::new(StringArray::from_iter_values(entries.map(|entry| match entry {
            Entry::Text(text) => text.as_str(),
            _ => "",
        }))),
        Kind::Number => {
            let numbers = entries.map(|entry| match entry {
                Entry::Number(value) => *value,
                _ => None,
            });
            Arc::new(numbers.collect::<Float64Array>())
        }
        Kind::Whole => {
            let numbers = entries.map(|entry| match entry {
                Entry::Whole(value) => *value,
                _ => None,
            });
            Arc::new(numbers.collect::<Int64Array>())
        }
    }
}
