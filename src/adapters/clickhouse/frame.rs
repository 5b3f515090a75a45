//! The one frame in which an insert travels: ClickHouse's compression framing with the method "none".
//!
//! Framed for its checksum, not for its size: the server is on the daemon's own machine as a rule, where compressing
//! and its reverse only take processor time from both.

use bytes::Bytes;

/// CityHash128 of all that follows, in version 1.0.2, as ClickHouse has it.
const CHECKSUM_BYTES: usize = 16;
/// Method, then the sizes of what is there and of what it becomes, both as `u32`.
const HEADER_BYTES: usize = 9;
/// The method "none".
const NONE: u8 = 0x02;

/// Statement and rows, with a line break between them.
///
/// # Panics
/// Above 4 GiB; callers refuse much less.
pub(super) fn frame(statement: &str, rows: Bytes) -> Bytes {
    let data_bytes = statement.len() + 1 + rows.len();
    let size = |bytes: usize| u32::try_from(bytes).expect("below 4 GiB").to_le_bytes();
    let mut frame = Vec::with_capacity(CHECKSUM_BYTES + HEADER_BYTES + data_bytes);
    frame.extend_from_slice(&[0; CHECKSUM_BYTES]);
    frame.push(NONE);
    frame.extend_from_slice(&size(HEADER_BYTES + data_bytes));
    frame.extend_from_slice(&size(data_bytes));
    frame.extend_from_slice(statement.as_bytes());
    frame.push(b'\n');
    frame.extend_from_slice(&rows);
    let hash = cityhash_rs::cityhash_102_128(&frame[CHECKSUM_BYTES..]);
    // Its two halves stand the other way round.
    frame[..CHECKSUM_BYTES].copy_from_slice(&hash.rotate_right(64).to_le_bytes());
    frame.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_says_how_long_it_is() {
        let framed = frame("INSERT", "row".into());
        assert_eq!(framed.len(), CHECKSUM_BYTES + HEADER_BYTES + 10);
        assert_eq!(framed[16..25], [NONE, 19, 0, 0, 0, 10, 0, 0, 0]);
        assert_eq!(&framed[25..], b"INSERT\nrow");
    }
}
