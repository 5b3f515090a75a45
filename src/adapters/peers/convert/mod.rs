//! Wire types to the model and back, once for both sides: the gRPC client here and the server in `api::grpc`.
//!
//! Reading checks everything that the model's types promise; what it cannot read is [`Malformed`], naming the
//! field. The server answers it as an invalid request, the client as an answer that makes no sense.

mod agent;
mod balance;
mod control;
mod operation;
mod plan;
mod routing;
mod transfer;
mod verify;

pub use agent::{heartbeat_from_wire, heartbeat_to_wire};
pub use balance::{
    balance_from_wire, balance_to_wire, holds_from_wire, holds_to_wire, run_from_wire, run_to_wire,
    set_balance_from_wire, set_balance_to_wire, set_hold_from_wire, set_hold_to_wire,
};
pub use control::{
    cluster_from_wire, cluster_to_wire, create_from_wire, create_to_wire, drop_from_wire, drop_to_wire,
    insert_from_wire, insert_to_wire, node_from_wire, node_state_from_wire, node_state_to_wire, node_to_wire,
    table_from_wire, table_to_wire,
};
pub use operation::{
    begun_from_wire, begun_to_wire, operate_from_wire, operate_to_wire, operation_from_wire,
    operation_to_wire,
};
pub use plan::{apply_from_wire, apply_to_wire, plan_from_wire, plan_to_wire};
pub use routing::{routes_from_wire, routes_to_wire};
pub use transfer::{piece_from_wire, piece_to_wire, wanted_from_wire, wanted_to_wire};
pub use verify::{
    digest_asked_from_wire, digest_asked_to_wire, digest_from_wire, digest_to_wire, verdict_from_wire,
    verdict_to_wire,
};

use super::Error;
use crate::model::ids::InvalidId;
use crate::model::table::{MessageFormat, TopicLayout};
use crate::model::{NodeId, PartitionRange, TableId};
use crate::wire;

/// A message that does not say what it should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct Malformed {
    /// Where, such as `shards[3].range`.
    pub field: String,
    /// What is wrong there.
    pub reason: String,
}

impl Malformed {
    fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { field: field.into(), reason: reason.into() }
    }

    /// A field that has to be there and is not.
    pub fn absent(field: &str) -> Self {
        Self::new(field, "not given")
    }

    /// The same, seen from one level further out.
    fn within(mut self, outer: &str) -> Self {
        self.field = format!("{outer}.{}", self.field);
        self
    }

    /// As the answer to a caller who sent it.
    pub fn into_request_error(self) -> Error {
        Error::Invalid(self.to_string())
    }

    /// As what a client makes of a daemon that answered it.
    pub fn into_answer_error(self) -> Error {
        Error::Internal(format!("the daemon's answer makes no sense: {self}"))
    }
}

/// A node's name.
pub fn node(field: &str, text: &str) -> Result<NodeId, Malformed> {
    text.parse().map_err(|e: InvalidId| Malformed::new(field, e.to_string()))
}

fn optional_node(field: &str, text: Option<&String>) -> Result<Option<NodeId>, Malformed> {
    text.map(|text| node(field, text)).transpose()
}

fn table_id(field: &str, text: &str) -> Result<TableId, Malformed> {
    text.parse().map_err(|e: InvalidId| Malformed::new(field, e.to_string()))
}

fn range(lo: u32, hi: u32) -> Result<PartitionRange, Malformed> {
    PartitionRange::new(lo, hi).ok_or_else(|| Malformed::new("range", format!("[{lo}, {hi}) is empty")))
}

/// Reads each, naming the one that cannot be read.
fn each<W, M>(
    field: &str,
    items: &[W],
    read: impl Fn(&W) -> Result<M, Malformed>,
) -> Result<Vec<M>, Malformed> {
    let one = |(at, item)| read(item).map_err(|e| e.within(&format!("{field}[{at}]")));
    items.iter().enumerate().map(one).collect()
}

fn format_from_wire(value: i32) -> Result<MessageFormat, Malformed> {
    match wire::RowFormat::try_from(value) {
        Ok(wire::RowFormat::JsonEachRow) => Ok(MessageFormat::JSONEachRow),
        Ok(wire::RowFormat::Csv) => Ok(MessageFormat::CSV),
        Ok(wire::RowFormat::Tsv) => Ok(MessageFormat::TSV),
        Ok(wire::RowFormat::Unspecified) => Err(Malformed::absent("format")),
        Err(_) => Err(Malformed::new("format", format!("{value} is no row format known here"))),
    }
}

fn format_to_wire(format: MessageFormat) -> i32 {
    let value = match format {
        MessageFormat::JSONEachRow => wire::RowFormat::JsonEachRow,
        MessageFormat::CSV => wire::RowFormat::Csv,
        MessageFormat::TSV => wire::RowFormat::Tsv,
    };
    value.into()
}

fn layout_from_wire(value: i32) -> Result<TopicLayout, Malformed> {
    match wire::TopicMapping::try_from(value) {
        Ok(wire::TopicMapping::Unspecified | wire::TopicMapping::TopicPerPartition) => {
            Ok(TopicLayout::TopicPerPartition)
        }
        Ok(wire::TopicMapping::OneTopic) => Ok(TopicLayout::OneTopic),
        Err(_) => Err(Malformed::new("topic_mapping", format!("{value} is no mapping known here"))),
    }
}

fn layout_to_wire(layout: TopicLayout) -> i32 {
    let value = match layout {
        TopicLayout::TopicPerPartition => wire::TopicMapping::TopicPerPartition,
        TopicLayout::OneTopic => wire::TopicMapping::OneTopic,
    };
    value.into()
}
