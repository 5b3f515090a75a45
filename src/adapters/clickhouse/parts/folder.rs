//! The server's data folder, as the daemon beside it finds it: frozen parts, files on their way in, hard links.
//!
//! Everything here blocks; callers run it beside the runtime. It removes and writes only below folders whose names
//! are ours, and follows no link.

use crate::model::names;
use crate::model::parts::{FileSize, HeldFile, PartFiles, is_plain_name};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// What is read or written at once.
pub const CHUNK_BYTES: usize = 512 << 10;
/// Rights of what is made, whatever the daemon's umask: those that the server gives to what it makes.
const FILE_MODE: u32 = 0o640;
const FOLDER_MODE: u32 = 0o750;
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

/// Which of the server's disk roots a path of its is below: the nearest.
pub fn root_of(roots: &[String], path: &str) -> Option<usize> {
    let of = |(_, root): &(usize, &String)| Path::new(path).strip_prefix(root.as_str()).is_ok();
    roots.iter().enumerate().filter(of).max_by_key(|(_, root)| root.len()).map(|(at, _)| at)
}

/// Finds a path of the server's below the disk roots that it tells; `here` says where the first of them, the one of
/// its configuration's `path`, is for the daemon, if it is elsewhere.
pub fn locate(roots: &[String], here: Option<&Path>, path: &str) -> Option<Located> {
    let at = root_of(roots, path)?;
    let below = Path::new(path).strip_prefix(&roots[at]).ok()?.to_owned();
    let plain = below.components().all(|part| matches!(part, std::path::Component::Normal(_)));
    let root = here.filter(|_| at == 0).map_or_else(|| PathBuf::from(&roots[at]), Path::to_path_buf);
    plain.then_some(Located { root, below })
}

/// The parts in a folder of frozen ones, with their files.
pub fn frozen_parts(folder: &Path) -> io::Result<Vec<PartFiles>> {
    let mut parts = Vec::new();
    for entry in of(folder, fs::read_dir(folder))? {
        let entry = entry?;
        let name = plain(&entry.file_name())?;
        if !entry.file_type()?.is_dir() {
            return Err(odd(format!("{name} is no folder")));
        }
        let (mut files, mut rows) = (Vec::new(), None);
        for file in of(&entry.path(), fs::read_dir(entry.path()))? {
            let file = file?;
            let of_part = plain(&file.file_name())?;
            if !file.file_type()?.is_file() {
                return Err(odd(format!("{name}/{of_part} is no file")));
            }
            if of_part == "count.txt" {
                rows = of(&file.path(), fs::read_to_string(file.path()))?.trim().parse().ok();
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

/// The same, with the path that it is about.
pub fn of<T>(path: &Path, done: io::Result<T>) -> io::Result<T> {
    done.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

/// Whether what the server freezes of a folder can be read here and removed again; `name` is one of ours that is free.
///
/// # Errors
/// It cannot; the text names the path.
pub fn check_source(at: &Located, name: &str) -> io::Result<()> {
    let (path, shadow) = (at.path(), at.root.join("shadow"));
    of(&path, fs::read_dir(&path))?;
    // Every table of the engine has one, with the rights of all its files.
    let file = path.join("format_version.txt");
    match File::open(&file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return of(&file, Err(error)),
        _ => {}
    }
    // The server makes the folder with its first freeze, and must be able to.
    let within = if shadow.is_dir() { &shadow } else { &at.root };
    check_alike(within, name, &path)
}

/// Whether files can gather on a folder's disk, and be linked into it for the server to take over; `name` is free.
///
/// # Errors
/// It cannot be; the text names the path.
pub fn check_target(at: &Located, name: &str) -> io::Result<()> {
    let (path, taken) = (at.path(), at.root.join(names::TAKEN_FOLDER));
    make_folder(&taken)?;
    check_alike(&taken, name, &path)?;
    let [gathered, table] = [&taken, &path].map(|folder| of(folder, fs::metadata(folder)));
    if gathered?.dev() != table?.dev() {
        let what = format!("{} and {} are on two file systems", taken.display(), path.display());
        return Err(io::Error::new(io::ErrorKind::CrossesDevices, what));
    }
    Ok(())
}

/// Makes a folder and removes it. Whoever is neither the server's user nor root cannot remove what the server makes,
/// and the server cannot take over what they make, whatever groups they share.
fn check_alike(within: &Path, name: &str, like: &Path) -> io::Result<()> {
    let probe = within.join(name);
    of(&probe, fs::DirBuilder::new().mode(FOLDER_MODE).create(&probe))?;
    let made = fs::metadata(&probe).map(|made| made.uid());
    of(&probe, remove(&probe))?;
    let (made, owner) = (of(&probe, made)?, of(like, fs::metadata(like))?.uid());
    if made == owner || made == 0 {
        return Ok(());
    }
    let what = format!("{} belongs to user {owner}, and the daemon is user {made}", like.display());
    Err(io::Error::new(io::ErrorKind::PermissionDenied, what))
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
    let (mut file, mut hasher, mut bytes) = (of(path, File::open(path))?, crc32fast::Hasher::new(), 0);
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let read = of(path, file.read(&mut chunk))?;
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
        removed => of(folder, removed),
    }
}

/// The names in a folder; none if it is not there.
fn names_in(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => of(folder, entries)?,
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

/// Has all of the file system that holds a folder written to its disk, whoever wrote it.
pub fn sync(folder: &Path) -> io::Result<()> {
    let opened = of(folder, File::open(folder))?;
    of(folder, rustix::fs::syncfs(&opened).map_err(io::Error::from))
}

/// Bytes of all files below a folder; none if it is not there.
pub fn bytes_in(folder: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for name in names_in(folder)? {
        let path = folder.join(name);
        let found = of(&path, fs::symlink_metadata(&path))?;
        bytes += if found.is_dir() { bytes_in(&path)? } else { found.len() };
    }
    Ok(bytes)
}

/// Bytes that are free for us, and all, of the disk that holds a folder.
pub fn space(folder: &Path) -> io::Result<(u64, u64)> {
    let told = of(folder, rustix::fs::statvfs(folder).map_err(io::Error::from))?;
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

    /// Bytes that are there.
    pub fn bytes(&self) -> io::Result<u64> {
        bytes_in(&self.folder)
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
                let path = folder.join(file);
                of(&path, fs::remove_file(&path))?;
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
        let begun =
            of(&path, fs::OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&path))?;
        of(&path, begun.set_permissions(fs::Permissions::from_mode(FILE_MODE)))?;
        Ok(begun)
    }

    /// The file that was begun is whole.
    pub fn end(&self, part: &str, file: &str) -> io::Result<()> {
        let path = self.folder.join(part).join(file);
        of(&path, fs::rename(self.unfinished(part, file), &path))
    }

    /// Links the parts into a table's folder for detached ones, where the server takes them up. Refuses to touch a
    /// part of that name which is there.
    pub fn link(&self, parts: &[PartFiles], detached: &Path) -> io::Result<()> {
        let owner = of(detached, fs::metadata(detached))?;
        for part in parts {
            let (from, to) = (self.folder.join(&part.name), detached.join(&part.name));
            of(&to, fs::DirBuilder::new().mode(FOLDER_MODE).create(&to))?;
            of(&to, fs::set_permissions(&to, fs::Permissions::from_mode(FOLDER_MODE)))?;
            of(&to, own(&to, &owner))?;
            for file in &part.files {
                let target = to.join(&file.name);
                of(&target, fs::hard_link(from.join(&file.name), &target))?;
                of(&target, own(&target, &owner))?;
            }
        }
        Ok(())
    }
}

/// Makes a folder, and those above it that are missing; no error if it is there.
fn make_folder(folder: &Path) -> io::Result<()> {
    for above in folder.ancestors().collect::<Vec<_>>().into_iter().rev() {
        if above.is_dir() {
            continue;
        }
        match fs::DirBuilder::new().mode(FOLDER_MODE).create(above) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => {
                of(above, made)?;
                of(above, fs::set_permissions(above, fs::Permissions::from_mode(FOLDER_MODE)))?;
            }
        }
    }
    Ok(())
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

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    /// A table's folder on a disk, with its file of every table.
    fn table() -> (tempfile::TempDir, Located) {
        let disk = tempfile::tempdir().unwrap();
        let at = Located { root: disk.path().to_owned(), below: "store/t".into() };
        fs::create_dir_all(at.path().join("detached")).unwrap();
        fs::write(at.path().join("format_version.txt"), "1").unwrap();
        (disk, at)
    }

    #[test]
    fn a_look_whether_parts_can_be_copied_leaves_nothing() {
        let (disk, at) = table();
        let name = names::frozen("probe");
        check_source(&at, &name).unwrap();
        fs::create_dir(disk.path().join("shadow")).unwrap();
        check_source(&at, &name).unwrap();
        check_target(&at, ".probe").unwrap();
        assert_eq!(names_in(&disk.path().join("shadow")).unwrap(), [""; 0]);
        assert_eq!(names_in(&disk.path().join(names::TAKEN_FOLDER)).unwrap(), [""; 0]);
        assert_eq!(names_in(disk.path()).unwrap(), [names::TAKEN_FOLDER, "shadow", "store"]);
    }

    /// Where the tests run as root nothing is out of reach: there what stands in the way is a file.
    #[test]
    fn what_cannot_be_used_is_told_with_its_path() {
        let (disk, at) = table();
        let name = names::frozen("probe");
        fs::create_dir_all(disk.path().join("shadow").join(&name)).unwrap();
        let why = check_source(&at, &name).unwrap_err();
        assert!(why.to_string().contains(&format!("shadow/{name}")), "{why}");
        fs::write(disk.path().join(names::TAKEN_FOLDER), "").unwrap();
        let why = check_target(&at, ".probe").unwrap_err();
        assert!(why.to_string().contains(names::TAKEN_FOLDER), "{why}");
        let (disk, at) = table();
        let us = fs::metadata(disk.path()).unwrap().uid();
        if us == 0 {
            std::os::unix::fs::chown(at.path(), Some(101), Some(101)).unwrap();
            check_source(&at, &name).unwrap();
        } else {
            let why = check_alike(disk.path(), "probe", Path::new("/")).unwrap_err();
            assert_eq!(why.kind(), io::ErrorKind::PermissionDenied);
            assert!(why.to_string().contains("belongs to user 0"), "{why}");
        }
    }

    #[test]
    fn what_is_made_has_the_rights_that_the_server_gives() {
        let (disk, at) = table();
        let spool = Spool::new(disk.path().join("cvh_taken/a/b"), 7);
        let file = FileSize { name: "f".into(), bytes: 3 };
        let part = PartFiles { name: "p".into(), rows: 1, files: vec![file] };
        spool.prepare(std::slice::from_ref(&part)).unwrap();
        io::Write::write_all(&mut spool.begin("p", "f").unwrap(), b"abc").unwrap();
        spool.end("p", "f").unwrap();
        assert_eq!((spool.bytes().unwrap(), bytes_in(&disk.path().join("none")).unwrap()), (3, 0));
        spool.link(&[part], &at.path().join("detached")).unwrap();
        for folder in ["cvh_taken", "cvh_taken/a", "cvh_taken/a/b", "cvh_taken/a/b/p", "store/t/detached/p"] {
            assert_eq!(mode(&disk.path().join(folder)), 0o750, "{folder}");
        }
        assert_eq!(mode(&at.path().join("detached/p/f")), 0o640);
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
