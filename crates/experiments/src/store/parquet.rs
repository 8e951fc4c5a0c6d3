//! The export tables as parquet files (feature `parquet`).

use super::{
    StoreError,
    export::{Entry, Table},
};
use ::parquet::{arrow::ArrowWriter, basic::Compression, file::properties::WriterProperties};
use arrow::{
    array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray},
    datatypes::{DataType, Field, Schema},
};
use std::{fs::File, path::Path, sync::Arc};

/// Writes `table` to `path`. A column takes the type of its first row's entry; a table without rows
/// has text columns.
///
/// # Errors
/// When the file cannot be written.
pub fn write(table: &Table, path: &Path) -> Result<(), StoreError> {
    let fail = |error: &dyn std::fmt::Display| StoreError::File {
        path: path.display().to_string(),
        message: error.to_string(),
    };
    let mut fields = Vec::new();
    let mut arrays: Vec<ArrayRef> = Vec::new();
    for (i, name) in table.columns.iter().enumerate() {
        let column = table.rows.iter().map(|row| &row[i]);
        let (kind, array): (DataType, ArrayRef) = match table.rows.first().map(|row| &row[i]) {
            Some(Entry::Number(_)) => (
                DataType::Float64,
                Arc::new(Float64Array::from_iter(column.map(|entry| match entry {
                    Entry::Number(value) => *value,
                    _ => None,
                }))),
            ),
            Some(Entry::Whole(_)) => (
                DataType::Int64,
                Arc::new(Int64Array::from_iter(column.map(|entry| match entry {
                    Entry::Whole(value) => *value,
                    _ => None,
                }))),
            ),
            Some(Entry::Text(_)) | None => (
                DataType::Utf8,
                Arc::new(StringArray::from_iter(column.map(|entry| match entry {
                    Entry::Text(text) => Some(text.as_str()),
                    _ => None,
                }))),
            ),
        };
        fields.push(Field::new(name, kind, true));
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
