//! Gates on a server of a few lines, on which others renew at the worst moment.

use super::*;
use crate::model::node::Secret;
use axum::http::Uri;
use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};

const DATABASE: &str = "d__t__cvh00000007_s1";

#[test]
fn only_gates_are_taken_for_gates() {
    assert_eq!(gate_of("gate_7"), Some(Gate { number: 7, is_open: true }));
    assert_eq!(gate_of("shut_7"), Some(Gate { number: 7, is_open: false }));
    for other in
        ["gate_source", "gate_07", "gate_", "local", "shut_-1", "seed_7", "gate_18446744073709551616"]
    {
        assert_eq!(gate_of(other), None, "{other}");
    }
    let tables = ["gate_9", "gate_source", "local", "shut_12"].map(str::to_owned);
    assert_eq!(newest_of(&tables), Some(Gate { number: 12, is_open: false }));
}

/// What the server has of a replica.
#[derive(Default)]
struct Gates {
    there: BTreeSet<u64>,
    /// Those of them that are shut.
    shut: BTreeSet<u64>,
    /// How many were made.
    made: usize,
    /// How many there were whenever merges were let go on.
    at_merges: Vec<usize>,
    /// Gates of others, each of which is renewed when our look at the numbers is over and our `CREATE` arrives.
    overtaking: VecDeque<u64>,
}

impl Gates {
    fn answer(&mut self, sql: &str) -> String {
        let after = |kind: &str| -> Option<u64> { sql.split_once(kind)?.1.split('`').next()?.parse().ok() };
        let named = || after("`gate_").or_else(|| after("`shut_"));
        match sql.split(' ').next() {
            Some("CREATE") => {
                if let Some(other) = self.overtaking.pop_front() {
                    self.there = BTreeSet::from([other]);
                }
                self.there.extend(named());
                self.shut.extend(after("`shut_"));
                self.made += 1;
            }
            Some("DROP") => self.there.retain(|number| Some(*number) != named()),
            Some("KILL") => {}
            Some("SYSTEM") => self.at_merges.push(self.there.len()),
            _ if sql.contains("version()") => return "26.9.1.1\t5\n".into(),
            _ if sql.contains("system.processes") => return "0\n".into(),
            _ if sql.contains("system.columns") => return "v\tString\t\t\t\t\n".into(),
            _ if sql.contains("system.tables") => {
                let name = |number: &u64| match self.shut.contains(number) {
                    true => names::shut_gate(*number),
                    false => names::gate(*number),
                };
                let gates = self.there.iter().map(|number| name(number) + "\n");
                return gates.chain(["gate_source\nlocal\n".to_owned()]).collect();
            }
            _ => panic!("not understood: {sql}"),
        }
        String::new()
    }
}

/// A server, and how it is spoken to.
async fn serve(gates: Gates) -> (Arc<Mutex<Gates>>, HttpClickHouse) {
    let gates = Arc::new(Mutex::new(gates));
    let served = gates.clone();
    let app = axum::Router::new().fallback(async move |uri: Uri, sql: String| {
        let settings = uri.query().unwrap_or_default();
        assert!(settings.contains("result_overflow_mode=throw"), "could be cut off: {sql} {settings}");
        served.lock().unwrap().answer(&sql)
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    (gates, HttpClickHouse::new(&url, "", &Secret::new("")))
}

#[tokio::test]
async fn a_gate_that_is_made_late_below_anothers_is_not_the_one_to_go_on_with() {
    let others = 1_u64 << 40;
    let (gates, client) =
        serve(Gates { there: [5].into(), overtaking: [others].into(), ..Gates::default() }).await;
    let number = client.renew(DATABASE).await.unwrap().number;
    assert!(number > others, "{number}");
    assert_eq!(gates.lock().unwrap().there, BTreeSet::from([number]), "nothing else lets rows in");
    gates.lock().unwrap().overtaking = [2 * others].into();
    let Shut { number: closed, over } = client.close(DATABASE).await.unwrap();
    assert!(closed > 2 * others, "what came meanwhile is closed too: {closed}");
    assert_eq!(over, Some(2 * others), "and told of");
    assert_eq!(gates.lock().unwrap().there, BTreeSet::from([closed]));
}

#[tokio::test]
async fn of_two_who_renew_at_once_one_has_the_only_gate() {
    let (gates, client) = serve(Gates::default()).await;
    for _ in 0..40 {
        let (one, two) = futures::join!(client.renew(DATABASE), client.renew(DATABASE));
        let last = one.unwrap().number.max(two.unwrap().number);
        assert_eq!(gates.lock().unwrap().there, BTreeSet::from([last]));
    }
}

#[tokio::test]
async fn who_is_overtaken_time_and_again_is_told() {
    let overtaking: VecDeque<u64> = (1_u64..100).map(|number| number << 40).collect();
    let (gates, client) = serve(Gates { overtaking, ..Gates::default() }).await;
    let renewed = client.renew(DATABASE).await;
    assert!(matches!(renewed, Err(Error::OutcomeUnknown { .. })), "{renewed:?}");
    assert_eq!(gates.lock().unwrap().overtaking.len(), 99 - TRIES_MAX as usize);
}

/// On real servers each of a split's halves shut its parent anew, and so one of them took the other for somebody who
/// had opened it meanwhile: it began again from nothing, while ingest stood still.
#[tokio::test]
async fn who_closes_what_is_closed_is_told_the_same_number() {
    let (gates, client) = serve(Gates::default()).await;
    let first = client.renew(DATABASE).await.unwrap();
    assert!(first.is_first, "nobody has inserted anything before");
    let mut before = first.number;
    for _ in 0..20 {
        let (one, two) = futures::join!(client.close(DATABASE), client.close(DATABASE));
        let (one, two) = (one.unwrap(), two.unwrap());
        assert_eq!((one, one.over), (two, Some(before)), "both are told which was the newest");
        assert_eq!(client.newest(DATABASE).await.unwrap(), one.number);
        assert_eq!(gates.lock().unwrap().there, BTreeSet::from([one.number]));
        let open = client.renew(DATABASE).await.unwrap();
        assert!(open.number > one.number && !open.is_first);
        before = open.number;
    }
    assert_eq!(gates.lock().unwrap().made, 41, "one is shut and one opened each time");
    let at_merges = &gates.lock().unwrap().at_merges;
    assert_eq!(
        at_merges,
        &[0],
        "before there is a gate, so that a failure in between is made good, and never again"
    );
}
