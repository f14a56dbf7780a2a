//! The driver of the conformance kit; test/conformance/README.md says what it
//! does. It knows no case: it carries out ops.

mod wire;

use std::collections::HashMap;
use std::io::{BufRead, Write};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use meshnode::{Address, Bytes, Error, Link, Reply, Request};
use prost::Message;
use serde_json::{Map, Value, json};
use tokio::sync::{mpsc, oneshot};

use wire::{bytes_of, headers_in, headers_out, payload_out, unbase64};

type Answer = Result<Map<String, Value>, Value>;
type Work = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// What ops refer to.
#[derive(Default)]
struct Driver {
    links: HashMap<String, Link>,
    cancels: Arc<Mutex<HashMap<u64, oneshot::Sender<()>>>>,
}

fn main() {
    let (lines, mut line) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for l in std::io::stdin().lock().lines() {
            let Ok(l) = l else { break };
            if lines.send(l).is_err() {
                break;
            }
        }
        std::process::exit(0); // the kit is gone
    });
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut driver = Driver::default();
        while let Some(line) = line.recv().await {
            let op: Value = serde_json::from_str(&line).unwrap_or(Value::Null);
            let id = op["id"].clone();
            match driver.begin(&op) {
                Ok(work) => start(id, work).await,
                Err(error) => say(id, Err(error)),
            }
        }
    });
}

/// Polls work once, so that messages are made in the order of their lines, and
/// then goes on in the background.
async fn start(id: Value, mut work: Work) {
    let first = std::future::poll_fn(|cx| std::task::Poll::Ready(work.as_mut().poll(cx))).await;
    match first {
        std::task::Poll::Ready(answer) => say(id, answer),
        std::task::Poll::Pending => {
            tokio::spawn(async move { say(id, work.await) });
        }
    }
}

fn say(id: Value, answer: Answer) {
    let mut out = match answer {
        Ok(fields) => {
            let mut out = fields;
            out.insert("ok".into(), true.into());
            out
        }
        Err(error) => {
            let mut out = Map::new();
            out.insert("ok".into(), false.into());
            out.insert("error".into(), error);
            out
        }
    };
    out.insert("id".into(), id);
    let mut stdout = std::io::stdout().lock();
    let _ = writeln!(stdout, "{}", Value::Object(out));
    let _ = stdout.flush();
}

fn bug(text: impl std::fmt::Display) -> Value {
    json!({"verdict": "", "message": text.to_string()})
}

fn failed(e: &Error) -> Value {
    let reason = if e.reason() == meshnode::Reason::Handler { "" } else { e.reason().as_str() };
    let details: Vec<Value> =
        e.details().iter().map(|d| json!({"type_url": d.type_url, "value": wire::base64(&d.value)})).collect();
    json!({
        "verdict": e.verdict().as_str(), "reason": reason, "code": e.code() as i32, "message": e.message(),
        "details": details, "headers": headers_out(e.headers()), "trailers": headers_out(e.trailers()),
    })
}

fn done(fields: Value) -> Answer {
    match fields {
        Value::Object(fields) => Ok(fields),
        _ => Ok(Map::new()),
    }
}

impl Driver {
    fn begin(&mut self, op: &Value) -> Result<Work, Value> {
        match op["op"].as_str().unwrap_or_default() {
            "info" => {
                let info = json!({
                    "language": "rust", "helper": concat!("meshnode ", env!("CARGO_PKG_VERSION")), "grpc": "tonic 0.14",
                    "features": ["link", "recode"],
                });
                Ok(Box::pin(async { done(info) }))
            }
            "link" => self.link(op),
            "call" => self.call(op),
            "push" => {
                let (link, request) = (self.find(op)?, request(op)?);
                Ok(Box::pin(async move { link.send(request).await.map(|()| Map::new()).map_err(|e| failed(&e)) }))
            }
            "query" => self.query(op),
            "cancel" => {
                let call = op["call"].as_u64().unwrap_or_default();
                drop(self.cancels.lock().expect("no panic").remove(&call));
                Ok(Box::pin(async { Ok(Map::new()) }))
            }
            "close" => {
                let link = self.find(op)?;
                Ok(Box::pin(async move {
                    link.close().await;
                    Ok(Map::new())
                }))
            }
            "recode" => {
                let (message, data) = (op["message"].as_str().unwrap_or_default(), unbase64(&op["data"]).map_err(bug)?);
                let data = recode(message, &data).map_err(bug)?;
                Ok(Box::pin(async move { done(json!({"data": wire::base64(&data)})) }))
            }
            other => Err(bug(format!("unknown op {other:?}"))),
        }
    }

    fn find(&self, op: &Value) -> Result<Link, Value> {
        let name = op["link"].as_str().unwrap_or_default();
        self.links.get(name).cloned().ok_or_else(|| bug(format!("no link {name:?}")))
    }

    fn link(&mut self, op: &Value) -> Result<Work, Value> {
        let number = |key: &str| op[key].as_u64().filter(|n| *n > 0);
        let millis = |key: &str| number(key).map(Duration::from_millis);
        let mut b = Link::builder(op["address"].as_str().unwrap_or_default());
        b = b.node(op["node"].as_str().unwrap_or_default());
        if let Some(process) = op["process"].as_str().filter(|p| !p.is_empty()) {
            b = b.process(process);
        }
        if let Some(d) = millis("heartbeat_interval_ms") {
            b = b.heartbeat(d);
        }
        if let Some(d) = millis("connect_timeout_ms") {
            b = b.dial_timeout(d);
        }
        if let Some(n) = number("max_batch_bytes") {
            b = b.max_batch_bytes(n as usize);
        }
        if let Some(n) = number("max_message_bytes") {
            b = b.max_message_bytes(n);
        }
        if let Some(n) = number("max_unfinished_bytes") {
            b = b.max_unfinished_bytes(n);
        }
        let min = millis("backoff_min_ms").unwrap_or(Duration::from_millis(100));
        let max = millis("backoff_max_ms").unwrap_or(Duration::from_millis(3000));
        let link = b.backoff(min, max).build().map_err(bug)?;
        self.links.insert(op["link"].as_str().unwrap_or_default().to_owned(), link);
        Ok(Box::pin(async { Ok(Map::new()) }))
    }

    fn call(&mut self, op: &Value) -> Result<Work, Value> {
        let (link, request) = (self.find(op)?, request(op)?);
        let id = op["id"].as_u64().unwrap_or_default();
        let (cancel, cancelled) = oneshot::channel();
        let cancels = self.cancels.clone();
        cancels.lock().expect("no panic").insert(id, cancel);
        Ok(Box::pin(async move {
            let outcome = link.call_until(request, cancelled).await;
            cancels.lock().expect("no panic").remove(&id);
            match outcome {
                Ok(reply) => Ok(reply_out(reply)),
                Err(e) => Err(failed(&e)),
            }
        }))
    }

    fn query(&mut self, op: &Value) -> Result<Work, Value> {
        let link = self.find(op)?;
        let name = op["name"].as_str().unwrap_or_default().to_owned();
        let bound = op["timeout_ms"].as_u64().map(Duration::from_millis);
        Ok(Box::pin(async move {
            let handle = match bound {
                None => link.query(&name).await,
                Some(bound) => match tokio::time::timeout(bound, link.query(&name)).await {
                    Ok(handle) => handle,
                    Err(_) => return Err(bug("the query took too long")),
                },
            };
            handle.map_err(|e| failed(&e)).and_then(|h| done(json!({"handle": format!("{h:016x}")})))
        }))
    }
}

fn request(op: &Value) -> Result<Request, Value> {
    let target = op["target"].as_str().unwrap_or_default();
    let address = match target.strip_prefix(':') {
        Some(hex) => Address::Handle(u64::from_str_radix(hex, 16).map_err(bug)?),
        None => Address::Name(target.to_owned()),
    };
    let mut r = Request::new(address, op["method"].as_str().unwrap_or_default())
        .payload(Bytes::from(bytes_of(op).map_err(bug)?))
        .headers(headers_in(&op["headers"]).map_err(bug)?)
        .trace_tag(op["trace_tag"].as_str().unwrap_or_default());
    if let Some(ms) = op["timeout_ms"].as_u64().filter(|ms| *ms > 0) {
        r = r.timeout(Duration::from_millis(ms));
    }
    if op["wait_up"].as_bool() == Some(true) {
        r = r.wait_up();
    }
    Ok(r)
}

fn reply_out(reply: Reply) -> Map<String, Value> {
    let mut out = payload_out(&reply.payload);
    out.insert("headers".into(), headers_out(&reply.headers));
    out.insert("trailers".into(), headers_out(&reply.trailers));
    out
}

fn recode(message: &str, data: &[u8]) -> Result<Vec<u8>, String> {
    fn again<M: Message + Default>(data: &[u8]) -> Result<Vec<u8>, String> {
        M::decode(data).map(|m| m.encode_to_vec()).map_err(|e| e.to_string())
    }
    match message {
        "LinkRequest" => again::<meshnode::pb::LinkRequest>(data),
        "LinkResponse" => again::<meshnode::pb::LinkResponse>(data),
        "Frame" => again::<meshnode::pb::Frame>(data),
        other => Err(format!("unknown message {other:?}")),
    }
}
