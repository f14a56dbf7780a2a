//! Against a real meshnode: `MESHNODE` names its binary (see test.sh).

use std::process::Stdio;
use std::time::Duration;

use meshnode::{Link, Reason, Request, Verdict};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};
use tokio::time::timeout;

/// A node db with the example database, gone with the value.
struct Node {
    log: Lines<BufReader<ChildStderr>>,
    process: Child,
}

impl Node {
    fn start(args: &[&str]) -> Node {
        let binary = std::env::var("MESHNODE").expect("MESHNODE names the meshnode binary");
        let mut command = Command::new(binary);
        command.args(["serve", "--log", "json", "--example", "simpledb"]).args(args);
        let mut process = command.stderr(Stdio::piped()).kill_on_drop(true).spawn().expect("the meshnode starts");
        let log = BufReader::new(process.stderr.take().expect("it is piped")).lines();
        Node { log, process }
    }

    /// The address in the first line of the log with this message.
    async fn address(&mut self, message: &str) -> String {
        loop {
            let line = timeout(Duration::from_secs(10), self.log.next_line()).await.expect("it logs").expect("a line");
            let line: serde_json::Value = serde_json::from_str(&line.expect("it lives")).expect("JSON");
            if line["msg"] == message {
                return line["addr"].as_str().expect("an address").to_owned();
            }
        }
    }

    /// Ends it as SIGTERM does.
    async fn drain(mut self) {
        let pid = self.process.id().expect("it runs").to_string();
        Command::new("kill").args(["-TERM", &pid]).status().await.expect("kill runs");
        self.process.wait().await.expect("it ends");
    }
}

#[tokio::test]
#[ignore = "needs MESHNODE"]
async fn a_link_to_a_real_node() {
    let mut node = Node::start(&["--listen", "127.0.0.1:0"]);
    let address = node.address("listening").await;
    let db = Link::builder(&address).node("db").build().unwrap();
    assert_ne!(db.ready().await.unwrap().incarnation, 0);

    let value = vec![b'x'; 3_000_000];
    let mut set = b"large=".to_vec();
    set.extend_from_slice(&value);
    let reply = db.call(Request::new("@sdb", "SET").payload(set)).await.unwrap();
    assert_eq!(reply.headers.get("simpledb-nil").unwrap(), "true");
    assert_eq!(db.call(Request::new("@sdb", "GET").payload("large")).await.unwrap().payload, value);

    let handle = db.query("@sdb").await.unwrap();
    assert_eq!(db.names().await.unwrap(), [("@sdb".to_owned(), handle)]);
    assert_eq!(db.call(Request::new(handle, "GET").payload("large")).await.unwrap().payload.len(), value.len());
    assert_eq!(db.ping().await.unwrap(), db.peer().unwrap());

    let e = db.call(Request::new("@sdb", "GET").payload("nothing")).await.unwrap_err();
    assert_eq!((e.verdict(), e.reason(), e.code()), (Verdict::HandlerFailed, Reason::Handler, tonic::Code::NotFound));
    let e = db.call(Request::new("@nobody", "GET")).await.unwrap_err();
    assert_eq!((e.verdict(), e.reason()), (Verdict::Rejected, Reason::NameNotFound));

    node.drain().await;
    let e = db.call(Request::new("@sdb", "GET").timeout(Duration::from_millis(300))).await.unwrap_err();
    assert_eq!(e.verdict(), Verdict::NotSent, "{e}"); // it waits: the node said that it is leaving
    db.close().await;
    assert_eq!(db.stats().links_lost, 0);
}

#[tokio::test]
#[ignore = "needs MESHNODE"]
async fn examples_as_the_readme_says() {
    let mut node = Node::start(&["--listen", "127.0.0.1:0"]);
    let address = node.address("listening").await;
    let out = example("link", &[&address]).await;
    assert_eq!(out, "name not found: \"@nobody\" (rejected)\n");
}

#[tokio::test]
#[ignore = "needs MESHNODE"]
async fn a_stub_through_the_gateway() {
    // A port that is free now: the table has to name it before the node listens.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let db = format!("db=127.0.0.1:{port}");
    let mut node = Node::start(&["--node", &db, "--open", "db", "--gateway", "127.0.0.1:0"]);
    let gateway = format!("http://{}", node.address("gateway listening").await);
    assert_eq!(example("stub", &[&gateway, "k", "v1"]).await, "before: (nothing)\nv1\n");
    assert_eq!(example("stub", &[&gateway, "k", "v2"]).await, "before: v1\nv2\n");
    assert_eq!(example("stub", &[&gateway, "none"]).await, "(nothing)\n");
}

#[tokio::test]
#[ignore = "needs MESHNODE"]
async fn a_token_is_shown() {
    let token = "0123456789abcdef0123456789abcdef";
    let file = std::env::temp_dir().join(format!("meshnode-rust-token-{}", std::process::id()));
    std::fs::write(&file, format!("{token}\n")).unwrap();
    let mut node = Node::start(&["--listen", "127.0.0.1:0", "--token-file", file.to_str().unwrap()]);
    let address = node.address("listening").await;
    let e = Link::new(&address).unwrap().ready().await.unwrap_err();
    assert_eq!((e.verdict(), e.reason()), (Verdict::NotSent, Reason::ConnectFailed));
    assert!(e.message().contains("token"), "{e}");
    Link::builder(&address).token(token).unwrap().build().unwrap().ready().await.unwrap();
    assert!(Link::builder(&address).token("line\nbreak").is_err());
    std::fs::remove_file(file).unwrap();
}

/// What an example prints.
async fn example(name: &str, args: &[&str]) -> String {
    let mut path = std::env::current_exe().expect("a test has a path");
    path.pop();
    path.pop();
    let out = Command::new(path.join("examples").join(name)).args(args).output().await.expect("it was built");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).expect("text")
}

/// README.md shows examples/readme.rs as it is.
#[test]
fn readme_shows_the_example() {
    let (readme, example) = (include_str!("../README.md"), include_str!("../examples/readme.rs"));
    let (_, code) = example.split_once("\n\n").expect("a comment first");
    assert!(readme.contains(&format!("```rust\n{code}```")), "README.md and examples/readme.rs differ");
}
