use prost::Message as _;
use tokio::time::Instant;

use crate::bulk::{PART_ROOM, ROUND_BYTES};
use crate::hello::frame;
use crate::message::Address;
use crate::node::{Call, Id, Node, Phase, Place, target};
use crate::options::Options;
use crate::outlet::Outlet;
use crate::pb;
use crate::pb::frame::Body;

/// The most frames in one gRPC message.
const MAX_FRAMES: usize = 4096;

/// What the writer of a link does next.
#[derive(Debug)]
pub(crate) enum Fill {
    Batch(Vec<pb::Frame>),
    /// nothing to send: wait to be woken.
    Nothing,
    HalfClose,
}

/// Frames for one gRPC message.
struct Batch {
    frames: Vec<pb::Frame>,
    size: usize,
    limit: usize,
}

impl Batch {
    fn fits(&self, n: usize) -> bool {
        self.frames.len() < MAX_FRAMES && self.size + n <= self.limit
    }

    /// Adds a frame where it fits; the first one always does.
    fn add(&mut self, f: pb::Frame, keep: usize) -> bool {
        let n = f.encoded_len();
        let n = n + 1 + prost::length_delimiter_len(n);
        if !self.frames.is_empty() && !self.fits(n + keep) {
            return false;
        }
        self.size += n;
        self.frames.push(f);
        true
    }
}

impl Node {
    /// Takes from the line what a link may send next. Small frames go first, in the
    /// order of the line, then a round of parts. A large push holds back later
    /// messages to its own addressee until its last part has left; a large message
    /// that may not begin yet is passed by small ones.
    pub(crate) fn fill(&mut self, link: u64, now: Instant) -> Fill {
        let Some(mut o) = self.outlets.remove(&link) else {
            let dialling = self.phase == Phase::Dialling && self.dial == link;
            return if dialling { Fill::Nothing } else { Fill::HalfClose };
        };
        let filled = self.fill_outlet(&mut o, link, now);
        self.outlets.insert(link, o);
        filled
    }

    fn fill_outlet(&mut self, o: &mut Outlet, link: u64, now: Instant) -> Fill {
        o.woken = None;
        let mut b = Batch { frames: Vec::new(), size: 0, limit: o.limits.batch };
        if std::mem::take(&mut o.beat) {
            b.add(frame(0, Body::Heartbeat(pb::Heartbeat { reading_stopped: false })), 0);
        }
        while let Some(session) = o.cancels.pop_front() {
            if !b.add(frame(session, Body::Cancel(pb::Cancel {})), 0) {
                o.cancels.push_front(session);
                break;
            }
        }
        if self.current == Some(link) {
            self.fill_line(o, link, &mut b, now);
        }
        self.fill_parts(o, &mut b, now);
        if !b.frames.is_empty() {
            o.sent = now;
            return Fill::Batch(b.frames);
        }
        let more = self.current == Some(link) && (!self.line.is_empty() || !o.blocked.is_empty());
        if !o.ending || !o.idle() || more {
            return Fill::Nothing;
        }
        o.drain_until.get_or_insert(now + self.options.drain);
        o.signal.reader.notify_one();
        Fill::HalfClose
    }

    /// Begins messages while the batch has room, leaving some for a part where large
    /// messages are under way.
    fn fill_line(&mut self, o: &mut Outlet, link: u64, b: &mut Batch, now: Instant) {
        while let Some(id) = self.next(o, now) {
            let keep = if o.bulk.is_empty() { 0 } else { PART_ROOM };
            let c = &self.calls[&id];
            let first = first_frame(&self.options, c, o.session + 1, now);
            if !b.add(first, keep) {
                return;
            }
            self.depart(Some(o), id, now);
            self.begin(o, link, id);
        }
    }

    /// Gives the message its session.
    fn begin(&mut self, o: &mut Outlet, link: u64, id: Id) {
        o.session += 1;
        let c = self.calls.get_mut(&id).expect("it was in the line");
        (c.session, c.outlet, c.place) = (o.session, link, Place::Sent);
        let large = c.is_large();
        if large {
            o.bulk.begin(id, o.session, c.payload());
        }
        if !c.push {
            o.flights.insert(o.session, id);
            return;
        }
        o.pushed = o.session;
        if large {
            o.hold_back(&c.request.address);
        } else {
            o.unsure += 1;
            self.calls.remove(&id);
        }
    }

    /// Finds the message that may leave next, setting aside those that may not.
    fn next(&mut self, o: &mut Outlet, now: Instant) -> Option<Id> {
        loop {
            let full = o.flights.len() >= o.limits.calls;
            if let Some(&id) = o.blocked.first() {
                let c = &self.calls[&id];
                if o.may_begin(c.payload().len()) {
                    return (c.push || !full).then_some(id);
                }
            }
            let &id = self.line.first()?;
            let c = &self.calls[&id];
            if !c.push && full {
                return None;
            }
            if let Some(e) = o.refuses(c) {
                self.fail(Some(o), id, e, |s| &mut s.pushes_lost_too_large, now);
                continue;
            }
            if let Some(held) = o.aside.get_mut(&c.request.address) {
                held.insert(id);
            } else if c.is_large() && (!o.blocked.is_empty() || !o.may_begin(c.payload().len())) {
                o.blocked.insert(id);
                if c.push {
                    o.hold_back(&c.request.address);
                }
            } else {
                return Some(id);
            }
            self.line.remove(&id);
            self.calls.get_mut(&id).expect("it was in the line").place = Place::Aside;
        }
    }

    /// Adds a round of parts, one of each payload, and more up to `ROUND_BYTES`.
    fn fill_parts(&mut self, o: &mut Outlet, b: &mut Batch, now: Instant) {
        let each = o.bulk.len();
        if each > 0 {
            o.pushed = o.session; // only an answer to a later call shows that parts were read
        }
        let mut n = 0;
        while (n < each || b.size < ROUND_BYTES) && b.fits(PART_ROOM) {
            n += 1;
            let Some((session, payload, ended)) = o.bulk.next() else { return };
            b.add(frame(session, Body::Part(pb::Part { payload })), 0);
            let Some(id) = ended else { continue };
            if self.calls.get(&id).is_some_and(|c| c.push) {
                let c = self.calls.remove(&id).expect("it was found");
                o.unsure += 1;
                self.release(o, &c.request.address, now);
            }
        }
    }

    /// Lets go what a large push has held back: it goes to the front.
    pub(crate) fn release(&mut self, o: &mut Outlet, to: &Address, now: Instant) {
        let Some(held) = o.aside.remove(to) else { return };
        for id in held {
            self.calls.get_mut(&id).expect("it waits").place = Place::Line;
            self.line.insert(id);
        }
        if !self.line.is_empty() {
            self.wake(o, now);
        }
    }
}

/// The frame that begins a message.
fn first_frame(o: &Options, c: &Call, session: u64, now: Instant) -> pb::Frame {
    let r = &c.request;
    let total = if c.is_large() { r.payload.len() as u64 } else { 0 };
    let first = r.payload.slice(..r.payload.len().min(crate::joiner::PART_BYTES));
    let address = match &r.address {
        Address::Name(name) => pb::request::Address::Name(name.clone()),
        Address::Handle(handle) => pb::request::Address::Handle(*handle),
    };
    let left = c.due.map_or(0, |due| due.saturating_duration_since(now).as_micros().max(1));
    let tag = if r.trace_tag.is_empty() || r.trace_tag.starts_with('(') {
        r.trace_tag.clone()
    } else {
        format!("({}-{}-{session}){}", o.process, target(o, &r.address), r.trace_tag)
    };
    let request = pb::Request {
        method: r.method.clone(),
        push: c.push,
        time_left_us: left.try_into().unwrap_or(u64::MAX),
        headers: c.headers.clone(),
        trace_tag: tag,
        payload: first,
        total_size: total,
        address: Some(address),
        ..pb::Request::default()
    };
    frame(session, Body::Request(request))
}
