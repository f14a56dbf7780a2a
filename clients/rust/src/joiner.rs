use bytes::Bytes;
use tokio::time::Instant;

/// The largest piece of a payload: a first frame, or a part.
pub(crate) const PART_BYTES: usize = 32 << 10;

/// What a large message of n bytes counts against the unfinished bytes.
pub(crate) fn weight(n: u64) -> u64 {
    n.max(64 << 10)
}

/// Collects a large payload from its parts. It holds what has arrived, never
/// what was announced.
#[derive(Debug)]
pub(crate) struct Joiner {
    have: Vec<u8>,
    pub(crate) total: u64,
    /// when the latest piece arrived.
    pub(crate) last: Instant,
}

impl Joiner {
    /// Begins with the first piece. The error is the end of a sentence.
    pub(crate) fn new(first: &[u8], total: u64, now: Instant) -> Result<Joiner, String> {
        if first.len() != PART_BYTES || total <= PART_BYTES as u64 {
            return Err(format!(
                "its first frame has {} bytes of {total}; it must have {PART_BYTES} of more",
                first.len()
            ));
        }
        Ok(Joiner { have: first.to_vec(), total, last: now })
    }

    /// Appends a part and says whether the payload is whole.
    pub(crate) fn add(&mut self, part: &[u8], now: Instant) -> Result<bool, String> {
        let have = (self.have.len() + part.len()) as u64;
        if part.len() > PART_BYTES {
            return Err(format!("a part has {} bytes; the most is {PART_BYTES}", part.len()));
        }
        if have > self.total {
            return Err(format!("its parts hold more than the {} bytes that it announced", self.total));
        }
        if have < self.total && part.len() < PART_BYTES {
            return Err(format!("a part has {} bytes before the last one; it must have {PART_BYTES}", part.len()));
        }
        self.have.extend_from_slice(part);
        self.last = now;
        Ok(have == self.total)
    }

    pub(crate) fn whole(self) -> Bytes {
        self.have.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_joined_and_checked() {
        let now = Instant::now();
        let piece = [7u8; PART_BYTES];
        let mut j = Joiner::new(&piece, 2 * PART_BYTES as u64 + 1, now).unwrap();
        assert_eq!(j.add(&piece, now), Ok(false));
        assert_eq!(j.add(&[8], now), Ok(true));
        let whole = j.whole();
        assert_eq!((whole.len(), whole[0], whole[2 * PART_BYTES]), (2 * PART_BYTES + 1, 7, 8));

        assert!(Joiner::new(&piece[1..], 99_999, now).unwrap_err().contains("first frame"));
        assert!(Joiner::new(&piece, PART_BYTES as u64, now).is_err());
        let mut j = Joiner::new(&piece, 2 * PART_BYTES as u64, now).unwrap();
        assert!(j.add(&[1], now).unwrap_err().contains("before the last one"));
        let mut j = Joiner::new(&piece, PART_BYTES as u64 + 1, now).unwrap();
        assert!(j.add(&[1, 2], now).unwrap_err().contains("more than"));
        assert!(j.add(&[0; PART_BYTES + 1], now).unwrap_err().contains("the most is"));
    }
}
