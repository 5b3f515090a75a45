//! Generated from `proto/`: wire types of the store's records and of gRPC. Converted at the edges, never used as
//! domain types.
#![allow(missing_docs, clippy::all, clippy::pedantic)]

tonic::include_proto!("converthouse.v1");

/// The compiled descriptors, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = tonic::include_file_descriptor_set!("converthouse");
