//! Generates the wire types of every file under `proto/`.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = PathBuf::from("proto/converthouse/v1");
    println!("cargo:rerun-if-changed={}", folder.display());
    let mut files = Vec::new();
    for entry in std::fs::read_dir(&folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "proto") {
            println!("cargo:rerun-if-changed={}", path.display());
            files.push(path);
        }
    }
    files.sort();
    let descriptors = PathBuf::from(std::env::var("OUT_DIR")?).join("converthouse.bin");
    tonic_prost_build::configure()
        .file_descriptor_set_path(descriptors)
        .btree_map(".")
        // Files travel in it: shared, not copied.
        .bytes(".converthouse.v1.SendPartitionResponse")
        .compile_protos(&files, &[PathBuf::from("proto")])?;
    Ok(())
}
