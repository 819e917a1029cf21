//! Apache Parquet, row by row.

use super::{Record, read::Read1};
use crate::Error;
use parquet::file::reader::{FileReader, SerializedFileReader};
use serde_json::Value;
use std::{fs::File, path::Path, sync::Arc};

pub(super) fn records(
    path: &Path,
    name: &Arc<str>,
    each: &mut dyn FnMut(Read1) -> Result<(), Error>,
) -> Result<(), Error> {
    let hint = "fetch or write the file again; Snappy and no compression are read";
    let wrong = |e: parquet::errors::ParquetError| Error::run(path, e.to_string(), hint);
    let reader = SerializedFileReader::new(File::open(path).map_err(Error::io(path))?).map_err(wrong)?;
    for (i, row) in reader.get_row_iter(None).map_err(wrong)?.enumerate() {
        if let Value::Object(fields) = row.map_err(wrong)?.to_json_value() {
            each(Ok(Record { fields, file: Arc::clone(name), line: i + 1 }))?;
        }
    }
    Ok(())
}
