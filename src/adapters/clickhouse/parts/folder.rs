//! The server's data folder, as the daemon beside it finds it: frozen parts, files on their way in, hard links.
//!
//! Everything here blocks; callers run it beside the runtime. It removes and writes only below folders whose names
//! are ours, and follows no link.

use crate::model::names;
use crate::model::parts::{FileSize, HeldFile, PartFiles, is_plain_name};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// What is read or written at once.
pub const CHUNK_BYTES: usize = 512 << 10;
/// Rights of what is made: the server, which may be of the same group only, must be able to link it.
const FILE_MODE: u32 = 0o660;
const FOLDER_MODE: u32 = 0o770;
/// What the names of files begin with that are not whole yet. No part's file has such a name.
const UNFINISHED: &str = ".";

/// A folder of the server's, found by the daemon: below the root of one of its disks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// The disk's root.
    pub root: PathBuf,
    /// The way from there.
    pub below: PathBuf,
}

impl Located {
    /// The whole path.
    pub fn path(&self) -> PathBuf {
        self.root.join(&self.below)
    }

    /// Where the server puts what it freezes of it under a name.
    pub fn frozen(&self, name: &str) -> PathBuf {
        self.root.join("shadow").join(name).join(&self.below)
    }
}

/// Finds a path of the server's below the disk roots that it tells; `here` says where the first of them, the one of
/// its configuration's `path`, is for the daemon, if it is elsewhere.
pub fn locate(roots: &[String], here: Option<&Path>, path: &str) -> Option<Located> {
    let of = |root: &&String| Path::new(path).strip_prefix(root.as_str()).is_ok();
    let (at, root) =
        roots.iter().enumerate().filter(|(_, root)| of(root)).max_by_key(|(_, root)| root.len())?;
    let below = Path::new(path).strip_prefix(root).ok()?.to_owned();
    let plain = below.components().all(|part| matches!(part, std::path::Component::Normal(_)));
    let root = here.filter(|_| at == 0).map_or_else(|| PathBuf::from(root), Path::to_path_buf);
    plain.then_some(Located { root, below })
}

/// The parts in a folder of frozen ones, with their files.
pub fn frozen_parts(folder: &Path) -> io::Result<Vec<PartFiles>> {
    let mut parts = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = plain(&entry.file_name())?;
        if !entry.file_type()?.is_dir() {
            return Err(odd(format!("{name} is no folder")));
        }
        let (mut files, mut rows) = (Vec::new(), None);
        for file in fs::read_dir(entry.path())? {
            let file = file?;
            let of_part = plain(&file.file_name())?;
            if !file.file_type()?.is_file() {
                return Err(odd(format!("{name}/{of_part} is no file")));
            }
            if of_part == "count.txt" {
                rows = fs::read_to_string(file.path())?.trim().parse().ok();
            }
            files.push(FileSize { name: of_part, bytes: file.metadata()?.len() });
        }
        files.sort_by(|one, other| one.name.cmp(&other.name));
        let rows = rows.ok_or_else(|| odd(format!("{name} does not tell its rows")))?;
        parts.push(PartFiles { name, rows, files });
    }
    parts.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(parts)
}

fn odd(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn plain(name: &std::ffi::OsStr) -> io::Result<String> {
    let name = name.to_str().filter(|name| is_plain_name(name)).map(str::to_owned);
    name.ok_or_else(|| odd("a part has a file of an unknown kind".to_owned()))
}

/// Size and checksum of a file.
pub fn checksum(path: &Path) -> io::Result<(u64, u32)> {
    let (mut file, mut hasher, mut bytes) = (File::open(path)?, crc32fast::Hasher::new(), 0);
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let read = file.read(&mut chunk)?;
        if read == 0 {
            return Ok((bytes, hasher.finalize()));
        }
        hasher.update(&chunk[..read]);
        bytes += read as u64;
    }
}

/// Removes a folder with all that is in it; no error if it is not there.
pub fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// The names in a folder; none if it is not there.
fn names_in(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry?.file_name().into_string().ok());
    }
    names.sort();
    Ok(names)
}

/// Removes what was frozen for copies that no longer run, at one disk.
pub fn sweep_frozen(root: &Path, is_active: impl Fn(&str) -> bool) -> io::Result<()> {
    let shadow = root.join("shadow");
    for name in names_in(&shadow)? {
        if names::is_frozen(&name) && !is_active(&name) {
            remove(&shadow.join(name))?;
        }
    }
    Ok(())
}

/// Removes files that came in for replicas that are whole or no longer here, at one disk.
pub fn sweep_taken(root: &Path, wanted: &BTreeSet<String>) -> io::Result<()> {
    let taken = root.join(names::TAKEN_FOLDER);
    for name in names_in(&taken)? {
        if !wanted.contains(&name) {
            remove(&taken.join(name))?;
        }
    }
    Ok(())
}

/// Has all of the file system that holds a folder written to its disk; nothing where there is no such folder.
pub fn sync(folder: &Path) -> io::Result<()> {
    match File::open(folder) {
        Ok(opened) => Ok(rustix::fs::syncfs(&opened)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Bytes that are free for us, and all, of the disk that holds a folder.
pub fn space(folder: &Path) -> io::Result<(u64, u64)> {
    let told = rustix::fs::statvfs(folder)?;
    Ok((told.f_bavail.saturating_mul(told.f_frsize), told.f_blocks.saturating_mul(told.f_frsize)))
}

/// The folder in which parts of one source's partition gather before the server takes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spool {
    folder: PathBuf,
    /// Tells the unfinished files of one attempt from those of another, which may not have noticed its end yet.
    attempt: u32,
}

impl Spool {
    /// Nothing is made yet.
    pub fn new(folder: PathBuf, attempt: u32) -> Self {
        Self { folder, attempt }
    }

    /// Every file that is there whole, with its checksum.
    pub fn held(&self) -> io::Result<Vec<HeldFile>> {
        let mut held = Vec::new();
        for part in names_in(&self.folder)? {
            for file in names_in(&self.folder.join(&part))? {
                if is_plain_name(&part) && is_plain_name(&file) {
                    let (bytes, checksum) = checksum(&self.folder.join(&part).join(&file))?;
                    held.push(HeldFile { part: part.clone(), file, bytes, checksum });
                }
            }
        }
        Ok(held)
    }

    /// Makes the folders, and removes parts that are not among those to come and files that are not whole.
    pub fn prepare(&self, parts: &[PartFiles]) -> io::Result<()> {
        make_folder(&self.folder)?;
        let coming: BTreeSet<&str> = parts.iter().map(|part| part.name.as_str()).collect();
        for name in names_in(&self.folder)? {
            if !coming.contains(name.as_str()) {
                remove(&self.folder.join(name))?;
            }
        }
        for part in parts {
            let folder = self.folder.join(&part.name);
            make_folder(&folder)?;
            for file in names_in(&folder)?.into_iter().filter(|file| file.starts_with(UNFINISHED)) {
                fs::remove_file(folder.join(file))?;
            }
        }
        Ok(())
    }

    fn unfinished(&self, part: &str, file: &str) -> PathBuf {
        self.folder.join(part).join(format!("{UNFINISHED}{:08x}-{file}", self.attempt))
    }

    /// Begins a file.
    pub fn begin(&self, part: &str, file: &str) -> io::Result<File> {
        let path = self.unfinished(part, file);
        fs::OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(path)
    }

    /// The file that was begun is whole.
    pub fn end(&self, part: &str, file: &str) -> io::Result<()> {
        fs::rename(self.unfinished(part, file), self.folder.join(part).join(file))
    }

    /// Links the parts into a table's folder for detached ones, where the server takes them up. Refuses to touch a
    /// part of that name which is there.
    pub fn link(&self, parts: &[PartFiles], detached: &Path) -> io::Result<()> {
        let owner = fs::metadata(detached)?;
        for part in parts {
            let (from, to) = (self.folder.join(&part.name), detached.join(&part.name));
            fs::DirBuilder::new().mode(FOLDER_MODE).create(&to)?;
            own(&to, &owner)?;
            for file in &part.files {
                let target = to.join(&file.name);
                fs::hard_link(from.join(&file.name), &target)?;
                own(&target, &owner)?;
            }
        }
        Ok(())
    }
}

fn make_folder(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(folder)
}

/// A daemon that runs as root gives what it made to the server's user; any other has made it as itself.
fn own(path: &Path, like: &fs::Metadata) -> io::Result<()> {
    let made = fs::metadata(path)?;
    if (made.uid(), made.gid()) == (like.uid(), like.gid()) {
        return Ok(());
    }
    match std::os::unix::fs::chown(path, Some(like.uid()), Some(like.gid())) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        owned => owned,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_root_is_the_disk_of_a_path() {
        let roots = ["/ch/".to_owned(), "/ch/disks/two/".to_owned()];
        let at = |here, path| locate(&roots, here, path).map(|found| (found.root, found.below));
        let found = |root: &str, below: &str| Some((PathBuf::from(root), PathBuf::from(below)));
        assert_eq!(at(None, "/ch/store/a/b/"), found("/ch/", "store/a/b"));
        assert_eq!(at(None, "/ch/disks/two/store/a"), found("/ch/disks/two/", "store/a"));
        assert_eq!(at(Some(Path::new("/mnt")), "/ch/store/a"), found("/mnt", "store/a"));
        assert_eq!(at(Some(Path::new("/mnt")), "/ch/disks/two/x"), found("/ch/disks/two/", "x"));
        for elsewhere in ["/other/x", "/ch/../x", ""] {
            assert_eq!(at(None, elsewhere), None, "{elsewhere}");
        }
    }

    #[test]
    fn only_ours_is_swept() {
        let folder = tempfile::tempdir().unwrap();
        let shadow = folder.path().join("shadow");
        let (ours, active) = (names::frozen("dead"), names::frozen("beef"));
        for name in [ours.as_str(), active.as_str(), "1", "backup", "cvh_sendx"] {
            fs::create_dir_all(shadow.join(name).join("data")).unwrap();
        }
        sweep_frozen(folder.path(), |name| name == active).unwrap();
        sweep_frozen(&folder.path().join("none"), |_| false).unwrap();
        assert_eq!(names_in(&shadow).unwrap(), ["1", "backup", active.as_str(), "cvh_sendx"]);
    }

    #[test]
    fn a_spool_keeps_whole_files_and_forgets_parts_that_do_not_come() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::new(folder.path().join("a/b"), 7);
        assert_eq!(spool.held().unwrap(), []);
        let part = |name: &str| PartFiles { name: name.into(), rows: 1, files: Vec::new() };
        spool.prepare(&[part("p"), part("q")]).unwrap();
        for (part, whole) in [("p", true), ("q", true), ("q", false)] {
            let file = if whole { "whole" } else { "half" };
            io::Write::write_all(&mut spool.begin(part, file).unwrap(), b"abc").unwrap();
            if whole {
                spool.end(part, file).unwrap();
            }
        }
        spool.prepare(&[part("q")]).unwrap();
        let checksum = crc32fast::hash(b"abc");
        assert_eq!(
            spool.held().unwrap(),
            [HeldFile { part: "q".into(), file: "whole".into(), bytes: 3, checksum }]
        );
    }
}
