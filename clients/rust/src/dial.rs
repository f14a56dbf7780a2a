use std::error::Error as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::time::{sleep_until, timeout};
use tokio_stream::Stream;
use tonic::{Request, Status, Streaming};

use crate::fill::Fill;
use crate::hello::{self, Peer, PeerLimits};
use crate::link::Shared;
use crate::options::text_of;
use crate::outlet::Signal;
use crate::pb;
use crate::pb::cluster_service_client::ClusterServiceClient;

/// How far above the batch bound gRPC's own message limit lies.
const BATCH_SLACK: usize = 4 << 10;

/// The request stream of one link: gRPC polls it when it can send, and takes
/// what is ready then. Nothing is queued behind it.
struct Writer {
    shared: Arc<Shared>,
    link: u64,
    signal: Arc<Signal>,
    hello: Option<pb::Frame>,
    done: bool,
}

impl Stream for Writer {
    type Item = pb::LinkRequest;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<pb::LinkRequest>> {
        if self.done {
            return Poll::Ready(None);
        }
        if let Some(hello) = self.hello.take() {
            return Poll::Ready(Some(pb::LinkRequest { frames: vec![hello] }));
        }
        self.signal.wait(cx.waker());
        match self.shared.with(|node, now| node.fill(self.link, now)) {
            Fill::Batch(frames) => Poll::Ready(Some(pb::LinkRequest { frames })),
            Fill::Nothing => Poll::Pending,
            Fill::HalfClose => {
                self.done = true;
                Poll::Ready(None)
            }
        }
    }
}

/// What a dial has found.
struct Greeting {
    peer: Peer,
    limits: PeerLimits,
    /// came with the listener's hello.
    rest: Vec<pb::Frame>,
    down: Streaming<pb::LinkResponse>,
}

/// One dial, and then, where it is wanted, the reader of its link.
pub(crate) async fn run(shared: Arc<Shared>, dial: u64) {
    let signal = Arc::new(Signal::default());
    let bound = shared.dial_timeout;
    let greeted = tokio::select! {
        greeted = timeout(bound, greet(&shared, dial, signal.clone())) => match greeted {
            Ok(greeted) => greeted,
            Err(_) => Err(format!("no answer within {bound:?}")),
        },
        () = shared.abandon.notified() => Err("the link is closed".to_owned()),
    };
    match greeted {
        Err(cause) => shared.with(|node, now| node.not_opened(dial, &cause, now)),
        Ok(g) => {
            let wanted = shared.with(|node, now| node.opened(dial, signal.clone(), g.peer, g.limits, now));
            if wanted {
                read(&shared, dial, &signal, g.rest, g.down).await;
            }
        }
    }
    signal.wake(); // the writer finds that there is nothing more to do
}

async fn greet(shared: &Arc<Shared>, link: u64, signal: Arc<Signal>) -> Result<Greeting, String> {
    let channel = (shared.dialler)().await.map_err(|e| match e.source() {
        Some(cause) => text_of(cause), // tonic's own words say nothing
        None => e.to_string(),
    })?;
    let (own, batch, token) =
        shared.with(|node, _| (hello::own(&node.options), node.options.max_batch_bytes, node.options.token.clone()));
    let writer = Writer { shared: shared.clone(), link, signal, hello: Some(own), done: false };
    let mut client = ClusterServiceClient::new(channel).max_decoding_message_size(batch + BATCH_SLACK);
    let mut request = Request::new(writer);
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", token);
    }
    let mut down = client.link(request).await.map_err(|s| status_text(&s))?.into_inner();
    loop {
        let message = down.message().await.map_err(|s| status_text(&s))?;
        let Some(mut message) = message else {
            return Err("the node ended the link before its hello".to_owned());
        };
        if message.frames.is_empty() {
            continue;
        }
        let first = message.frames.remove(0);
        let (peer, limits) = hello::read(&first)?;
        return Ok(Greeting { peer, limits, rest: message.frames, down });
    }
}

/// Takes what the listener sends until the link ends.
async fn read(
    shared: &Arc<Shared>,
    link: u64,
    signal: &Signal,
    mut frames: Vec<pb::Frame>,
    mut down: Streaming<pb::LinkResponse>,
) {
    loop {
        if let Err(cause) = shared.with(|node, now| node.take(link, frames, now)) {
            shared.with(|node, now| node.lost(link, Some(&cause), now));
            return;
        }
        frames = loop {
            let Some(next) = shared.with(|node, now| node.tick(link, now)) else { return };
            tokio::select! {
                message = down.message() => match message {
                    Ok(Some(message)) => break message.frames,
                    Ok(None) => return shared.with(|node, now| node.lost(link, None, now)),
                    Err(status) => {
                        let cause = status_text(&status);
                        return shared.with(|node, now| node.lost(link, Some(&cause), now));
                    }
                },
                () = sleep_until(next) => {}
                () = signal.reader.notified() => {}
            }
        };
    }
}

/// What a status says, without gRPC's wrapping; transport errors say it in their
/// causes.
fn status_text(s: &Status) -> String {
    let text = match s.source().map(text_of) {
        Some(cause) if !cause.is_empty() => format!("{}: {cause}", s.message()),
        _ => s.message().to_owned(),
    };
    if text.is_empty() { s.code().to_string() } else { text }
}
