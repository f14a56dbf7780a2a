use std::fmt;
use std::future::{Future, pending};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prost::Message as _;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep, sleep_until};

use crate::dial;
use crate::error::{Error, Reason, Verdict};
use crate::hello::Peer;
use crate::message::{Reply, Request};
use crate::node::{Call, Effect, Id, Node, Outcome, Phase, Place};
use crate::options::{Builder, Dialler, InvalidAddress, Options};
use crate::pb;
use crate::stats::Stats;

/// A link to one node: calls and pushes go up, answers come down.
///
/// It is a handle: clones are cheap, share the link, and may be used from any
/// task. The node is dialled at the first use, and again, with growing pauses,
/// when someone needs it after the link broke. Where a dial fails, the calls that
/// waited for it fail as not sent, unless they asked for
/// [`wait_up`](Request::wait_up) or the node said less than 30 s ago that it is
/// being restarted.
///
/// When the last handle is dropped, the link ends as with [`close`](Link::close),
/// in the background.
///
/// # Panics
///
/// Calls, sends and [`ready`](Link::ready) panic outside a Tokio runtime.
#[derive(Clone)]
pub struct Link {
    owner: Arc<Owner>,
}

/// Ends the link when the last handle is gone. Tasks have the shared state only.
struct Owner {
    shared: Arc<Shared>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.with(|node, now| node.shut(now));
    }
}

/// The lock, the clock and the tasks around a [`Node`].
pub(crate) struct Shared {
    node: Mutex<Node>,
    pub(crate) dialler: Dialler,
    pub(crate) dial_timeout: Duration,
    /// the dial that runs is not wanted any more.
    pub(crate) abandon: Notify,
    send_wait: Duration,
}

impl Shared {
    /// Runs f under the lock, and what it asks for after it.
    pub(crate) fn with<R>(self: &Arc<Self>, f: impl FnOnce(&mut Node, Instant) -> R) -> R {
        let mut node = self.node.lock().unwrap_or_else(PoisonError::into_inner);
        let result = f(&mut node, Instant::now());
        let effects = std::mem::take(&mut node.effects);
        drop(node);
        self.act(effects);
        result
    }

    fn act(self: &Arc<Self>, effects: Vec<Effect>) {
        for effect in effects {
            let shared = self.clone();
            match effect {
                Effect::Wake(signal) => signal.wake(),
                Effect::Abandon => self.abandon.notify_one(),
                Effect::Dial(n) => drop(tokio::spawn(dial::run(shared, n))),
                Effect::After(d) => drop(tokio::spawn(async move {
                    sleep(d).await;
                    shared.with(|node, now| node.timeout(now));
                })),
            }
        }
    }
}

/// Takes a message back whose future is dropped.
struct Leave<'a> {
    shared: &'a Arc<Shared>,
    id: Id,
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.shared.with(|node, now| node.leave(self.id, Reason::Cancelled, now));
    }
}

impl Link {
    /// A link to the node at an address, `host:port`, `unix:/path` or
    /// `http://host:port`, with the default settings. Nothing is dialled yet.
    pub fn new(address: &str) -> Result<Link, InvalidAddress> {
        Link::builder(address).build()
    }

    /// A link with settings of your own.
    pub fn builder(address: &str) -> Builder {
        Builder::new(address)
    }

    pub(crate) fn start(options: Options, dialler: Dialler) -> Link {
        let shared = Arc::new(Shared {
            dialler,
            dial_timeout: options.dial_timeout,
            abandon: Notify::new(),
            send_wait: options.send_wait,
            node: Mutex::new(Node::new(options)),
        });
        Link { owner: Arc::new(Owner { shared }) }
    }

    fn with<R>(&self, f: impl FnOnce(&mut Node, Instant) -> R) -> R {
        self.owner.shared.with(f)
    }

    /// Makes a call and waits for its one outcome.
    ///
    /// Nothing happens before the future is polled. Dropping it takes the call back:
    /// it does not leave if it has not, and its handler's context ends if it has.
    pub async fn call(&self, request: Request) -> Result<Reply, Error> {
        self.wait(request, false, pending()).await
    }

    /// Makes a call and waits for its outcome until `cancel` completes. Then it is
    /// taken back as if the future was dropped, and the error says what is known:
    /// not sent, or maybe executed.
    ///
    /// ```no_run
    /// # use meshnode::{Error, Link, Reply, Request};
    /// # async fn example(db: Link, stop: tokio::sync::oneshot::Receiver<()>) -> Result<Reply, Error> {
    /// db.call_until(Request::new("@sdb", "GET").payload("greeting"), stop).await
    /// # }
    /// ```
    pub async fn call_until<F: Future>(&self, request: Request, cancel: F) -> Result<Reply, Error> {
        self.wait(request, false, async { drop(cancel.await) }).await
    }

    /// Sends a one-way message. It returns when the message stands in the line of an
    /// open link: then it will leave, in its order, unless the link breaks. What
    /// becomes of it is told to nobody; what is lost is counted in [`Stats`].
    ///
    /// Where the line is full of pushes it waits for room, at most
    /// [`send_wait`](Builder::send_wait).
    pub async fn send(&self, request: Request) -> Result<(), Error> {
        self.wait(request, true, pending()).await.map(|_| ())
    }

    async fn wait(&self, request: Request, push: bool, cancel: impl Future<Output = ()>) -> Outcome {
        let shared = &self.owner.shared;
        let (call, mut outcome) = Call::new(request, push, Instant::now());
        let due = call.due;
        let room = push.then(|| Instant::now() + shared.send_wait);
        let id = shared.with(|node, now| node.submit(call, now));
        let _leave = Leave { shared, id };
        let wait_room = async {
            until(room).await;
            let waits = |node: &mut Node| node.calls.get(&id).is_some_and(|c| c.place == Place::Room);
            if !shared.with(|node, _| waits(node)) {
                pending::<()>().await; // it found room in time; now it waits for the node
            }
        };
        let reason = tokio::select! {
            biased;
            outcome = &mut outcome => return outcome.unwrap_or_else(|_| Err(Error::closed())),
            () = cancel => Reason::Cancelled,
            () = until(due.map(early)) => Reason::DeadlineExceeded,
            () = wait_room => Reason::Overloaded,
        };
        shared.with(|node, now| node.leave(id, reason, now));
        outcome.await.unwrap_or_else(|_| Err(Error::closed()))
    }

    /// Waits until the link is open, dialling where it is not, and says who is at
    /// the other end. The error is that of the first dial that fails.
    pub async fn ready(&self) -> Result<Peer, Error> {
        let (open, opened) = oneshot::channel();
        self.with(|node, _| {
            let outlet = node.current.and_then(|link| node.outlets.get(&link));
            if let Some(o) = outlet {
                let _ = open.send(Ok(o.peer.clone()));
            } else if node.closed {
                let _ = open.send(Err(Error::closed()));
            } else {
                node.openers.push(open);
                node.kick();
            }
        });
        opened.await.unwrap_or_else(|_| Err(Error::closed()))
    }

    /// The process at the other end, while the link is open.
    pub fn peer(&self) -> Option<Peer> {
        self.with(|node, _| match (node.phase, node.current) {
            (Phase::Open, Some(link)) => node.outlets.get(&link).map(|o| o.peer.clone()),
            _ => None,
        })
    }

    /// What was counted since the link was made.
    pub fn stats(&self) -> Stats {
        self.with(|node, _| node.stats)
    }

    /// The handle behind a name (`"@sdb"`): an address that is valid until the
    /// process ends or the service stops. After that it is a stale handle, never
    /// another service.
    pub async fn query(&self, name: &str) -> Result<u64, Error> {
        let request = pb::QueryRequest { name: name.to_owned() };
        let response: pb::QueryResponse = self.process("Query", request.encode_to_vec()).await?;
        Ok(response.handle)
    }

    /// All names that the process has, with their handles, sorted by name.
    pub async fn names(&self) -> Result<Vec<(String, u64)>, Error> {
        let response: pb::NamesResponse = self.process("Names", Vec::new()).await?;
        Ok(response.names.into_iter().map(|n| (n.name, n.handle)).collect())
    }

    /// Asks the process itself for an answer, and says who answered.
    pub async fn ping(&self) -> Result<Peer, Error> {
        let response: pb::PingResponse = self.process("Ping", Vec::new()).await?;
        Ok(Peer { process: response.process, incarnation: response.incarnation })
    }

    /// Calls handle 0, the process itself.
    async fn process<M: prost::Message + Default>(&self, method: &str, payload: Vec<u8>) -> Result<M, Error> {
        let reply = self.call(Request::new(0, method).payload(payload)).await?;
        M::decode(reply.payload).map_err(|e| {
            let text = format!("the answer to {method} is not what proto/mesh/v1/process.proto says: {e}");
            Error::new(Verdict::HandlerFailed, Reason::InvalidRequest, text)
        })
    }

    /// Ends the link in order: what stands in its line is sent, calls in flight may
    /// finish within [`drain`](Builder::drain), and the node has placed the pushes
    /// that it read when this returns. What is left then fails; new calls fail at
    /// once. It may be called twice.
    pub async fn close(&self) {
        let (close, closed) = oneshot::channel();
        self.with(|node, now| {
            node.closers.push(close);
            node.shut(now);
            node.tell_closers();
        });
        let _ = closed.await;
    }
}

/// Tokio's timers are up to 1 ms late. The handler has the same deadline: its
/// error should not come first.
fn early(due: Instant) -> Instant {
    let now = Instant::now();
    due.checked_sub(Duration::from_millis(1)).filter(|t| *t > now).unwrap_or(due)
}

/// Waits until then; for ever where there is no time.
async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => pending().await,
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with(|node, _| f.debug_struct("Link").field("node", &node.label()).field("phase", &node.phase).finish())
    }
}
