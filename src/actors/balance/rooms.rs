//! What nodes' disks have room for, by what was configured and what their servers report. Pure.

use crate::model::ids::NodeId;
use crate::model::observed::Heartbeat;
use crate::model::shared::Shared;
use crate::placement::Policy;
use std::collections::BTreeMap;

/// What others take of a disk counts in such shares: it goes up and down with every merge, and plans that followed each
/// of them would never be carried out.
const OTHERS_SHARES: u64 = 10;

/// So much of a disk may be filled.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share"
)]
pub fn below_watermark(bytes: u64) -> u64 {
    (bytes as f64 * Policy::default().watermark) as u64
}

/// Bytes that a node's disk can take below the watermark, whoever has filled it; `None` if it is not known.
pub fn room(heartbeat: &Heartbeat) -> Option<u64> {
    let kept = heartbeat.disk_total_bytes - below_watermark(heartbeat.disk_total_bytes);
    (heartbeat.disk_total_bytes > 0).then(|| heartbeat.disk_free_bytes.saturating_sub(kept))
}

/// The same of every node where it is known.
pub fn rooms(heartbeats: &BTreeMap<NodeId, Shared<Heartbeat>>) -> BTreeMap<NodeId, u64> {
    heartbeats.values().filter_map(|heartbeat| Some((heartbeat.node.clone(), room(heartbeat)?))).collect()
}

/// The disk that tables may fill: no more than was configured, and no more than what is there without what is not
/// ours. `ours` is what tables have on it; 0 is not known.
pub fn capacity(configured_bytes: u64, heartbeat: Option<&Heartbeat>, ours: u64) -> u64 {
    let disk = heartbeat.map_or((0, 0), |seen| (seen.disk_total_bytes, seen.disk_free_bytes));
    let (total, free) = disk;
    if total == 0 {
        return configured_bytes;
    }
    let share = (total / OTHERS_SHARES).max(1);
    let others = total.saturating_sub(free).saturating_sub(ours) / share * share;
    let there = total.saturating_sub(others).max(1);
    if configured_bytes == 0 { there } else { configured_bytes.min(there) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heartbeat(disk_total_bytes: u64, disk_free_bytes: u64) -> Heartbeat {
        let healthy = Heartbeat::of_healthy("n1".parse().unwrap(), BTreeMap::new());
        Heartbeat { disk_total_bytes, disk_free_bytes, ..healthy }
    }

    #[test]
    fn a_disk_has_room_below_the_watermark_for_what_is_free_and_not_for_what_others_have() {
        assert_eq!(room(&heartbeat(0, 0)), None);
        assert_eq!(room(&heartbeat(1_000, 400)), Some(250));
        assert_eq!(room(&heartbeat(1_000, 100)), Some(0));
        let of = |configured, total, free, ours| capacity(configured, Some(&heartbeat(total, free)), ours);
        assert_eq!(of(0, 0, 0, 0), 0, "nothing is known");
        assert_eq!(of(500, 0, 0, 0), 500);
        assert_eq!(of(0, 1_000, 600, 400), 1_000, "all that is taken is ours");
        assert_eq!(of(0, 1_000, 550, 400), 1_000, "merges come and go");
        assert_eq!(of(0, 1_000, 100, 300), 400, "others have six tenths of it");
        assert_eq!(of(300, 1_000, 100, 300), 300);
        assert_eq!(of(2_000, 1_000, 900, 100), 1_000, "no more than there is");
        assert_eq!(capacity(7, None, 0), 7);
    }
}
