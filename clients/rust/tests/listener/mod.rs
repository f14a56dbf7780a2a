//! A listener whose frames the tests write by hand, in memory: with tokio's
//! paused clock nothing waits in real time.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use hyper_util::rt::TokioIo;
use meshnode::pb::frame::Body;
use meshnode::pb::{self, Frame, Hello, LinkRequest, LinkResponse};
use meshnode::{Builder, Link};
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, UnboundedReceiverStream};
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};

#[allow(clippy::all)]
mod generated {
    include!("mesh.v1.rs");
}
use generated::cluster_service_server::{ClusterService, ClusterServiceServer};

struct Service {
    accepted: mpsc::UnboundedSender<Stream>,
}

#[tonic::async_trait]
impl ClusterService for Service {
    type LinkStream = ReceiverStream<Result<LinkResponse, Status>>;
    type ServeStream = ReceiverStream<Result<pb::ServeResponse, Status>>;

    async fn link(&self, up: Request<Streaming<LinkRequest>>) -> Result<Response<Self::LinkStream>, Status> {
        let (down, answers) = mpsc::channel(16);
        let _ = self.accepted.send(Stream { up: up.into_inner(), down, frames: VecDeque::new(), ended: false });
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    async fn serve(&self, _: Request<Streaming<pb::ServeRequest>>) -> Result<Response<Self::ServeStream>, Status> {
        Err(Status::unimplemented("not in these tests"))
    }

    async fn call(&self, _: Request<pb::CallRequest>) -> Result<Response<pb::CallResponse>, Status> {
        Err(Status::unimplemented("not in these tests"))
    }
}

/// The listening process.
pub struct Listener {
    streams: mpsc::UnboundedReceiver<Stream>,
    connections: mpsc::UnboundedSender<io::Result<DuplexStream>>,
    refusing: Arc<AtomicBool>,
    dials: Arc<AtomicUsize>,
}

impl Listener {
    pub fn new() -> Listener {
        let (accepted, streams) = mpsc::unbounded_channel();
        let (connections, incoming) = mpsc::unbounded_channel();
        tokio::spawn(Server::builder().serve_with_incoming(
            ClusterServiceServer::new(Service { accepted }),
            UnboundedReceiverStream::new(incoming),
        ));
        Listener { streams, connections, refusing: Arc::default(), dials: Arc::default() }
    }

    /// A link whose dials come here.
    pub fn link(&self, set: impl FnOnce(Builder) -> Builder) -> Link {
        let (connections, refusing, dials) = (self.connections.clone(), self.refusing.clone(), self.dials.clone());
        let builder = Link::builder("listener:1").node("db").process("test").dial_with(move || {
            dials.fetch_add(1, Ordering::SeqCst);
            let (connections, refuse) = (connections.clone(), refusing.load(Ordering::SeqCst));
            let connector = tower::service_fn(move |_| {
                let connections = connections.clone();
                async move {
                    if refuse {
                        return Err(io::Error::from(io::ErrorKind::ConnectionRefused));
                    }
                    let (ours, theirs) = tokio::io::duplex(64 << 10);
                    let _ = connections.send(Ok(theirs));
                    Ok(TokioIo::new(ours))
                }
            });
            async move { Endpoint::from_static("http://listener:1").connect_with_connector(connector).await }
        });
        set(builder).build().expect("an address")
    }

    pub fn refuse(&self, yes: bool) {
        self.refusing.store(yes, Ordering::SeqCst);
    }

    pub fn dials(&self) -> usize {
        self.dials.load(Ordering::SeqCst)
    }

    /// The next stream, before any hello.
    pub async fn stream(&mut self) -> Stream {
        self.streams.recv().await.expect("the listener lives")
    }

    /// The next stream, after the hellos.
    pub async fn accept(&mut self, hello: Hello) -> Stream {
        let mut s = self.stream().await;
        match s.recv().await.body {
            Some(Body::Hello(h)) => assert_eq!((h.version, &h.node[..], &h.process[..]), (1, "db", "test")),
            other => panic!("not a hello: {other:?}"),
        }
        s.send(0, Body::Hello(hello)).await;
        s
    }
}

pub fn hello() -> Hello {
    Hello { version: 1, process: "listener".into(), incarnation: 7, ..Hello::default() }
}

/// The listener's end of one link.
pub struct Stream {
    up: Streaming<LinkRequest>,
    down: mpsc::Sender<Result<LinkResponse, Status>>,
    frames: VecDeque<Frame>,
    ended: bool,
}

impl Stream {
    /// The next frame; none at the half-close, or when the stream broke.
    pub async fn next(&mut self) -> Option<Frame> {
        while self.frames.is_empty() {
            match self.up.message().await {
                Ok(Some(message)) => self.frames.extend(message.frames),
                _ => {
                    self.ended = true;
                    return None;
                }
            }
        }
        self.frames.pop_front()
    }

    pub async fn recv(&mut self) -> Frame {
        self.next().await.expect("a frame")
    }

    /// The next frame that is no heartbeat.
    pub async fn body(&mut self) -> (u64, Body) {
        loop {
            let f = self.recv().await;
            match f.body.expect("a body") {
                Body::Heartbeat(_) => {}
                body => return (f.session, body),
            }
        }
    }

    /// The next request.
    pub async fn request(&mut self) -> (u64, pb::Request) {
        match self.body().await {
            (session, Body::Request(r)) => (session, r),
            other => panic!("not a request: {other:?}"),
        }
    }

    pub async fn send(&mut self, session: u64, body: Body) {
        self.send_all(vec![Frame { session, body: Some(body) }]).await;
    }

    pub async fn send_all(&mut self, frames: Vec<Frame>) {
        let _ = self.down.send(Ok(LinkResponse { frames })).await;
    }

    pub async fn reply(&mut self, session: u64, payload: impl Into<bytes::Bytes>) {
        self.send(session, Body::Reply(pb::Reply { payload: payload.into(), ..pb::Reply::default() })).await;
    }

    pub async fn fail(&mut self, status: Status) {
        let _ = self.down.send(Err(status)).await;
    }

    /// Reads and drops until the half-close.
    pub async fn drain(&mut self) {
        while !self.ended {
            self.next().await;
        }
    }
}
