//! How to reach Kafka, and librdkafka's answers in our words.
//!
//! What an operator writes under `[kafka.settings]` goes to librdkafka as it stands (`sasl.*`, `ssl.*`,
//! `security.protocol`, …), except settings that our promises rest on: those are refused, not overridden in silence.

use super::Error;
use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode as Code;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// How to reach a Kafka cluster.
#[derive(Clone, PartialEq, Eq)]
pub struct Options {
    /// `host:port,…`: any of the brokers.
    pub brokers: String,
    /// librdkafka's settings, by its names.
    pub settings: BTreeMap<String, String>,
    /// How long a call may take before its outcome counts as unknown.
    pub deadline_ms: u64,
    /// Messages in memory, in bytes, of all lanes together, from fetched to let go by whoever took them.
    pub buffer_bytes: u64,
}

impl Options {
    /// Default settings.
    pub fn new(brokers: impl Into<String>) -> Self {
        Self {
            brokers: brokers.into(),
            settings: BTreeMap::new(),
            deadline_ms: 15_000,
            buffer_bytes: 256 << 20,
        }
    }

    pub(super) fn deadline(&self) -> Duration {
        Duration::from_millis(self.deadline_ms)
    }

    /// The part of librdkafka's configuration that every client shares.
    pub(super) fn config(&self, client: &str) -> Result<ClientConfig, Error> {
        for name in OWN {
            if self.settings.contains_key(*name) {
                return Err(Error::Invalid(format!("setting {name:?} is the daemon's own: remove it")));
            }
        }
        let mut config = ClientConfig::new();
        config.set("client.id", format!("converthouse-{client}"));
        // A broker that comes back is found within a second, not after librdkafka's ten.
        config.set("reconnect.backoff.max.ms", "1000");
        config.set("socket.timeout.ms", self.deadline_ms.clamp(1_000, 300_000).to_string());
        config.set("socket.nagle.disable", "true");
        config.set("socket.keepalive.enable", "true");
        for (name, value) in &self.settings {
            config.set(name, value);
        }
        config.set("bootstrap.servers", &self.brokers);
        Ok(config)
    }
}

/// Values may be passwords: only names are shown.
impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("brokers", &self.brokers)
            .field("settings", &self.settings.keys().collect::<Vec<_>>())
            .field("deadline_ms", &self.deadline_ms)
            .finish()
    }
}

/// Settings that exactly-once, lag and memory limits rest on.
const OWN: &[&str] = &[
    "acks",
    "auto.commit.enable",
    "auto.offset.reset",
    "bootstrap.servers",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.idempotence",
    "enable.partition.eof",
    "group.id",
    "group.instance.id",
    "group.protocol",
    "isolation.level",
    "metadata.broker.list",
    "request.required.acks",
    "transactional.id",
];

/// What a failed call would have done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing: it only looks.
    Read,
    /// Something, named for the message.
    Write(&'static str),
}

/// librdkafka's error as ours; `about` is the topic or group at stake.
pub(super) fn error(failure: &KafkaError, about: &str, effect: Effect) -> Error {
    if let KafkaError::ClientConfig(_, reason, name, _) = failure {
        // The value stays out: it may be a password.
        return Error::Invalid(format!("setting {name:?}: {reason}"));
    }
    match failure.rdkafka_error_code() {
        Some(code) => of_code(code, about, effect),
        None => Error::Invalid(format!("{about}: {failure}")),
    }
}

/// See [`error`].
pub(super) fn of_code(code: Code, about: &str, effect: Effect) -> Error {
    let text = format!("{about}: {code}");
    match code {
        Code::UnknownTopic | Code::UnknownPartition | Code::UnknownTopicOrPartition => {
            Error::TopicMissing(about.to_owned())
        }
        Code::Authentication
        | Code::SaslAuthenticationFailed
        | Code::TopicAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed
        | Code::SSL => Error::Denied(text),
        Code::InvalidTopic
        | Code::InvalidReplicationFactor
        | Code::InvalidPartitions
        | Code::InvalidReplicaAssignment
        | Code::InvalidConfig
        | Code::InvalidArgument
        | Code::InvalidTransactionTimeout
        | Code::PolicyViolation
        | Code::InvalidMessageSize
        | Code::OffsetMetadataTooLarge
        | Code::UnsupportedFeature
        | Code::UnsupportedVersion
        | Code::UnsupportedForMessageFormat => Error::Invalid(text),
        Code::MessageSizeTooLarge => Error::TooLarge(text),
        // Certainly not done.
        Code::AllBrokersDown
        | Code::Resolve
        | Code::WaitingForCoordinator
        | Code::CoordinatorLoadInProgress
        | Code::CoordinatorNotAvailable
        | Code::NotCoordinator
        | Code::LeaderNotAvailable
        | Code::NotLeaderForPartition
        | Code::NotController
        | Code::NotEnoughReplicas => Error::Unreachable(text),
        _ => match effect {
            Effect::Read => Error::Unreachable(text),
            Effect::Write(what) => Error::OutcomeUnknown { what: what.to_owned(), reason: text },
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_pass_through_and_the_daemons_own_are_refused() {
        let mut options = Options::new("localhost:1");
        options.settings.insert("sasl.password".into(), "hush".into());
        let config = options.config("x").unwrap();
        assert_eq!(config.get("sasl.password"), Some("hush"));
        assert_eq!(config.get("bootstrap.servers"), Some("localhost:1"));
        assert!(!format!("{options:?}").contains("hush"), "secrets are not shown");
        for own in OWN {
            let mut options = options.clone();
            options.settings.insert((*own).into(), "1".into());
            let refused = options.config("x").unwrap_err();
            assert!(matches!(&refused, Error::Invalid(text) if text.contains(own)), "{refused}");
        }
    }

    #[test]
    fn an_unknown_setting_is_named_and_its_value_is_not() {
        let mut options = Options::new("localhost:1");
        options.settings.insert("sasl.pasword".into(), "hush".into());
        let failure = options.config("x").unwrap().create_native_config().map(|_| ()).unwrap_err();
        let text = error(&failure, "client", Effect::Read).to_string();
        assert!(text.contains("sasl.pasword") && !text.contains("hush"), "{text}");
    }

    #[test]
    fn a_lost_answer_leaves_the_outcome_open_only_for_writes() {
        let lost = Code::OperationTimedOut;
        assert!(matches!(of_code(lost, "t", Effect::Read), Error::Unreachable(_)));
        assert!(matches!(of_code(lost, "t", Effect::Write("commit")), Error::OutcomeUnknown { .. }));
        assert!(matches!(of_code(Code::AllBrokersDown, "t", Effect::Write("commit")), Error::Unreachable(_)));
    }
}
