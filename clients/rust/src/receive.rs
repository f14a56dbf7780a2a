use std::time::Duration;

use tokio::time::Instant;

use crate::error::{Error, Reason, Verdict};
use crate::joiner::{Joiner, weight};
use crate::message::{Reply, metadata};
use crate::node::{Id, Node, Outcome, Phase};
use crate::outlet::Outlet;
use crate::pb;
use crate::pb::frame::Body;

/// For the next part of a large reply.
const PART_TIMEOUT: Duration = Duration::from_secs(30);
/// For the writer to come, before the peer is a slow consumer.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);

impl Node {
    /// Takes the frames of one gRPC message. The error ends the link.
    pub(crate) fn take(&mut self, link: u64, frames: Vec<pb::Frame>, now: Instant) -> Result<(), String> {
        let Some(mut o) = self.outlets.remove(&link) else { return Ok(()) };
        o.received = now;
        let mut taken = Ok(());
        for f in frames {
            match f.body {
                Some(Body::Goaway(g)) => self.goaway(&mut o, link, &g, now),
                Some(Body::Heartbeat(h)) => {
                    if o.peer_stopped && !h.reading_stopped {
                        o.woken = o.woken.map(|_| now); // the writer has its time anew
                    }
                    o.peer_stopped = h.reading_stopped;
                }
                Some(Body::Hello(_)) => {
                    taken = Err("protocol error: a second hello".to_owned());
                    break;
                }
                Some(body @ (Body::Reply(_) | Body::Failure(_) | Body::Part(_))) => {
                    if !self.received(&mut o, f.session, body, now) {
                        self.stats.frames_stray += 1;
                    }
                }
                _ => self.stats.frames_stray += 1,
            }
        }
        self.outlets.insert(link, o);
        taken
    }

    /// Takes a reply, failure or part. False where its session is not known.
    fn received(&mut self, o: &mut Outlet, session: u64, body: Body, now: Instant) -> bool {
        let Some(&id) = o.flights.get(&session) else { return false };
        let gone = self.calls[&id].gone;
        if let Body::Failure(f) = &body
            && (o.leaving && !gone && f.reason == pb::Reason::Draining as i32)
        {
            self.resend(o, vec![id], now);
            self.wake(o, now); // it may have been the last one
            self.kick();
            return true;
        }
        let outcome = match self.answer(o, id, body, now) {
            Answer::Outcome(outcome) => *outcome,
            Answer::More => return true,
            Answer::Stray => return false,
        };
        o.flights.remove(&session);
        if session > o.pushed {
            (o.pushed, o.unsure) = (0, 0);
        }
        o.bulk.stop(id);
        o.unjoin(self.calls.get_mut(&id).expect("it is in flight"));
        self.stats.replies_late += u64::from(gone);
        self.end(id, outcome);
        // A place among the calls in flight is free, or a link that ends is done.
        if o.ending || !self.line.is_empty() || !o.blocked.is_empty() || !o.cancels.is_empty() {
            self.wake(o, now);
        }
        true
    }

    fn answer(&mut self, o: &mut Outlet, id: Id, body: Body, now: Instant) -> Answer {
        let session = self.calls[&id].session;
        let c = self.calls.get_mut(&id).expect("it is in flight");
        let bad = match body {
            Body::Failure(f) => return Answer::outcome(Err(Error::of_failure(f))),
            Body::Part(part) => match c.join.as_mut().map(|j| j.add(&part.payload, now)) {
                None => return Answer::Stray,
                Some(Ok(false)) => return Answer::More,
                Some(Err(e)) => bad_reply(&e),
                Some(Ok(true)) => {
                    let join = c.join.take().expect("it was there");
                    o.joining -= weight(join.total);
                    o.joiners -= 1;
                    let begun = std::mem::take(&mut c.begun);
                    return Answer::outcome(Ok(Reply { payload: join.whole(), ..begun }));
                }
            },
            Body::Reply(_) if c.join.is_some() => bad_reply("it has two beginnings"),
            Body::Reply(r) => {
                let n = if r.total_size == 0 { r.payload.len() as u64 } else { r.total_size };
                let max = self.options.max_message_bytes;
                let room = self.options.max_unfinished_bytes.saturating_sub(o.joining);
                let head = Reply { payload: r.payload, headers: metadata(r.headers), trailers: metadata(r.trailers) };
                if n > max {
                    too_large(n, max)
                } else if r.total_size == 0 {
                    return Answer::outcome(Ok(head));
                } else if weight(n) > room {
                    too_large(n, room)
                } else {
                    match Joiner::new(&head.payload, n, now) {
                        Err(e) => bad_reply(&e),
                        Ok(join) => {
                            o.joining += weight(n);
                            o.joiners += 1;
                            c.join = Some(join);
                            c.begun = head;
                            o.bulk.stop(id); // a reply stops the rest of its request
                            return Answer::More;
                        }
                    }
                }
            }
            _ => return Answer::Stray,
        };
        o.cancels.push_back(session); // it may stop sending that reply
        Answer::outcome(Err(bad))
    }

    /// Takes a listener's word that it leaves: what it did not take is sent again on
    /// the next link, in order; pushes among that are lost.
    fn goaway(&mut self, o: &mut Outlet, link: u64, g: &pb::Goaway, now: Instant) {
        if o.leaving {
            return;
        }
        o.leaving = true;
        if self.current == Some(link) {
            self.left = Some(now + self.options.leaving);
            self.current = None;
            self.phase = Phase::Idle;
            o.ending = true;
            self.take_back(o);
            if g.last_session == 0 && now - o.opened < self.options.backoff_min {
                let e = self.pause("the node is leaving", now); // it opened only to leave
                self.fail_waiting(&e, |s| &mut s.pushes_lost_connect, now, |r| r.no_wait);
            } else {
                self.attempts = 0;
            }
        }
        let mut untaken = o.session.saturating_sub(g.last_session);
        let back: Vec<Id> = o.flights.iter().filter(|(s, _)| **s > g.last_session).map(|(_, id)| *id).collect();
        untaken -= back.len() as u64;
        for (id, session) in o.bulk.ids() {
            if session > g.last_session && self.calls.get(&id).is_some_and(|c| c.push) {
                o.bulk.stop(id);
                self.calls.remove(&id);
            }
        }
        self.stats.pushes_lost_goaway += untaken;
        o.unsure = 0; // the others were taken
        self.resend(o, back, now);
        if self.closed {
            self.fail_waiting(&Error::closed(), |s| &mut s.pushes_lost_closed, now, |_| true);
        }
        self.wake(o, now);
        self.kick();
    }

    /// Returns to the line what stands aside for a link's bounds.
    fn take_back(&mut self, o: &mut Outlet) {
        let aside = std::mem::take(&mut o.aside).into_values().flatten();
        for id in std::mem::take(&mut o.blocked).into_iter().chain(aside) {
            self.calls.get_mut(&id).expect("it waits").place = crate::node::Place::Line;
            self.line.insert(id);
        }
    }

    /// Takes the end of a link: everything in flight on it fails at once. `cause` is
    /// none where the listener ended it in order.
    pub(crate) fn lost(&mut self, link: u64, cause: Option<&str>, now: Instant) {
        let Some(mut o) = self.outlets.remove(&link) else { return };
        let orderly = cause.is_none() && o.idle();
        let cause = cause.unwrap_or("the node ended the link");
        if orderly {
            o.unsure = 0; // the listener placed what it had read
        } else {
            self.stats.links_lost += 1;
        }
        let current = self.current == Some(link);
        if current {
            self.current = None;
            self.phase = Phase::Idle;
            self.take_back(&mut o);
        }
        self.break_off(&mut o, cause);
        if self.closed {
            if self.current.is_none() {
                self.fail_waiting(&Error::closed(), |s| &mut s.pushes_lost_closed, now, |_| true);
            }
            self.tell_closers();
        } else if current && now - o.opened < self.options.backoff_max {
            // A link that breaks soon after it opened counts as a failed dial, so that
            // a node that dies again and again is not dialled without a pause.
            let e = self.pause(cause, now);
            self.fail_waiting(&e, |s| &mut s.pushes_lost_connect, now, |r| r.no_wait);
        } else if current {
            self.attempts = 0;
        }
        self.kick();
        self.wake(&mut o, now);
    }

    fn break_off(&mut self, o: &mut Outlet, cause: &str) {
        for (id, _) in o.bulk.ids() {
            if self.calls.get(&id).is_some_and(|c| c.push) {
                self.stats.pushes_lost_broken += 1;
                self.calls.remove(&id);
            }
        }
        self.stats.pushes_unsure += o.unsure;
        let text = format!("link to [{}] broke: {cause}", self.label());
        for (_, id) in o.flights.drain() {
            let e = Error::new(Verdict::MaybeExecuted, Reason::LinkBroken, text.clone());
            self.end(id, Err(e));
        }
    }

    /// Looks after a link: heartbeats, silence, a writer that is stuck, large replies
    /// whose parts have stopped. Returns when to look again; none where it has ended.
    pub(crate) fn tick(&mut self, link: u64, now: Instant) -> Option<Instant> {
        let o = self.outlets.get_mut(&link)?;
        let quiet = o.received + o.limits.silence;
        let stuck = o.woken.filter(|_| !o.peer_stopped).map(|since| since + SEND_TIMEOUT);
        let dead = if o.drain_until.is_some_and(|t| now >= t) {
            Some("the drain time was over")
        } else if now >= quiet {
            Some("nothing arrived for too long: the peer is dead or cut off")
        } else if stuck.is_some_and(|t| now >= t) {
            Some("slow consumer: a message could not be sent for 30 s and the peer did not say that it stopped reading")
        } else {
            None
        };
        if dead.is_some() {
            self.lost(link, dead, now);
            return None;
        }
        if now >= o.sent + self.options.heartbeat {
            (o.beat, o.sent) = (true, now);
            self.wake_link(link, now);
        }
        let o = self.outlets.get_mut(&link)?;
        let mut next = quiet.min(o.sent + self.options.heartbeat);
        next = o.drain_until.into_iter().chain(stuck).fold(next, Instant::min);
        if o.joiners > 0 {
            next = next.min(now + Duration::from_secs(1));
            self.overdue(link, now);
        }
        Some(next)
    }

    /// Fails the calls whose large reply has stopped arriving.
    fn overdue(&mut self, link: u64, now: Instant) {
        let Some(mut o) = self.outlets.remove(&link) else { return };
        for (session, id) in o.flights.clone() {
            let c = self.calls.get_mut(&id).expect("it is in flight");
            if c.join.as_ref().is_none_or(|j| now - j.last < PART_TIMEOUT) {
                continue;
            }
            o.unjoin(c);
            c.gone = true;
            c.settle(&self.options, Err(bad_reply("no part for 30 s")));
            o.cancels.push_back(session);
            self.wake(&mut o, now);
        }
        self.outlets.insert(link, o);
    }
}

enum Answer {
    Outcome(Box<Outcome>),
    /// parts follow.
    More,
    Stray,
}

impl Answer {
    fn outcome(o: Outcome) -> Answer {
        Answer::Outcome(Box::new(o))
    }
}

fn bad_reply(why: &str) -> Error {
    Error::new(Verdict::MaybeExecuted, Reason::InvalidRequest, format!("invalid large reply: {why}"))
}

fn too_large(n: u64, room: u64) -> Error {
    let text = format!("reply too large: {n} bytes; this process takes {room} now");
    Error::new(Verdict::HandlerFailed, Reason::ReplyTooLarge, text)
}
