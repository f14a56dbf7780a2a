use std::fmt;

use prost::Message as _;
use prost_types::Any;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};

use crate::pb;

/// What is known of a message's execution after an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It certainly never reached a handler, because it never left this process
    /// for good. Sending it again is safe.
    NotSent,
    /// The node refused it before any handler ran. Sending it again is safe.
    Rejected,
    /// The link broke, or the caller stopped waiting, after it was sent.
    MaybeExecuted,
    /// The handler ran and failed.
    HandlerFailed,
}

impl Verdict {
    /// "not sent", "rejected", "maybe executed" or "handler failed".
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::NotSent => "not sent",
            Verdict::Rejected => "rejected",
            Verdict::MaybeExecuted => "maybe executed",
            Verdict::HandlerFailed => "handler failed",
        }
    }

    /// As `google.rpc.ErrorInfo` tells it: `no`, `maybe` or `yes`.
    pub fn executed(self) -> &'static str {
        match self {
            Verdict::NotSent | Verdict::Rejected => "no",
            Verdict::MaybeExecuted => "maybe",
            Verdict::HandlerFailed => "yes",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What went wrong, for a program to decide by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// The handler returned an error of its own.
    Handler,
    /// The handler panicked; the message has an id that is in the node's log.
    Panic,
    /// The service has no such method.
    UnknownMethod,
    /// The name breaks the rules for names.
    InvalidName,
    /// No service has the name.
    NameNotFound,
    /// The handle is of an earlier life of the process, or its service stopped.
    StaleHandle,
    /// A limit was reached; the message says which.
    Overloaded,
    /// The node is leaving and the call had not started.
    Draining,
    /// The request is larger than the node takes.
    TooLarge,
    /// The reply is larger than this process takes.
    ReplyTooLarge,
    /// The deadline had passed at the node when the call's turn came.
    Expired,
    /// Nobody waited any longer.
    Cancelled,
    /// The caller may not call this.
    NotPermitted,
    /// The message breaks a rule of the protocol; the text says which.
    InvalidRequest,
    /// The node could not be reached.
    ConnectFailed,
    /// This [`Link`](crate::Link) is closed.
    Closed,
    /// The link broke after the message was sent, or the program behind the node was
    /// lost.
    LinkBroken,
    /// The name is in use by others.
    NameTaken,
    /// The message was passed on too often: 8 hops.
    Loop,
    /// The timeout of the request was over in this process.
    DeadlineExceeded,
}

impl Reason {
    /// As `google.rpc.ErrorInfo` of domain `mesh` names it.
    pub fn as_str(self) -> &'static str {
        self.facts().0
    }

    fn code(self) -> Code {
        self.facts().1
    }

    fn facts(self) -> (&'static str, Code) {
        match self {
            Reason::Handler => ("HANDLER", Code::Unknown),
            Reason::Panic => ("PANIC", Code::Internal),
            Reason::UnknownMethod => ("UNKNOWN_METHOD", Code::Unimplemented),
            Reason::InvalidName => ("INVALID_NAME", Code::InvalidArgument),
            Reason::NameNotFound => ("NAME_NOT_FOUND", Code::NotFound),
            Reason::StaleHandle => ("STALE_HANDLE", Code::FailedPrecondition),
            Reason::Overloaded => ("OVERLOADED", Code::ResourceExhausted),
            Reason::Draining => ("DRAINING", Code::Unavailable),
            Reason::TooLarge => ("TOO_LARGE", Code::ResourceExhausted),
            Reason::ReplyTooLarge => ("REPLY_TOO_LARGE", Code::OutOfRange),
            Reason::Expired => ("EXPIRED", Code::DeadlineExceeded),
            Reason::Cancelled => ("CANCELLED", Code::Cancelled),
            Reason::NotPermitted => ("NOT_PERMITTED", Code::PermissionDenied),
            Reason::InvalidRequest => ("INVALID_REQUEST", Code::InvalidArgument),
            Reason::ConnectFailed => ("CONNECT_FAILED", Code::Unavailable),
            Reason::Closed => ("CLOSED", Code::Unavailable),
            Reason::LinkBroken => ("LINK_BROKEN", Code::Aborted),
            Reason::NameTaken => ("NAME_TAKEN", Code::AlreadyExists),
            Reason::Loop => ("LOOP", Code::FailedPrecondition),
            Reason::DeadlineExceeded => ("DEADLINE_EXCEEDED", Code::DeadlineExceeded),
        }
    }

    /// What a reason on the wire means. An unknown one counts as the handler's.
    fn of_wire(r: i32) -> (Reason, Verdict) {
        use Verdict::{HandlerFailed, MaybeExecuted, Rejected};
        match pb::Reason::try_from(r).unwrap_or(pb::Reason::Unspecified) {
            pb::Reason::Unspecified | pb::Reason::Handler => (Reason::Handler, HandlerFailed),
            pb::Reason::Panic => (Reason::Panic, HandlerFailed),
            pb::Reason::ReplyTooLarge => (Reason::ReplyTooLarge, HandlerFailed),
            pb::Reason::Cancelled => (Reason::Cancelled, MaybeExecuted),
            pb::Reason::UnknownMethod => (Reason::UnknownMethod, Rejected),
            pb::Reason::InvalidName => (Reason::InvalidName, Rejected),
            pb::Reason::NameNotFound => (Reason::NameNotFound, Rejected),
            pb::Reason::StaleHandle => (Reason::StaleHandle, Rejected),
            pb::Reason::Overloaded => (Reason::Overloaded, Rejected),
            pb::Reason::Draining => (Reason::Draining, Rejected),
            pb::Reason::TooLarge => (Reason::TooLarge, Rejected),
            pb::Reason::Expired => (Reason::Expired, Rejected),
            pb::Reason::NotPermitted => (Reason::NotPermitted, Rejected),
            pb::Reason::InvalidRequest => (Reason::InvalidRequest, Rejected),
            pb::Reason::NameTaken => (Reason::NameTaken, Rejected),
            pb::Reason::Loop => (Reason::Loop, Rejected),
            pb::Reason::LinkBroken => (Reason::LinkBroken, MaybeExecuted),
        }
    }
}

/// Why a call or push failed, and what is known of its execution.
///
/// It becomes a [`tonic::Status`] with `into()`: code, message and details, and,
/// unless a handler made the status, a `google.rpc.ErrorInfo` of domain `mesh`
/// with the reason, the target, the method and `executed`.
#[derive(Clone, Debug)]
pub struct Error {
    facts: Box<Facts>,
}

#[derive(Clone, Debug)]
struct Facts {
    verdict: Verdict,
    reason: Reason,
    code: Code,
    message: String,
    details: Vec<Any>,
    headers: MetadataMap,
    trailers: MetadataMap,
    node: String,
    target: String,
    method: String,
}

impl Error {
    pub(crate) fn new(verdict: Verdict, reason: Reason, message: impl Into<String>) -> Error {
        Error {
            facts: Box::new(Facts {
                verdict,
                reason,
                code: reason.code(),
                message: message.into(),
                details: Vec::new(),
                headers: MetadataMap::new(),
                trailers: MetadataMap::new(),
                node: String::new(),
                target: String::new(),
                method: String::new(),
            }),
        }
    }

    pub(crate) fn closed() -> Error {
        Error::new(Verdict::NotSent, Reason::Closed, "the link is closed")
    }

    pub(crate) fn of_failure(f: pb::Failure) -> Error {
        let (reason, verdict) = Reason::of_wire(f.reason);
        let mut e = Error::new(verdict, reason, f.message);
        if reason == Reason::Handler {
            e.facts.code = match Code::from_i32(i32::try_from(f.code).unwrap_or(0)) {
                Code::Ok => Code::Unknown,
                code => code,
            };
            e.facts.details = f.details;
        }
        e.facts.headers = crate::message::metadata(f.headers);
        e.facts.trailers = crate::message::metadata(f.trailers);
        e
    }

    pub(crate) fn about(mut self, node: &str, target: String, method: &str) -> Error {
        self.facts.node = node.to_owned();
        self.facts.target = target;
        self.facts.method = method.to_owned();
        self
    }

    /// What is known of the execution.
    pub fn verdict(&self) -> Verdict {
        self.facts.verdict
    }

    /// What went wrong.
    pub fn reason(&self) -> Reason {
        self.facts.reason
    }

    /// The gRPC status code: the handler's own, or the one of the reason.
    pub fn code(&self) -> Code {
        self.facts.code
    }

    /// A sentence for people.
    pub fn message(&self) -> &str {
        &self.facts.message
    }

    /// The details of a status that the handler made.
    pub fn details(&self) -> &[Any] {
        &self.facts.details
    }

    /// What the handler set as headers before it failed.
    pub fn headers(&self) -> &MetadataMap {
        &self.facts.headers
    }

    /// What the handler set as trailers.
    pub fn trailers(&self) -> &MetadataMap {
        &self.facts.trailers
    }

    /// For whom the message was: `@sdb`, with the node's name before it where the
    /// link has one.
    pub fn target(&self) -> &str {
        &self.facts.target
    }

    /// The method of the message.
    pub fn method(&self) -> &str {
        &self.facts.method
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.facts.message)
    }
}

impl std::error::Error for Error {}

/// `google.rpc.Status` and `google.rpc.ErrorInfo`, so that nothing else is needed.
#[derive(Clone, PartialEq, prost::Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ErrorInfo {
    #[prost(string, tag = "1")]
    reason: String,
    #[prost(string, tag = "2")]
    domain: String,
    #[prost(btree_map = "string, string", tag = "3")]
    metadata: std::collections::BTreeMap<String, String>,
}

impl From<Error> for Status {
    fn from(e: Error) -> Status {
        let f = *e.facts;
        let mut details = f.details;
        if f.reason != Reason::Handler {
            let metadata = [
                ("node", f.node),
                ("target", f.target),
                ("method", f.method),
                ("executed", f.verdict.executed().to_owned()),
            ];
            let info = ErrorInfo {
                reason: f.reason.as_str().to_owned(),
                domain: "mesh".to_owned(),
                metadata: metadata.into_iter().map(|(k, v)| (k.to_owned(), v)).collect(),
            };
            details.push(Any {
                type_url: "type.googleapis.com/google.rpc.ErrorInfo".to_owned(),
                value: info.encode_to_vec(),
            });
        }
        let status = RpcStatus { code: f.code as i32, message: f.message.clone(), details };
        let details = if status.details.is_empty() { Vec::new() } else { status.encode_to_vec() };
        Status::with_details_and_metadata(f.code, f.message, details.into(), f.trailers)
    }
}
