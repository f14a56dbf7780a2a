//! An ordinary generated stub, one channel to the nearest meshnode with a
//! gateway, and one header. Nothing of this crate is used.
//!
//! ```text
//! meshnode serve --node db=127.0.0.1:2528 --open db --example simpledb --gateway 127.0.0.1:2600 &
//! cargo run --example stub -- http://127.0.0.1:2600 greeting hello
//! ```

use std::time::Duration;

use tonic::Request;
use tonic::metadata::MetadataValue;
use tonic::transport::Endpoint;

/// Made by tonic-prost-build from examples/proto/simpledb/v1/simpledb.proto.
#[allow(dead_code)]
mod simpledb {
    include!("simpledb.v1.rs");
}

use simpledb::simple_db_service_client::SimpleDbServiceClient;
use simpledb::{GetRequest, SetRequest};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(gateway), Some(key)) = (args.next(), args.next()) else {
        return Err("usage: stub GATEWAY KEY [VALUE]: writes VALUE where there is one, then reads KEY".into());
    };
    let channel = Endpoint::from_shared(gateway)?.timeout(Duration::from_secs(5)).connect().await?;
    // The one header: for whom the calls of this stub are.
    let to_db = |mut request: Request<()>| {
        request.metadata_mut().insert("mesh-to", MetadataValue::from_static("db@sdb"));
        Ok(request)
    };
    let mut db = SimpleDbServiceClient::with_interceptor(channel, to_db);

    if let Some(value) = args.next() {
        let last = db.set(SetRequest { key: key.clone(), value }).await?.into_inner().last;
        println!("before: {}", last.as_deref().unwrap_or("(nothing)"));
    }
    let value = db.get(GetRequest { key }).await?.into_inner().value;
    println!("{}", value.as_deref().unwrap_or("(nothing)"));
    Ok(())
}
