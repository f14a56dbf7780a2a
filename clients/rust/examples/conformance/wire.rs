//! Payloads and headers as the kit writes them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use tonic::metadata::{AsciiMetadataKey, BinaryMetadataKey, KeyAndValueRef, MetadataMap, MetadataValue};

pub fn base64(data: &[u8]) -> String {
    STANDARD.encode(data)
}

pub fn unbase64(v: &Value) -> Result<Vec<u8>, String> {
    STANDARD.decode(v.as_str().unwrap_or_default()).map_err(|e| e.to_string())
}

pub fn bytes_of(op: &Value) -> Result<Vec<u8>, String> {
    if let (Some(size), Some(seed)) = (op["fill"]["size"].as_u64(), op["fill"]["seed"].as_u64()) {
        return Ok((0..size).map(|i| (i * 31 + (i >> 8) * 7 + seed) as u8).collect());
    }
    unbase64(&op["data"])
}

pub fn payload_out(payload: &[u8]) -> Map<String, Value> {
    let hash: String = Sha256::digest(payload).iter().map(|b| format!("{b:02x}")).collect();
    let mut out = Map::new();
    out.insert("size".into(), payload.len().into());
    out.insert("sha256".into(), hash.into());
    if payload.len() <= 4096 {
        out.insert("data".into(), base64(payload).into());
    }
    out
}

pub fn headers_in(v: &Value) -> Result<MetadataMap, String> {
    let mut map = MetadataMap::new();
    for pair in v.as_array().into_iter().flatten() {
        let (key, value) = (pair[0].as_str().unwrap_or_default(), pair[1].as_str().unwrap_or_default());
        if key.ends_with("-bin") {
            let key = BinaryMetadataKey::from_bytes(key.as_bytes()).map_err(|e| e.to_string())?;
            map.append_bin(key, MetadataValue::from_bytes(&unbase64(&pair[1])?));
        } else {
            let key = AsciiMetadataKey::from_bytes(key.as_bytes()).map_err(|e| e.to_string())?;
            map.append(key, MetadataValue::try_from(value).map_err(|e| e.to_string())?);
        }
    }
    Ok(map)
}

pub fn headers_out(map: &MetadataMap) -> Value {
    let pairs = map.iter().map(|entry| match entry {
        KeyAndValueRef::Ascii(key, value) => json!([key.as_str(), String::from_utf8_lossy(value.as_encoded_bytes())]),
        KeyAndValueRef::Binary(key, value) => json!([key.as_str(), base64(&value.to_bytes().unwrap_or_default())]),
    });
    pairs.collect()
}
