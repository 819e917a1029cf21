//! The engine on a thread of its own, reached through bounded channels.

use super::{AdapterId, Engine, EngineStats, Event, EventKind, Failure, Request, RequestId, Snapshot, StepTrace};
use crate::Cancel;
use allod_plan::Lora;
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
    Submit(Box<Request>, Box<dyn Sink>),
    Call(Box<dyn FnOnce(&mut Engine) + Send>),
}

/// Where the events of one request go. It is called on the engine's thread between two steps, so it must not wait.
pub trait Sink: Send {
    /// The request is in the queue, or was refused; then nothing else comes.
    fn submitted(&mut self, outcome: Result<RequestId, Failure>);

    /// Takes the next event.
    ///
    /// # Errors
    /// Gives the event back while there is no room for it: nothing is generated until it is taken. Says that nobody
    /// listens any more: that ends the request.
    fn push(&mut self, event: Event) -> Result<(), Unsent>;
}

/// Why a [`Sink`] did not take an event.
#[derive(Debug)]
pub enum Unsent {
    /// It has no room now.
    Full(Event),
    /// Nobody listens.
    Closed,
}

/// The sink behind [`Answers`].
struct Channel {
    events: SyncSender<Event>,
    submitted: SyncSender<Result<RequestId, Failure>>,
}

impl Sink for Channel {
    fn submitted(&mut self, outcome: Result<RequestId, Failure>) {
        // Whoever does not wait for this has dropped the receiver of events too, which ends the request.
        drop(self.submitted.send(outcome));
    }

    fn push(&mut self, event: Event) -> Result<(), Unsent> {
        self.events.try_send(event).map_err(|error| match error {
            TrySendError::Full(event) => Unsent::Full(event),
            TrySendError::Disconnected(_) => Unsent::Closed,
        })
    }
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
        let (cancel, open) = (request.cancel.clone(), request.answers());
        let (sender, events) = sync_channel(self.buffer);
        let (reply, replied) = sync_channel(1);
        self.submit_to(request, Box::new(Channel { events: sender, submitted: reply }))?;
        let id = replied.recv().map_err(|_| Failure::Stopped)??;
        Ok(Answers { id, events, cancel, open })
    }

    /// Puts a request in the queue without waiting: the engine tells `sink` whether it took it, and what happens. A
    /// request ends when its [`Request::cancel`] is raised or its sink is closed.
    ///
    /// # Errors
    /// [`Failure::Stopped`].
    pub fn submit_to(&self, request: Request, sink: Box<dyn Sink>) -> Result<(), Failure> {
        self.commands.send(Command::Submit(Box::new(request), sink)).map_err(|_| Failure::Stopped)
    }

    /// How things stand after the step that is running.
    ///
    /// # Errors
    /// [`Failure::Stopped`].
    pub fn look(&self) -> Result<(EngineStats, Snapshot), Failure> {
        self.call(|engine| (engine.stats(), engine.snapshot()))
    }

    /// Tells `then` how things stand after the step that is running; it is called on the engine's thread.
    ///
    /// # Errors
    /// [`Failure::Stopped`].
    pub fn look_then(&self, then: impl FnOnce(EngineStats, Snapshot) + Send + 'static) -> Result<(), Failure> {
        self.call_then(move |engine| then(engine.stats(), engine.snapshot()))
    }

    /// [`Engine::load_adapter`] after the step that is running.
    ///
    /// # Errors
    /// [`Failure::Adapter`] and [`Failure::Stopped`].
    pub fn load_adapter(&self, adapter: Lora) -> Result<AdapterId, Failure> {
        Ok(self.call(move |engine| engine.load_adapter(&adapter))??)
    }

    /// [`Engine::drop_adapter`] after the step that is running.
    ///
    /// # Errors
    /// [`Failure::Stopped`].
    pub fn drop_adapter(&self, id: AdapterId) -> Result<bool, Failure> {
        self.call(move |engine| engine.drop_adapter(id))
    }

    /// [`Engine::trace`] after the step that is running.
    ///
    /// # Errors
    /// [`Failure::Stopped`].
    pub fn trace(&self) -> Result<Vec<StepTrace>, Failure> {
        self.call(|engine| engine.trace())
    }

    /// Positions of the context and tokens of the vocabulary.
    ///
    /// # Errors
    /// [`Failure::Stopped`].
    pub fn limits(&self) -> Result<(usize, usize), Failure> {
        self.call(|engine| (engine.context(), engine.vocabulary()))
    }

    fn call<T: Send + 'static>(&self, what: impl FnOnce(&mut Engine) -> T + Send + 'static) -> Result<T, Failure> {
        let (reply, replied) = sync_channel(1);
        self.call_then(move |engine| drop(reply.send(what(engine))))?;
        replied.recv().map_err(|_| Failure::Stopped)
    }

    fn call_then(&self, what: impl FnOnce(&mut Engine) + Send + 'static) -> Result<(), Failure> {
        self.commands.send(Command::Call(Box::new(what))).map_err(|_| Failure::Stopped)
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
    sink: Box<dyn Sink>,
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
            Command::Submit(request, mut sink) => {
                let open = request.answers();
                let outcome = self.engine.submit(*request);
                sink.submitted(outcome.clone());
                if let Ok(id) = outcome {
                    self.outlets.insert(id, Outlet { sink, backlog: VecDeque::new(), open });
                }
            }
            Command::Call(what) => what(&mut self.engine),
        }
    }

    /// Sends what the channels take. A full one holds its request, a closed one ends it.
    fn deliver(&mut self) {
        let engine = &mut self.engine;
        self.outlets.retain(|&id, outlet| {
            let was_behind = outlet.backlog.len();
            while let Some(event) = outlet.backlog.pop_front() {
                let last = u32::from(event.kind.is_last());
                match outlet.sink.push(event) {
                    Ok(()) => outlet.open -= last,
                    Err(Unsent::Full(event)) => {
                        outlet.backlog.push_front(event);
                        engine.hold(id, true);
                        return true;
                    }
                    Err(Unsent::Closed) => {
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
