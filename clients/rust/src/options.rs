use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tonic::metadata::AsciiMetadataValue;
use tonic::transport::{Channel, Endpoint};

use crate::hello;
use crate::link::Link;

pub(crate) type Dialler = Arc<
    dyn Fn() -> Pin<Box<dyn Future<Output = Result<Channel, Box<dyn StdError + Send + Sync>>> + Send>> + Send + Sync,
>;

#[derive(Clone)]
pub(crate) struct Options {
    pub(crate) address: String,
    pub(crate) node: String,
    pub(crate) process: String,
    pub(crate) incarnation: u32,
    pub(crate) token: Option<AsciiMetadataValue>,
    pub(crate) heartbeat: Duration,
    pub(crate) dial_timeout: Duration,
    pub(crate) backoff_min: Duration,
    pub(crate) backoff_max: Duration,
    pub(crate) drain: Duration,
    pub(crate) send_wait: Duration,
    pub(crate) leaving: Duration,
    pub(crate) max_batch_bytes: usize,
    pub(crate) max_message_bytes: u64,
    pub(crate) max_unfinished_bytes: u64,
    pub(crate) line_calls: usize,
    pub(crate) line_push_bytes: u64,
}

/// The settings of a [`Link`].
#[must_use = "a builder does nothing until build is called"]
pub struct Builder {
    options: Options,
    dialler: Option<Dialler>,
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("address", &self.options.address).finish_non_exhaustive()
    }
}

/// The address of a link is none.
#[derive(Debug)]
pub struct InvalidAddress {
    address: String,
    cause: String,
}

impl fmt::Display for InvalidAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is no address of a node ({}): use host:port, unix:/path or http://host:port",
            self.address, self.cause
        )
    }
}

impl StdError for InvalidAddress {}

/// The token of a link cannot be sent.
#[derive(Debug)]
pub struct InvalidToken(());

impl fmt::Display for InvalidToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a token has visible ASCII characters only; this one has others (a line break at its end?)")
    }
}

impl StdError for InvalidToken {}

impl Builder {
    pub(crate) fn new(address: &str) -> Builder {
        Builder {
            options: Options {
                address: address.to_owned(),
                node: String::new(),
                process: format!("rust-{}", std::process::id()),
                token: None,
                incarnation: (hello::random() as u32).max(1),
                heartbeat: Duration::from_secs(2),
                dial_timeout: Duration::from_secs(5),
                backoff_min: Duration::from_millis(100),
                backoff_max: Duration::from_secs(3),
                drain: Duration::from_secs(10),
                send_wait: Duration::from_secs(1),
                leaving: Duration::from_secs(30),
                max_batch_bytes: 256 << 10,
                max_message_bytes: 64 << 20,
                max_unfinished_bytes: 64 << 20,
                line_calls: 16_384,
                line_push_bytes: 4 << 20,
            },
            dialler: None,
        }
    }

    /// The name of the node in the cluster's table, for its log and for errors.
    /// None by default; 1 to 255 letters, digits, `_` and `-`.
    pub fn node(mut self, name: impl Into<String>) -> Builder {
        self.options.node = name.into();
        self
    }

    /// The name of this process, for the node's log and for handlers that ask who
    /// calls: 1 to 255 letters, digits, `_`, `-` and `.`. Default `rust-` and the
    /// process id.
    pub fn process(mut self, name: impl Into<String>) -> Builder {
        self.options.process = name.into();
        self
    }

    /// The shared token of the mesh, where the node asks for one. It is shown in the
    /// metadata of the stream, so connect with TLS outside this machine. The error
    /// says that it is no visible ASCII text.
    pub fn token(mut self, token: &str) -> Result<Builder, InvalidToken> {
        let mut value = AsciiMetadataValue::try_from(format!("Bearer {token}")).map_err(|_| InvalidToken(()))?;
        value.set_sensitive(true);
        self.options.token = Some(value);
        Ok(self)
    }

    /// The longest time for which this side sends nothing. Default 2 s. The node
    /// gives a link up after three of them, and at least 6 s, without anything.
    pub fn heartbeat(mut self, interval: Duration) -> Builder {
        self.options.heartbeat = interval.max(Duration::from_millis(1));
        self
    }

    /// The bound of a dial, both hellos included. Default 5 s.
    pub fn dial_timeout(mut self, bound: Duration) -> Builder {
        self.options.dial_timeout = bound;
        self
    }

    /// The pauses after failed dials: they double from the first to the last, with
    /// jitter. Default 100 ms to 3 s.
    pub fn backoff(mut self, min: Duration, max: Duration) -> Builder {
        self.options.backoff_min = min;
        self.options.backoff_max = max.max(min);
        self
    }

    /// How long calls in flight may take after [`Link::close`]. Default 10 s.
    pub fn drain(mut self, bound: Duration) -> Builder {
        self.options.drain = bound;
        self
    }

    /// How long a push waits for room in the line. Default 1 s.
    pub fn send_wait(mut self, bound: Duration) -> Builder {
        self.options.send_wait = bound;
        self
    }

    /// The largest reply that this side takes, said in hello. Default 64 MiB.
    pub fn max_message_bytes(mut self, bytes: u64) -> Builder {
        self.options.max_message_bytes = bytes.max(1);
        self
    }

    /// The bound of the large replies that were begun and not ended, by their total
    /// sizes, said in hello. Default 64 MiB.
    pub fn max_unfinished_bytes(mut self, bytes: u64) -> Builder {
        self.options.max_unfinished_bytes = bytes.max(1);
        self
    }

    /// The longest gRPC message that this side takes, 64 KiB to 1 MiB. Default
    /// 256 KiB.
    pub fn max_batch_bytes(mut self, bytes: usize) -> Builder {
        self.options.max_batch_bytes = bytes.clamp(64 << 10, hello::MAX_BATCH);
        self
    }

    /// How many calls wait in the line before one more fails as overloaded. Default
    /// 16,384.
    pub fn line_calls(mut self, calls: usize) -> Builder {
        self.options.line_calls = calls;
        self
    }

    /// How many bytes of pushes stand in the line before one more waits. Default
    /// 4 MiB.
    pub fn line_push_bytes(mut self, bytes: u64) -> Builder {
        self.options.line_push_bytes = bytes;
        self
    }

    /// Connects in a way of your own: TLS, a proxy, another transport. `dial` makes
    /// one new channel each time; it must connect (not `connect_lazy`). Window,
    /// keepalive and other settings of the [`Endpoint`] are then yours.
    pub fn dial_with<F, E>(mut self, dial: impl Fn() -> F + Send + Sync + 'static) -> Builder
    where
        F: Future<Output = Result<Channel, E>> + Send + 'static,
        E: Into<Box<dyn StdError + Send + Sync>> + 'static,
    {
        self.dialler = Some(Arc::new(move || {
            let dialled = dial();
            Box::pin(async move { dialled.await.map_err(Into::into) })
        }));
        self
    }

    /// Makes the link. Nothing is dialled before its first use.
    pub fn build(self) -> Result<Link, InvalidAddress> {
        if let Some(dialler) = self.dialler {
            return Ok(Link::start(self.options, dialler));
        }
        let endpoint = endpoint(&self.options.address)?;
        let own = self.dial_with(move || {
            let endpoint = endpoint.clone();
            async move { endpoint.connect().await }
        });
        own.build()
    }
}

/// The gRPC settings of a link; docs/protocol.md says why.
fn endpoint(address: &str) -> Result<Endpoint, InvalidAddress> {
    let uri = if address.contains("://") || address.starts_with("unix:") {
        address.to_owned()
    } else {
        format!("http://{address}")
    };
    let endpoint =
        Endpoint::from_shared(uri).map_err(|e| InvalidAddress { address: address.to_owned(), cause: text_of(&e) })?;
    Ok(endpoint
        .tcp_nodelay(true)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(1 << 20)
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(5))
        .keep_alive_while_idle(true))
}

/// An error and its causes in one line; tonic's own text alone says little.
pub(crate) fn text_of(e: &(dyn StdError + 'static)) -> String {
    let mut text = e.to_string();
    let mut cause = e.source();
    while let Some(c) = cause {
        let more = c.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        cause = c.source();
    }
    text
}
