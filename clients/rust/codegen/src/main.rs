//! Writes the Rust of the .proto files, which is committed, so that whoever
//! uses the crate needs no protobuf compiler:
//!
//! ```text
//! cargo run --manifest-path codegen/Cargo.toml            # writes
//! cargo run --manifest-path codegen/Cargo.toml -- --check # fails where it would change something
//! ```

use std::path::{Path, PathBuf};
use std::{env, error, fs, process};

/// One file: which .proto it is of, and what is made of its services.
struct Output {
    /// relative to the crate.
    file: &'static str,
    /// the package, which names the file that prost writes.
    package: &'static str,
    protos: &'static [&'static str],
    client: bool,
    server: bool,
    /// messages that are elsewhere already.
    messages_at: Option<(&'static str, &'static str)>,
}

const OUTPUTS: &[Output] = &[
    Output {
        file: "src/pb/mesh.v1.rs",
        package: "mesh.v1",
        protos: &["proto/mesh/v1/cluster.proto", "proto/mesh/v1/process.proto"],
        client: true,
        server: false,
        messages_at: None,
    },
    Output {
        file: "tests/listener/mesh.v1.rs",
        package: "mesh.v1",
        protos: &["proto/mesh/v1/cluster.proto"],
        client: false,
        server: true,
        messages_at: Some((".mesh.v1", "::meshnode::pb")),
    },
    Output {
        file: "examples/stub/simpledb.v1.rs",
        package: "simpledb.v1",
        protos: &["examples/proto/simpledb/v1/simpledb.proto"],
        client: true,
        server: false,
        messages_at: None,
    },
];

fn generate(root: &Path, o: &Output) -> Result<String, Box<dyn error::Error>> {
    let includes = [root.join("proto"), root.join("examples/proto")];
    let files = protox::compile(o.protos.iter().map(|p| root.join(p)), includes)?;
    let out = env::temp_dir().join(format!("meshnode-codegen-{}", process::id()));
    fs::create_dir_all(&out)?;
    let mut builder = tonic_prost_build::configure()
        .build_client(o.client)
        .build_server(o.server)
        .build_transport(false)
        .bytes(".mesh.v1")
        .out_dir(&out);
    if let Some((package, path)) = o.messages_at {
        builder = builder.extern_path(package, path);
    }
    builder.compile_fds(files)?;
    let text = fs::read_to_string(out.join(format!("{}.rs", o.package)))?;
    fs::remove_dir_all(&out)?;
    Ok(text)
}

/// Which .proto files the code is of: tests/generated.rs compares, so that nobody
/// needs to build this program to see that the code is old.
fn sources(root: &Path) -> Result<String, Box<dyn error::Error>> {
    let mut protos: Vec<_> = OUTPUTS.iter().flat_map(|o| o.protos).collect();
    protos.sort();
    protos.dedup();
    let mut text = String::new();
    for proto in protos {
        text += &format!("{:016x} {proto}\n", fnv(&fs::read(root.join(proto))?));
    }
    Ok(text)
}

/// FNV-1a, as in tests/generated.rs.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3))
}

fn main() -> Result<(), Box<dyn error::Error>> {
    let check = env::args().nth(1).as_deref() == Some("--check");
    let krate = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let root = krate.join("../..");
    let mut stale = false;
    let mut files = vec![("codegen/sources.txt", sources(&root)?)];
    for o in OUTPUTS {
        files.push((o.file, generate(&root, o)?));
    }
    for (name, text) in files {
        let file = krate.join(name);
        if fs::read_to_string(&file).is_ok_and(|have| have == text) {
            continue;
        }
        if check {
            eprintln!("{name} is not what the .proto files give: run codegen without --check");
            stale = true;
            continue;
        }
        fs::create_dir_all(file.parent().expect("a file has a directory"))?;
        fs::write(&file, text)?;
        println!("wrote {name}");
    }
    if stale {
        process::exit(1);
    }
    Ok(())
}
