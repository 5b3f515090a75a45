//! Batches: what goes in is held, what does not fit is told apart and leaves nothing.

use super::*;

pub(super) async fn rows_go_in_and_are_held(subject: Subject) {
    let gate = subject.with_gate().await;
    let server = &subject.server;
    let empty = server.holdings(&subject.database, PartitionId(3), 0).await.expect("told");
    assert_eq!((empty.max_offset, empty.rows.len()), (None, 0));
    subject.put(gate, 3, 10..20).await.expect("inserted");
    subject.put(gate, 4, 0..5).await.expect("inserted");
    let held = server.holdings(&subject.database, PartitionId(3), 17).await.expect("told");
    assert_eq!(held.max_offset, Some(19));
    assert_eq!(held.rows, [(17, 0), (18, 0), (19, 0)]);
    let above = server.holdings(&subject.database, PartitionId(3), 1_000).await.expect("told");
    assert_eq!((above.max_offset, above.rows.len()), (Some(19), 0));
    assert_eq!(subject.held(4, -5).await, [0, 1, 2, 3, 4]);
    assert_eq!(subject.held(5, 0).await, [0_i64; 0]);
    subject.end().await;
}

pub(super) async fn an_insert_over_two_time_parts_is_held_whole(subject: Subject) {
    let gate = subject.with_gate().await;
    let body = csv(1, 0, "2026-01-31 23:59:59") + &csv(1, 1, "2026-02-01 00:00:00");
    let insert = subject.insert(gate, MessageFormat::CSV, body, 2);
    subject.server.insert(insert).await.expect("inserted");
    assert_eq!(subject.held(1, 0).await, [0, 1]);
    let sizes = subject.server.sizes().await.expect("told")[&subject.database];
    assert_eq!(sizes.parts, 2, "one block, one part for each month");
    subject.end().await;
}

pub(super) async fn every_format_goes_in(subject: Subject) {
    let gate = subject.with_gate().await;
    let json = "{\"_cvh_partition\":1,\"_cvh_offset\":0,\"_cvh_row\":0,\"ts\":\"2026-01-01 00:00:00\",\
                \"text\":\"a\",\"odd `name'\":-1}\n";
    let tsv = "1\t0\t1\t2026-01-01 00:00:00\tb\t7\n";
    let csv = "1,0,2,\"2026-01-01 00:00:00\",\"c\",8\n";
    for (format, body) in
        [(MessageFormat::JSONEachRow, json), (MessageFormat::TSV, tsv), (MessageFormat::CSV, csv)]
    {
        let insert = subject.insert(gate, format, body.to_owned(), 1);
        subject.server.insert(insert).await.unwrap_or_else(|error| panic!("{format}: {error}"));
    }
    let held = subject.server.holdings(&subject.database, PartitionId(1), 0).await.expect("told");
    assert_eq!(held.rows, [(0, 0), (0, 1), (0, 2)], "row numbers within a message are kept");
    subject.end().await;
}

pub(super) async fn bad_rows_are_told_apart_and_leave_nothing(subject: Subject) {
    let gate = subject.with_gate().await;
    let good = csv(2, 0, "2026-01-01 00:00:00");
    for bad in ["2,1,0,never,text,1\n", "2,1,0,\"2026-01-01 00:00:00\",text,x7\n"] {
        let insert = subject.insert(gate, MessageFormat::CSV, format!("{good}{bad}"), 2);
        let outcome = subject.server.insert(insert).await;
        assert!(matches!(outcome, Err(Error::BadRows { .. })), "{bad}: {outcome:?}");
    }
    let json = "{\"_cvh_partition\":2,\"_cvh_offset\":0,\"_cvh_row\":0,\"ts\":\"2026-01-01 00:00:00\"";
    for bad in
        [format!("{json},\"no such column\":1}}\n"), format!("{json},\"_cvh_offset\":7}}\n"), json.into()]
    {
        let insert = subject.insert(gate, MessageFormat::JSONEachRow, bad.clone(), 1);
        let outcome = subject.server.insert(insert).await;
        assert!(matches!(outcome, Err(Error::BadRows { .. })), "{bad}: {outcome:?}");
    }
    assert_eq!(subject.held(2, 0).await, [0_i64; 0], "nothing of a refused batch is there");
    subject.put(gate, 2, 0..3).await.expect("good rows go in afterwards");
    assert_eq!(subject.held(2, 0).await, [0, 1, 2]);
    subject.end().await;
}

pub(super) async fn bad_rows_are_left_out_where_that_is_asked_for(subject: Subject) {
    let gate = subject.with_gate().await;
    let row = |offset: i64, rest: &str| {
        format!("{{\"_cvh_partition\":2,\"_cvh_offset\":{offset},\"_cvh_row\":0,{rest}}}\n")
    };
    let good = |offset| row(offset, "\"ts\":\"2026-01-01 00:00:00\",\"text\":\"a\",\"odd `name'\":1");
    let bad = [
        row(1, "\"no such column\":[{\"_cvh_offset\":90}]"),
        row(2, "\"ts\":\"never\",\"text\":\"a\\\\\""),
        row(4, "\"odd `name'\":\"x\",\"ts\":{}"),
        row(5, "\"text\":7,"),
    ];
    let body = good(0) + &bad[0] + &bad[1] + &good(3) + &bad[2] + &bad[3] + &good(6);
    let mut insert = subject.insert(gate, MessageFormat::JSONEachRow, body, 7);
    insert.skip_bad_rows = true;
    subject.server.insert(insert).await.expect("the good ones go in");
    assert_eq!(subject.held(2, 0).await, [0, 3, 6]);
    let mut none = subject.insert(gate, MessageFormat::JSONEachRow, bad.concat(), 4);
    none.skip_bad_rows = true;
    subject.server.insert(none).await.expect("none is no error");
    assert_eq!(subject.held(2, 0).await, [0, 3, 6]);
    subject.end().await;
}

/// Whoever puts bad rows aside asks this way whether the server takes inserts at all.
pub(super) async fn an_insert_of_no_rows_is_taken_and_changes_nothing(subject: Subject) {
    let gate = subject.with_gate().await;
    for format in [MessageFormat::JSONEachRow, MessageFormat::TSV, MessageFormat::CSV] {
        let outcome = subject.server.insert(subject.insert(gate, format, String::new(), 0)).await;
        assert_eq!(outcome, Ok(()), "{format}");
        let closed = subject.server.insert(subject.insert(gate + 1, format, String::new(), 0)).await;
        // Newer servers say that there is nothing to insert before they look for the table.
        assert!(matches!(closed, Ok(()) | Err(Error::Missing(_))), "{format}: {closed:?}");
    }
    assert_eq!(subject.held(2, 0).await, [0_i64; 0]);
    subject.end().await;
}
