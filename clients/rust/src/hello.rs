use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use crate::options::Options;
use crate::pb;

/// The protocol version that this crate speaks.
const VERSION: u32 = 1;

const MIN_SILENCE: Duration = Duration::from_secs(6);
const MIN_BATCH: usize = 64 << 10;
pub(crate) const MAX_BATCH: usize = 1 << 20;

/// The process at the other end of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its name, as it says itself.
    pub process: String,
    /// Random at its start: another one means that it was restarted.
    pub incarnation: u32,
}

/// What the peer's hello says of its bounds.
#[derive(Clone, Debug)]
pub(crate) struct PeerLimits {
    pub(crate) batch: usize,
    pub(crate) message: u64,
    pub(crate) unfinished: u64,
    pub(crate) calls: usize,
    /// A link on which nothing came for this long is dead.
    pub(crate) silence: Duration,
}

pub(crate) fn own(o: &Options) -> pb::Frame {
    frame(
        0,
        pb::frame::Body::Hello(pb::Hello {
            version: VERSION,
            process: o.process.clone(),
            node: o.node.clone(),
            incarnation: o.incarnation,
            features: Vec::new(),
            heartbeat_interval_ms: o.heartbeat.as_millis().try_into().unwrap_or(u32::MAX),
            max_batch_bytes: o.max_batch_bytes as u32,
            max_message_bytes: o.max_message_bytes,
            max_unfinished_bytes: o.max_unfinished_bytes,
            ..Default::default()
        }),
    )
}

pub(crate) fn frame(session: u64, body: pb::frame::Body) -> pb::Frame {
    pb::Frame { session, body: Some(body) }
}

/// Checks the listener's first frame.
pub(crate) fn read(first: &pb::Frame) -> Result<(Peer, PeerLimits), String> {
    let Some(pb::frame::Body::Hello(h)) = &first.body else {
        return Err("protocol error: the first frame is not a hello".to_owned());
    };
    if h.version != VERSION {
        return Err(format!("protocol error: protocol version {} is not spoken here; use {VERSION}", h.version));
    }
    if h.incarnation == 0 {
        return Err("protocol error: hello.incarnation is 0".to_owned());
    }
    let or = |v: u64, otherwise: u64| if v == 0 { otherwise } else { v };
    let interval = or(h.heartbeat_interval_ms.into(), 2000).min(3_600_000);
    let limits = PeerLimits {
        batch: (or(h.max_batch_bytes.into(), 256 << 10) as usize).clamp(MIN_BATCH, MAX_BATCH),
        message: or(h.max_message_bytes, 64 << 20),
        unfinished: or(h.max_unfinished_bytes, 64 << 20),
        calls: or(h.max_calls.into(), 16_384) as usize,
        silence: MIN_SILENCE.max(3 * Duration::from_millis(interval)),
    };
    Ok((Peer { process: h.process.clone(), incarnation: h.incarnation }, limits))
}

/// Random bits, from the seeds of the standard library's hash maps.
pub(crate) fn random() -> u64 {
    RandomState::new().hash_one(0)
}
