//! A file that comes over the network and is kept when it is whole.

use crate::body::too_large;
use crate::error::{ApiError, Kind};
use crate::store::Store;
use axum::body::Bytes;
use futures_util::{Stream, StreamExt};
use sha2::{Digest, Sha256};
use std::io::{Error, ErrorKind, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How a file is taken.
pub(crate) struct Upload {
    pub(crate) target: PathBuf,
    /// Most bytes.
    pub(crate) limit: usize,
    /// Longest time between two chunks.
    pub(crate) patience: Duration,
    /// The SHA-256 that the file must have, in hexadecimal digits.
    pub(crate) digest: Option<String>,
}

impl Upload {
    /// Writes `chunks` to the target, which appears only when it is whole and on disk. Returns its bytes.
    ///
    /// # Errors
    /// Too large, too slow, broken off, another digest; the file system's.
    pub(crate) async fn receive(
        self,
        store: &Arc<Store>,
        mut chunks: impl Stream<Item = Result<Bytes, ApiError>> + Unpin,
    ) -> Result<u64, ApiError> {
        let (sender, mut receiver) = tokio::sync::mpsc::channel::<Option<Bytes>>(16);
        let (store, target, digest) = (Arc::clone(store), self.target, self.digest);
        let writing = tokio::task::spawn_blocking(move || {
            store.write(&target, |file| {
                let mut hash = Sha256::new();
                loop {
                    match receiver.blocking_recv() {
                        Some(Some(chunk)) => {
                            hash.update(&chunk);
                            file.write_all(&chunk)?;
                        }
                        Some(None) => break,
                        None => return Err(Error::from(ErrorKind::UnexpectedEof)),
                    }
                }
                let found = crate::ids::hex(&hash.finalize());
                match digest.is_none_or(|wanted| wanted == found) {
                    true => Ok(()),
                    false => Err(Error::new(ErrorKind::InvalidData, format!("the file's digest is sha256:{found}"))),
                }
            })
        });
        let mut total = 0;
        let slow = || ApiError::new(Kind::Timeout, format!("nothing came for {} s", self.patience.as_secs()));
        while let Some(chunk) = tokio::time::timeout(self.patience, chunks.next()).await.map_err(|_| slow())? {
            let chunk = chunk?;
            total += chunk.len();
            if total > self.limit {
                return Err(too_large(self.limit));
            }
            if sender.send(Some(chunk)).await.is_err() {
                break;
            }
        }
        drop(sender.send(None).await);
        writing.await.map_err(ApiError::internal)?.map_err(|e| match e.kind() {
            ErrorKind::InvalidData => ApiError::field("digest", e),
            _ => ApiError::internal(format!("the file could not be written: {e}")),
        })?;
        Ok(total as u64)
    }
}
