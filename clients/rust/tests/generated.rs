//! The generated code is that of the .proto files as they are.

/// FNV-1a, as in codegen.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3))
}

#[test]
fn generated_code_is_not_old() {
    for line in include_str!("../codegen/sources.txt").lines() {
        let (hash, proto) = line.split_once(' ').expect("a hash and a path");
        let bytes = std::fs::read(format!("{}/../../{proto}", env!("CARGO_MANIFEST_DIR"))).expect("the file");
        let now = format!("{:016x}", fnv(&bytes));
        assert_eq!(now, hash, "{proto} has changed: cargo run --manifest-path codegen/Cargo.toml, in clients/rust");
    }
}
