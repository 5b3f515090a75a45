//! What a staging table holds beside what it should hold: which ClickHouse partitions must be linked. Pure.
//!
//! Parts of a link have names of their own, so a staging table cannot be compared with its source by names. What is
//! remembered is the source's part names at the last link: part names are not used twice, so the same names mean
//! the same rows. Nothing remembered (the daemon was started anew) only means to link again.

use super::ReplicaSizes;
use crate::model::{PartitionId, PartitionRange, TableName};
use std::collections::{BTreeMap, BTreeSet};

/// The active parts of one ClickHouse partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// The partition of ours that it is part of.
    pub partition: PartitionId,
    /// Names of its parts.
    pub parts: BTreeSet<String>,
    /// Their rows.
    pub rows: u64,
}

/// A table's ClickHouse partitions by id.
pub type Contents = BTreeMap<String, Content>;

/// What a ClickHouse partition of a staging table was linked from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Linked {
    /// The table.
    pub source: TableName,
    /// Its parts just before.
    pub parts: BTreeSet<String>,
}

/// What was linked into a staging table, by ClickHouse partition id.
pub type Links = BTreeMap<String, Linked>;

/// One ClickHouse partition of a staging table that must change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Its id.
    pub id: String,
    /// It holds something that must go first.
    pub clear: bool,
    /// The source has something to link.
    pub link: bool,
}

/// Reads rows of `Statement::Parts`: partition, partition id, name, rows. The text is an error: a row that is not
/// understood, which must not be passed over.
pub fn contents(rows: Vec<Vec<String>>) -> Result<Contents, String> {
    let mut contents = Contents::new();
    for row in rows {
        let read = || {
            let [partition, id, name, rows] = row.first_chunk::<4>()?;
            Some((first_number(partition)?, id, name, rows.parse::<u64>().ok()?))
        };
        let (partition, id, name, rows) = read().ok_or_else(|| format!("part not understood: {row:?}"))?;
        let empty = || Content { partition, parts: BTreeSet::new(), rows: 0 };
        let content = contents.entry(id.clone()).or_insert_with(empty);
        content.parts.insert(name.clone());
        content.rows += rows;
    }
    Ok(contents)
}

/// Reads rows of `Statement::RemoteSizes`: partition, bytes, rows, parts.
pub fn sizes(rows: &[Vec<String>]) -> Result<BTreeMap<PartitionId, ReplicaSizes>, String> {
    let mut sizes = BTreeMap::new();
    for row in rows {
        let read = || {
            let [partition, bytes, rows, parts] = row.first_chunk::<4>()?;
            Some((
                first_number(partition)?,
                [bytes.parse::<u64>().ok()?, rows.parse().ok()?, parts.parse().ok()?],
            ))
        };
        let (partition, [bytes, rows, parts]) =
            read().ok_or_else(|| format!("sizes not understood: {row:?}"))?;
        let sum: &mut ReplicaSizes = sizes.entry(partition).or_default();
        (sum.bytes, sum.rows, sum.parts) = (sum.bytes + bytes, sum.rows + rows, sum.parts + parts);
    }
    Ok(sizes)
}

/// `7` and `(7,202611)` are of partition 7.
fn first_number(partition: &str) -> Option<PartitionId> {
    let text = partition.trim_start_matches('(');
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().ok().map(PartitionId)
}

/// What must change so that `staging` holds what `source` holds within `range`.
pub fn changes(
    staging: &Contents,
    (name, source): (&TableName, &Contents),
    links: &Links,
    range: PartitionRange,
) -> Vec<Change> {
    let within = |contents: &Contents| -> BTreeSet<String> {
        let within = contents.iter().filter(|(_, content)| range.contains(content.partition));
        within.map(|(id, _)| id.clone()).collect()
    };
    let is_linked = |id: &String| {
        let (Some(there), Some(wanted), Some(linked)) = (staging.get(id), source.get(id), links.get(id))
        else {
            return false;
        };
        // The rows are looked at too: the staging table may have been made again meanwhile.
        linked.source == *name && linked.parts == wanted.parts && there.rows == wanted.rows
    };
    let ids = within(staging).union(&within(source)).cloned().collect::<Vec<_>>();
    let differing = ids.into_iter().filter(|id| !is_linked(id));
    let change = |id: String| {
        let (clear, link) = (staging.contains_key(&id), source.contains_key(&id));
        Change { id, clear, link }
    };
    differing.map(change).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(name: &str) -> TableName {
        TableName { database: "d".into(), table: name.into() }
    }

    fn read(parts: &[(&str, &str, &str, u64)]) -> Contents {
        let row = |(partition, id, name, rows): &(&str, &str, &str, u64)| {
            vec![(*partition).into(), (*id).into(), (*name).into(), rows.to_string()]
        };
        contents(parts.iter().map(row).collect()).unwrap()
    }

    #[test]
    fn parts_are_read_whatever_the_key() {
        let found = read(&[
            ("(7,202601)", "7-202601", "7-202601_1_1_0", 2),
            ("(7,202601)", "7-202601", "7-202601_2_2_0", 3),
            ("12", "12", "12_1_1_0", 1),
            ("(3,'x')", "0f3c", "0f3c_1_1_0", 1),
        ]);
        assert_eq!((found["7-202601"].partition, found["7-202601"].rows), (PartitionId(7), 5));
        assert_eq!((found["12"].partition, found["0f3c"].partition), (PartitionId(12), PartitionId(3)));
        assert!(contents(vec![vec!["x".into(), "x".into(), "x_1".into(), "1".into()]]).is_err());
    }

    #[test]
    fn only_what_differs_within_the_range_is_linked() {
        let source = read(&[
            ("(1,1)", "1-1", "a", 1),
            ("(1,2)", "1-2", "b", 1),
            ("(2,1)", "2-1", "c", 1),
            ("(9,1)", "9-1", "d", 1),
        ]);
        let staging = read(&[("(1,1)", "1-1", "x", 1), ("(2,1)", "2-1", "y", 1), ("(3,1)", "3-1", "z", 1)]);
        let range = PartitionRange::new(1, 4).unwrap();
        let linked = |source: &str, part: &str| Linked {
            source: table(source),
            parts: BTreeSet::from([part.to_owned()]),
        };
        let links = Links::from([("1-1".into(), linked("s", "a")), ("2-1".into(), linked("s", "before"))]);
        let change = |id: &str, clear, link| Change { id: id.into(), clear, link };
        let expected = [change("1-2", false, true), change("2-1", true, true), change("3-1", true, false)];
        assert_eq!(changes(&staging, (&table("s"), &source), &links, range), expected);
        let of_another = Links::from([("1-1".into(), linked("other", "a"))]);
        let found = changes(&staging, (&table("s"), &source), &of_another, range);
        assert_eq!(found[0], change("1-1", true, true), "linked from another table");
        let found = changes(&Contents::new(), (&table("s"), &source), &links, range);
        assert_eq!(found[0], change("1-1", false, true), "remembered, and not there any more");
        assert_eq!(found.len(), 3);
    }
}
