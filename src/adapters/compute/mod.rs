//! Processes that we start: ClickHouse servers of the demo and the tests, managed etcd members, Kafka brokers.
