//! The program of README.md.

use std::time::Duration;

use meshnode::{Link, Reason, Request};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let db = Link::builder("127.0.0.1:2528").node("db").build()?;

    let set = Request::new("@sdb", "SET").payload("greeting=hello").timeout(Duration::from_secs(5));
    db.call(set).await?;

    match db.call(Request::new("@sdb", "GET").payload("greeting")).await {
        Ok(reply) => println!("{}", String::from_utf8_lossy(&reply.payload)),
        Err(e) if e.reason() == Reason::NameNotFound => println!("db has no sdb"),
        Err(e) => println!("{e} ({})", e.verdict()), // not sent, rejected, maybe executed, handler failed
    }

    db.send(Request::new("@sdb", "PING").payload("one way")).await?;
    db.close().await; // the push was placed when this returns
    Ok(())
}
