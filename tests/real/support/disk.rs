//! Disks that fill up.

/// A small file system; taken away when dropped.
pub struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    /// `None`, with a note, where nobody may mount: never in CI.
    pub fn mount(at: &std::path::Path, mebibytes: u32) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let size = format!("size={mebibytes}m");
        let mount =
            std::process::Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(at).output();
        if mount.is_ok_and(|done| done.status.success()) {
            return Some(Self(at.to_owned()));
        }
        super::missing("a small file system cannot be mounted here (needs root)");
        None
    }

    /// Where it is.
    pub fn path(&self) -> &std::path::Path {
        &self.0
    }

    /// Leaves next to no room: less than a mebibyte, or little more while something is just being written.
    #[allow(dead_code)] // for the proof, which shares this file
    pub fn fill(&self) {
        let df =
            std::process::Command::new("df").args(["--block-size=1M", "--output=used"]).arg(&self.0).output();
        let text = String::from_utf8(df.unwrap().stdout).unwrap();
        let used: u32 = text.lines().last().unwrap().trim().parse().unwrap();
        assert!((used..used + 20).any(|mebibytes| self.resize(mebibytes)), "{used} MiB");
    }

    /// Makes room.
    pub fn grow(&self, mebibytes: u32) {
        assert!(self.resize(mebibytes), "{mebibytes} MiB");
    }

    /// Refused if more is used.
    fn resize(&self, mebibytes: u32) -> bool {
        let size = format!("remount,size={mebibytes}m");
        let mount = std::process::Command::new("mount").args(["-o", &size]).arg(&self.0).output();
        mount.unwrap().status.success()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        std::process::Command::new("umount").arg("-l").arg(&self.0).status().ok();
    }
}
