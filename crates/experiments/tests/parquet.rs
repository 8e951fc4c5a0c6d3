//! What is written as Parquet reads back as the table that CSV shows.
#![cfg(feature = "parquet")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use ::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use arrow_array::{
    Array,
    cast::AsArray,
    types::{Float64Type, Int64Type},
};
use arrow_schema::DataType;
use common::{attempt, claim_request, metric, point, session, trials};
use experiments::{
    plan::Stage,
    store::{
        SqliteStore, Store,
        export::{self, Column, Entry, Kind, Table},
        parquet,
        record::Status,
    },
};
use std::{
    fs::{self, File},
    path::Path,
};

/// The table in a Parquet file.
fn read(path: &Path) -> Table {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
    let columns: Vec<Column> = reader
        .schema()
        .fields()
        .iter()
        .map(|field| {
            let kind = match field.data_type() {
                DataType::Utf8 => Kind::Text,
                DataType::Float64 => Kind::Number,
                DataType::Int64 => Kind::Whole,
                other => panic!("{} is of type {other}", field.name()),
            };
            assert_eq!(field.is_nullable(), kind != Kind::Text, "{}", field.name());
            Column { name: field.name().clone(), kind }
        })
        .collect();
    let mut rows = Vec::new();
    for batch in reader.build().unwrap() {
        let batch = batch.unwrap();
        for i in 0..batch.num_rows() {
            let entries = columns.iter().zip(batch.columns()).map(|(column, array)| {
                let there = array.is_valid(i);
                match column.kind {
                    Kind::Text => Entry::Text(array.as_string::<i32>().value(i).to_owned()),
                    Kind::Number => {
                        Entry::Number(there.then(|| array.as_primitive::<Float64Type>().value(i)))
                    }
                    Kind::Whole => {
                        Entry::Whole(there.then(|| array.as_primitive::<Int64Type>().value(i)))
                    }
                }
            });
            rows.push(entries.collect());
        }
    }
    Table { columns, rows }
}

/// Equal in every bit, NaN included.
fn assert_same(found: &Table, expected: &Table) {
    assert_eq!(found.columns, expected.columns);
    assert_eq!(found.rows.len(), expected.rows.len());
    for (i, (found, expected)) in found.rows.iter().zip(&expected.rows).enumerate() {
        for (a, b) in found.iter().zip(expected) {
            match (a, b) {
                (Entry::Number(Some(a)), Entry::Number(Some(b))) if a.is_nan() => {
                    assert!(b.is_nan(), "row {i}: {a} {b}");
                }
                (Entry::Number(Some(a)), Entry::Number(Some(b))) => {
                    assert_eq!(a.to_bits(), b.to_bits(), "row {i}: {a} {b}");
                }
                _ => assert_eq!(a, b, "row {i}"),
            }
        }
    }
}

#[test]
fn trials_metrics_and_curves_read_back_as_in_the_csv() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = SqliteStore::open(&folder.path().join("store.db")).unwrap();
    store.plan("hash", &trials(Stage::Main, &[("fine", 0.0), ("é,\"q\"", -0.0)], 3)).unwrap();
    store.begin_session(&session("s")).unwrap();
    // Finished with values, failed without, lost, and never run.
    for (i, status) in [Status::Ok, Status::Timeout, Status::Lost, Status::Ok].iter().enumerate() {
        let claim = store.claim(&claim_request("s", 0)).unwrap().unwrap();
        let mut given = attempt(&claim, *status);
        if *status == Status::Timeout {
            given.metrics.clear();
            given.budget_used = None;
            given.reason = Some("wall".to_owned());
        } else {
            given.metrics.push(metric("top", "validation", f64::INFINITY));
            given.metrics.push(metric("zero", "train", -0.0));
            given.points.push(point("tiny", i as u64, 5e-324));
            given.points.push(point("lost", i64::MAX as u64, f64::NAN));
        }
        assert!(store.finish(&claim, &given).unwrap());
    }
    let to = folder.path().join("data");
    let names = export::write(&store, &to).unwrap();
    assert_eq!(names, ["results.csv", "results.parquet", "curves.csv", "curves.parquet"]);
    for (name, table) in
        [("results", export::results(&store).unwrap()), ("curves", export::curves(&store).unwrap())]
    {
        let found = read(&to.join(format!("{name}.parquet")));
        assert_same(&found, &table);
        let csv = fs::read_to_string(to.join(format!("{name}.csv"))).unwrap();
        assert_eq!(found.to_csv(), csv, "{name}");
        for word in ["nan", "inf"] {
            assert!(csv.contains(&format!(",{word}")), "{name} has no {word}:\n{csv}");
        }
        let again = folder.path().join("again.parquet");
        parquet::write(&table, &again).unwrap();
        let bytes = fs::read(to.join(format!("{name}.parquet"))).unwrap();
        assert!(bytes == fs::read(&again).unwrap(), "the same table gives the same bytes");
    }
    let results = export::results(&store).unwrap();
    let nulls =
        |kind: fn(&Entry) -> bool| results.rows.iter().flatten().filter(|e| kind(e)).count();
    assert!(nulls(|entry| matches!(entry, Entry::Number(None))) > 0);
    assert!(nulls(|entry| matches!(entry, Entry::Whole(None))) > 0);
}

#[test]
fn an_empty_store_has_the_same_columns() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&folder.path().join("store.db")).unwrap();
    for (name, table) in
        [("results", export::results(&store).unwrap()), ("curves", export::curves(&store).unwrap())]
    {
        let path = folder.path().join(name);
        parquet::write(&table, &path).unwrap();
        assert_same(&read(&path), &table);
        assert!(table.columns.iter().any(|column| column.kind == Kind::Number), "{name}");
    }
    let nowhere = folder.path().join("no folder/x.parquet");
    let table = export::curves(&store).unwrap();
    assert!(parquet::write(&table, &nowhere).unwrap_err().to_string().contains("x.parquet"));
}
