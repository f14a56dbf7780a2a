//! The golden frames of test/conformance, decoded and encoded again.

use meshnode::pb;
use prost::Message;

fn again<M: Message + Default + PartialEq + std::fmt::Debug>(name: &str, data: &[u8], lossy: bool) {
    let m = M::decode(data).unwrap_or_else(|e| panic!("{name}: {e}"));
    let encoded = m.encode_to_vec();
    assert_eq!(M::decode(&encoded[..]).unwrap(), m, "{name}");
    if !lossy {
        assert_eq!(encoded.len(), data.len(), "{name}: something was lost");
    }
}

#[test]
fn golden_frames() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../test/conformance/golden/frames.json");
    let Ok(text) = std::fs::read(path) else {
        println!("there is no {path}");
        return;
    };
    let frames: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let frames = frames.as_array().unwrap();
    assert!(frames.len() > 10);
    for frame in frames {
        let (name, hex) = (frame["name"].as_str().unwrap(), frame["hex"].as_str().unwrap());
        let lossy = frame["lossy"].as_bool().unwrap_or(false);
        let data: Vec<u8> =
            (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).expect("hex")).collect();
        match frame["message"].as_str().unwrap() {
            "LinkRequest" => again::<pb::LinkRequest>(name, &data, lossy),
            "LinkResponse" => again::<pb::LinkResponse>(name, &data, lossy),
            "Frame" => again::<pb::Frame>(name, &data, lossy),
            other => println!("{name}: no {other} here"),
        }
    }
}
