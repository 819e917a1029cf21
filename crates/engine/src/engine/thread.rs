//! The engine on a thread of its own, reached through bounded channels.

use super::{Engine, EngineStats, Event, EventKind, Failure, Request, RequestId, Snapshot};
use crate::Cancel;
use std::collections::{HashMap, VecDeque};
use std::sync::mpsc::{
    Receiver, RecvTimeoutError, Sender, SyncSender, TryRecvError, TrySendError, channel, sync_channel,
};
use std::time::Duration;

/// How long the thread sleeps when all it could do waits for slow receivers.
const PATIENCE: Duration = Duration::from_millis(1);

/// The way to an engine on its thread. When the last copy is gone, the engine finishes what it has and ends.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: Sender<Command>,
    buffer: usize,
}

enum Command {
    Submit(Box<Request>, SyncSender<Event>, SyncSender<Result<RequestId, Failure>>),
    Look(SyncSender<(EngineStats, Snapshot)>),
}

/// The events of one request. Dropping it cancels the request.
#[derive(Debug)]
pub struct Answers {
    id: RequestId,
    events: Receiver<Event>,
    cancel: Cancel,
    /// Answers whose last event is still to come.
    open: u32,
}

impl Handle {
    /// Puts a request in the queue; waits for the step that is running.
    ///
    /// # Errors
    /// Those of [`Engine::submit`], and [`Failure::Stopped`].
    pub fn submit(&self, request: Request) -> Result<Answers, Failure> {
        let (cancel, open) = (request.cancel.clone(), request.n);
        let (sender, events) = sync_channel(self.buffer);
        let (reply, replied) = sync_channel(1);
        let command = Command::Submit(Box::new(request), sender, reply);
        self.commands.send(command).map_err(|_| Failure::Stopped)?;
        let id = replied.recv().map_err(|_| Failure::Stopped)??;
        Ok(Answers { id, events, cancel, open })
    }

    /// How things stand after the step that is running.
    ///
    /// # Errors
    /// [`Failure::Stopped`].
    pub fn look(&self) -> Result<(EngineStats, Snapshot), Failure> {
        let (reply, replied) = sync_channel(1);
        self.commands.send(Command::Look(reply)).map_err(|_| Failure::Stopped)?;
        replied.recv().map_err(|_| Failure::Stopped)
    }
}

impl Answers {
    /// The request.
    pub fn id(&self) -> RequestId {
        self.id
    }
}

/// Ends after the last event of the last answer.
impl Iterator for Answers {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        if self.open == 0 {
            return None;
        }
        match self.events.recv() {
            Ok(event) => {
                self.open -= u32::from(event.kind.is_last());
                Some(event)
            }
            Err(_) => {
                self.open = 0;
                Some(Event { request: self.id, answer: 0, kind: EventKind::Failed(Failure::Stopped) })
            }
        }
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        if self.open > 0 {
            self.cancel.cancel();
        }
    }
}

pub(super) fn spawn(engine: Engine, buffer: usize) -> std::io::Result<Handle> {
    let (commands, received) = channel();
    std::thread::Builder::new().name("engine".into()).spawn(move || {
        Thread { engine, outlets: HashMap::new() }.run(&received);
    })?;
    Ok(Handle { commands, buffer: buffer.max(1) })
}

struct Thread {
    engine: Engine,
    outlets: HashMap<RequestId, Outlet>,
}

/// Where the events of a request go, and those that do not fit yet.
struct Outlet {
    sender: SyncSender<Event>,
    backlog: VecDeque<Event>,
    open: u32,
}

impl Thread {
    fn run(&mut self, commands: &Receiver<Command>) {
        let mut closed = false;
        while !closed || !self.outlets.is_empty() {
            closed |= self.listen(commands, closed);
            for event in self.engine.step() {
                if let Some(outlet) = self.outlets.get_mut(&event.request) {
                    outlet.backlog.push_back(event);
                }
            }
            self.deliver();
        }
    }

    /// Takes all commands that are there; waits for one when there is nothing else to do. True when no more can come.
    fn listen(&mut self, commands: &Receiver<Command>, closed: bool) -> bool {
        let stuck = self.engine.last_rows == 0;
        if self.outlets.is_empty() && !closed {
            match commands.recv() {
                Ok(command) => self.obey(command),
                Err(_) => return true,
            }
        } else if stuck {
            match commands.recv_timeout(PATIENCE) {
                Ok(command) => self.obey(command),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => std::thread::sleep(PATIENCE),
            }
        }
        loop {
            match commands.try_recv() {
                Ok(command) => self.obey(command),
                Err(TryRecvError::Empty) => return false,
                Err(TryRecvError::Disconnected) => return true,
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Submit(request, sender, reply) => {
                let open = request.n;
                let id = self.engine.submit(*request);
                if let Ok(id) = id {
                    self.outlets.insert(id, Outlet { sender, backlog: VecDeque::new(), open });
                }
                // Whoever does not wait for the reply has dropped the receiver of events too, which ends the request.
                drop(reply.send(id));
            }
            Command::Look(reply) => drop(reply.send((self.engine.stats(), self.engine.snapshot()))),
        }
    }

    /// Sends what the channels take. A full one holds its request, a closed one ends it.
    fn deliver(&mut self) {
        let engine = &mut self.engine;
        self.outlets.retain(|&id, outlet| {
            let was_behind = outlet.backlog.len();
            while let Some(event) = outlet.backlog.pop_front() {
                let last = u32::from(event.kind.is_last());
                match outlet.sender.try_send(event) {
                    Ok(()) => outlet.open -= last,
                    Err(TrySendError::Full(event)) => {
                        outlet.backlog.push_front(event);
                        engine.hold(id, true);
                        return true;
                    }
                    Err(TrySendError::Disconnected(_)) => {
                        engine.cancel(id);
                        return false;
                    }
                }
            }
            if was_behind > 0 {
                engine.hold(id, false);
            }
            outlet.open > 0
        });
    }
}
