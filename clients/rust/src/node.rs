use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::error::{Error, Reason, Verdict};
use crate::hello::{self, Peer, PeerLimits};
use crate::joiner::{Joiner, PART_BYTES};
use crate::message::{Address, Reply, Request, header_bytes};
use crate::options::Options;
use crate::outlet::{Outlet, Signal};
use crate::pb;
use crate::stats::Stats;

/// Names a message; later ones have higher ids, which is their order in the line.
pub(crate) type Id = u64;

pub(crate) type Outcome = Result<Reply, Error>;

/// Where a message stands on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// a push that waits for room in the line.
    Room,
    Line,
    /// taken from the line, not begun: see `Outlet::blocked` and `Outlet::aside`.
    Aside,
    /// has a session.
    Sent,
}

/// One message on its way out.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) request: Request,
    pub(crate) headers: Vec<pb::Header>,
    pub(crate) push: bool,
    pub(crate) due: Option<Instant>,
    pub(crate) place: Place,
    /// the link on which it was sent, and its session there.
    pub(crate) outlet: u64,
    pub(crate) session: u64,
    /// its caller left after it was sent.
    pub(crate) gone: bool,
    pub(crate) join: Option<Joiner>,
    /// what came with the first frame of a large reply.
    pub(crate) begun: Reply,
    done: Option<oneshot::Sender<Outcome>>,
}

impl Call {
    pub(crate) fn new(mut request: Request, push: bool, now: Instant) -> (Call, oneshot::Receiver<Outcome>) {
        let (done, outcome) = oneshot::channel();
        let headers = crate::message::wire_headers(&request.headers);
        request.headers.clear();
        let due = request.timeout.and_then(|t| now.checked_add(t));
        let call = Call {
            request,
            headers,
            push,
            due,
            place: Place::Line,
            outlet: 0,
            session: 0,
            gone: false,
            join: None,
            begun: Reply::default(),
            done: Some(done),
        };
        (call, outcome)
    }

    pub(crate) fn payload(&self) -> &Bytes {
        &self.request.payload
    }

    pub(crate) fn is_large(&self) -> bool {
        self.request.payload.len() > PART_BYTES
    }

    pub(crate) fn settled(&self) -> bool {
        self.done.is_none()
    }

    /// What the message counts against a bound.
    fn size(&self) -> u64 {
        let r = &self.request;
        let name = if let Address::Name(name) = &r.address { name.len() } else { 0 };
        (r.payload.len() + name + r.method.len() + r.trace_tag.len() + header_bytes(&self.headers) + 256) as u64
    }

    /// Hands the outcome to whoever waits, once.
    pub(crate) fn settle(&mut self, o: &Options, outcome: Outcome) {
        if let Some(done) = self.done.take() {
            let r = &self.request;
            let _ = done.send(outcome.map_err(|e| e.about(&o.node, target(o, &r.address), &r.method)));
        }
    }
}

pub(crate) fn target(o: &Options, address: &Address) -> String {
    format!("{}{address}", o.node)
}

/// What the shell is to do, once the lock is free.
#[derive(Debug)]
pub(crate) enum Effect {
    /// begin dial n, tell `dialled`.
    Dial(u64),
    /// call `timeout` then.
    After(Duration),
    Wake(Arc<Signal>),
    /// stop the dial that runs.
    Abandon,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Idle,
    Dialling,
    /// after a failed dial.
    Pause,
    /// `Node::current` is the link.
    Open,
}

/// Which count an accepted push that is lost goes to.
pub(crate) type Lost = fn(&mut Stats) -> &mut u64;

/// Decides who waits, what is sent and which dial counts. It has no task, clock or
/// lock of its own: a thin shell (link.rs, dial.rs) calls it under one lock.
pub(crate) struct Node {
    pub(crate) options: Options,
    pub(crate) stats: Stats,
    pub(crate) effects: Vec<Effect>,

    pub(crate) calls: HashMap<Id, Call>,
    last_id: Id,
    pub(crate) line: BTreeSet<Id>,
    /// pushes that wait for room in the line.
    room: BTreeSet<Id>,
    /// of line, blocked and aside together.
    line_calls: usize,
    line_push_bytes: u64,

    pub(crate) phase: Phase,
    /// the dial that counts; a link has the number of its dial.
    pub(crate) dial: u64,
    pub(crate) current: Option<u64>,
    /// the open link, and those that end in order after a goaway.
    pub(crate) outlets: HashMap<u64, Outlet>,
    /// failed dials in a row.
    pub(crate) attempts: u32,
    pub(crate) last_error: Option<Error>,
    pause_end: Option<Instant>,
    /// until then a failed dial is told to nobody.
    pub(crate) left: Option<Instant>,
    pub(crate) closed: bool,
    pub(crate) closers: Vec<oneshot::Sender<()>>,
    /// who waits for an open link.
    pub(crate) openers: Vec<oneshot::Sender<Result<Peer, Error>>>,
}

impl Node {
    pub(crate) fn new(options: Options) -> Node {
        Node {
            options,
            stats: Stats::default(),
            effects: Vec::new(),
            calls: HashMap::new(),
            last_id: 0,
            line: BTreeSet::new(),
            room: BTreeSet::new(),
            line_calls: 0,
            line_push_bytes: 0,
            phase: Phase::Idle,
            dial: 0,
            current: None,
            outlets: HashMap::new(),
            attempts: 0,
            last_error: None,
            pause_end: None,
            left: None,
            closed: false,
            closers: Vec::new(),
            openers: Vec::new(),
        }
    }

    /// How errors name the node: its name, or its address where it has none.
    pub(crate) fn label(&self) -> &str {
        if self.options.node.is_empty() { &self.options.address } else { &self.options.node }
    }

    pub(crate) fn wake(&mut self, o: &mut Outlet, now: Instant) {
        o.woken.get_or_insert(now);
        self.effects.push(Effect::Wake(o.signal.clone()));
    }

    pub(crate) fn wake_current(&mut self, now: Instant) {
        if let Some(id) = self.current {
            self.wake_link(id, now);
        }
    }

    pub(crate) fn wake_link(&mut self, id: u64, now: Instant) {
        if let Some(o) = self.outlets.get_mut(&id) {
            o.woken.get_or_insert(now);
            self.effects.push(Effect::Wake(o.signal.clone()));
        }
    }

    /// Takes a new message: it fails, waits in the line, or is on its way.
    pub(crate) fn submit(&mut self, mut c: Call, now: Instant) -> Id {
        self.last_id += 1;
        let id = self.last_id;
        let line_full = !c.push && self.line_calls >= self.options.line_calls;
        let refusal = self.refuses(&c).or_else(|| invalid(&c)).or_else(|| {
            line_full.then(|| {
                let text = format!("the line of node [{}] is full: {} calls wait", self.label(), self.line_calls);
                Error::new(Verdict::NotSent, Reason::Overloaded, text)
            })
        });
        if let Some(e) = refusal {
            c.settle(&self.options, Err(e));
            return id;
        }
        let wait = c.push && (!self.room.is_empty() || self.line_push_bytes >= self.options.line_push_bytes);
        c.place = Place::Room;
        self.calls.insert(id, c);
        if wait {
            self.room.insert(id);
        } else {
            self.enqueue(id, now);
        }
        self.kick();
        id
    }

    /// Why a message cannot even wait.
    pub(crate) fn refuses(&self, c: &Call) -> Option<Error> {
        if self.closed {
            return Some(Error::closed());
        }
        if self.phase == Phase::Pause && c.request.no_wait {
            return self.last_error.clone();
        }
        self.outlets.get(&self.current?)?.refuses(c)
    }

    /// Puts a message at the end of the line. A push that stands in the line of an
    /// open link is accepted.
    fn enqueue(&mut self, id: Id, now: Instant) {
        let c = self.calls.get_mut(&id).expect("a message in the table");
        c.place = Place::Line;
        if self.phase == Phase::Open && c.push {
            c.settle(&self.options, Ok(Reply::default()));
        }
        self.line.insert(id);
        self.count(id, true);
        self.wake_current(now);
    }

    fn count(&mut self, id: Id, comes: bool) {
        let c = &self.calls[&id];
        match (c.push, comes) {
            (true, true) => self.line_push_bytes += c.size(),
            (true, false) => self.line_push_bytes -= c.size(),
            (false, true) => self.line_calls += 1,
            (false, false) => self.line_calls -= 1,
        }
    }

    /// Takes a message out of the line and lets in who waits for its room.
    pub(crate) fn depart(&mut self, o: Option<&mut Outlet>, id: Id, now: Instant) {
        self.line.remove(&id);
        if let Some(o) = o {
            o.blocked.remove(&id);
            if let Some(held) = o.aside.get_mut(&self.calls[&id].request.address) {
                held.remove(&id);
            }
        }
        self.count(id, false);
        self.admit(now);
    }

    fn admit(&mut self, now: Instant) {
        while self.line_push_bytes < self.options.line_push_bytes {
            let Some(id) = self.room.pop_first() else { return };
            self.enqueue(id, now);
        }
    }

    /// Takes a message back whose caller does not wait any longer.
    pub(crate) fn leave(&mut self, id: Id, reason: Reason, now: Instant) {
        let Some(c) = self.calls.get(&id) else { return };
        if c.settled() {
            return;
        }
        let (place, link, session) = (c.place, c.outlet, c.session);
        let why = if reason == Reason::DeadlineExceeded { "deadline exceeded" } else { "cancelled" };
        let mut text = format!("message to [{}]: {why} ", self.label());
        let mut verdict = Verdict::NotSent;
        if place == Place::Sent {
            verdict = Verdict::MaybeExecuted;
            text += "after it was sent";
        } else if reason == Reason::Overloaded {
            text =
                format!("the line of node [{}] is full: {} bytes of pushes wait", self.label(), self.line_push_bytes);
        } else {
            text += "while it waited to be sent";
            if let (true, Some(e)) = (self.phase != Phase::Open, &self.last_error) {
                text = format!("{text}: the last try: {e}");
            }
        }
        let e = Error::new(verdict, reason, text);
        match place {
            Place::Sent => {
                let c = self.calls.get_mut(&id).expect("it was found above");
                c.gone = true;
                c.settle(&self.options, Err(e));
                c.request.payload = Bytes::new();
                if let Some(o) = self.outlets.get_mut(&link) {
                    o.bulk.stop(id);
                    o.cancels.push_back(session);
                }
                self.wake_link(link, now);
            }
            Place::Room => {
                self.room.remove(&id);
                self.end(id, Err(e));
            }
            Place::Line | Place::Aside => {
                self.take_out(id, now);
                self.end(id, Err(e));
                self.wake_current(now); // what stood behind it may pass now
            }
        }
    }

    /// Takes a message out of wherever it waits.
    fn take_out(&mut self, id: Id, now: Instant) {
        let mut open = self.current.and_then(|link| self.outlets.remove(&link));
        self.depart(open.as_mut(), id, now);
        if let (Some(link), Some(o)) = (self.current, open) {
            self.outlets.insert(link, o);
        }
    }

    /// Ends a message that is in no line and no table but `calls`.
    pub(crate) fn end(&mut self, id: Id, outcome: Outcome) -> Option<Call> {
        let mut c = self.calls.remove(&id)?;
        c.settle(&self.options, outcome);
        Some(c)
    }

    /// Ends a message of the line. Pushes that were accepted are counted.
    pub(crate) fn fail(&mut self, o: Option<&mut Outlet>, id: Id, e: Error, lost: Lost, now: Instant) {
        self.depart(o, id, now);
        if self.end_accepted(id, e) {
            *lost(&mut self.stats) += 1;
        }
    }

    /// Fails a message and says whether it was an accepted push.
    fn end_accepted(&mut self, id: Id, e: Error) -> bool {
        let accepted = self.calls.get(&id).is_some_and(|c| c.push && c.settled());
        self.end(id, Err(e));
        accepted
    }

    /// Fails everyone who waits for a link and for whom `told` is true.
    pub(crate) fn fail_waiting(&mut self, e: &Error, lost: Lost, now: Instant, told: impl Fn(&Request) -> bool) {
        let waiting: Vec<Id> = self.room.iter().chain(&self.line).copied().collect();
        for id in waiting {
            if !told(&self.calls[&id].request) {
                continue;
            }
            if self.room.remove(&id) {
                self.end(id, Err(e.clone()));
            } else {
                self.fail(None, id, e.clone(), lost, now);
            }
        }
    }

    fn tell_openers(&mut self, outcome: Result<Peer, Error>) {
        for opener in self.openers.drain(..) {
            let _ = opener.send(outcome.clone());
        }
    }

    /// Dials where someone waits for a link and nothing is under way.
    pub(crate) fn kick(&mut self) {
        let wanted = !self.line.is_empty() || !self.room.is_empty() || !self.openers.is_empty();
        if self.phase == Phase::Idle && !self.closed && wanted {
            self.phase = Phase::Dialling;
            self.dial += 1;
            self.stats.dials += 1;
            self.effects.push(Effect::Dial(self.dial));
        }
    }

    /// Takes an open link; false where it is not wanted any more.
    pub(crate) fn opened(
        &mut self,
        dial: u64,
        signal: Arc<Signal>,
        peer: Peer,
        limits: PeerLimits,
        now: Instant,
    ) -> bool {
        if dial != self.dial || self.phase != Phase::Dialling {
            return false;
        }
        self.phase = Phase::Open;
        self.current = Some(dial);
        self.last_error = None;
        self.outlets.insert(dial, Outlet::new(signal, peer.clone(), limits, now));
        for id in &self.line {
            if let Some(c) = self.calls.get_mut(id).filter(|c| c.push) {
                c.settle(&self.options, Ok(Reply::default()));
            }
        }
        self.tell_openers(Ok(peer));
        self.wake_current(now);
        true
    }

    /// Takes why there is no link.
    pub(crate) fn not_opened(&mut self, dial: u64, cause: &str, now: Instant) {
        if dial != self.dial || self.phase != Phase::Dialling {
            return;
        }
        self.stats.dials_failed += 1;
        let e = self.pause(cause, now);
        let patient = self.left.is_some_and(|left| now < left);
        self.fail_waiting(&e, |s| &mut s.pushes_lost_connect, now, |r| r.no_wait || !r.wait_up && !patient);
        if !patient {
            self.tell_openers(Err(e.about(&self.options.node, String::new(), "")));
        }
    }

    /// Begins the time without dials that follows a failure: exponential, with
    /// jitter, between the bounds of the backoff.
    pub(crate) fn pause(&mut self, cause: &str, now: Instant) -> Error {
        let (min, max) = (self.options.backoff_min, self.options.backoff_max);
        let whole = min.saturating_mul(1 << self.attempts.min(20)).min(max);
        let jitter = (hello::random() >> 11) as f64 / (1u64 << 53) as f64;
        let d = (whole / 2 + (whole / 2).mul_f64(jitter)).max(min);
        self.attempts += 1;
        self.phase = Phase::Pause;
        self.pause_end = Some(now + d);
        self.effects.push(Effect::After(d));
        let text = format!("connect [{}] ({}): {cause}", self.label(), self.options.address);
        let e = Error::new(Verdict::NotSent, Reason::ConnectFailed, text);
        self.last_error = Some(e.clone());
        e
    }

    /// Ends a pause.
    pub(crate) fn timeout(&mut self, now: Instant) {
        if self.phase == Phase::Pause && self.pause_end.is_none_or(|end| now >= end) {
            self.phase = Phase::Idle;
            self.kick();
        }
    }

    /// Lets the open link send what stands in the line and end in order; where there
    /// is none, what waits fails. Nothing is taken after it.
    pub(crate) fn shut(&mut self, now: Instant) {
        if self.closed {
            return;
        }
        self.closed = true;
        if self.phase == Phase::Dialling {
            self.effects.push(Effect::Abandon);
        }
        self.tell_openers(Err(Error::closed()));
        for id in std::mem::take(&mut self.room) {
            self.end(id, Err(Error::closed()));
        }
        if let Some(o) = self.current.and_then(|link| self.outlets.get_mut(&link)) {
            o.ending = true;
        } else {
            self.phase = Phase::Idle;
            self.fail_waiting(&Error::closed(), |s| &mut s.pushes_lost_closed, now, |_| true);
        }
        let until = now + self.options.drain;
        for id in self.outlets.keys().copied().collect::<Vec<_>>() {
            let o = self.outlets.get_mut(&id).expect("it is there");
            o.drain_until.get_or_insert(until);
            self.wake_link(id, now);
        }
        self.tell_closers();
    }

    pub(crate) fn tell_closers(&mut self) {
        if self.closed && self.outlets.is_empty() {
            for closer in self.closers.drain(..) {
                let _ = closer.send(());
            }
        }
    }

    /// Puts messages that certainly did not start back into the line, in order.
    pub(crate) fn resend(&mut self, o: &mut Outlet, ids: Vec<Id>, now: Instant) {
        for id in ids {
            let Some(c) = self.calls.get_mut(&id) else { continue };
            o.flights.remove(&c.session);
            o.bulk.stop(id);
            o.unjoin(c);
            if c.gone {
                self.calls.remove(&id);
                continue;
            }
            c.place = Place::Line;
            let c = &self.calls[&id];
            if let Some(e) = self.refuses(c) {
                self.end(id, Err(e));
                continue;
            }
            self.stats.resent += 1;
            self.count(id, true);
            self.line.insert(id);
        }
        self.wake_current(now);
    }
}

/// What the listener would refuse because it breaks a rule of the protocol, and
/// what would not fit into a batch.
fn invalid(c: &Call) -> Option<Error> {
    let r = &c.request;
    let text = match &r.address {
        Address::Name(name) if name.is_empty() || name.len() > 255 => {
            let text = format!("the name of a service has 1 to 255 bytes; this one has {}", name.len());
            return Some(Error::new(Verdict::NotSent, Reason::InvalidName, text));
        }
        _ if r.method.len() > 1024 => format!("the method has {} bytes; the most is 1024", r.method.len()),
        _ if r.trace_tag.len() > 1024 => format!("the trace tag has {} bytes; the most is 1024", r.trace_tag.len()),
        _ if header_bytes(&c.headers) > 8192 => {
            format!("the headers have {} bytes; the most is 8192", header_bytes(&c.headers))
        }
        _ => return None,
    };
    Some(Error::new(Verdict::NotSent, Reason::InvalidRequest, format!("invalid request: {text}")))
}
