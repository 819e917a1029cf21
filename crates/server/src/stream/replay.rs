//! Streams that outlive a connection: their events are numbered and kept for a while, so that a client that was cut off
//! goes on where it was.

use super::{Frames, State, Writer, advance};
use crate::app::Caller;
use crate::error::{ApiError, Kind};
use crate::generate::Running;
use crate::models::lock;
use axum::body::{Body, Bytes};
use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};

/// All streams that may be gone on with.
#[derive(Debug)]
pub(crate) struct Streams {
    streams: Mutex<HashMap<String, Arc<Replay>>>,
    /// Bytes of all events.
    bytes: AtomicUsize,
    limit: usize,
    /// How long a stream goes on without a reader, and stays when it is over.
    patience: Duration,
}

/// The events of one stream.
#[derive(Debug)]
pub(crate) struct Replay {
    owner: Option<String>,
    events: Mutex<Events>,
    /// Changes with every event.
    grown: watch::Sender<()>,
    readers: watch::Sender<usize>,
    /// Whether it goes on without readers for as long as it takes.
    lasting: bool,
    ended: Notify,
}

#[derive(Debug, Default)]
struct Events {
    /// The number of the first event that is still here.
    first: u64,
    kept: VecDeque<Bytes>,
    /// When the last event came, once it has.
    over: Option<Instant>,
}

impl Streams {
    pub(crate) fn new(limit: usize, patience: Duration) -> Streams {
        Streams { streams: Mutex::default(), bytes: AtomicUsize::new(0), limit, patience }
    }

    /// Lets a job go on by itself and keeps its events under `id`. It ends when nobody has read it for a while, unless
    /// it is `lasting`.
    pub(crate) fn begin<W: Writer>(
        self: &Arc<Streams>,
        id: &str,
        owner: Option<String>,
        lasting: bool,
        running: Running,
        writer: W,
        held: impl Send + 'static,
    ) -> Arc<Replay> {
        let replay = Arc::new(Replay {
            owner,
            events: Mutex::default(),
            grown: watch::Sender::new(()),
            readers: watch::Sender::new(0),
            lasting,
            ended: Notify::new(),
        });
        lock(&self.streams).insert(id.to_owned(), Arc::clone(&replay));
        let (streams, kept) = (Arc::clone(self), Arc::clone(&replay));
        tokio::spawn(async move {
            tokio::select! {
                () = write(&streams, &kept, running, writer) => {}
                () = kept.abandoned(streams.patience) => {}
                () = kept.ended.notified() => {}
            }
            lock(&kept.events).over = Some(Instant::now());
            kept.grown.send_replace(());
            drop(held);
        });
        replay
    }

    /// A stream that a caller may read.
    ///
    /// # Errors
    /// There is none, or none any more.
    pub(crate) fn find(&self, id: &str, caller: &Caller) -> Result<Arc<Replay>, ApiError> {
        let found = lock(&self.streams).get(id).cloned().filter(|replay| caller.may_see(replay.owner.as_deref()));
        found.ok_or_else(|| ApiError::not_found(format!("there is no stream {id:?}, or it is over for too long")))
    }

    /// Forgets streams that are over for long enough.
    pub(crate) fn sweep(&self) {
        let old = |replay: &Replay| lock(&replay.events).over.is_some_and(|at| at.elapsed() > self.patience);
        self.forget(|replays| replays.iter().filter(|(_, r)| old(r)).map(|(id, _)| id.clone()).collect());
    }

    fn forget(&self, choose: impl FnOnce(&HashMap<String, Arc<Replay>>) -> Vec<String>) {
        let mut streams = lock(&self.streams);
        for id in choose(&streams) {
            if let Some(replay) = streams.remove(&id) {
                let bytes = lock(&replay.events).kept.iter().map(Bytes::len).sum();
                self.bytes.fetch_sub(bytes, Relaxed);
            }
        }
    }

    /// Keeps an event. Where there is no room, the streams that are over longest go, then the stream's oldest events.
    fn keep(&self, replay: &Replay, event: Bytes) {
        let size = event.len();
        self.bytes.fetch_add(size, Relaxed);
        if self.bytes.load(Relaxed) > self.limit {
            self.forget(|replays| {
                let over = |(id, r): (&String, &Arc<Replay>)| Some((lock(&r.events).over?, id.clone()));
                replays.iter().filter_map(over).min().map(|(_, id)| id).into_iter().collect()
            });
        }
        let mut events = lock(&replay.events);
        while self.bytes.load(Relaxed) > self.limit
            && let Some(oldest) = events.kept.pop_front()
        {
            events.first += 1;
            self.bytes.fetch_sub(oldest.len(), Relaxed);
        }
        events.kept.push_back(event);
    }
}

/// Writes a job's events down as they come.
async fn write<W: Writer>(streams: &Streams, replay: &Replay, mut running: Running, mut writer: W) {
    let (mut state, mut number) = (State::Beginning, 0u64);
    loop {
        let mut out = Frames::default();
        match state {
            State::Over => return,
            State::Beginning => {
                writer.begin(&mut out);
                state = State::Going;
            }
            State::Going => state = advance(&mut running, &mut writer, &mut out).await,
        }
        let Some(bytes) = out.take() else { continue };
        let text = String::from_utf8_lossy(&bytes);
        // Comments are for the connection; every reader gets its own.
        for event in text.split_terminator("\n\n").filter(|event| !event.starts_with(':')) {
            streams.keep(replay, Bytes::from(format!("id: {number}\n{event}\n\n")));
            number += 1;
        }
        replay.grown.send_replace(());
    }
}

impl Replay {
    /// Ends the job; what has come can still be read.
    pub(crate) fn end(&self) {
        self.ended.notify_one();
    }

    /// Done when nobody has read it for a while.
    async fn abandoned(&self, patience: Duration) {
        let mut readers = self.readers.subscribe();
        loop {
            if self.lasting || readers.wait_for(|&n| n == 0).await.is_err() {
                std::future::pending::<()>().await;
            }
            if tokio::time::timeout(patience, readers.wait_for(|&n| n > 0)).await.is_err() {
                return;
            }
        }
    }

    /// The events from number `from` on, as they come.
    ///
    /// # Errors
    /// They are not kept any more, or there will be no such event.
    pub(crate) fn read(self: &Arc<Replay>, from: u64) -> Result<Body, ApiError> {
        let events = lock(&self.events);
        let next = events.first + events.kept.len() as u64;
        if from < events.first || (from > next && events.over.is_some()) {
            let message = format!("events {} to {next} are kept, not {from}", events.first);
            return Err(ApiError::new(Kind::NotFound, message));
        }
        drop(events);
        self.readers.send_modify(|n| *n += 1);
        let reader = Reader { replay: Arc::clone(self), next: from, grown: self.grown.subscribe() };
        let stream = futures_util::stream::unfold(reader, |mut reader| async move {
            let bytes = reader.bytes().await?;
            Some((Ok::<_, Infallible>(bytes), reader))
        });
        Ok(Body::from_stream(stream))
    }
}

/// Somebody who reads a stream.
struct Reader {
    replay: Arc<Replay>,
    next: u64,
    grown: watch::Receiver<()>,
}

impl Reader {
    /// The next events together, or a sign of life; `None` when the stream is over.
    async fn bytes(&mut self) -> Option<Bytes> {
        loop {
            self.grown.mark_unchanged();
            {
                let events = lock(&self.replay.events);
                // Who is too slow has lost what is no longer kept: the stream ends here.
                let skip = usize::try_from(self.next.checked_sub(events.first)?).ok()?;
                let new: Vec<u8> = events.kept.iter().skip(skip).flatten().copied().collect();
                if !new.is_empty() {
                    self.next = events.first + events.kept.len() as u64;
                    return Some(new.into());
                }
                if events.over.is_some() {
                    return None;
                }
            }
            match tokio::time::timeout(super::QUIET, self.grown.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return None,
                Err(_) => return Some(Bytes::from_static(b": waiting\n\n")),
            }
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.replay.readers.send_modify(|n| *n -= 1);
    }
}
