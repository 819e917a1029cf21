//! From the engine's thread to the runtime's: a bounded channel that neither side waits in.

use allod_engine::engine::{Event, Failure, RequestId, Sink, Unsent};
use tokio::sync::mpsc::{Sender, error::TrySendError};

/// Events that may wait for a slow client before the engine holds its request.
pub(super) const BUFFER: usize = 128;

/// What comes out of the channel.
#[derive(Debug)]
pub(super) enum Message {
    Submitted(Result<(), Failure>),
    Event(Event),
}

/// The engine's end. Several requests may share one channel, each with its own answers.
pub(super) struct Channel {
    pub(super) sender: Sender<Message>,
    /// The number of the request's first answer.
    pub(super) first: u32,
}

impl Sink for Channel {
    fn submitted(&mut self, outcome: Result<RequestId, Failure>) {
        // The channel is as long as there are requests at least, so only a closed one refuses; `push` then says so.
        drop(self.sender.try_send(Message::Submitted(outcome.map(|_| ()))));
    }

    fn push(&mut self, event: Event) -> Result<(), Unsent> {
        let first = self.first;
        let event = Event { answer: event.answer + first, ..event };
        self.sender.try_send(Message::Event(event)).map_err(|error| match error {
            TrySendError::Full(Message::Event(event)) => Unsent::Full(Event { answer: event.answer - first, ..event }),
            _ => Unsent::Closed,
        })
    }
}
