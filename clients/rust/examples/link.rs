//! Calls over a link of its own.
//!
//! ```text
//! meshnode serve --node db=127.0.0.1:2528 --open db --example simpledb &
//! cargo run --example link -- 127.0.0.1:2528
//! ```

use std::time::Duration;

use meshnode::{Link, Reason, Request, Verdict};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).ok_or("usage: link HOST:PORT")?;
    let db = Link::builder(&address).node("db").process("rust-example").build()?;

    let set = Request::new("@sdb", "SET").payload("greeting=hello").timeout(Duration::from_secs(5));
    db.call(set).await?;

    // A handle is shared by cloning it; calls from many tasks share the stream.
    let mut tasks = Vec::new();
    for _ in 0..10 {
        let db = db.clone();
        tasks.push(tokio::spawn(async move { db.call(Request::new("@sdb", "GET").payload("greeting")).await }));
    }
    for task in tasks {
        assert_eq!(task.await??.payload, "hello");
    }

    // One way: nothing is answered.
    db.send(Request::new("@sdb", "PING").payload("hello from rust")).await?;

    match db.call(Request::new("@nobody", "GET")).await {
        Err(e) if e.reason() == Reason::NameNotFound => println!("{} ({})", e, e.verdict()),
        Err(e) if e.verdict() == Verdict::MaybeExecuted => println!("do not simply send it again: {e}"),
        other => println!("unexpected: {other:?}"),
    }
    db.close().await; // the push was placed when this returns
    Ok(())
}
