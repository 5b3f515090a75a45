//! The real file: written beside, flushed, renamed over the old one, and the rename flushed too.
//!
//! The folder is the server's `config.d/`; it must be there (the server makes or wants it, not we). The file holds
//! passwords, so nobody but owner and group may read it; the group is the folder's, ClickHouse's as a rule.

use super::{Error, RoutesFile};
use async_trait::async_trait;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Owner writes, group reads.
const MODE: u32 = 0o640;

/// One server's file.
#[derive(Debug, Clone)]
pub struct FileRoutes {
    path: PathBuf,
}

impl FileRoutes {
    /// The file at `path`, whether it is there or not.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let path = self.path.clone();
        let shown = path.display().to_string();
        let done = tokio::task::spawn_blocking(move || work(&path)).await;
        let done = done.unwrap_or_else(|failed| Err(io::Error::other(failed)));
        done.map_err(|error| Error::Failed { path: shown, reason: error.to_string() })
    }
}

#[async_trait]
impl RoutesFile for FileRoutes {
    async fn read(&self) -> Result<Option<Arc<str>>, Error> {
        self.blocking(|path| match fs::read_to_string(path) {
            Ok(content) => Ok(Some(content.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            // Damaged: as good as none, it is written again.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(Some("".into())),
            Err(error) => Err(error),
        })
        .await
    }

    async fn replace(&self, content: &Arc<str>) -> Result<(), Error> {
        let content = content.clone();
        self.blocking(move |path| replace(path, content.as_bytes())).await
    }
}

fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().ok_or_else(|| io::Error::other("it has no file name"))?;
    // Hidden and without `.xml`: the server merges every `*.xml` of the folder, at any moment.
    let beside = folder.join(format!(".{}.new", name.to_string_lossy()));
    let written = write(&beside, folder, content).and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        fs::remove_file(&beside).ok();
    }
    written?;
    File::open(folder)?.sync_all()
}

fn write(path: &Path, folder: &Path, content: &[u8]) -> io::Result<()> {
    // A left-over of a crash may have another mode.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(path)?;
    // Only root may always do this; a daemon in ClickHouse's group need not.
    chown(path, None, Some(fs::metadata(folder)?.gid())).ok();
    file.write_all(content)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[tokio::test]
    async fn a_reader_sees_the_old_or_the_new_and_no_other_user_sees_any() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("converthouse.xml");
        let routes = FileRoutes::new(&path);
        assert_eq!(routes.read().await.unwrap(), None);
        fs::write(folder.path().join(".converthouse.xml.new"), "left by a crash").unwrap();
        for content in ["<one/>", "<two/>"] {
            routes.replace(&content.into()).await.unwrap();
            assert_eq!(routes.read().await.unwrap().as_deref(), Some(content));
        }
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, MODE);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[tokio::test]
    async fn a_folder_that_is_not_there_is_an_error_with_the_path() {
        let folder = tempfile::tempdir().unwrap();
        let routes = FileRoutes::new(&folder.path().join("none/converthouse.xml"));
        let error = routes.replace(&"<x/>".into()).await.unwrap_err();
        assert!(error.to_string().contains("none/converthouse.xml"), "{error}");
        assert_eq!(routes.read().await.unwrap(), None);
    }
}
