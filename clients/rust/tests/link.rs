//! A link against a listener whose frames are written by hand, in virtual time.

mod listener;

use std::time::Duration;

use bytes::Bytes;
use listener::{Listener, hello};
use meshnode::pb::frame::Body;
use meshnode::pb::{self, Frame, Goaway, Heartbeat, Hello};
use meshnode::{Error, Link, Reason, Reply, Request, Verdict};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Status};

fn call(link: &Link, request: Request) -> JoinHandle<Result<Reply, Error>> {
    let link = link.clone();
    tokio::spawn(async move { link.call(request).await })
}

fn get(key: &'static str) -> Request {
    Request::new("@sdb", "GET").payload(key)
}

fn facts(e: &Error) -> (Verdict, Reason, Code) {
    (e.verdict(), e.reason(), e.code())
}

fn bytes(n: usize) -> Bytes {
    (0..n).map(|i| (i * 31 + (i >> 8)) as u8).collect::<Vec<u8>>().into()
}

#[tokio::test(start_paused = true)]
async fn a_call_and_its_answers() {
    let mut l = Listener::new();
    let link = l.link(|b| b);
    let first = call(&link, get("a").timeout(Duration::from_secs(2)));
    let mut s = l.accept(hello()).await;
    let (session, r) = s.request().await;
    assert_eq!(session, 1);
    assert_eq!((&r.method[..], &r.payload[..], r.total_size), ("GET", &b"a"[..], 0));
    assert!((1_500_000..=2_000_000).contains(&r.time_left_us), "{}", r.time_left_us);
    s.reply(1, "hello").await;
    assert_eq!(first.await.unwrap().unwrap().payload, "hello");
    assert_eq!(link.peer().unwrap().incarnation, 7);

    // A failure of the handler's passes as it is.
    let second = call(&link, get("b"));
    s.request().await;
    let detail = prost_types::Any { type_url: "type.googleapis.com/x.Y".into(), value: vec![1] };
    let failure = pb::Failure {
        reason: pb::Reason::Handler as i32,
        code: 5,
        message: "no b".into(),
        details: vec![detail.clone()],
        trailers: vec![pb::Header { key: "t-bin".into(), value: vec![0u8, 255].into() }],
        ..pb::Failure::default()
    };
    s.send(2, Body::Failure(failure)).await;
    let e = second.await.unwrap().unwrap_err();
    assert_eq!(facts(&e), (Verdict::HandlerFailed, Reason::Handler, Code::NotFound));
    assert_eq!((e.message(), e.details()), ("no b", &[detail][..]));
    assert_eq!(e.trailers().get_bin("t-bin").unwrap().to_bytes().unwrap(), vec![0, 255]);

    // One of the mesh's has the mesh's code and verdict.
    let third = call(&link, get("c"));
    s.request().await;
    let refusal =
        pb::Failure { reason: pb::Reason::NameNotFound as i32, message: "no @sdb".into(), ..Default::default() };
    s.send(3, Body::Failure(refusal)).await;
    let e = third.await.unwrap().unwrap_err();
    assert_eq!(facts(&e), (Verdict::Rejected, Reason::NameNotFound, Code::NotFound));
    assert_eq!((e.target(), e.method()), ("db@sdb", "GET"));
    let status = Status::from(e);
    assert!(status.details().windows(14).any(|w| w == b"NAME_NOT_FOUND"), "ErrorInfo has the reason");
}

#[tokio::test(start_paused = true)]
async fn large_payloads_travel_in_parts_and_small_calls_pass() {
    let mut l = Listener::new();
    let link = l.link(|b| b);
    let payload = bytes(4_000_000);
    let large = call(&link, Request::new("@sdb", "LARGE").payload(payload.clone()));
    let mut s = l.accept(hello()).await;
    let (session, r) = s.request().await;
    assert_eq!((session, r.payload.len(), r.total_size), (1, 32768, 4_000_000));
    let small = call(&link, get("small"));
    let mut have = r.payload.to_vec();
    let mut passed = false;
    while have.len() < payload.len() {
        match s.body().await {
            (1, Body::Part(p)) => have.extend_from_slice(&p.payload),
            (2, Body::Request(r)) => passed = r.total_size == 0,
            other => panic!("{other:?}"),
        }
    }
    assert!(passed, "the small call waited for the large one");
    assert_eq!(have, payload);

    // Two replies with their parts mixed.
    let down = bytes(70_000);
    let begin = |session| Frame {
        session,
        body: Some(Body::Reply(pb::Reply { payload: down.slice(..32768), total_size: 70_000, ..Default::default() })),
    };
    let part = |session, from: usize, to: usize| Frame {
        session,
        body: Some(Body::Part(pb::Part { payload: down.slice(from..to) })),
    };
    s.send_all(vec![begin(1), begin(2), part(2, 32768, 65536), part(1, 32768, 65536), part(1, 65536, 70_000)]).await;
    s.send_all(vec![part(2, 65536, 70_000)]).await;
    assert_eq!(large.await.unwrap().unwrap().payload, down);
    assert_eq!(small.await.unwrap().unwrap().payload, down);
}

#[tokio::test(start_paused = true)]
async fn a_large_push_keeps_the_order_to_its_target() {
    let mut l = Listener::new();
    let link = l.link(|b| b);
    let before = call(&link, get("open"));
    let mut s = l.accept(hello()).await;
    s.request().await;
    s.reply(1, "").await;
    before.await.unwrap().unwrap();

    link.send(Request::new("@sdb", "LARGE").payload(bytes(200_000))).await.unwrap();
    let after = call(&link, get("after"));
    let other = call(&link, Request::new("@other", "GET"));
    let (mut have, mut order) = (0, Vec::new());
    while order.len() < 3 || have < 200_000 {
        match s.body().await {
            (session, Body::Request(r)) => {
                have += if r.total_size > 0 { r.payload.len() } else { 0 };
                if r.payload == "after" {
                    assert_eq!(have, 200_000, "it overtook the push");
                }
                order.push((session, r.method));
            }
            (2, Body::Part(p)) => have += p.payload.len(),
            unexpected => panic!("{unexpected:?}"),
        }
    }
    assert_eq!(order[0], (2, "LARGE".to_owned()));
    s.reply(3, "").await;
    s.reply(4, "").await;
    after.await.unwrap().unwrap();
    other.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_stops_waiting_sends_one_cancel() {
    let mut l = Listener::new();
    let link = l.link(|b| b);
    let late = call(&link, get("late").timeout(Duration::from_millis(300)));
    let mut s = l.accept(hello()).await;
    s.request().await;
    assert!(matches!(s.body().await, (1, Body::Cancel(_))));
    let e = late.await.unwrap().unwrap_err();
    assert_eq!(facts(&e), (Verdict::MaybeExecuted, Reason::DeadlineExceeded, Code::DeadlineExceeded));

    let dropped = call(&link, get("dropped"));
    s.request().await;
    dropped.abort();
    assert!(matches!(s.body().await, (2, Body::Cancel(_))));

    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let told = {
        let link = link.clone();
        tokio::spawn(async move { link.call_until(get("told"), stopped).await })
    };
    s.request().await;
    stop.send(()).unwrap();
    assert!(matches!(s.body().await, (3, Body::Cancel(_))));
    assert_eq!(told.await.unwrap().unwrap_err().verdict(), Verdict::MaybeExecuted);

    // Late answers are counted, and the link lives.
    for session in 1..=3 {
        s.reply(session, "late").await;
    }
    let next = call(&link, get("next"));
    s.request().await;
    s.reply(4, "ok").await;
    next.await.unwrap().unwrap();
    assert_eq!((link.stats().replies_late, link.stats().dials), (3, 1));
}

#[tokio::test(start_paused = true)]
async fn the_listeners_bounds_are_kept() {
    let mut l = Listener::new();
    let link = l.link(|b| b);
    let limits = Hello { max_calls: 2, max_message_bytes: 200_000, max_unfinished_bytes: 131_072, ..hello() };
    let one = call(&link, Request::new("@sdb", "1").payload(bytes(40_000)));
    let mut s = l.accept(limits).await;
    let two = call(&link, Request::new("@sdb", "2"));
    let three = call(&link, Request::new("@sdb", "3").timeout(Duration::from_secs(1)));
    let mut seen = Vec::new();
    while seen.len() < 3 {
        match s.body().await {
            (_, Body::Request(r)) => seen.push(r.method),
            (1, Body::Part(p)) => seen.push(format!("part of {}", p.payload.len())),
            other => panic!("{other:?}"),
        }
    }
    seen.sort();
    assert_eq!(seen, ["1", "2", "part of 7232"]);
    let e = three.await.unwrap().unwrap_err(); // its place never came
    assert_eq!(facts(&e), (Verdict::NotSent, Reason::DeadlineExceeded, Code::DeadlineExceeded));
    s.reply(1, "").await;
    s.reply(2, "").await;
    one.await.unwrap().unwrap();
    two.await.unwrap().unwrap();

    for (n, limit) in [(200_001, "200000"), (150_000, "131072")] {
        let e = link.call(Request::new("@sdb", "x").payload(bytes(n))).await.unwrap_err();
        assert_eq!(facts(&e), (Verdict::NotSent, Reason::TooLarge, Code::ResourceExhausted));
        assert!(e.message().contains(limit), "{e}");
    }

    // Two large ones fit; the third begins when one of them has left.
    let many: Vec<_> = (0..2).map(|_| call(&link, Request::new("@sdb", "y").payload(bytes(100_000)))).collect();
    let (mut begun, mut parts, mut most) = (0, 0, 0);
    while begun < 2 || parts < 8 {
        match s.body().await {
            (_, Body::Request(_)) => {
                begun += 1;
                parts += 1;
            }
            (_, Body::Part(_)) => parts += 1,
            other => panic!("{other:?}"),
        }
        most = most.max(begun - parts / 4);
    }
    assert_eq!(most, 1, "100000 bytes twice do not fit into 131072");
    s.reply(3, "").await;
    s.reply(4, "").await;
    for one in many {
        one.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_goaway_did_not_take_is_sent_again() {
    let mut l = Listener::new();
    let link = l.link(|b| b);
    let calls: Vec<_> = ["a", "b", "c"].map(|k| call(&link, get(k))).into();
    let mut s = l.accept(hello()).await;
    for _ in 0..3 {
        s.request().await;
    }
    link.send(get("push")).await.unwrap();
    assert!(s.request().await.1.push);
    l.refuse(true); // it is being restarted: nobody is told
    s.send(0, Body::Goaway(Goaway { last_session: 1, message: "restart".into() })).await;
    sleep(Duration::from_secs(1)).await;
    l.refuse(false);
    let mut s2 = l.accept(hello()).await;
    assert_eq!((s2.request().await.1.payload, s2.request().await.1.payload), ("b".into(), "c".into()));
    s.reply(1, "old").await;
    s2.reply(1, "new").await;
    s2.reply(2, "new").await;
    let mut got = Vec::new();
    for c in calls {
        got.push(c.await.unwrap().unwrap().payload);
    }
    assert_eq!(got, ["old", "new", "new"]);
    s.drain().await; // it half-closes when the last answer is there
    assert_eq!((link.stats().pushes_lost_goaway, link.stats().resent), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn a_draining_refusal_after_a_goaway_is_sent_again() {
    let mut l = Listener::new();
    let link = l.link(|b| b);
    let draining = || Body::Failure(pb::Failure { reason: pb::Reason::Draining as i32, ..Default::default() });
    let early = call(&link, get("early"));
    let late = call(&link, get("late"));
    let mut s = l.accept(hello()).await;
    s.request().await;
    s.request().await;
    s.send(1, draining()).await;
    assert_eq!(facts(&early.await.unwrap().unwrap_err()), (Verdict::Rejected, Reason::Draining, Code::Unavailable));
    s.send(0, Body::Goaway(Goaway { last_session: 2, ..Default::default() })).await;
    s.send(2, draining()).await;
    let mut s2 = l.accept(hello()).await;
    s2.request().await;
    s2.reply(1, "ok").await;
    assert_eq!(late.await.unwrap().unwrap().payload, "ok");
}

#[tokio::test(start_paused = true)]
async fn a_break_fails_what_is_in_flight_and_keeps_the_line() {
    let mut l = Listener::new();
    let link = l.link(|b| b);
    let sent = call(&link, get("sent"));
    let mut s = l.accept(Hello { max_calls: 1, ..hello() }).await;
    s.request().await;
    let waits = call(&link, get("waits"));
    sleep(Duration::from_millis(10)).await;
    s.fail(Status::unavailable("gone")).await;
    let e = sent.await.unwrap().unwrap_err();
    assert_eq!(facts(&e), (Verdict::MaybeExecuted, Reason::LinkBroken, Code::Aborted));
    assert!(e.message().contains("gone"), "{e}");
    let mut s = l.accept(hello()).await;
    assert_eq!(s.request().await.1.payload, "waits");
    s.reply(1, "ok").await;
    waits.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn heartbeats_go_both_ways() {
    let mut l = Listener::new();
    let link = l.link(|b| b.heartbeat(Duration::from_millis(500)));
    let waits = call(&link, get("a"));
    let mut s = l.accept(Hello { heartbeat_interval_ms: 1000, ..hello() }).await;
    s.request().await;
    let began = Instant::now();
    for n in 1..=4 {
        assert!(matches!(s.recv().await.body, Some(Body::Heartbeat(_))));
        let gone = began.elapsed().as_millis();
        assert!((n * 490..n * 520).contains(&gone), "heartbeat {n} after {gone} ms");
    }
    s.send(0, Body::Heartbeat(Heartbeat::default())).await;
    let heard = Instant::now();
    let e = waits.await.unwrap().unwrap_err(); // it falls silent
    let quiet = heard.elapsed().as_millis();
    assert!((5_990..6_100).contains(&quiet), "{quiet} ms");
    assert_eq!(facts(&e), (Verdict::MaybeExecuted, Reason::LinkBroken, Code::Aborted));
}

#[tokio::test(start_paused = true)]
async fn dials_are_spaced() {
    let mut l = Listener::new();
    l.refuse(true);
    let link = l.link(|b| b.backoff(Duration::from_millis(100), Duration::from_secs(1)));
    let e = link.call(get("a")).await.unwrap_err();
    assert_eq!(facts(&e), (Verdict::NotSent, Reason::ConnectFailed, Code::Unavailable));
    assert!(e.message().starts_with("connect [db] (listener:1): "), "{e}");
    let e = link.call(get("a").no_wait()).await.unwrap_err(); // in the pause
    assert_eq!((e.reason(), l.dials()), (Reason::ConnectFailed, 1));

    let waits = call(&link, get("b").wait_up());
    sleep(Duration::from_secs(6)).await;
    assert!((7..=20).contains(&l.dials()), "{} dials in 6 s", l.dials());
    l.refuse(false);
    let mut s = l.accept(hello()).await;
    s.request().await;
    s.reply(1, "up").await;
    assert_eq!(waits.await.unwrap().unwrap().payload, "up");
}

#[tokio::test(start_paused = true)]
async fn a_refused_or_silent_listener_is_told() {
    let mut l = Listener::new();
    let link = l.link(|b| b.dial_timeout(Duration::from_millis(700)));
    let refused = call(&link, get("a"));
    l.stream().await.fail(Status::permission_denied("not you, use another name")).await;
    let e = refused.await.unwrap().unwrap_err();
    assert_eq!(e.reason(), Reason::ConnectFailed);
    assert!(e.message().contains("not you, use another name"), "{e}");

    let unanswered = call(&link, get("a"));
    let mut s = l.stream().await;
    let e = unanswered.await.unwrap().unwrap_err();
    assert!(e.message().contains("no answer within 700ms"), "{e}");
    s.drain().await; // the stream is given up

    let wrong = call(&link, get("a"));
    let mut s = l.stream().await;
    s.send(0, Body::Hello(Hello { version: 2, ..hello() })).await;
    assert!(wrong.await.unwrap().unwrap_err().message().contains("version 2"));
    s.drain().await;
}

#[tokio::test(start_paused = true)]
async fn close_sends_what_waits_and_reads_to_the_end() {
    let mut l = Listener::new();
    let link = l.link(|b| b);
    let last = call(&link, get("last"));
    let mut s = l.accept(hello()).await;
    for n in 0..10 {
        link.send(Request::new("@sdb", "PUSH").payload(bytes(n))).await.unwrap();
    }
    let closing = {
        let link = link.clone();
        tokio::spawn(async move { link.close().await })
    };
    for _ in 0..11 {
        s.request().await;
    }
    let e = link.call(get("late")).await.unwrap_err();
    assert_eq!(facts(&e), (Verdict::NotSent, Reason::Closed, Code::Unavailable));
    assert!(timeout(Duration::from_secs(3), s.next()).await.is_ok(), "heartbeats go on");
    s.reply(1, "ok").await;
    last.await.unwrap().unwrap();
    s.drain().await;
    assert!(!closing.is_finished(), "the listener has not ended the stream yet");
    drop(s);
    closing.await.unwrap();
    link.close().await;
    assert_eq!(link.stats().links_lost, 0);
}

#[tokio::test(start_paused = true)]
async fn close_abandons_a_dial() {
    let mut l = Listener::new();
    let link = l.link(|b| b);
    let waits = call(&link, get("a"));
    let mut s = l.stream().await; // and no hello
    let began = Instant::now();
    link.close().await;
    assert!(began.elapsed() < Duration::from_secs(1));
    let e = waits.await.unwrap().unwrap_err();
    assert_eq!((e.verdict(), e.reason()), (Verdict::NotSent, Reason::Closed));
    s.drain().await;
    assert_eq!(link.ready().await.unwrap_err().reason(), Reason::Closed);
}

#[tokio::test(start_paused = true)]
async fn dropping_the_last_handle_ends_in_order() {
    let mut l = Listener::new();
    let link = l.link(|b| b);
    let opening = call(&link, get("a"));
    let mut s = l.accept(hello()).await;
    s.request().await;
    s.reply(1, "").await;
    opening.await.unwrap().unwrap();
    link.send(get("push")).await.unwrap();
    drop(link);
    assert!(s.request().await.1.push);
    s.drain().await;
}

#[tokio::test(start_paused = true)]
async fn spoilt_replies_fail_alone() {
    let mut l = Listener::new();
    let link = l.link(|b| b.max_message_bytes(100_000));
    let spoilt: Vec<_> = (0..4).map(|_| call(&link, get("a"))).collect();
    let good = call(&link, get("good"));
    let mut s = l.accept(hello()).await;
    for _ in 0..5 {
        s.request().await;
    }
    let reply = |n: usize, total_size| Body::Reply(pb::Reply { payload: bytes(n), total_size, ..Default::default() });
    s.send(1, reply(32_767, 70_000)).await;
    s.send(2, reply(32_768, 70_000)).await;
    s.send(2, Body::Part(pb::Part { payload: bytes(10) })).await;
    s.send(3, reply(32_768, 1 << 63)).await;
    s.send(4, reply(32_768, 70_000)).await; // and nothing more
    let mut cancelled = Vec::new();
    while cancelled.len() < 3 {
        if let (session, Body::Cancel(_)) = s.body().await {
            cancelled.push(session);
        }
    }
    assert_eq!(cancelled, [1, 2, 3]);
    s.reply(5, "ok").await;
    good.await.unwrap().unwrap();
    let mut errors = Vec::new();
    for c in spoilt {
        // The last one needs the listener's heartbeats for 30 s.
        let outcome = loop {
            if c.is_finished() {
                break c.await.unwrap();
            }
            sleep(Duration::from_secs(1)).await;
            s.send(0, Body::Heartbeat(Heartbeat::default())).await;
        };
        errors.push(outcome.unwrap_err());
    }
    let reasons: Vec<_> = errors.iter().map(|e| (e.verdict(), e.reason())).collect();
    let bad = (Verdict::MaybeExecuted, Reason::InvalidRequest);
    assert_eq!(reasons, [bad, bad, (Verdict::HandlerFailed, Reason::ReplyTooLarge), bad]);
    assert!(errors[3].message().contains("no part for 30 s"), "{}", errors[3]);
    assert_eq!(link.stats().links_lost, 0);
}

#[tokio::test(start_paused = true)]
async fn the_line_is_bounded() {
    let mut l = Listener::new();
    l.refuse(true);
    let link = l.link(|b| b.line_calls(2).line_push_bytes(1000));
    let _first = (call(&link, get("1").wait_up()), call(&link, get("2").wait_up()));
    tokio::task::yield_now().await;
    let e = link.call(get("3").wait_up()).await.unwrap_err();
    assert_eq!(facts(&e), (Verdict::NotSent, Reason::Overloaded, Code::ResourceExhausted));

    let push = || Request::new("@sdb", "P").payload(bytes(2000)).wait_up();
    let waits = {
        let link = link.clone();
        tokio::spawn(async move { link.send(push()).await })
    };
    tokio::task::yield_now().await;
    let began = Instant::now();
    let e = link.send(push()).await.unwrap_err();
    assert_eq!((e.reason(), began.elapsed().as_millis() / 10), (Reason::Overloaded, 100));
    l.refuse(false);
    let mut s = l.accept(hello()).await;
    waits.await.unwrap().unwrap();
    for _ in 0..3 {
        s.request().await;
    }
}
