//! Calls the services of a [meshnode](https://github.com/meshnode/meshnode) cluster.
//!
//! A [`Link`] is one gRPC stream to one node. Calls and one-way pushes go up
//! the stream, batched, in order, large ones in parts between small ones;
//! answers come down. The link is opened at the first use, and opened again
//! after it broke. Every [`Error`] says what is known of the execution: a
//! [`Verdict`].
//!
//! ```no_run
//! use std::time::Duration;
//! use meshnode::{Link, Request};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let db = Link::new("127.0.0.1:2528")?;
//! let reply = db
//!     .call(Request::new("@sdb", "GET").payload("greeting").timeout(Duration::from_secs(5)))
//!     .await?;
//! println!("{}", String::from_utf8_lossy(&reply.payload));
//! db.close().await;
//! # Ok(())
//! # }
//! ```
//!
//! # What is promised
//!
//! * A call has exactly one outcome: a [`Reply`] or an [`Error`]. The mesh never
//!   runs a message twice; it sends again by itself only what certainly never
//!   started.
//! * The messages that one task sends to one service are dispatched in the order
//!   in which they were made, calls and pushes, small and large alike. After a
//!   break there may be a hole in that order, never a repeat.
//! * Dropping the future of a call cancels it at the other end.
//! * Everything is bounded, see [`Builder`]; what cannot be told to a caller is
//!   counted, see [`Stats`].
//!
//! A program that needs only its own generated stubs needs no helper: a meshnode
//! with a gateway takes any gRPC method with the header `mesh-to`; see
//! `examples/stub`.
//!
//! The crate needs a Tokio runtime with time enabled.
#![forbid(unsafe_code)]
#![warn(missing_docs, missing_debug_implementations, rust_2018_idioms)]

mod bulk;
mod dial;
mod error;
mod fill;
mod hello;
mod joiner;
mod link;
mod message;
mod node;
mod options;
mod outlet;
mod receive;
mod stats;

/// The messages of the wire, generated from `proto/mesh/v1`.
///
/// Most programs need none of them; [`Link::query`] and [`Link::ping`] hide those
/// of the process itself.
#[allow(missing_docs, missing_debug_implementations)]
pub mod pb {
    include!("pb/mesh.v1.rs");
}

pub use bytes::Bytes;
pub use error::{Error, Reason, Verdict};
pub use hello::Peer;
pub use link::Link;
pub use message::{Address, Reply, Request};
pub use options::{Builder, InvalidAddress, InvalidToken};
pub use stats::Stats;
