use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::task::Waker;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::bulk::Bulk;
use crate::error::{Error, Reason, Verdict};
use crate::hello::{Peer, PeerLimits};
use crate::joiner::{PART_BYTES, weight};
use crate::message::Address;
use crate::node::{Call, Id};

/// Wakes the two ends of a link in this process: its writer, which is the
/// request stream that gRPC polls, and its reader.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    writer: Mutex<Option<Waker>>,
    pub(crate) reader: Notify,
}

impl Signal {
    pub(crate) fn wait(&self, waker: &Waker) {
        *self.writer.lock().expect("no panic under this lock") = Some(waker.clone());
    }

    pub(crate) fn wake(&self) {
        if let Some(waker) = self.writer.lock().expect("no panic under this lock").take() {
            waker.wake();
        }
        self.reader.notify_one();
    }
}

/// The state of one link: what was sent and not answered, and what waits for
/// the listener's bounds. It is plain state under the lock of its node.
#[derive(Debug)]
pub(crate) struct Outlet {
    pub(crate) signal: Arc<Signal>,
    pub(crate) peer: Peer,
    pub(crate) limits: PeerLimits,

    /// the last session given.
    pub(crate) session: u64,
    /// calls that were sent and not answered, left ones too.
    pub(crate) flights: HashMap<u64, Id>,
    /// large messages that have begun.
    pub(crate) bulk: Bulk,
    /// weight of the large replies that arrive, and how many they are.
    pub(crate) joining: u64,
    pub(crate) joiners: usize,
    /// large messages that may not begin yet.
    pub(crate) blocked: BTreeSet<Id>,
    /// what waits for the last part of a large push to its own addressee.
    pub(crate) aside: HashMap<Address, BTreeSet<Id>>,
    pub(crate) cancels: VecDeque<u64>,

    pub(crate) opened: Instant,
    pub(crate) received: Instant,
    /// when a batch last left, or a heartbeat was asked for.
    pub(crate) sent: Instant,
    pub(crate) beat: bool,
    /// since when the writer has not come though it was woken.
    pub(crate) woken: Option<Instant>,
    pub(crate) peer_stopped: bool,
    /// the last push that left, while no answer shows that it was read, and how
    /// many such there are.
    pub(crate) pushed: u64,
    pub(crate) unsure: u64,
    /// the node said goaway.
    pub(crate) leaving: bool,
    /// takes no more: half-close when nothing is in flight.
    pub(crate) ending: bool,
    /// cut then.
    pub(crate) drain_until: Option<Instant>,
}

impl Outlet {
    pub(crate) fn new(signal: Arc<Signal>, peer: Peer, limits: PeerLimits, now: Instant) -> Outlet {
        Outlet {
            signal,
            peer,
            limits,
            session: 0,
            flights: HashMap::new(),
            bulk: Bulk::default(),
            joining: 0,
            joiners: 0,
            blocked: BTreeSet::new(),
            aside: HashMap::new(),
            cancels: VecDeque::new(),
            opened: now,
            received: now,
            sent: now,
            beat: false,
            woken: None,
            peer_stopped: false,
            pushed: 0,
            unsure: 0,
            leaving: false,
            ending: false,
            drain_until: None,
        }
    }

    /// Why a message can never leave on this link.
    pub(crate) fn refuses(&self, c: &Call) -> Option<Error> {
        let n = c.payload().len() as u64;
        let limit = if n > self.limits.message {
            self.limits.message
        } else if n > PART_BYTES as u64 && weight(n) > self.limits.unfinished {
            self.limits.unfinished
        } else {
            return None;
        };
        let text = format!("too large: {n} bytes; the node takes at most {limit}");
        Some(Error::new(Verdict::NotSent, Reason::TooLarge, text))
    }

    pub(crate) fn may_begin(&self, n: usize) -> bool {
        self.bulk.may_begin(n, self.limits.unfinished)
    }

    /// Whether nothing is in flight and nothing waits to be sent.
    pub(crate) fn idle(&self) -> bool {
        self.flights.is_empty() && self.bulk.is_empty() && self.cancels.is_empty()
    }

    /// Makes later messages to the addressee of a large push wait for it.
    pub(crate) fn hold_back(&mut self, to: &Address) {
        self.aside.entry(to.clone()).or_default();
    }

    /// Forgets what has arrived of a large reply.
    pub(crate) fn unjoin(&mut self, c: &mut Call) {
        if let Some(join) = c.join.take() {
            self.joining -= weight(join.total);
            self.joiners -= 1;
        }
    }
}
