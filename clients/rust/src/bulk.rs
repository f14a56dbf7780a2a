use std::collections::VecDeque;

use bytes::Bytes;

use crate::joiner::{PART_BYTES, weight};
use crate::node::Id;

/// How much of large payloads goes into one batch where fewer than that many
/// bytes of other frames are there: a few parts.
pub(crate) const ROUND_BYTES: usize = 64 << 10;

/// What a part takes in a batch at the most.
pub(crate) const PART_ROOM: usize = PART_BYTES + 32;

/// A large payload on its way out.
#[derive(Debug)]
struct Parcel {
    id: Id,
    session: u64,
    rest: Bytes,
    weight: u64,
}

/// Sends large payloads in turn, within what the receiver takes.
#[derive(Debug, Default)]
pub(crate) struct Bulk {
    /// weight of what has begun and not ended.
    begun: u64,
    turn: VecDeque<Parcel>,
}

impl Bulk {
    pub(crate) fn is_empty(&self) -> bool {
        self.turn.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.turn.len()
    }

    /// Whether n more bytes fit beside what has begun.
    pub(crate) fn may_begin(&self, n: usize, limit: u64) -> bool {
        self.begun.saturating_add(weight(n as u64)) <= limit
    }

    /// Notes that the first piece of a payload is about to leave, and returns it.
    pub(crate) fn begin(&mut self, id: Id, session: u64, payload: &Bytes) -> Bytes {
        let weight = weight(payload.len() as u64);
        self.begun += weight;
        self.turn.push_back(Parcel { id, session, rest: payload.slice(PART_BYTES..), weight });
        payload.slice(..PART_BYTES)
    }

    /// The next part: session and bytes, and whose payload has ended with it.
    pub(crate) fn next(&mut self) -> Option<(u64, Bytes, Option<Id>)> {
        let mut parcel = self.turn.pop_front()?;
        let piece = parcel.rest.split_to(parcel.rest.len().min(PART_BYTES));
        let session = parcel.session;
        let ended = parcel.rest.is_empty().then_some(parcel.id);
        if ended.is_some() {
            self.begun -= parcel.weight;
        } else {
            self.turn.push_back(parcel);
        }
        Some((session, piece, ended))
    }

    /// Forgets the parts of a payload that were not sent.
    pub(crate) fn stop(&mut self, id: Id) {
        if let Some(i) = self.turn.iter().position(|p| p.id == id) {
            let parcel = self.turn.remove(i).expect("it is there");
            self.begun -= parcel.weight;
        }
    }

    /// What is under way: id and session.
    pub(crate) fn ids(&self) -> Vec<(Id, u64)> {
        self.turn.iter().map(|p| (p.id, p.session)).collect()
    }
}
