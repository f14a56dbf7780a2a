use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use tonic::metadata::{AsciiMetadataKey, BinaryMetadataKey, KeyAndValueRef, MetadataMap, MetadataValue};

use crate::pb;

/// For whom a message is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// The name of a service with its sign: `@sdb`, `.launcher`.
    Name(String),
    /// The handle of a service, as [`Link::query`](crate::Link::query) gives it. 0
    /// is the process itself.
    Handle(u64),
}

impl From<&str> for Address {
    fn from(name: &str) -> Address {
        Address::Name(name.to_owned())
    }
}

impl From<String> for Address {
    fn from(name: String) -> Address {
        Address::Name(name)
    }
}

impl From<u64> for Address {
    fn from(handle: u64) -> Address {
        Address::Handle(handle)
    }
}

/// `@sdb`, or `:` and 16 hex digits.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Name(name) => f.write_str(name),
            Address::Handle(handle) => write!(f, ":{handle:016x}"),
        }
    }
}

/// A call or push before it is made.
///
/// The payload is not copied: [`Bytes`] are made of a `Vec<u8>`, a `String` or a
/// `&'static str` without a copy.
#[derive(Clone, Debug)]
#[must_use = "a request does nothing until it is given to Link::call or Link::send"]
pub struct Request {
    pub(crate) address: Address,
    pub(crate) method: String,
    pub(crate) payload: Bytes,
    pub(crate) headers: MetadataMap,
    pub(crate) timeout: Option<Duration>,
    pub(crate) trace_tag: String,
    pub(crate) no_wait: bool,
    pub(crate) wait_up: bool,
}

impl Request {
    /// A message for a service (`"@sdb"`, or a handle) and one of its methods: free
    /// text for plain handlers, `/package.Service/Method` where the service has a
    /// schema.
    pub fn new(address: impl Into<Address>, method: impl Into<String>) -> Request {
        Request {
            address: address.into(),
            method: method.into(),
            payload: Bytes::new(),
            headers: MetadataMap::new(),
            timeout: None,
            trace_tag: String::new(),
            no_wait: false,
            wait_up: false,
        }
    }

    /// The payload, empty by default. More than 32 KiB travel in parts.
    pub fn payload(mut self, payload: impl Into<Bytes>) -> Request {
        self.payload = payload.into();
        self
    }

    /// How long the call may take, the wait for the node included. What is left of
    /// it travels with the call and ends the handler's context. None by default:
    /// the call may wait for ever.
    pub fn timeout(mut self, timeout: Duration) -> Request {
        self.timeout = Some(timeout);
        self
    }

    /// gRPC metadata for the handler, `traceparent` among them; 8 KiB together at
    /// most, where each counts 32 bytes beside its text.
    pub fn headers(mut self, headers: MetadataMap) -> Request {
        self.headers = headers;
        self
    }

    /// A skynet trace tag. One that does not begin with `(` becomes
    /// `(caller-target-session)tag`.
    pub fn trace_tag(mut self, tag: impl Into<String>) -> Request {
        self.trace_tag = tag.into();
        self
    }

    /// Fail at once in the pause after a failed dial, rather than wait for the next
    /// try.
    pub fn no_wait(mut self) -> Request {
        self.no_wait = true;
        self
    }

    /// Wait for the node rather than fail when a dial fails.
    pub fn wait_up(mut self) -> Request {
        self.wait_up = true;
        self
    }
}

/// What a handler returned.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    /// The reply's bytes.
    pub payload: Bytes,
    /// What the handler set as headers.
    pub headers: MetadataMap,
    /// What the handler set as trailers.
    pub trailers: MetadataMap,
}

/// Metadata from the wire. What is not gRPC metadata (a key with a space, text
/// with control characters) is left out.
pub(crate) fn metadata(headers: Vec<pb::Header>) -> MetadataMap {
    let mut map = MetadataMap::new();
    for h in headers {
        if h.key.ends_with("-bin") {
            if let Ok(key) = BinaryMetadataKey::from_bytes(h.key.as_bytes()) {
                map.append_bin(key, MetadataValue::from_bytes(&h.value));
            }
        } else if let (Ok(key), Ok(value)) =
            (AsciiMetadataKey::from_bytes(h.key.as_bytes()), MetadataValue::try_from(&h.value[..]))
        {
            map.append(key, value);
        }
    }
    map
}

pub(crate) fn wire_headers(map: &MetadataMap) -> Vec<pb::Header> {
    map.iter()
        .map(|entry| match entry {
            KeyAndValueRef::Ascii(key, value) => {
                pb::Header { key: key.as_str().to_owned(), value: Bytes::copy_from_slice(value.as_encoded_bytes()) }
            }
            KeyAndValueRef::Binary(key, value) => {
                pb::Header { key: key.as_str().to_owned(), value: value.to_bytes().unwrap_or_default() }
            }
        })
        .collect()
}

/// What headers count against their bound of 8 KiB.
pub(crate) fn header_bytes(headers: &[pb::Header]) -> usize {
    headers.iter().map(|h| h.key.len() + h.value.len() + 32).sum()
}
