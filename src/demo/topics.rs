//! The demo's topics. On a Kafka that others use too they have a name of this run alone, and are deleted at its end.

use super::Voice;
use super::steps::PARTITIONS;
use crate::adapters::clock::{Clock as _, SystemClock};
use crate::adapters::kafka::{self, Kafka as _, KafkaClient};
use crate::daemon::Error;
use std::cell::Cell;
use std::time::Duration;

/// As the daemon would name them by itself.
const PLAIN: &str = "shop.events";
/// How often they are looked for at the end: a message that was on its way may have made one again.
const LOOKS: u32 = 4;
const BETWEEN_LOOKS: Duration = Duration::from_millis(500);
/// Longest wait for their end.
const DELETED_WITHIN: Duration = Duration::from_secs(60);

/// See the module.
pub struct Topics {
    prefix: String,
    /// Of its own, so that nothing of the demo's sends by it.
    real: Option<KafkaClient>,
    ours: Cell<bool>,
}

impl Topics {
    /// On these brokers, or on the embedded one.
    pub fn new(brokers: Option<&str>) -> Result<Self, Error> {
        let Some(brokers) = brokers else {
            return Ok(Self { prefix: PLAIN.to_owned(), real: None, ours: Cell::new(true) });
        };
        let client = KafkaClient::new(kafka::Options::new(brokers)).map_err(|error| Error::of(&error))?;
        let prefix = format!("converthouse-demo-{:016x}", SystemClock::new().random());
        Ok(Self { prefix, real: Some(client), ours: Cell::new(false) })
    }

    /// What their names begin with, before a dot.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Whether they are on a Kafka that others use too.
    pub fn on_real(&self) -> bool {
        self.real.is_some()
    }

    /// All of them.
    pub fn names(&self) -> Vec<String> {
        let of_partitions = (0..PARTITIONS).map(|partition| format!("{}.{partition}", self.prefix));
        of_partitions.chain([format!("{}.dead-letter", self.prefix)]).collect()
    }

    /// From here on they are the demo's own, and are deleted at its end; an error if somebody else's are there.
    pub async fn claim(&self) -> Result<(), Error> {
        if let Some(topic) = self.there().await?.first() {
            let remedy = "run it again: it chooses another name";
            return Err(Error::new(format!("topic {topic} exists, and is not the demo's"), remedy));
        }
        self.ours.set(true);
        Ok(())
    }

    async fn there(&self) -> Result<Vec<String>, Error> {
        let Some(real) = &self.real else { return Ok(Vec::new()) };
        let all = real.topics().await.map_err(|error| Error::of(&error))?;
        Ok(of_prefix(&self.prefix, all))
    }

    /// Deletes those that are its own; an error names what remains.
    pub async fn delete(&self, voice: Voice) -> Result<(), Error> {
        let Some(real) = self.real.as_ref().filter(|_| self.ours.get()) else { return Ok(()) };
        let deleting = async {
            for look in 0..LOOKS {
                let there = self.there().await?;
                if there.is_empty() && look > 0 {
                    return Ok(());
                }
                real.delete_topics(&there).await.map_err(|error| Error::of(&error))?;
                tokio::time::sleep(BETWEEN_LOOKS).await;
            }
            Err(Error::new("they come again", ""))
        };
        let late = |_| Err(Error::new(format!("not within {} s", DELETED_WITHIN.as_secs()), ""));
        let deleted = tokio::time::timeout(DELETED_WITHIN, deleting).await.unwrap_or_else(late);
        deleted.map_err(|error| {
            let what = format!("the topics {}.* are not deleted: {}", self.prefix, error.what);
            Error::new(what, "delete them, such as by kafka-topics.sh --delete")
        })?;
        voice.line(&format!("Its topics {}.* are deleted.", self.prefix));
        Ok(())
    }
}

/// The names that begin so.
fn of_prefix(prefix: &str, names: Vec<String>) -> Vec<String> {
    let ours = |name: &String| name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('.'));
    names.into_iter().filter(ours).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_real_kafka_gets_names_of_this_run_alone() {
        let [one, other] = [(); 2].map(|()| Topics::new(Some("127.0.0.1:1")).unwrap());
        assert_ne!(one.prefix(), other.prefix());
        assert!(one.prefix().starts_with("converthouse-demo-") && one.names().len() == 65);
        assert!(!one.ours.get(), "nothing is deleted before it is claimed");
        assert_eq!(Topics::new(None).unwrap().names()[0], "shop.events.0");
        let names = ["a.1", "ab.1", "a", "b.a.1"].map(str::to_owned);
        assert_eq!(of_prefix("a", names.into()), ["a.1"]);
    }
}
