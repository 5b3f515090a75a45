//! How fast messages become rows: `cargo bench --bench encode`. Prints, compares nothing.
#![allow(clippy::disallowed_methods)] // it measures real time

use converthouse::actors::replica::encode::encode;
use converthouse::model::ids::PartitionId;
use converthouse::model::table::MessageFormat::{self, CSV, JSONEachRow, TSV};
use std::hint::black_box;
use std::time::{Duration, Instant};

fn json(bytes: usize) -> String {
    let mut text =
        String::from(r#"{"id":123456789,"ts":"2026-11-21 03:48:02","user":"u-4711","amount":12.75"#);
    let mut field = 0;
    while text.len() + 40 < bytes {
        text.push_str(&format!(",\"f{field}\":\"value number {field}\""));
        field += 1;
    }
    text.push_str(",\"pad\":\"");
    text.push_str(&"x".repeat(bytes.saturating_sub(text.len() + 2)));
    text + "\"}"
}

fn measure(name: &str, format: MessageFormat, payload: &str) {
    const MESSAGES: i64 = 20_000;
    let mut out = Vec::new();
    let mut best = Duration::MAX;
    for _ in 0..10 {
        out.clear();
        let start = Instant::now();
        for offset in 0..MESSAGES {
            let payload = black_box(payload.as_bytes());
            encode(format, payload, PartitionId(17), offset, &|_| false, &mut out).expect("readable");
        }
        best = best.min(start.elapsed());
        black_box(&out);
    }
    let ns = best.as_nanos() as f64 / MESSAGES as f64;
    let bytes = payload.len();
    println!("{name:<32} {bytes:>5} B  {ns:>7.0} ns a message  {:>6.2} GB/s", bytes as f64 / ns);
}

fn main() {
    measure("JSONEachRow, one object", JSONEachRow, &json(200));
    measure("JSONEachRow, one object", JSONEachRow, &json(750));
    measure("JSONEachRow, ten objects", JSONEachRow, &(json(200) + "\n").repeat(10));
    measure("CSV", CSV, "123456789,2026-11-21 03:48:02,u-4711,12.75,value one,value two,value three\n");
    measure(
        "CSV, quoted",
        CSV,
        "123456789,\"2026-11-21 03:48:02\",\"u-4711\",12.75,\"value, one\",\"value two\"\n",
    );
    measure("TSV", TSV, "123456789\t2026-11-21 03:48:02\tu-4711\t12.75\tvalue one\tvalue two\tvalue three\n");
}
